"""Private: the paper's recipe and its record. Its public names are in ``sk_obd``."""
