"""Bad input gets an answer; attributes are what was promised."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

from sk_obd import OBDClassifier, OBDRegressor, obd_path
from tests.library.modules import TwoLayers
from tests.library.nets import classifier_net, regressor_net
from tests.library.settings import QUICK

PARAMETERS = [
    ({"prune_rate": 1.0}, ValueError, r"prune_rate=1.0; expected a float in \[0, 1\)"),
    ({"prune_rate": 1.5}, ValueError, "prune_rate=1.5"),
    ({"prune_rate": -0.1}, ValueError, "prune_rate=-0.1"),
    ({"prune_rate": -3}, ValueError, "prune_rate=-3"),
    ({"prune_rate": float("nan")}, ValueError, "prune_rate=nan"),
    ({"prune_rate": "half"}, TypeError, "prune_rate='half' is a str"),
    ({"prune_rate": True}, TypeError, "prune_rate=True"),
    ({"prune_rate": 10**6}, ValueError, "asks to delete 1000000 parameters; the network has"),
    ({"step": 0}, ValueError, "step=0 makes no progress"),
    ({"step": 0.0}, ValueError, "step=0.0 makes no progress"),
    ({"step": 1.0}, ValueError, "step=1.0"),
    ({"step": -2}, ValueError, "step=-2"),
    ({"step": "big"}, TypeError, "step='big'"),
    ({"saliency": "hessian"}, ValueError, "saliency='hessian'; expected one of 'obd'"),
    ({"curvature": "exact"}, ValueError, "curvature='exact'; expected one of 'ggn'"),
    ({"prunable": "convolution"}, ValueError, "prunable='convolution' matches no .*hidden0.weight"),
    ({"prunable": ["nowhere.weight"]}, ValueError, "'nowhere.weight', which is not a trainable"),
    ({"prunable": lambda name, p: False}, ValueError, "matches no trainable parameter"),
    ({"retrain_epochs": -1}, ValueError, "retrain_epochs=-1; expected an int >= 0"),
    ({"retrain_epochs": 2.5}, ValueError, "retrain_epochs=2.5"),
    ({"max_loss_increase": -1}, ValueError, "max_loss_increase=-1"),
    ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change=0"),
    ({"tol": -1}, ValueError, "tol=-1"),
    ({"validation_fraction": 1.0}, ValueError, "validation_fraction=1.0"),
    ({"scoring": "beauty"}, ValueError, "scoring"),
    ({"keep_path": "some"}, ValueError, "keep_path='some'; expected one of 'all', 'last'"),
    ({"hidden_layer_sizes": 100}, ValueError, "hidden_layer_sizes=100"),
    ({"hidden_layer_sizes": (5, 0)}, ValueError, r"hidden_layer_sizes=\(5, 0\)"),
    ({"activation": "step"}, ValueError, "activation='step'; expected one of 'identity'"),
    ({"learning_rate_init": 0}, ValueError, "learning_rate_init=0"),
    ({"batch_size": 0}, ValueError, "batch_size=0; expected an int >= 1 or 'auto'"),
    ({"max_epochs": -1}, ValueError, "max_epochs=-1"),
    ({"weight_decay": -1}, ValueError, "weight_decay=-1"),
]


@pytest.mark.parametrize(("parameters", "error", "message"), PARAMETERS)
def test_a_parameter_out_of_range_is_named_with_its_value(parameters, error, message, iris):
    with pytest.raises(error, match=message):
        OBDClassifier(**(QUICK | parameters)).fit(*iris)


def spoiled(X, value):
    X = X.copy()
    X[0, 0] = value
    return X


DATA = {
    "NaN in X": (lambda X, y: ((spoiled(X, np.nan), y), {}), "Input X contains NaN"),
    "infinity in X": (lambda X, y: ((spoiled(X, np.inf), y), {}), "contains infinity"),
    "X of one dimension": (lambda X, y: ((X[:, 0], y), {}), "Reshape your data"),
    "lengths that differ": (lambda X, y: ((X, y[:-1]), {}), "inconsistent numbers of samples"),
    "no y": (lambda X, y: ((X, None), {}), "requires y"),
    "one class": (lambda X, y: ((X, np.zeros(len(y))), {}), "found one class: .*0.0"),
    "one class with weight": (
        lambda X, y: ((X, y), {"sample_weight": (y == 1).astype(float)}),
        "found one class",
    ),
    "several labels": (lambda X, y: ((X, np.eye(3, dtype=int)[y]), {}), "1d array"),
    "values for classes": (lambda X, y: ((X, X[:, 0]), {}), "Unknown label type"),
    "negative weights": (
        lambda X, y: ((X, y), {"sample_weight": -np.ones(len(y))}),
        "Negative values in data passed to `sample_weight`: -1.0",
    ),
    "weights of zero": (
        lambda X, y: ((X, y), {"sample_weight": np.zeros(len(y))}),
        "at least one non-zero",
    ),
    "NaN weights": (
        lambda X, y: ((X, y), {"sample_weight": np.full(len(y), np.nan)}),
        "sample_weight contains NaN",
    ),
    "too few weights": (lambda X, y: ((X, y), {"sample_weight": np.ones(3)}), r"\(3,\), expected"),
    "X_val alone": (lambda X, y: ((X, y), {"X_val": X}), "y_val is missing"),
    "other columns in X_val": (
        lambda X, y: ((X, y), {"X_val": X[:, :2], "y_val": y}),
        "X has 2 features",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_bad_data_is_named(name, iris):
    make, message = DATA[name]
    args, kwargs = make(*iris)
    with pytest.raises(ValueError, match=message):
        OBDClassifier(**QUICK).fit(*args, **kwargs)


def test_dict_and_dataset_x_are_refused(iris):
    X, y = iris
    with pytest.raises(TypeError, match=r"X is a dict; .*one array"):
        OBDClassifier(**QUICK).fit({"X": X}, y)
    dataset = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(y))
    with pytest.raises(TypeError, match="X is a TensorDataset"):
        OBDClassifier(**QUICK).fit(dataset, y)


def test_net_parameters_without_a_net_are_refused():
    with pytest.raises(ValueError, match=r"net__lr was set, but net=None"):
        OBDClassifier().set_params(net__lr=0.1)


def test_columns_at_predict_must_be_those_of_fit(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    fitted = OBDClassifier(early_stopping=True, **QUICK).fit(frame, y)
    assert list(fitted.feature_names_in_) == list("abcd")
    np.testing.assert_array_equal(fitted.predict(frame).shape, y.shape)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="X has 3 features"):
        OBDClassifier(**QUICK).fit(X, y).predict(X[:, :3])


@pytest.mark.filterwarnings("error")
def test_data_frames_pass_without_a_warning(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    OBDClassifier(early_stopping=True, random_state=0).fit(frame, pd.Series(y)).predict(frame)


def test_predict_before_fit_is_an_error():
    for method in ("predict", "predict_proba", "predict_log_proba"):
        with pytest.raises(NotFittedError):
            getattr(OBDClassifier(), method)([[0.0]])
    with pytest.raises(NotFittedError):
        OBDRegressor().at(iteration=0)


def test_weights_and_classes_of_equal_weight_change_nothing(iris):
    X, y = iris
    plain = OBDClassifier(**QUICK).fit(X, y).predict_proba(X)
    ones = OBDClassifier(**QUICK).fit(X, y, sample_weight=np.ones(len(y))).predict_proba(X)
    balanced = OBDClassifier(class_weight="balanced", **QUICK).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(plain, ones)
    np.testing.assert_array_equal(plain, balanced)


def test_rows_of_weight_zero_are_as_if_absent(diabetes):
    X, y = diabetes
    weights = (np.arange(len(y)) % 3 > 0).astype(float)
    weighted = OBDRegressor(**QUICK).fit(X, y, sample_weight=weights)
    absent = OBDRegressor(**QUICK).fit(X[weights > 0], y[weights > 0])
    np.testing.assert_array_equal(weighted.predict(X), absent.predict(X))


def test_the_regressor_standardises_y_inside(diabetes):
    X, y = diabetes
    first = OBDRegressor(**QUICK).fit(X, y)
    second = OBDRegressor(**QUICK).fit(X, 1e4 * y + 1e6)
    np.testing.assert_allclose(second.predict(X), 1e4 * first.predict(X) + 1e6, rtol=1e-6)
    constant = OBDRegressor(random_state=0).fit(X, np.full(len(y), 3.0))
    np.testing.assert_allclose(constant.predict(X), 3.0, atol=0.1)


def test_float32_data_give_a_float32_network(iris):
    X, y = iris
    fitted = OBDClassifier(**QUICK).fit(X.astype(np.float32), y)
    assert fitted.net_.module_.hidden0.weight.dtype == torch.float32
    assert fitted.predict_proba(X.astype(np.float32)).dtype == np.float32
    assert OBDClassifier(**QUICK).fit(X, y).net_.module_.hidden0.weight.dtype == torch.float64


def test_fitted_attributes_have_an_entry_for_every_parameter(iris):
    fitted = OBDClassifier(classifier_net(), retrain_epochs=2, random_state=0).fit(*iris)
    shapes = {n: tuple(p.shape) for n, p in fitted.net_.module_.named_parameters()}
    for found in (fitted.mask_, fitted.saliencies_, fitted.ranking_):
        assert {n: a.shape for n, a in found.items()} == shapes
    for name, mask in fitted.mask_.items():
        assert mask.dtype == bool
        assert (fitted.saliencies_[name][~mask] == 0).all()
    assert fitted.n_iter_ == len(fitted.path_) - 1


def test_a_frozen_parameter_is_never_deleted(iris):
    module = TwoLayers()
    module.first.weight.requires_grad_(False)
    fitted = OBDClassifier(classifier_net(module), prune_rate=0.9, retrain_epochs=2).fit(*iris)
    assert fitted.mask_["first.weight"].all()
    assert (fitted.saliencies_["first.weight"] == 0).all()


def test_progress_is_printed_when_asked(iris, capsys):
    OBDClassifier(verbose=1, **QUICK).fit(*iris)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[OBDClassifier] iteration 0: 67 of 67 parameters (100.0%), loss ")
    OBDClassifier(classifier_net(), retrain_epochs=1).fit(*iris)
    assert capsys.readouterr().out == ""


def test_the_notebook_view_does_not_fail(iris):
    fitted = OBDClassifier(**QUICK).fit(*iris)
    assert "OBDClassifier" in fitted._repr_html_()
    assert "OBDClassifier" in repr(OBDClassifier(classifier_net()))


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_the_function_form_gives_the_estimators_path(kind, iris, diabetes):
    data, net, estimator = {
        "classifier": (iris, classifier_net(), OBDClassifier),
        "regressor": (diabetes, regressor_net(), OBDRegressor),
    }[kind]
    X, y = data
    settings = {"prune_rate": 0.6, "step": 0.4, "retrain_epochs": 2, "random_state": 0}
    path = obd_path(net, X, y, X_val=X[::3], y_val=y[::3], **settings)
    expected = estimator(net, **settings).fit(X, y, X_val=X[::3], y_val=y[::3])
    for row, other in zip(path, expected.path_, strict=True):
        assert row | {"fit_time": 0} == pytest.approx(other | {"fit_time": 0}, nan_ok=True)
    for i in range(len(path)):
        for name, p in path.network(i).named_parameters():
            mask = torch.from_numpy(expected.at(iteration=i).mask_[name])
            assert torch.equal(p != 0, mask & (p != 0))
            assert torch.equal(p, dict(expected.path_.network(i).named_parameters())[name])


def test_the_function_form_needs_a_net_that_says_what_it_predicts(iris):
    with pytest.raises(TypeError, match="NoneType; obd_path expects a skorch"):
        obd_path(None, *iris)


def test_a_network_of_the_path_is_a_copy_in_eval_mode(iris):
    fitted = OBDClassifier(max_epochs=3, retrain_epochs=1, random_state=0).fit(*iris)
    before = fitted.predict_proba(iris[0])
    dense, last = fitted.path_.network(0), fitted.path_.network(-1)
    assert not last.training
    with torch.no_grad():
        for p in last.parameters():
            p.zero_()
    np.testing.assert_array_equal(fitted.predict_proba(iris[0]), before)
    assert sum(p.numel() for p in dense.parameters()) == fitted.path_[0]["n_params"]
    with pytest.raises(ValueError, match="No kept row of the path fits iteration=99"):
        fitted.path_.network(99)
