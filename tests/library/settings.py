"""Settings of short fits that the tests share; what a test needs otherwise, it says itself."""

#: For what does not depend on how well the network predicts: a small network, hardly trained.
QUICK = {"hidden_layer_sizes": (8,), "max_epochs": 15, "retrain_epochs": 2, "random_state": 0}
#: For paths and scores that are looked at: trained until it predicts well, retrained until it
#: recovers from most of a deletion.
TRAINED = {"hidden_layer_sizes": (12,), "max_epochs": 30, "retrain_epochs": 3, "random_state": 0}

#: For ``filterwarnings``: a network that is hardly trained says so, and here that does not matter.
UNTRAINED = "ignore::sklearn.exceptions.ConvergenceWarning"
