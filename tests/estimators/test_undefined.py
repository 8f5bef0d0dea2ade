"""Modules that are not defined where some of their parameters are zero."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNetClassifier
from torch import nn
from torch.nn.utils import weight_norm as weight_norm_by_hook
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from sk_obd import OBDClassifier


class Normed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.a, self.b = norm(nn.Linear(3, 16)), nn.Linear(16, 2)

    def forward(self, X):
        return self.b(torch.tanh(self.a(X)))


class UnitRows(nn.Module):
    """Rows of length one, written out."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(16, 3)), nn.Linear(16, 2)

    def forward(self, X):
        return self.b(torch.tanh(X @ (self.w / self.w.norm(dim=1, keepdim=True)).T))


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    return X, (X[:, 0] > 0).astype(int)


def fit(module, data, prune_rate=0.9, **parameters):
    net = NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=5,
        optimizer__weight_decay=1e-3,
    )
    clf = OBDClassifier(
        net, prune_rate=prune_rate, saliency="magnitude", retrain_epochs=2, random_state=0
    )
    return clf.set_params(**parameters).fit(*data)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("module", "spared"),
    [
        (lambda: Normed(weight_norm), "a.parametrizations.weight.original1"),
        (lambda: Normed(spectral_norm), "a.parametrizations.weight.original"),
        (partial(Normed, weight_norm_by_hook), "a.weight_v"),
        (UnitRows, "w"),
    ],
)
def test_parameters_that_must_not_be_zero_are_spared_and_named(module, spared, data):
    # torch's older weight_norm is made where it is used, since it cannot be copied.
    module = module if isinstance(module, partial) else module()
    with pytest.warns(UserWarning, match=f"returns NaN where {spared} is zero.*It is spared"):
        clf = fit(module, data)
    assert clf.mask_[spared].all()
    assert spared not in clf.path_.prunable
    assert clf.path_.n_deleted == round(0.9 * clf.path_.n_prunable)
    assert np.isfinite(clf.predict_proba(data[0])).all()
    with pytest.raises(ValueError, match=f"{spared} is zero.*prunable=.* includes it"):
        fit(module, data, prunable=[spared])


@pytest.mark.parametrize(
    "module", [lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2))]
)
def test_norms_with_an_epsilon_spare_nothing(module, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert "0.weight" in fit(module(), data).path_.prunable


class DividesByUnits(nn.Module):
    """Undefined where two layers are zero at once."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)
        self.c = nn.Linear(4, 2)

    def forward(self, X):
        hidden = self.a(X).abs() + self.b(X).abs()
        return self.c(hidden / hidden.sum(1, keepdim=True))


def test_nan_by_a_deletion_says_what_was_deleted(data):
    with pytest.raises(ValueError, match=r"NaN with \d+ parameters deleted .* not defined there"):
        fit(DividesByUnits(), data, prune_rate=32, step=None, prunable="^[ab]")
