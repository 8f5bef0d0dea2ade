"""Fitted estimators of every kind, to be saved, loaded and exported."""

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.preprocessing import scale
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor
from tests.library.modules import Embedded, SmallConv, SoftmaxTop, Squeezed
from tests.library.nets import binary_net, classifier_net, regressor_net


def iris(dtype=np.float64, labels=(0, 1, 2)):
    X, y = load_iris(return_X_y=True)
    return scale(X).astype(dtype), np.array(labels)[y]


def diabetes(n_outputs=None):
    X, y = load_diabetes(return_X_y=True)
    return scale(X), y if n_outputs is None else np.stack([y, -2 * y, y**2 / 100][:n_outputs], 1)


def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:400] / 16).reshape(-1, 1, 8, 8).astype(np.float32), y[:400]


def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return scale(X).astype(np.float32), np.array([False, True])[y]


def whole_numbers():
    X, y = load_iris(return_X_y=True)
    return X.astype(np.int64), y + 5


SHORT = {"max_epochs": 15, "retrain_epochs": 2, "prune_rate": 0.7, "step": 0.3, "random_state": 0}

#: name -> (an unfitted estimator anew, its data, the tolerance of what is computed elsewhere)
CASES = {
    "classifier": (lambda: OBDClassifier(**SHORT), iris, 1e-12),
    "classifier of strings": (
        lambda: OBDClassifier(**SHORT, hidden_layer_sizes=(9, 7), activation="gelu"),
        lambda: iris(labels=("blue", "green", "very red")),
        1e-12,
    ),
    "classifier of str objects, float32": (
        lambda: OBDClassifier(**SHORT, activation="gelu"),
        lambda: iris(np.float32, np.array(["a", "bb", "c"], dtype=object)),
        1e-5,
    ),
    "classifier of two strings": (
        lambda: OBDClassifier(**SHORT, activation="silu"),
        lambda: (cancer()[0].astype(np.float64), np.array(["benign", "malign"])[cancer()[1] * 1]),
        1e-12,
    ),
    "classifier of floats, early stopping": (
        lambda: OBDClassifier(**SHORT, early_stopping=True),
        lambda: iris(labels=(1.0, 2.0, 5.0)),
        1e-12,
    ),
    "regressor": (lambda: OBDRegressor(**SHORT, activation="logistic"), diabetes, 1e-12),
    "regressor of three": (lambda: OBDRegressor(**SHORT), lambda: diabetes(3), 1e-12),
    "regressor's net": (
        lambda: OBDRegressor(regressor_net(module__dtype=torch.float64), random_state=0),
        lambda: (diabetes()[0], scale(diabetes()[1])),
        1e-12,
    ),
    "convolution": (
        lambda: OBDClassifier(classifier_net(SmallConv), retrain_epochs=2, random_state=0),
        digits,
        1e-5,
    ),
    "binary net": (
        lambda: OBDClassifier(binary_net(), retrain_epochs=2, random_state=0),
        cancer,
        1e-5,
    ),
    "squeezed binary net with a threshold": (
        lambda: OBDClassifier(binary_net(Squeezed, threshold=0.8), retrain_epochs=2),
        cancer,
        1e-5,
    ),
    "softmax and NLLLoss": (
        lambda: OBDClassifier(
            classifier_net(criterion=nn.NLLLoss, module__top=SoftmaxTop), random_state=0
        ),
        lambda: iris(np.float32),
        1e-5,
    ),
    "embedding": (
        lambda: OBDClassifier(classifier_net(Embedded), retrain_epochs=2, random_state=0),
        whole_numbers,
        1e-12,
    ),
}


@cache
def fitted(name):
    """The estimator of that name fitted, and its X. Shared: do not change it."""
    make, data, _ = CASES[name]
    X, y = data()
    return make().fit(X, y), X


def unfitted(name):
    return CASES[name][0]()


def predictions(estimator, X):
    """Everything that it predicts."""
    found = [estimator.predict(X)]
    if hasattr(estimator, "predict_proba"):
        found.append(estimator.predict_proba(X))
    return found
