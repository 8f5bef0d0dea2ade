"""Chains of layers: cut at each, and what a max pool passed on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sk_obd.curvature.layers.registry import layers_with_rules
from sk_obd.curvature.losses.registry import loss_of
from sk_obd.curvature.routes.layer_chain import (
    NotALayerChain,
    columns_between,
    pooled_positions,
    trace_layer_chain,
)
from tests.library.cases import BY_NAME

F64 = torch.float64


def traced(name):
    module, criterion, X, _ = BY_NAME[name].make()
    layers = layers_with_rules(module.eval())
    return trace_layer_chain(module, loss_of(criterion), X, layers), module, X


def test_links_are_the_layers_in_the_order_of_their_calls():
    chain, module, X = traced("conv2d")
    conv, head = chain.links
    assert (conv.layer, head.layer) == (module[0], module[4])
    assert torch.equal(conv.x, X)
    assert torch.equal(conv.z, conv.output)
    assert conv.z.is_leaf
    assert chain.after(0) is head.x
    assert torch.equal(chain.after(1), module(X))
    assert torch.equal(chain.output, module(X))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("residual", "what layer 'top' .* reads: not only the layer before"),
        ("layer used twice", "a layer that is used twice"),
    ],
)
def test_what_breaks_a_chain_is_named(name, reason):
    with pytest.raises(NotALayerChain, match=reason):
        traced(name)


@pytest.mark.parametrize("f", [torch.tanh, lambda z: z.softmax(1), lambda z: z[:, :2], torch.clone])
def test_columns_are_pulled_back_through_what_lies_between(f):
    z = torch.randn(3, 4, dtype=F64, requires_grad=True)
    x = f(z)
    S = torch.randn(5, *x.shape, dtype=F64)
    J = torch.autograd.functional.jacobian(f, z)
    torch.testing.assert_close(columns_between(z, x, S), torch.einsum("kni,nimj->kmj", S, J))
    assert columns_between(z, z, S) is S


@pytest.mark.parametrize("relu", ["before", "after", None])
def test_positions_are_those_that_the_pool_read(relu):
    z = torch.randn(2, 3, 4, 6, requires_grad=True)
    x = F.max_pool2d(z.relu() if relu == "before" else z, 2).flatten(1)
    x = x.relu() if relu == "after" else x
    where, through = pooled_positions(z, x)
    taken = z.flatten(2).gather(2, where)
    if relu is None:
        assert through is None
        assert torch.equal(taken.flatten(1), x)
    else:
        assert torch.equal((taken * through).flatten(1), x)


@pytest.mark.parametrize(
    "f",
    [
        torch.relu,
        lambda z: F.max_pool2d(z.tanh(), 2),
        lambda z: F.max_pool2d(F.max_pool2d(z, 2), 1),
        lambda z: F.max_pool2d(z.reshape(2, 6, 2, 6), 2),
        lambda z: F.avg_pool2d(z, 2),
    ],
)
def test_other_maps_are_not_such_a_pool(f):
    z = torch.randn(2, 3, 4, 6, requires_grad=True)
    assert pooled_positions(z, f(z)) is None
