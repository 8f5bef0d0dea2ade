"""Which predictor is taken, and when the net predicts by itself."""

import numpy as np
import pytest
from skorch import NeuralNetClassifier
from torch import nn

from sk_obd import OBDClassifier
from sk_obd.compact import predictor
from tests.library.modules import TwoLayers


class TwiceAsSure(NeuralNetClassifier):
    """A step of skorch's changed: the net has to predict by itself."""

    def infer(self, x, **fit_params):
        return 2 * super().infer(x, **fit_params)


def test_a_net_with_steps_of_its_own_predicts_by_itself(iris):
    X, y = iris
    net = TwiceAsSure(TwoLayers, criterion=nn.CrossEntropyLoss, max_epochs=15, lr=0.1)
    clf = OBDClassifier(net, prune_rate=0.8, step=None, retrain_epochs=2, random_state=0).fit(X, y)
    small = clf.compact("sparse")
    assert small.backend_ == "dense"
    np.testing.assert_allclose(small.predict_proba(X), clf.predict_proba(X), rtol=0, atol=1e-6)


def test_csr_is_taken_only_where_it_was_measured_to_be_faster(fitted, monkeypatch):
    """With clocks of our own: what each layer, and the whole, are said to take."""
    asked = []

    def clock(times):
        def seconds(function):
            asked.append(function)
            return times.pop(0)

        return seconds

    def measured(layers, whole):
        monkeypatch.setattr("sk_obd.compact.sparse.seconds", clock(layers))
        monkeypatch.setattr(predictor, "seconds", clock(whole))
        return fitted.compact("auto")

    # Of each layer: as CSR, dense. Of the whole: those two as CSR, all three, dense.
    small = measured([1, 2, 3, 2, 1, 2], [1, 2, 3])
    assert small.backend_ == "sparse"
    assert small.compact_report_.sparse == ("hidden0", "output")
    every = ("hidden0", "hidden1", "output")
    assert measured([1, 2, 3, 2, 1, 2], [2, 1, 3]).compact_report_.sparse == every
    assert measured([3, 2, 3, 2, 3, 2], []).backend_ == "dense"
    assert measured([1, 2, 3, 2, 1, 2], [2, 2.1, 2]).backend_ == "dense"
    assert len(asked) == 4 * 6 + 3 * 3


def test_plain_arrays_skip_validation_and_others_do_not(fitted, digits):
    X = digits[0]
    small = fitted.compact("dense")
    bad = X[:2].copy()
    bad[1, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        small.predict(bad)
    with pytest.raises(ValueError, match="63 features"):
        small.predict(X[:, :-1])
    with pytest.raises(ValueError, match="Expected 2D array"):
        small.predict(X[0])
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        small.predict(X[:0])
