import matplotlib as mpl
import numpy as np
import pytest

from sk_obd import OBDClassifier
from sk_obd.display.increase import TERMS

mpl.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(scope="module")
def fitted(iris):
    """A classifier whose path has Taylor terms of its own making: they add up."""
    clf = OBDClassifier(
        prune_rate=0.9, hidden_layer_sizes=(10,), max_epochs=20, retrain_epochs=2, random_state=0
    ).fit(*iris)
    rng = np.random.default_rng(0)
    for row in clf.path_.rows:
        weights = rng.normal(size=4)
        weights /= weights.sum()
        row |= {t: row["actual_increase"] * w for t, w in zip(TERMS, weights, strict=True)}
    return clf


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")
