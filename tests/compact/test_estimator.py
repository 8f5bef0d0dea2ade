"""compact() from the estimator's side: same predictions, from the same X."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from skorch import NeuralNetClassifier

from sk_obd import OBDClassifier, OBDRegressor
from sk_obd.compact import SelectColumns
from tests.library.modules import LeNet, SoftmaxTop, Squeezed, TwoLayers
from tests.library.nets import binary_net, classifier_net, regressor_net

BACKENDS = ("auto", "dense", "sparse")


@pytest.mark.parametrize("backend", BACKENDS)
def test_predictions_stay_and_the_network_shrinks(fitted, digits, backend):
    X = digits[0]
    small = fitted.compact(backend)
    expected = fitted.predict_proba(X)
    for rows in (X, X[:1], np.tile(X, (5, 1)), sparse.csr_array(X)):
        found = small.predict_proba(rows)
        np.testing.assert_allclose(
            found, np.tile(expected, (5, 1))[: rows.shape[0]], rtol=0, atol=1e-12
        )
    np.testing.assert_allclose(small.net_.predict_proba(X), expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(small.predict(X), fitted.predict(X))
    # Biases of the first layer take over the means that X is centred by.
    taken_over = int((~fitted.mask_["hidden0.bias"]).sum())
    alive = sum(mask.sum() for mask in small.mask_.values())
    assert small.n_params_ == alive <= fitted.n_params_ + taken_over
    parameters = dict(small.net_.module_.named_parameters())
    assert parameters.keys() == small.mask_.keys()
    for name, mask in small.mask_.items():
        assert (parameters[name].detach().numpy()[~mask] == 0).all()
    assert small.compact_report_.n_stored[1] < small.compact_report_.n_stored[0] / 2
    assert isinstance(small.net_.module_[0], SelectColumns)
    assert small.n_features_in_ == X.shape[1]
    np.testing.assert_array_equal(small.support_, fitted.support_)
    assert small.backend_ == backend or (backend == "auto" and small.backend_ in BACKENDS[1:])
    # The estimator itself has not changed.
    assert not hasattr(fitted, "backend_")
    np.testing.assert_array_equal(fitted.predict_proba(X), expected)


def test_once_more_changes_nothing(fitted, digits):
    small = fitted.compact("dense")
    again = small.compact("dense")
    assert again.compact_report_.n_stored[0] == again.compact_report_.n_stored[1]
    assert again.n_params_ == small.n_params_
    np.testing.assert_array_equal(again.predict_proba(digits[0]), small.predict_proba(digits[0]))


@pytest.mark.parametrize("backend", ["dense", "sparse"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda clf: pickle.loads(pickle.dumps(clf))])
def test_copies_predict_the_same(fitted, digits, backend, copied):
    small = fitted.compact(backend)
    np.testing.assert_array_equal(
        copied(small).predict_proba(digits[0]), small.predict_proba(digits[0])
    )
    assert len(pickle.dumps(small)) < len(pickle.dumps(fitted))
    assert not hasattr(clone(small), "net_")


def test_what_needs_the_networks_of_the_path_is_refused(fitted, digits):
    small = fitted.compact("dense")
    assert len(small.path_) == len(fitted.path_)
    with pytest.raises(ValueError, match=r"compact\(\) keeps only the rows"):
        small.at(iteration=-1)
    with pytest.raises(ValueError, match=r"compact\(\) keeps none"):
        small.set_params(warm_start=True).fit(*digits)
    with pytest.raises(ValueError, match="expected one of 'auto', 'dense', 'sparse'"):
        fitted.compact("fast")


def test_fitting_anew_starts_from_the_original_network(fitted, digits):
    X, y = digits
    small = fitted.compact("dense").set_params(prune_rate=0, max_epochs=1).fit(X, y)
    assert not hasattr(small, "backend_")
    assert small.n_params_ == sum(p.numel() for p in fitted.net_.module_.parameters())


def test_a_smaller_network_can_be_pruned_further(fitted, digits):
    X, y = digits
    small = fitted.compact("dense")
    more = OBDClassifier(small.net_, prune_rate=0.3, retrain_epochs=2, random_state=0)
    more.set_params(net__max_epochs=0).fit(X, y)
    assert more.path_.n_prunable == small.compact_report_.n_stored[1]
    assert more.score(X, y) > 0.5


def check(estimator, X, method="predict_proba"):
    for backend in BACKENDS:
        small = estimator.compact(backend)
        tolerance = 1e-12 if small.net_.module_.first.weight.dtype == torch.float64 else 1e-5
        expected = getattr(estimator, method)(X)
        for rows in (slice(None), slice(0, 1), np.arange(2000) % len(X)):
            found = getattr(small, method)(X[rows])
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected[rows], rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(
            np.round(estimator.predict(X), 3), np.round(small.predict(X), 3)
        )


QUICK = {"prune_rate": 0.8, "step": None, "retrain_epochs": 2, "random_state": 0}


def test_values_come_back_in_the_scale_of_y(diabetes):
    X, y = diabetes
    reg = OBDRegressor(max_epochs=20, **QUICK).fit(X, 300 * y + 1000)
    small = reg.compact()
    np.testing.assert_allclose(small.predict(X), reg.predict(X), rtol=1e-12)
    assert small.predict(X).std() > 50


def test_a_single_precision_regressor_of_the_user(diabetes):
    X, y = diabetes
    check(OBDRegressor(regressor_net(), **QUICK).fit(X, y), X, "predict")


@pytest.mark.parametrize("module", [TwoLayers, Squeezed])
def test_a_binary_net_keeps_its_threshold(cancer, module):
    X, y = cancer
    clf = OBDClassifier(binary_net(module, threshold=0.3), **QUICK).fit(X, y)
    check(clf, X)
    np.testing.assert_array_equal(clf.compact("dense").predict(X), clf.predict(X))


def test_softmax_and_negative_log_likelihood(iris):
    X, y = iris
    net = NeuralNetClassifier(TwoLayers, module__top=SoftmaxTop, max_epochs=15, lr=0.1)
    clf = OBDClassifier(net, **QUICK).fit(X, y)
    check(clf, X)
    np.testing.assert_allclose(clf.compact().predict_proba(X).sum(axis=1), 1, rtol=1e-5)


def test_a_convolutional_net(digits):
    X, y = digits[0].reshape(-1, 1, 8, 8), digits[1] % 3
    clf = OBDClassifier(classifier_net(LeNet, max_epochs=5), **QUICK).fit(X, y)
    check(clf, X)
