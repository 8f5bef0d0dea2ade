import pytest

from sk_obd import OBDClassifier


@pytest.fixture(scope="module")
def fitted(digits):
    X, y = digits
    clf = OBDClassifier(
        prune_rate=0.95,
        hidden_layer_sizes=(40, 20),
        max_epochs=30,
        retrain_epochs=3,
        random_state=0,
        keep_path="last",
    )
    return clf.fit(X[::2], y[::2])
