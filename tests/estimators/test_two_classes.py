"""Nets of one output for two classes: predict_proba has two columns, whatever the net returns."""

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import cross_val_score
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

from sk_obd import OBDClassifier
from tests.library.marks import slow_but


class Column(nn.Sequential):
    def __init__(self, top=nn.Sigmoid):
        super().__init__(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1), top())


class Vector(Column):
    def forward(self, X):
        return super().forward(X).squeeze(-1)


class Deep(Column):
    """Shape (n, 1, 1)."""

    def forward(self, X):
        return super().forward(X)[:, None]


NETS = {
    "BCELoss, (n, 1)": (NeuralNetClassifier, Column, nn.BCELoss, {}),
    "BCELoss, (n,)": (NeuralNetClassifier, Vector, nn.BCELoss, {}),
    "BCELoss, (n, 1, 1)": (NeuralNetClassifier, Deep, nn.BCELoss, {}),
    "BCEWithLogitsLoss, (n, 1)": (
        NeuralNetClassifier,
        Column,
        nn.BCEWithLogitsLoss,
        {"module__top": nn.Identity},
    ),
    "a sigmoid of the user's": (
        NeuralNetClassifier,
        Column,
        nn.BCEWithLogitsLoss,
        {"module__top": nn.Identity, "predict_nonlinearity": torch.sigmoid},
    ),
    "a binary net, BCELoss": (NeuralNetBinaryClassifier, Column, nn.BCELoss, {}),
    "a binary net, logits": (
        NeuralNetBinaryClassifier,
        Column,
        nn.BCEWithLogitsLoss,
        {"module__top": nn.Identity},
    ),
}


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    return X, np.where(X[:, 0] > 0, "yes", "no")


def estimator(name):
    kind, module, criterion, settings = NETS[name]
    net = kind(
        module,
        criterion=criterion,
        optimizer=torch.optim.Adam,
        lr=0.05,
        max_epochs=20,
        optimizer__weight_decay=1e-3,
        **settings,
    )
    return OBDClassifier(net, retrain_epochs=2, random_state=0)


@pytest.mark.parametrize("name", slow_but(["BCELoss, (n,)", "a binary net, logits"], NETS))
def test_probabilities_have_two_columns_that_sum_to_one(name, data, tmp_path):
    X, y = data
    clf = estimator(name).fit(X, y)
    for fitted in (clf, clf.compact(), clf.at(iteration=0)):
        proba = fitted.predict_proba(X)
        assert proba.shape == (60, 2)
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
        assert fitted.predict_proba(X[:1]).shape == (1, 2)
        assert fitted.predict(X).shape == (60,)
        np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[proba.argmax(axis=1)])
    assert clf.score(X, y) > 0.8
    clf.to_numpy(tmp_path / "net.py", X=X)
    clf.to_torch(tmp_path / "net.pt2")


def test_scorers_and_calibration_take_them(data):
    X, y = data
    clf = estimator("BCELoss, (n, 1)")
    assert (cross_val_score(clf, X, y, cv=2, scoring="roc_auc") > 0.8).all()
    calibrated = CalibratedClassifierCV(clf, cv=2).fit(X, y)
    assert calibrated.predict_proba(X).shape == (60, 2)
