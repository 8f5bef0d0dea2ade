"""What each method claims, and how the methods relate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import (
    METHODS,
    dense_diagonal,
    diagonal,
    hessian_vector_product,
    register_rule,
    resolve,
)
from sk_obd.curvature.layers.layer_rule import RULES
from sk_obd.curvature.layers.torch_layers import ConvRule
from sk_obd.curvature.routes import per_row
from sk_obd.curvature.routes.any_module import make_plan
from tests.library.cases import BY_NAME, OnceSquare, Square, mlp

from .test_exact import error

F64 = torch.float64
SOME = [
    "mlp Tanh",
    "conv2d",
    "residual",
    "lstm",
    "transformer",
    "weighted classes",
    "dense labels",
    "bce",
]


@pytest.mark.parametrize("name", ["mlp ReLU", "mlp LeakyReLU", "deep relu convs"])
def test_hessian_is_ggn_for_piecewise_linear_networks(name):
    module, criterion, X, y = BY_NAME[name].make()
    ggn, exact = (diagonal(module, criterion, X, y, method=m) for m in ("ggn", "hessian"))
    assert error(exact, ggn) <= 1e-12


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("deep relu convs", True),
        ("probabilities of a conv net", True),
        ("conv2d", False),
        ("relu layer used twice", False),
        ("instance norm", False),
        ("lstm", False),
    ],
)
def test_only_piecewise_linear_networks_take_the_short_way(name, linear):
    case = BY_NAME[name]
    module, criterion, X, _ = case.make()
    parameters = dict(module.named_parameters())
    plan = make_plan(module.eval(), resolve(criterion, case.outputs), parameters, X[:2])
    assert plan.linear is linear


@pytest.mark.parametrize(
    "name",
    [
        *("rnn", "gru", "lstm", "time first lstm, as many steps as rows", "projected lstm"),
        *("a learned first state", "tied autoencoder", "transformer"),
    ],
)
def test_rows_without_a_rule_are_taken_together(name, monkeypatch):
    module, criterion, X, y = BY_NAME[name].make()

    def alone(*args):
        raise AssertionError("one row at a time takes ten times as long")

    monkeypatch.setattr(per_row, "one_row", alone)
    for method in ("ggn", "fisher"):
        diagonal(module, criterion, X, y, method=method)


@pytest.mark.parametrize(
    ("name", "gathered"),
    [
        ("relu, max pool", 1),
        ("max pool, relu, in groups", 2),
        ("overlapping windows", 1),
        ("dilated windows", 1),
        ("max pool 1d", 1),
        ("max pool 3d", 1),
        ("max pool under a loss that is not convex", 1),
        ("max pool behind tanh", 0),
        ("planes reshaped before a max pool", 0),
        ("transposed, max pool", 0),
        ("batch norm, max pool", 0),
    ],
)
def test_what_a_max_pool_chose_is_gathered_where_that_is_all_there_is(name, gathered, monkeypatch):
    calls, whole = [], ConvRule.contract_chosen

    def counting(self, *args):
        calls.append(args)
        return whole(self, *args)

    monkeypatch.setattr(ConvRule, "contract_chosen", counting)
    module, criterion, X, y = BY_NAME[name].make()
    diagonal(module, criterion, X, y)
    assert len(calls) == gathered


def test_hessian_is_not_ggn_for_smooth_networks():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    ggn, exact = (diagonal(module, criterion, X, y, method=m) for m in ("ggn", "hessian"))
    assert error(exact, ggn) > 0.1
    assert any((value < 0).any() for value in exact.values())
    assert all((value >= 0).all() for value in ggn.values())


@pytest.mark.parametrize("name", ["mse", "mse behind tanh", "huber", "poisson"])
def test_recursion_is_the_hessian_for_one_hidden_layer_with_separate_outputs(name):
    module, criterion, X, y = BY_NAME[name].make()
    expected = dense_diagonal(module, criterion, X, y)
    assert error(diagonal(module, criterion, X, y, method="recursion"), expected) <= 1e-10


def test_recursion_is_exact_for_the_last_two_layers_of_weights_and_wrong_before():
    module, criterion, X, y = BY_NAME["five tanh layers"].make()
    expected = dense_diagonal(module, criterion, X, y)
    got = diagonal(module, criterion, X, y, method="recursion")
    *early, last_but_one, last = sorted({name.split(".")[0] for name in expected}, key=int)
    for layer in (last_but_one, last):
        keys = [k for k in expected if k.startswith(f"{layer}.")]
        assert error({k: got[k] for k in keys}, {k: expected[k] for k in keys}) <= 1e-10
    for layer in early:
        assert not torch.allclose(got[f"{layer}.weight"], expected[f"{layer}.weight"], rtol=1e-2)


def test_recursion_lm_is_never_negative_and_drops_the_bends():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    full, lm = (diagonal(module, criterion, X, y, method=m) for m in ("recursion", "recursion-lm"))
    assert all((value >= 0).all() for value in lm.values())
    assert error(lm, full) > 0.01


def unrolled(conv, size):
    """The Linear layer a convolution is, and which weight each of its connections shares."""
    shape = (conv.in_channels, size, size)
    inputs = conv.in_channels * size * size
    eye = torch.eye(inputs, dtype=F64).view(inputs, *shape)
    own = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
    ).to(F64)
    nn.init.zeros_(own.bias)
    own.weight.data = conv.weight.data
    matrix = own(eye).flatten(1).T.detach()
    shared = torch.zeros(conv.weight.numel(), *matrix.shape, dtype=F64)
    for k in range(conv.weight.numel()):
        own.weight.data = torch.zeros_like(conv.weight)
        own.weight.data.view(-1)[k] = 1
        shared[k] = own(eye).flatten(1).T.detach()
    bias = conv.bias.detach().repeat_interleave(matrix.shape[0] // conv.out_channels)
    layer = nn.Linear(inputs, matrix.shape[0]).to(F64)
    layer.weight.data, layer.bias.data = matrix, bias
    return layer, shared


@pytest.mark.parametrize("method", ["recursion", "recursion-lm"])
def test_recursion_sums_over_the_connections_that_share_a_weight(method):
    torch.manual_seed(0)
    one, two = nn.Conv2d(1, 2, 2, padding=1), nn.Conv2d(2, 2, 3, stride=2)
    net = nn.Sequential(one, nn.Tanh(), two, nn.Tanh(), nn.Flatten(), nn.Linear(2, 3)).to(F64)
    X, y = torch.randn(4, 1, 3, 3, dtype=F64), torch.tensor([0, 1, 2, 0])
    first, shared_first = unrolled(one, 3)
    second, shared_second = unrolled(two, 4)
    flat = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), net[5])
    got = diagonal(net, nn.CrossEntropyLoss(), X, y, method=method)
    expected = diagonal(flat, nn.CrossEntropyLoss(), X.flatten(1), y, method=method)
    for name, conv, shared in (("0", one, shared_first), ("2", two, shared_second)):
        sums = (shared * expected[f"{name}.weight"]).sum((1, 2)).view(conv.weight.shape)
        torch.testing.assert_close(got[f"{name}.weight"], sums, rtol=1e-10, atol=1e-14)
        biases = expected[f"{name}.bias"].view(2, -1).sum(1)
        torch.testing.assert_close(got[f"{name}.bias"], biases, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(got["5.weight"], expected["4.weight"], rtol=1e-10, atol=1e-14)


class Windows(nn.Module):
    """A max pool by 2 of what was flattened, by other operations than torch's own."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        x = x.view(-1, *self.shape)
        return x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)).flatten(1)


