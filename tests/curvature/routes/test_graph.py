"""The tables of operations against what the operations do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sk_obd.curvature.routes.graph import (
    ELEMENTWISE,
    PAIRWISE,
    PIECEWISE_LINEAR,
    SWITCHES,
    elementwise,
    is_max_pool,
    leaves,
    linear_step,
    nodes,
    path_between,
    piecewise_linear,
    plain_name,
    pooled_from,
    windows_apart,
)

F64 = torch.float64
ONE = torch.ones(1, dtype=F64)

ACTIVATIONS = {
    "Relu": F.relu,
    "LeakyRelu": F.leaky_relu,
    "Elu": F.elu,
    "Celu": F.celu,
    "Gelu": F.gelu,
    "Silu": F.silu,
    "Mish": F.mish,
    "Softplus": F.softplus,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "LogSigmoid": F.logsigmoid,
    "Hardtanh": F.hardtanh,
    "Hardswish": F.hardswish,
    "Hardsigmoid": F.hardsigmoid,
    "Threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "Softshrink": F.softshrink,
    "Hardshrink": F.hardshrink,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Clamp": lambda x: x.clamp(0.2, 0.9),
}
SHAPES = {
    "View": lambda x: x.view(2, -1),
    "UnsafeView": lambda x: x.transpose(1, 2).reshape(2, -1),
    "Squeeze": lambda x: x[:, :1].squeeze(1),
    "Unsqueeze": lambda x: x.unsqueeze(0),
    "Clone": torch.clone,
}
LINEAR = {
    "Addmm": lambda x: F.linear(x.flatten(1), weight(5, 48), weight(5)),
    "Mm": lambda x: x.flatten(1) @ weight(48, 5),
    "Bmm": lambda x: torch.bmm(x.flatten(2), weight(2, 16, 3)),
    "Baddbmm": lambda x: torch.baddbmm(ONE, x.flatten(2), weight(2, 16, 3)),
    "Addbmm": lambda x: torch.addbmm(ONE, x.flatten(2), weight(2, 16, 3)),
    "Embedding": lambda x: F.embedding(torch.tensor([0, 1]), x.flatten(1)),
    "Convolution": lambda x: F.conv2d(x, weight(2, 3, 2, 2)),
    "Relu": F.relu,
    "LeakyRelu": F.leaky_relu,
    "Hardtanh": F.hardtanh,
    "Threshold": ACTIVATIONS["Threshold"],
    "Clamp": ACTIVATIONS["Clamp"],
    "Add": lambda x: x + 1,
    "Sub": lambda x: x - 1,
    "Neg": torch.neg,
    "Mul": lambda x: x * weight(4),
    "Div": lambda x: x / weight(4),
    "Where": lambda x: torch.where(x > 0.5, x, -x),
    "Mean": lambda x: x.mean(1),
    "Sum": lambda x: x.sum(1),
    "Max": lambda x: x.max(1)[0],
    "Amax": lambda x: x.amax((2, 3)),
    "MaxPoolWithIndices": lambda x: F.max_pool2d(x, 2),
    "AvgPool": lambda x: F.avg_pool2d(x, 2),
    "AdaptiveAvgPool": lambda x: F.adaptive_avg_pool2d(x, 2),
    "AdaptiveMaxPool": lambda x: F.adaptive_max_pool2d(x, 2),
    "T": lambda x: x.flatten(1).t(),
    "Transpose": lambda x: x.transpose(1, 2),
    "Permute": lambda x: x.permute(0, 2, 1, 3),
    "Expand": lambda x: x[:, :1].expand(2, 3, 4, 4),
    "AsStrided": lambda x: x.as_strided((2, 3), (48, 16)),
    "Flip": lambda x: x.flip(1),
    "Roll": lambda x: x.roll(1, 1),
    "Index": lambda x: x[:, [0, 2]],
    "Cat": lambda x: torch.cat([x, x]),
    "Stack": lambda x: torch.stack([x, x]),
    "Split": lambda x: x.chunk(2, 1)[0],
    "SplitWithSizes": lambda x: x.split([1, 2], 1)[0],
    "Unbind": lambda x: x.unbind(1)[0],
    "Slice": lambda x: x[:, 1:],
    "Select": lambda x: x[:, 0],
    "ConstantPadNd": lambda x: F.pad(x, (1, 1)),
    "ReflectionPad": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "ReplicationPad": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "UpsampleNearest": lambda x: F.interpolate(x, scale_factor=2),
    **SHAPES,
}
#: Named so by other devices, builds or versions of torch than a test can count on.
ELSEWHERE = {"Alias", "ReshapeAlias", "Linear", "MkldnnConvolution", "CudnnConvolution", "Selu"}
MIXING = {
    "softmax": lambda x: x.softmax(1),
    "a product": lambda x: x * x.flip(0),
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "a weak coupling": lambda x: x * (1 + 1e-9 * x.sum(1, keepdim=True)),
    "a column for all": lambda x: x[..., :1] * x,
    "a norm": lambda x: x.norm(dim=1),
}


def weight(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=F64)


def leaf(*shape):
    """Positive numbers, none on a kink of the functions above."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(shape, generator=generator, dtype=F64) + 0.13).requires_grad_()


