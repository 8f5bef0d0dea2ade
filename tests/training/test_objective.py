"""The measured loss and its derivatives against the loss written out."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from sk_obd import curvature
from sk_obd.training.nets import start
from sk_obd.training.objective import Objective
from tests.library.modules import TwoOutputs
from tests.library.nets import binary_net, classifier_net, regressor_net


def objective(rng, *, net=None, weights=None, batch_size=4096, csr=False, dtype=torch.float64):
    X = rng.normal(size=(23, 4))
    y = rng.integers(0, 3, 23)
    torch.manual_seed(0)
    net = start(net or classifier_net(module__dtype=dtype, module__activation=nn.Tanh), X, y)
    data = sparse.csr_array(X) if csr else torch.tensor(X, dtype=dtype)
    found = Objective.of_net(net, data, torch.tensor(y), weights, batch_size=batch_size)
    return found, torch.tensor(X, dtype=dtype), torch.tensor(y)


def by_hand(o, X, y, w):
    losses = nn.functional.cross_entropy(o.whole(X), y, reduction="none")
    return (w * losses).sum() / w.sum()


@pytest.mark.parametrize("csr", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 4096])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_gradient_and_curvature_are_those_of_the_weighted_mean(rng, csr, batch_size, weighted):
    w = torch.tensor(rng.uniform(0.1, 3, 23)) if weighted else None
    o, X, y = objective(rng, weights=w, batch_size=batch_size, csr=csr)
    w = torch.ones(23, dtype=torch.float64) if w is None else w
    assert o.loss() == pytest.approx(by_hand(o, X, y, w).item(), rel=1e-13)
    parameters = dict(o.whole.named_parameters())
    expected = torch.autograd.grad(by_hand(o, X, y, w), list(parameters.values()))
    for gradient, e in zip(o.gradient().values(), expected, strict=True):
        torch.testing.assert_close(gradient, e, rtol=1e-10, atol=1e-14)
    h = o.curvature("hessian")["second.weight"]
    gradient = torch.autograd.grad(
        by_hand(o, X, y, w), parameters["second.weight"], create_graph=True
    )[0]
    for i, j in ((0, 0), (2, 5)):
        second = torch.autograd.grad(
            gradient[i, j], parameters["second.weight"], retain_graph=True
        )[0][i, j]
        assert h[i, j].item() == pytest.approx(second.item(), rel=1e-10)
    v = torch.tensor(rng.normal(size=(3, 8)))
    expected = torch.autograd.grad((gradient * v).sum(), list(parameters.values()))
    for product, e in zip(o.product({"second.weight": v}).values(), expected, strict=True):
        torch.testing.assert_close(product, e, rtol=1e-10, atol=1e-13)


SHORT = {
    "numpy's": MemoryError("cannot allocate"),
    "torch's, on the CPU": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory"
    ),
    "torch's, on a GPU": torch.OutOfMemoryError("CUDA out of memory"),
}


@pytest.mark.parametrize("error", SHORT)
@pytest.mark.parametrize("kind", ["ggn", "hessian", "fisher", "product"])
@pytest.mark.parametrize("csr", [False, True])
def test_where_memory_is_short_fewer_rows_are_taken_at_a_time(rng, monkeypatch, error, kind, csr):
    weights = torch.tensor(rng.uniform(0.1, 3, 23))
    o, _, _ = objective(rng, weights=weights, csr=csr)
    vectors = {name: torch.ones_like(p) for name, p in o.parameters().items()}

    def found():
        return o.product(vectors) if kind == "product" else o.curvature(kind)

    whole, asked = found(), []
    name = "hessian_vector_product" if kind == "product" else "diagonal"
    original = getattr(curvature, name)

    def short_of_memory(module, criterion, X, *args, **kwargs):
        asked.append(len(X))
        if len(X) > 6:
            raise SHORT[error]
        return original(module, criterion, X, *args, **kwargs)

    monkeypatch.setattr(curvature, name, short_of_memory)
    for got, expected in zip(found().values(), whole.values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)
    assert max(asked) == 23
    assert asked[-1] <= 6


def test_other_errors_and_memory_that_is_too_short_for_a_row_are_raised(rng, monkeypatch):
    o, _, _ = objective(rng)
    for error in (
        RuntimeError("shapes do not fit"),
        NotImplementedError("no"),
        MemoryError("none"),
    ):

        def fails(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(curvature, "diagonal", fails)
        with pytest.raises(type(error), match=str(error)):
            o.curvature("ggn")


def test_increases_are_the_loss_with_each_parameter_removed(rng):
    o, X, y = objective(rng)
    weight = o.whole.first.weight
    before = weight.detach().clone()
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[0, 0] = False
    found = o.increases("first.weight", mask)
    assert torch.equal(weight, before)
    assert found[0, 0] == 0
    with torch.no_grad():
        base = nn.functional.cross_entropy(o.whole(X), y)
        weight[3, 1] = 0
        cut = nn.functional.cross_entropy(o.whole(X), y)
    assert found[3, 1].item() == pytest.approx((cut - base).item(), abs=1e-14)


def test_a_float32_network_is_summed_in_float64(rng):
    """The mean of many equal losses has no error of its own."""
    o, X, y = objective(rng, dtype=torch.float32)
    many = Objective(
        o.whole, o.criterion, X[:1].repeat(100_000, 1), y[:1].repeat(100_000), batch_size=1000
    )
    one = Objective(o.whole, o.criterion, X[:1], y[:1])
    assert many.loss() == pytest.approx(one.loss(), rel=1e-6)


@pytest.mark.parametrize("flat", [True, False])
def test_a_binary_nets_loss_is_that_of_its_flattened_output(rng, flat):
    X = rng.normal(size=(9, 30))
    y = torch.tensor(rng.integers(0, 2, 9), dtype=torch.float64)
    net = start(binary_net(module__dtype=torch.float64), X, y.numpy())
    tensor = torch.tensor(X)
    found = Objective.of_net(net, tensor, y)
    expected = nn.functional.binary_cross_entropy_with_logits(net.module_(tensor)[:, 0], y)
    assert found.loss() == pytest.approx(expected.item(), rel=1e-13)
    assert set(found.curvature("ggn")) == set(dict(net.module_.named_parameters()))


def test_of_several_outputs_the_first_counts(rng):
    net = classifier_net(TwoOutputs, module__dtype=torch.float64)
    o, X, y = objective(rng, net=net)
    expected = nn.functional.cross_entropy(o.whole(X)[0], y)
    assert o.loss() == pytest.approx(expected.item(), rel=1e-13)
    assert set(o.curvature("ggn")) == set(dict(o.whole.named_parameters()))


def test_the_modes_of_submodules_are_left_as_they_were(rng):
    o, *_ = objective(rng)
    o.whole.train()
    o.whole.second.eval()
    o.loss(), o.gradient(), o.curvature("ggn")
    assert o.whole.training
    assert not o.whole.second.training


def test_a_regressors_several_targets_are_averaged(rng):
    X, Y = rng.normal(size=(9, 10)), torch.tensor(rng.normal(size=(9, 2)))
    net = start(regressor_net(module__n_out=2, module__dtype=torch.float64), X, Y.numpy())
    found = Objective.of_net(net, torch.tensor(X), Y, torch.arange(1, 10, dtype=torch.float64))
    errors = ((net.module_(torch.tensor(X)) - Y) ** 2).mean(1).detach().numpy()
    assert found.loss() == pytest.approx(np.average(errors, weights=np.arange(1, 10)), rel=1e-12)
