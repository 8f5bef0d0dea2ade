"""Modules that do something unusual in their forward: they work, or are refused before training."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.nn import functional as F

from sk_obd import OBDClassifier, OBDRegressor


class Plain(nn.Module):
    def __init__(self, n_out=2, inplace=False):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, n_out)
        self.drop = nn.Dropout(0.2, inplace=inplace)

    def forward(self, X):
        return self.last(torch.tanh(self.first(self.drop(X.flatten(1)))))


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)
    return X, (X[:, 0] > 0).astype(int)


def net_of(module, kind=NeuralNetClassifier, criterion=nn.CrossEntropyLoss, **settings):
    settings = {
        "max_epochs": 5,
        "lr": 0.1,
        "batch_size": 16,
        "optimizer__weight_decay": 1e-3,
    } | settings
    return kind(module, criterion=criterion, **settings)


def classifier(module, saliency="obd", **settings):
    net = net_of(module, **settings)
    return OBDClassifier(net, saliency=saliency, retrain_epochs=1, random_state=0)


def refusal_of(module, data, **settings):
    """The message of a refusal before training."""
    trained = []

    class Told(NeuralNetClassifier):
        def train_step(self, *args, **kwargs):
            trained.append(1)
            return super().train_step(*args, **kwargs)

    with pytest.raises(ValueError, match=r"\w") as error:
        classifier(module, kind=Told, **settings).fit(*data)
    assert not trained
    return str(error.value)


# -- in place on X ---------------------------------------------------------------------------------


class Halves(Plain):
    def forward(self, X):
        return super().forward(X.div_(2.0))


class Clips(Plain):
    def forward(self, X):
        return super().forward(torch.clamp_(X, -1, 1))


class Overwrites(Plain):
    def forward(self, X):
        X[:, 1] = X[:, 1].exp()
        return super().forward(X)


class ActivatesFirst(Plain):
    def forward(self, X):
        return super().forward(F.relu(X, inplace=True))


class Adds(Plain):
    def forward(self, X):
        X += 1
        return super().forward(X)


class AView(Plain):
    def forward(self, X):
        flat = X.view(len(X), -1)
        flat.mul_(3.0)
        return super().forward(flat)


class Standardises(Plain):
    def forward(self, X):
        return super().forward((X.sub_(X.mean(1, keepdim=True))).div_(2))


IN_PLACE = [Halves, Clips, Overwrites, ActivatesFirst, Adds, AView, Standardises]


def out_of_place(module):
    """The same module, working on a copy."""

    class Copying(module):
        def forward(self, X):
            return super().forward(X.clone())

    return Copying


@pytest.mark.parametrize("module", IN_PLACE)
def test_work_in_place_on_x_reaches_neither_the_users_array_nor_the_training_rows(module, data):
    X, y = data
    given = X.copy()
    clf = classifier(module).fit(given, y)
    right = classifier(out_of_place(module)).fit(X, y)
    for name in ("loss", "train_score", "gradient_norm", "predicted_increase"):
        np.testing.assert_allclose(
            [row[name] for row in clf.path_], [row[name] for row in right.path_], rtol=1e-5
        )
    small = clf.compact()
    for estimator in (clf, small, clf.compact("sparse")):
        proba = estimator.predict_proba(given)
        np.testing.assert_allclose(proba, right.predict_proba(X), atol=1e-5)
        estimator.predict(given)
        estimator.score(given, y)
        estimator.predict(given[:1])
    np.testing.assert_array_equal(given, X)


@pytest.mark.parametrize("curvature", ["ggn", "hessian", "fisher"])
def test_curvature_is_that_of_the_rows_as_they_were_given(curvature, data):
    clf, right = (
        classifier(module).set_params(curvature=curvature).fit(*data)
        for module in (Halves, out_of_place(Halves))
    )
    for name, saliency in clf.saliencies_.items():
        np.testing.assert_allclose(saliency, right.saliencies_[name], rtol=1e-4, atol=1e-9)


def test_dropout_in_place_trains_the_same_network(data):
    losses = [
        [row["loss"] for row in classifier(Plain, module__inplace=inplace).fit(*data).path_]
        for inplace in (False, True)
    ]
    assert losses[0] == losses[1]


# -- the shape of one row --------------------------------------------------------------------------


class SqueezesAll(Plain):
    def forward(self, X):
        return super().forward(X).squeeze()


class SqueezesFirst(Plain):
    def forward(self, X):
        return super().forward(X).squeeze(0)


class SumsAll(Plain):
    def forward(self, X):
        return super().forward(X).sum(1).squeeze()


class InATuple(Plain):
    def forward(self, X):
        return super().forward(X).squeeze(), X


@pytest.mark.parametrize("module", [SqueezesAll, SqueezesFirst, SumsAll, InATuple])
@pytest.mark.parametrize("n_out", [1, 2])
def test_a_module_that_drops_the_dimension_of_rows_is_told_what_to_write(module, n_out, data):
    message = refusal_of(module, data, module__n_out=n_out)
    assert "for 2 row(s) of X" in message
    assert "for one row" in message
    assert "Write .squeeze(-1)" in message


@pytest.mark.parametrize(
    ("estimator", "kind", "criterion"),
    [
        (OBDRegressor, NeuralNetRegressor, nn.MSELoss),
        (OBDClassifier, NeuralNetBinaryClassifier, nn.BCEWithLogitsLoss),
    ],
)
def test_every_kind_of_net_is_told(estimator, kind, criterion, data):
    X, y = data
    net = net_of(SqueezesAll, kind, criterion, module__n_out=1)
    with pytest.raises(ValueError, match=r"returns shape \(2,\) .*\(\) for one row.*squeeze"):
        estimator(net).fit(X, y.astype(np.float32))


class SqueezesLast(Plain):
    def forward(self, X):
        return super().forward(X).squeeze(-1)


def test_squeezing_the_last_dimension_works(data):
    X, y = data
    net = net_of(SqueezesLast, NeuralNetRegressor, nn.MSELoss, module__n_out=1)
    reg = OBDRegressor(net, retrain_epochs=1, random_state=0).fit(X, y)
    assert reg.predict(X[:1]).shape == (1,)


# -- what is returned ------------------------------------------------------------------------------


class Named(Plain):
    def forward(self, X):
        return {"logits": super().forward(X), "input": X}


class Listed(Plain):
    def forward(self, X):
        return [super().forward(X)]


class Nested(Plain):
    def forward(self, X):
        return (super().forward(X), X), X


class NothingReturned(Plain):
    def forward(self, X):
        super().forward(X)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (Named, "returns a dict with the keys 'logits', 'input'"),
        (Listed, "returns a list"),
        (Nested, "returns a tuple that begins with a tuple"),
        (NothingReturned, "returns a NoneType"),
    ],
)
def test_outputs_that_are_not_a_tensor_are_refused_by_what_they_are(module, found, data):
    message = refusal_of(module, data)
    assert found in message
    assert "return the predictions only" in message


class TakesLogits(NeuralNetClassifier):
    """Makes a tensor of a dict, as one writes it in skorch."""

    def infer(self, x, **fit_params):
        return super().infer(x, **fit_params)["logits"]


def test_a_dict_is_refused_although_the_net_takes_it_apart(data):
    with pytest.raises(ValueError, match="returns a dict with the keys 'logits'"):
        OBDClassifier(net_of(Named, TakesLogits)).fit(*data)


# -- randomness and state --------------------------------------------------------------------------


class DropsInEvalMode(Plain):
    def forward(self, X):
        return super().forward(F.dropout(X, 0.3))


class Noisy(Plain):
    def forward(self, X):
        return super().forward(X) + torch.rand(2)


class NumpyNoise(Plain):
    def forward(self, X):
        return super().forward(X * float(np.random.uniform(0.5, 2)))  # noqa: NPY002


class Counts(Plain):
    calls = 0

    def forward(self, X):
        self.calls += 1
        return super().forward(X) * self.calls


class CountsInABuffer(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, X):
        self.calls += 1
        return super().forward(X) * self.calls


class RemembersTheLast(Plain):
    state = 0.0

    def forward(self, X):
        out = super().forward(X) + self.state
        self.state = out.detach().mean()
        return out


@pytest.mark.parametrize(
    "module", [DropsInEvalMode, Noisy, NumpyNoise, Counts, CountsInABuffer, RemembersTheLast]
)
@pytest.mark.parametrize("saliency", ["obd", "magnitude"])
def test_forwards_that_are_random_or_keep_a_state_are_named_so(module, saliency, data):
    message = refusal_of(module, data, saliency=saliency)
    assert "gives another output for the same rows of X when it is called again" in message
    assert "random" in message
    assert "state" in message


class RandomInTraining(Plain):
    def forward(self, X):
        X = F.dropout(X, 0.3, training=self.training)
        return super().forward(X + torch.randn_like(X) if self.training else X)


def test_randomness_in_training_mode_is_allowed(data):
    assert classifier(RandomInTraining).fit(*data).n_params_ < 74


# -- precision, compilation ------------------------------------------------------------------------


class Autocast(Plain):
    def forward(self, X):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(X)


class AutocastInside(Plain):
    """What it returns is in full precision."""

    def forward(self, X):
        with torch.autocast("cpu", torch.bfloat16):
            hidden = F.linear(X, self.first.weight)
        return self.last(torch.tanh(hidden.float()))


@pytest.mark.parametrize("module", [Autocast, AutocastInside])
def test_autocast_in_forward_is_refused(module, data):
    assert "computes under torch.autocast" in refusal_of(module, data)


@pytest.mark.parametrize(
    "module", [lambda: torch.compile(Plain()), lambda: nn.Sequential(torch.compile(Plain()))]
)
def test_compiled_modules_are_refused(module, data):
    with pytest.raises(ValueError, match=r"torch\.compile.*Give the module itself"):
        classifier(module()).fit(*data)


def test_compilation_by_skorch_is_refused(data):
    with pytest.raises(ValueError, match=r"compile=True.*compile=False"):
        classifier(Plain, compile=True).fit(*data)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("around", [lambda module: module, nn.Sequential])
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(3, 6))])
def test_script_modules_are_refused(make, around, data):
    with pytest.raises(ValueError, match=r"TorchScript.*Give the module that it was made from"):
        classifier(around(make(Plain().eval()))).fit(*data)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_script_module_made_in_init_is_refused(data):
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = torch.jit.script(Plain())

        def forward(self, X):
            return self.inside(X)

    assert "TorchScript" in refusal_of(Inside, data)