def names(tensor):
    return {plain_name(node) for node in nodes(tensor.grad_fn) if not hasattr(node, "variable")}


def test_names_go_without_number_and_dimension():
    z = leaf(1, 1, 4, 4)
    assert plain_name(F.max_pool2d(z, 2).grad_fn) == "MaxPoolWithIndices"
    assert plain_name(F.avg_pool2d(z, 2).grad_fn) == "AvgPool"
    assert plain_name(z.sum(1).grad_fn) == plain_name(z.sum().grad_fn) == "Sum"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_elementwise_operations_have_a_diagonal_jacobian(name):
    z = leaf(6)
    x = ACTIVATIONS[name](z)
    assert names(x) == {name}
    assert elementwise(x)
    J = torch.autograd.functional.jacobian(ACTIVATIONS[name], z)
    assert torch.equal(J, torch.diag(J.diagonal()))


def test_the_table_of_elementwise_operations_is_tried_out():
    assert ACTIVATIONS.keys() | SHAPES.keys() | ELSEWHERE >= ELEMENTWISE
    assert "Elu" in names(F.selu(leaf(2)))  # torch's selu is its elu


@pytest.mark.parametrize("name", MIXING)
def test_other_operations_are_not_elementwise_and_not_piecewise_linear(name):
    x = MIXING[name](leaf(2, 3, 4, 4))
    assert not elementwise(x)
    assert not piecewise_linear(x)


PAIRS = {
    "Add": lambda x: x + torch.tanh(x),
    "Sub": lambda x: x - 2 * torch.tanh(x),
    "Mul": lambda x: x * torch.sigmoid(x),
    "Div": lambda x: x / (1 + x.abs()),
    "Pow": lambda x: x**3,
    "Where": lambda x: torch.where(x > 0.5, x, x.exp()),
    "Maximum": lambda x: torch.maximum(x, x**2),
    "Minimum": lambda x: torch.minimum(x, x**2),
}


@pytest.mark.parametrize("name", PAIRS)
def test_operations_of_two_numbers_are_elementwise_where_nothing_is_broadcast(name):
    assert PAIRS.keys() == PAIRWISE
    z = leaf(2, 3)
    x = PAIRS[name](z)
    assert name in names(x)
    assert elementwise(x)
    J = torch.autograd.functional.jacobian(PAIRS[name], z).view(6, 6)
    assert torch.equal(J, torch.diag(J.diagonal()))


def test_what_is_broadcast_is_not_elementwise():
    z, column = leaf(2, 3), leaf(2, 1)
    assert not elementwise(z * column)
    assert not elementwise(z.view(6, 1) * z.view(1, 6))
    assert elementwise(z * torch.ones(3, dtype=F64))


@pytest.mark.parametrize(
    "f",
    [
        lambda z: z @ z.T,
        lambda z: torch.bmm(z[None], z[None].mT),
        lambda z: z * z,
        lambda z: torch.relu(z) * z.sum(),
        lambda z: F.conv1d(z[None], z.view(4, 4, 1)),
        lambda z: torch.addmm(ONE, z, z.T),
        lambda z: 1 / z,
    ],
)
def test_what_is_multiplied_with_itself_is_not_piecewise_linear(f):
    assert not piecewise_linear(f(leaf(4, 4)))


def test_what_is_multiplied_with_something_else_is_piecewise_linear_in_both():
    a, b = leaf(4, 4), leaf(4, 4)
    for x in (a @ b, torch.relu(a) * b, 2 * a / 3, torch.where(a > 0.5, a, b), a + torch.relu(a)):
        assert piecewise_linear(x)


