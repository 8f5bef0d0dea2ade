"""The recursion where connections share weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import diagonal
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME

F64 = torch.float64


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