@pytest.mark.parametrize("method", ["recursion", "recursion-lm"])
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_recursion_passes_a_max_pool_as_any_map_that_feeds_one(act, method):
    torch.manual_seed(0)
    conv, top = nn.Conv2d(1, 2, 2), nn.Linear(8, 3)
    net = nn.Sequential(conv, act(), nn.MaxPool2d(2), nn.Flatten(), top).to(F64)
    X, y = torch.randn(4, 1, 5, 5, dtype=F64), torch.tensor([0, 1, 2, 0])
    layer, shared = unrolled(conv, 5)
    flat = nn.Sequential(layer, act(), Windows(2, 4, 4), top)
    got = diagonal(net, nn.CrossEntropyLoss(), X, y, method=method)
    expected = diagonal(flat, nn.CrossEntropyLoss(), X.flatten(1), y, method=method)
    sums = (shared * expected["0.weight"]).sum((1, 2)).view(conv.weight.shape)
    torch.testing.assert_close(got["0.weight"], sums, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(got["4.weight"], expected["3.weight"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "name",
    [
        "conv1d",
        "conv2d",
        "max pool, relu, in groups",
        "max pool behind tanh",
        "deep relu convs",
        "linear over positions",
        "transposed 1d",
        "dense labels",
    ],
)
def test_recursion_passes_convolutions_and_positions(name):
    module, criterion, X, y = BY_NAME[name].make()
    if name == "dense labels":
        module.words.weight.requires_grad_(False)
    lm = diagonal(module, criterion, X, y, method="recursion-lm")
    assert all((value >= 0).all() and value.any() for value in lm.values())
    small = diagonal(module, criterion, X, y, method="recursion", batch_size=1)
    assert error(small, diagonal(module, criterion, X, y, method="recursion")) <= 1e-12


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("residual", "reads"),
        ("layer used twice", "used twice"),
        ("one parameter in two layers", "layers '0' and '2' share"),
        ("lstm", "'rnn'"),
        ("transformer", "'words'"),
        ("layer norm", "LayerNorm"),
        ("own parameters", "'scale' of Own"),
        ("mse behind softmax", "mixes units"),
        ("overlapping windows", "mixes units"),
        ("dilated windows", "mixes units"),
        ("tied autoencoder", "'bias' of Tied"),
    ],
)
@pytest.mark.parametrize("method", ["recursion", "recursion-lm"])
def test_recursion_refuses_what_it_cannot_pass(name, found, method):
    module, criterion, X, y = BY_NAME[name].make()
    with pytest.raises(ValueError, match=rf'{found}.*method="ggn"'):
        diagonal(module, criterion, X, y, method=method)