@pytest.mark.parametrize("name", ["Relu", *SHAPES])
def test_switches_have_slope_0_or_1(name):
    assert name in SWITCHES
    z = leaf(2, 3, 4, 4)
    x = {**ACTIVATIONS, **SHAPES}[name](z - 0.5 if name == "Relu" else z)
    (slope,) = torch.autograd.grad(x.sum(), z)
    assert set(slope.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", LINEAR)
def test_piecewise_linear_operations_have_a_constant_slope(name):
    z = leaf(2, 3, 4, 4)
    x = LINEAR[name](z)
    assert name in names(x)
    assert piecewise_linear(x)
    ahead = torch.autograd.functional.jvp(LINEAR[name], z.detach(), torch.ones_like(z))[1]
    moved = LINEAR[name](z.detach() + 1e-9)
    torch.testing.assert_close(moved - x.detach(), 1e-9 * ahead, rtol=1e-5, atol=1e-15)
    later = torch.autograd.functional.jvp(LINEAR[name], z.detach() + 1e-6, torch.ones_like(z))[1]
    torch.testing.assert_close(later, ahead, rtol=1e-12, atol=0)


def test_the_table_of_piecewise_linear_operations_is_tried_out():
    assert LINEAR.keys() | ELSEWHERE >= PIECEWISE_LINEAR


@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - PIECEWISE_LINEAR))
def test_what_is_not_in_the_table_is_not_taken_for_piecewise_linear(name):
    assert not piecewise_linear(ACTIVATIONS[name](leaf(3)))


def test_a_harmless_top_is_skipped():
    x = F.linear(leaf(2, 3), weight(4, 3)).softmax(1).clamp(min=1e-9).log()
    assert not piecewise_linear(x)
    tops = [("LogSoftmax",), ("Log", "Clamp", "Softmax")]
    assert piecewise_linear(x, tops)
    assert not piecewise_linear(x, tops, 0)
    z = F.linear(leaf(2, 3), weight(4, 3))
    assert piecewise_linear(z.log_softmax(-1), tops)
    for twice in (x.softmax(1), x.log_softmax(1), z.softmax(1).log_softmax(1)):
        assert not piecewise_linear(twice, tops)


def test_batch_norm_is_linear_in_eval_mode():
    norm, z = nn.BatchNorm1d(3).to(F64), leaf(4, 3)
    assert piecewise_linear(norm.eval()(z))
    assert not piecewise_linear(norm.train()(z))
    assert not linear_step(norm.train()(z).grad_fn, [1, 2, 4])


def test_leaves_are_counted_by_use():
    a, b, c = leaf(2), leaf(2), torch.ones(2)
    assert leaves(a * b + a * c) == {a: 2, b: 1}
    assert leaves(a) == {a: 1}
    assert leaves(c) == {}


def test_the_path_between_a_leaf_and_what_follows_it():
    z, other = leaf(2, 4), leaf(2, 4)
    path = path_between(z, z.tanh().view(4, 2).relu())
    assert [plain_name(node) for node in path] == ["Relu", "View", "Tanh"]
    assert path_between(z, z) is None
    assert path_between(z, z.tanh() + z) is None
    assert path_between(z, other.tanh()) is None
    assert path_between(z, torch.ones(2)) is None


def test_a_max_pool_tells_what_it_passed_on():
    z = leaf(2, 3, 6, 6)
    pool = F.max_pool2d(z, 2).grad_fn
    read, where = pooled_from(pool)
    assert is_max_pool(pool)
    assert torch.equal(read, z)
    passed_on = z.flatten(2).gather(2, where.flatten(2))
    assert torch.equal(passed_on, F.max_pool2d(z, 2).flatten(2))
    assert not is_max_pool(F.adaptive_max_pool2d(z, 2).grad_fn)
    assert not is_max_pool(F.avg_pool2d(z, 2).grad_fn)


@pytest.mark.parametrize(
    ("options", "apart"),
    [
        ({"kernel_size": 2}, True),
        ({"kernel_size": 2, "stride": 3}, True),
        ({"kernel_size": (1, 2), "stride": (1, 2)}, True),
        ({"kernel_size": 2, "stride": 1}, False),
        ({"kernel_size": (1, 2), "stride": (1, 1)}, False),
        ({"kernel_size": 2, "dilation": 2}, False),
        ({"kernel_size": 2, "stride": 4, "dilation": 2}, False),
    ],
)
def test_whether_windows_are_apart(options, apart):
    pool = F.max_pool2d(leaf(1, 1, 8, 8), **options).grad_fn
    assert windows_apart(pool) is apart
