"""Private: the scikit-learn face. Its public names are in ``sk_obd``."""
