"""What looks like a mistake is named, with what to write in its place."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from torch import nn

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor
from tests.library.nets import classifier_net
from tests.library.settings import QUICK

BRIEF = {"retrain_epochs": 0, "random_state": 0}


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("hidden_layer_sizes", (3,), "Build the net's module"),
        ("activation", "tanh", "Build the net's module"),
        ("learning_rate_init", 0.1, "net__lr"),
        ("batch_size", 20, "net__batch_size"),
        ("max_epochs", 7, "net__max_epochs"),
        ("weight_decay", 0.1, "optimizer__weight_decay"),
    ],
)
@pytest.mark.parametrize("kind", [OBDClassifier, OBDClassifierCV])
def test_settings_of_the_default_network_beside_a_net_are_refused(iris, kind, name, value, instead):
    estimator = kind(classifier_net(), **{name: value})
    with pytest.raises(ValueError, match=rf"{name}=.* means nothing beside net.*{instead}"):
        estimator.fit(*iris)


def test_the_defaults_themselves_may_stand_beside_a_net(iris):
    own = {"hidden_layer_sizes": [100], "activation": "relu", "max_epochs": 200}
    OBDClassifier(classifier_net(max_epochs=1), **own, **BRIEF).fit(*iris)


@pytest.mark.parametrize("kind", [OBDClassifier, OBDClassifierCV])
def test_a_percentage_in_the_place_of_a_share_is_pointed_out(iris, kind):
    with pytest.warns(UserWarning, match=r"prune_rate=90 deletes 90 of 803.*prune_rate=0.9") as all:
        kind(prune_rate=90, max_epochs=2, **BRIEF).fit(*iris)
    (found,) = [entry for entry in all if "prune_rate" in str(entry.message)]
    assert found.filename == __file__


@pytest.mark.filterwarnings("error:prune_rate")
@pytest.mark.parametrize("rate", [0, 1, 0.9, 300, 700])
def test_other_prune_rates_are_not(iris, rate):
    OBDClassifier(prune_rate=rate, max_epochs=2, **BRIEF).fit(*iris)


@pytest.mark.filterwarnings("error:prune_rate")
def test_a_size_that_cross_validation_chose_is_not(iris):
    CV = {"cv": 2, "step": 40, "prune_rate": 0.1, "rule": "best"}
    fitted = OBDClassifierCV(max_epochs=3, **CV, **BRIEF).fit(*iris)
    assert fitted.n_params_ <= 803


def test_sizes_beyond_the_path_are_refused(iris):
    fitted = OBDClassifier(prune_rate=0.5, **QUICK).fit(*iris)
    end = fitted.path_[-1]["n_params"]
    with pytest.raises(
        ValueError, match=rf"prune_rate=0.95 lies beyond the end.* {end} parameters"
    ):
        fitted.at(prune_rate=0.95)
    with pytest.raises(ValueError, match=r"n_params=3 lies beyond the end.*warm_start"):
        fitted.at(n_params=3)
    assert fitted.at(prune_rate=0.5).n_params_ == fitted.at(n_params=end).n_params_ == end


@pytest.mark.parametrize("rate", [1 / 3, 0.1, 0.777])
def test_the_prune_rate_of_fit_is_the_end_of_its_path(iris, rate):
    fitted = OBDClassifier(prune_rate=rate, max_epochs=2, **BRIEF).fit(*iris)
    assert fitted.at(prune_rate=rate).n_params_ == fitted.n_params_


def test_copies_show_how_they_came_about(iris):
    fitted = OBDClassifier(**QUICK).fit(*iris)
    own = repr(fitted)
    assert own == repr(OBDClassifier(**QUICK))
    earlier = fitted.at(iteration=1)
    assert repr(earlier) == f"{own}.at(iteration=1)"
    assert repr(earlier.compact()) == f"{own}.at(iteration=1).compact()"
    assert repr(earlier.fit(*iris)) == own
    assert "OBDClassifier" in fitted._repr_html_()


class Ending(nn.Module):
    def __init__(self, top):
        super().__init__()
        self.linear, self.top = nn.Linear(4, 3, dtype=torch.float64), top

    def forward(self, X):
        return self.top(self.linear(X))


def test_logits_beside_nll_loss_are_refused_in_terms_of_the_net(iris):
    net = NeuralNetClassifier(Ending, module__top=nn.Identity(), max_epochs=1)
    with pytest.raises(
        ValueError, match=r"returns probabilities.*Softmax.*CrossEntropyLoss"
    ) as found:
        OBDClassifier(net, **BRIEF).fit(*iris)
    assert "outputs=" not in str(found.value)
    OBDClassifier(net.set_params(module__top=nn.Softmax(1)), **BRIEF).fit(*iris)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_before_training(iris, dtype):
    module = nn.Sequential(nn.Linear(4, 3)).to(dtype)
    for given in ({"module": module}, {"module": nn.Linear, **sizes(dtype)}):
        net = NeuralNetClassifier(criterion=nn.CrossEntropyLoss, **given)
        with pytest.raises(ValueError, match=r"is of torch\.\w*float16.*module.float\(\)"):
            OBDClassifier(net, **BRIEF).fit(*iris)


def sizes(dtype):
    return {"module__in_features": 4, "module__out_features": 3, "module__dtype": dtype}


@pytest.mark.parametrize("several", [lambda X: [X, X], lambda X: (X, X[:, :2])])
def test_several_inputs_are_refused(iris, several):
    X, y = iris
    with pytest.raises(TypeError, match=r"of 2 arrays; OBDClassifier expects one array"):
        OBDClassifier(**QUICK).fit(several(X), y)


@pytest.mark.parametrize(
    "given",
    [list, lambda X: [torch.tensor(x) for x in X], lambda X: torch.tensor(X).requires_grad_()],
)
def test_lists_of_rows_and_tensors_are_tables(iris, given):
    X, y = iris
    fitted = OBDClassifier(early_stopping=True, **QUICK).fit(given(X), y)
    expected = OBDClassifier(early_stopping=True, **QUICK).fit(X, y)
    np.testing.assert_array_equal(fitted.predict_proba(given(X)), expected.predict_proba(X))


@pytest.mark.parametrize("method", ["save_params", "to_numpy", "to_torch", "to_onnx"])
def test_a_folder_that_is_missing_is_named(iris, tmp_path, method):
    fitted = OBDClassifier(**QUICK).fit(*iris)
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*missing' to write 'net'"):
        getattr(fitted, method)(tmp_path / "missing" / "net")


def test_rows_of_several_dimensions_need_a_net(iris):
    X, y = iris
    with pytest.raises(ValueError, match=r"shape \(150, 2, 2\); the default network takes tables"):
        OBDClassifier(**QUICK).fit(X.reshape(-1, 2, 2), y)


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ({"prunable": "("}, None, r"prunable='\(' is not a regular expression"),
        ({}, [0, "a", 2], r"labels of several types \(int, str\)"),
        ({}, ["a", None, "b"], r"labels of several types \(NoneType, str\)"),
    ],
)
def test_what_cannot_be_read_is_named(iris, settings, labels, message):
    X, y = iris
    y = y if labels is None else np.array(labels, dtype=object)[y]
    with pytest.raises(ValueError, match=message):
        OBDClassifier(**settings, **BRIEF).fit(X, y)


def test_a_criterion_without_a_second_derivative_is_refused_before_training(iris):
    trained = []

    class Watched(NeuralNetClassifier):
        def train_step(self, *args, **kwargs):
            trained.append(1)
            return super().train_step(*args, **kwargs)

    net = Watched(nn.Sequential(nn.Linear(4, 3)), criterion=nn.MultiMarginLoss)
    with pytest.raises(ValueError, match="MultiMarginLoss has no second derivative in torch"):
        OBDClassifier(net, **BRIEF).fit(*iris)
    assert not trained


@pytest.mark.parametrize("size", [1e155, 1e200, 1e300])
def test_targets_whose_squares_overflow_are_refused(iris, size):
    X, _ = iris
    with pytest.raises(ValueError, match="Give y in another unit"):
        OBDRegressor(**QUICK).fit(X[:, :3], X[:, 3] * size)


@pytest.mark.parametrize("size", [1e-100, 1e-12, 1e12, 1e100, 1e140])
def test_targets_of_any_other_size_are_learnt_alike(iris, size):
    X, _ = iris
    one, other = (
        OBDRegressor(**QUICK).fit(X[:, :3], X[:, 3] * unit).predict(X[:, :3]) / unit
        for unit in (1.0, size)
    )
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
