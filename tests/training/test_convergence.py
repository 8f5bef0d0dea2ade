"""Training that has not arrived says so."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor
from sk_obd.curvature.losses.registry import loss_of
from sk_obd.training.convergence import constant_loss, still_falls
from tests.library.nets import classifier_net

FALLING = 0.5 ** np.arange(6)
FLAT = [1.0, *[0.2] * 10]


@pytest.mark.parametrize("losses", [FALLING, [2.0, 1.0], np.linspace(5, 4, 30)])
def test_a_loss_that_goes_down_to_the_end_still_falls(losses):
    before, after = still_falls(list(losses))
    assert before > after


@pytest.mark.parametrize(
    "losses", [FLAT, [1.0], [], [1.0, 2.0], [math.nan, 1.0], 1 / np.arange(1, 200)]
)
def test_a_loss_that_has_arrived_does_not(losses):
    assert still_falls(list(losses)) is None


F64 = torch.float64
CODES = torch.tensor([0, 0, 1, 2, 2, 2])
VALUES = torch.tensor([[1.0], [2.0], [6.0], [7.0], [7.0], [7.0]], dtype=F64)
W = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.5, 0.5], dtype=F64)


def entropy(shares):
    return -float((shares * shares.log()).sum())


CONSTANTS = {
    "cross-entropy": (
        nn.CrossEntropyLoss(),
        None,
        (3,),
        CODES,
        entropy(torch.tensor([2.0, 2.0, 2.0]) / 6),
    ),
    "probabilities": (nn.NLLLoss(), "proba", (3,), CODES, entropy(torch.full((3,), 1 / 3))),
    "squares": (
        nn.MSELoss(),
        None,
        (1,),
        VALUES,
        float(np.cov(VALUES[:, 0], aweights=W, ddof=0)),
    ),
    "yes or no": (
        nn.BCEWithLogitsLoss(),
        None,
        (1,),
        (VALUES > 3).to(F64),
        entropy(torch.tensor([1 / 3, 2 / 3])),
    ),
    "a function": (
        lambda output, target: (output - target).square().mean(),
        None,
        (1,),
        VALUES,
        float(np.cov(VALUES[:, 0], aweights=W, ddof=0)),
    ),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_best_constant_is_the_closed_form(name):
    criterion, outputs, shape, y, expected = CONSTANTS[name]
    found = constant_loss(loss_of(criterion, outputs), shape, y, W)
    assert found == pytest.approx(expected, rel=1e-6)


def test_dense_training_that_ends_while_the_loss_falls_warns(iris):
    X, y = iris
    with pytest.warns(ConvergenceWarning, match=r"ended by max_epochs=5 .* still fell") as found:
        OBDClassifier(max_epochs=5, retrain_epochs=0, random_state=0).fit(X, y)
    assert [entry.filename for entry in found] == [__file__] * len(found)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("estimator", [OBDClassifier(random_state=0), OBDRegressor(random_state=0)])
def test_defaults_that_have_learned_do_not_warn(estimator, iris, diabetes):
    X, y = iris if isinstance(estimator, OBDClassifier) else diabetes
    estimator.fit(X, y)


class FarOff(nn.Linear):
    def reset_parameters(self):
        super().reset_parameters()
        nn.init.constant_(self.bias[:1], 30.0)


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_a_network_worse_than_a_constant_warns(kind, iris, diabetes):
    X, y = iris if kind == "classifier" else diabetes
    sizes = {
        "module__in_features": X.shape[1],
        "module__out_features": 3 if kind == "classifier" else 1,
        "module__dtype": torch.float64,
    }
    of, criterion = NeuralNetRegressor, nn.MSELoss
    if kind == "classifier":
        of, criterion = NeuralNetClassifier, nn.CrossEntropyLoss
    net = of(FarOff, criterion=criterion, lr=0.0, max_epochs=2, **sizes)
    estimator = (OBDClassifier if kind == "classifier" else OBDRegressor)(net, retrain_epochs=0)
    with pytest.warns(ConvergenceWarning, match="best output that ignores X"):
        estimator.fit(X, y)


def test_a_network_that_is_not_trained_does_not_warn(iris):
    X, y = iris
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OBDClassifier(max_epochs=0, retrain_epochs=0, random_state=0).fit(X, y)


def test_a_criterion_that_no_constant_fits_does_not_stop_the_fit(iris):
    class Paired(nn.Module):
        def forward(self, output, target):
            if len(output) > 32:
                raise RuntimeError("too many rows")
            return nn.functional.cross_entropy(output, target)

    X, y = iris
    net = classifier_net(criterion=Paired, batch_size=32, max_epochs=2)
    with pytest.raises(RuntimeError, match="too many rows"):
        OBDClassifier(net, retrain_epochs=0).fit(X, y)