def row_gradients(module, criterion, X, y):
    """Gradients of each row's own loss, one backward pass a row."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    for i in range(len(X)):
        value = criterion(module.eval()(X[i : i + 1]), y[i : i + 1])
        yield dict(
            zip(names, torch.autograd.grad(value, parameters, allow_unused=True), strict=True)
        )


@pytest.mark.parametrize(
    "name", ["mlp Tanh", "conv2d", "mse", "lstm", "layer used twice", "transformer"]
)
def test_fisher_is_the_weighted_mean_of_squared_row_gradients(name):
    module, criterion, X, y = BY_NAME[name].make()
    w = torch.rand(len(X), dtype=F64)
    expected = {key: torch.zeros_like(p) for key, p in module.named_parameters()}
    for weight, slopes in zip(w, row_gradients(module, criterion, X, y), strict=True):
        for key, slope in slopes.items():
            expected[key] += 0 if slope is None else weight * slope.square() / w.sum()
    got = diagonal(module, criterion, X, y, method="fisher", sample_weight=w)
    assert error(got, expected) <= 1e-10


@pytest.mark.parametrize("name", SOME)
def test_sampling_averages_to_ggn(name):
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    exact = diagonal(module, criterion, X, y, outputs=case.outputs)
    many = 30 if name in ("lstm", "transformer") else 200
    repeated = (X.repeat(many, *[1] * (X.ndim - 1)), y.repeat(many, *[1] * (y.ndim - 1)))
    got = diagonal(
        module, criterion, *repeated, method="ggn-mc", random_state=0, outputs=case.outputs
    )
    assert error(got, exact) <= 6 / (many * len(X)) ** 0.5


@pytest.mark.parametrize("name", SOME)
def test_samples_depend_on_the_seed_alone(name):
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    state = torch.random.get_rng_state()

    def sampled(seed, size):
        return diagonal(
            module,
            criterion,
            X,
            y,
            method="ggn-mc",
            random_state=seed,
            batch_size=size,
            outputs=case.outputs,
        )

    assert error(sampled(0, 1), sampled(0, None)) <= 1e-12
    assert error(sampled(1, None), sampled(0, None)) > 1e-3
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("top", ["logits", "proba"])
def test_a_class_near_probability_one_keeps_its_small_curvature(method, top):
    torch.manual_seed(0)
    module = mlp(4, 5, 4, 3, act=nn.ReLU, top=[nn.Softmax(1)] if top == "proba" else ())
    module[4].bias.data[1] = 25.0
    criterion = nn.NLLLoss() if top == "proba" else nn.CrossEntropyLoss()
    X, y = torch.randn(6, 4), torch.ones(6, dtype=torch.long)
    options = {"method": method, "outputs": "proba" if top == "proba" else None}
    if method == "ggn-mc":
        options["random_state"] = 0
    single = diagonal(module, criterion, X, y, **options)
    double = diagonal(module.double(), criterion, X.double(), y, **options)
    assert all(value.max() > 0 for value in double.values())
    assert error({k: v.double() for k, v in single.items()}, double) <= 1e-4


@pytest.mark.parametrize("name", [*SOME, "tied autoencoder", "nll on probabilities", "attention"])
def test_hessian_vector_product_is_the_column_it_should_be(name):
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    exact = diagonal(module, criterion, X, y, method="hessian", outputs=case.outputs)
    for name, value in list(exact.items())[:3]:
        at = int(value.abs().argmax())
        unit = torch.zeros_like(value)
        unit.view(-1)[at] = 1
        product = hessian_vector_product(
            module, criterion, X, y, {name: unit}, outputs=case.outputs, batch_size=2
        )
        torch.testing.assert_close(
            product[name].view(-1)[at], value.view(-1)[at], rtol=1e-10, atol=1e-14
        )
        assert list(product) == list(exact)


def test_weighted_products_are_those_of_repeated_rows():
    module, criterion, X, y = BY_NAME["conv2d"].make()
    vectors = {name: torch.ones_like(p) for name, p in module.named_parameters()}
    weights, rows = torch.tensor([2.0, 0.0, 1.0]), [0, 0, 2]
    one = hessian_vector_product(module, criterion, X, y, vectors, sample_weight=weights)
    two = hessian_vector_product(module, criterion, X[rows], y[rows], vectors)
    assert error(one, two) <= 1e-12


def test_vectors_are_checked():
    module, criterion, X, y = BY_NAME["mse"].make()
    with pytest.raises(ValueError, match="'nothing'"):
        hessian_vector_product(module, criterion, X, y, {"nothing": torch.ones(1)})
    with pytest.raises(ValueError, match=r"shape \(1,\), expected \(5,\)"):
        hessian_vector_product(module, criterion, X, y, {"0.bias": torch.ones(1)})


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.rand(4))

    def forward(self, x):
        return x * self.by


def test_a_users_rule_is_used():
    calls = []

    def pull(layer, x, G):
        calls.append(layer)
        return {"by": G * x}

    register_rule(Scale, pull)
    try:
        module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Scale(), nn.Linear(4, 3)).to(F64)
        X, y = torch.randn(5, 4, dtype=F64), torch.arange(5) % 3
        for method in ("ggn", "hessian"):
            calls.clear()
            got = diagonal(module, nn.CrossEntropyLoss(), X, y, method=method)
            assert (
                error(got, dense_diagonal(module, nn.CrossEntropyLoss(), X, y, method=method))
                <= 1e-10
            )
            assert calls
    finally:
        del RULES[Scale]


class Squared(nn.Module):
    def __init__(self, function, first):
        super().__init__()
        self.function, self.first = function, first
        self.last = nn.LazyLinear(3, dtype=torch.float64)

    def forward(self, X):
        return self.last(self.function.apply(self.first(X)).flatten(1))


FIRST = {
    "chain": (lambda: nn.Linear(4, 5, dtype=torch.float64), (6, 4)),
    "conv": (lambda: nn.Conv1d(1, 2, 2, dtype=torch.float64), (6, 1, 4)),
}


@pytest.mark.parametrize("method", ["hessian", "recursion"])
@pytest.mark.parametrize("first", FIRST)
def test_a_function_marked_once_differentiable_is_refused_not_left_out(first, method):
    build, shape = FIRST[first]
    torch.manual_seed(0)
    X, y = torch.randn(shape, dtype=torch.float64), torch.arange(6) % 3
    module = Squared(OnceSquare, build())
    module(X)
    with pytest.raises(RuntimeError, match="marked once_differentiable"):
        diagonal(module, nn.CrossEntropyLoss(), X, y, method=method)


@pytest.mark.parametrize("first", FIRST)
def test_a_users_own_function_that_is_twice_differentiable_is_exact(first):
    build, shape = FIRST[first]
    torch.manual_seed(0)
    X, y = torch.randn(shape, dtype=torch.float64), torch.arange(6) % 3
    module = Squared(Square, build())
    module(X)
    found = diagonal(module, nn.CrossEntropyLoss(), X, y, method="hessian")
    expected = dense_diagonal(module, nn.CrossEntropyLoss(), X, y)
    for name, h in expected.items():
        torch.testing.assert_close(found[name], h, rtol=1e-10, atol=1e-12)
