"""X standardised by the default network itself."""

import pickle

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.preprocessing import StandardScaler
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor
from sk_obd.training.mlp import MLP
from sk_obd.training.standardise import Standardise, folded, mean_and_scale
from tests.library.settings import QUICK


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_rows", [1, 7, 5000])
def test_mean_and_scale_are_those_of_scikit_learn(rng, n_rows, weighted):
    X = rng.normal(size=(n_rows, 4)) * [1, 50, 1e-3, 1] + [0, 1000, 0, -3]
    X[:, 3] = 0.1
    weights = rng.uniform(0.1, 2, n_rows) if weighted else None
    mean, scale = mean_and_scale(X, weights)
    expected = StandardScaler().fit(X, sample_weight=weights)
    np.testing.assert_allclose(mean, expected.mean_, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(scale, expected.scale_, rtol=1e-9)


@pytest.mark.parametrize(
    "same",
    [
        sparse.csr_array,
        np.asfortranarray,
        lambda X: X[::-1][::-1],
        lambda X: X.astype(np.float32),
    ],
)
def test_equal_rows_give_equal_numbers_however_they_are_stored(rng, same):
    X = np.round(rng.normal(size=(300, 5)), 1).astype(np.float32).astype(np.float64)
    X[X < 0] = 0
    for one, other in zip(mean_and_scale(same(X)), mean_and_scale(X), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("unit", [1e-300, 1e-160, 1e160, 1e300])
def test_very_large_and_very_small_columns_are_standardised(rng, unit):
    X = rng.normal(size=(50, 2))
    mean, scale = mean_and_scale(X * [unit, 1])
    Z = (X * [unit, 1] - mean) / scale
    np.testing.assert_allclose(Z.std(axis=0), 1, rtol=1e-9)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(), (5,), (6, 4)])
def test_folding_keeps_outputs_and_names(rng, sizes):
    torch.manual_seed(0)
    mean, scale = rng.normal(size=3), rng.uniform(0.1, 3, 3)
    module = MLP(3, 2, sizes, mean=mean, scale=scale)
    masks = {name: torch.rand(p.shape) < 0.7 for name, p in module.named_parameters()}
    with torch.no_grad():
        for name, p in module.named_parameters():
            p[~masks[name]] = 0
    plain, new_masks = folded(module, masks)
    X = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(plain(X), module(X), rtol=0, atol=1e-12)
    parameters = dict(plain.named_parameters())
    assert parameters.keys() == masks.keys()
    assert all((parameters[name][~mask] == 0).all() for name, mask in new_masks.items())
    assert not any(isinstance(layer, Standardise) for layer in plain)
    assert isinstance(module[0], Standardise)


def test_other_modules_are_not_folded():
    for module in (nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2), nn.ReLU(), nn.Sequential()):
        assert folded(module)[0] is module


def test_raw_columns_train_as_well_as_standardised_ones(rng):
    X = rng.normal(size=(300, 4))
    y = X[:, 0] - X[:, 1] * X[:, 2]
    raw = X * [1e-3, 1, 30, 1e5] + [0, 10, 2000, -1e6]
    plain = OBDRegressor(random_state=0).fit(X, y)
    fitted = OBDRegressor(random_state=0).fit(raw, y)
    assert fitted.score(raw, y) > 0.9
    assert abs(fitted.score(raw, y) - plain.score(X, y)) < 0.01


def test_float32_and_float64_start_from_the_same_weights(iris):
    X, y = iris
    settings = {"max_epochs": 0, "retrain_epochs": 0, "prune_rate": 0, "random_state": 0}
    wide = OBDClassifier(**settings).fit(X, y).net_.module_
    short = OBDClassifier(**settings).fit(X.astype(np.float32), y).net_.module_
    for one, other in zip(wide.parameters(), short.parameters(), strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one.float(), other, rtol=0, atol=0)


def test_rows_of_weight_zero_do_not_count(iris):
    X, y = iris
    X = np.vstack([X, X + 1000])
    weights = np.repeat([1.0, 0.0], len(y))
    fitted = OBDClassifier(**QUICK).fit(X, np.tile(y, 2), sample_weight=weights)
    expected = OBDClassifier(**QUICK).fit(X[: len(y)], y)
    torch.testing.assert_close(fitted.net_.module_[0].mean, expected.net_.module_[0].mean)


def test_it_is_part_of_files_pickles_and_exports(iris, tmp_path):
    X, y = iris
    X = X * [1, 100, 1, 1] + [0, 5000, 0, 0]
    fitted = OBDClassifier(**QUICK).fit(X, y)
    expected = fitted.predict_proba(X)
    fitted.save_params(tmp_path / "net")
    loaded = OBDClassifier(**QUICK).load_params(tmp_path / "net")
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(X), expected)
    np.testing.assert_allclose(fitted.compact().predict_proba(X), expected, atol=1e-10)
    fitted.to_numpy(tmp_path / "program.py")
    namespace = {"__file__": str(tmp_path / "program.py")}
    exec((tmp_path / "program.py").read_text(), namespace)
    np.testing.assert_allclose(namespace["predict_proba"](X), expected, atol=1e-10)
    assert "5000" not in (tmp_path / "program.py").read_text()


def test_importances_and_support_are_still_those_of_columns(iris):
    X, y = iris
    fitted = OBDClassifier(prune_rate=0.9, **QUICK).fit(X, y)
    assert fitted.feature_importances_.shape == (4,)
    np.testing.assert_array_equal(fitted.support_, fitted.mask_["hidden0.weight"].any(axis=0))
