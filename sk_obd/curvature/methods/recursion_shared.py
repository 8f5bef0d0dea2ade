"""The recursion where connections share weights (convolutions, positions): the paper's eq. 5.

A shared weight's second derivative is the sum over its connections, cross terms between them
dropped: ``h_W = sum over rows and positions of h_z x^2`` and ``h_x = h_z * W^2`` through the
layer's own linear map. Between layers lie maps where every number feeds at most one other
(activations, pooling without overlap, reshaping); there ``h_z = (J^T 1)(J^T h)``, which is ``J^2``
for such a map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.func import functional_call
from torch.nn import grad

from ..layers.registry import computes_as
from ..problem import Batch, Problem
from ..routes.derivatives import probe_like, refuse_once_differentiable_map
from ..routes.graph import (
    SWITCHES,
    elementwise,
    is_max_pool,
    path_between,
    plain_name,
    windows_apart,
)
from ..routes.layer_chain import NotALayerChain, trace_layer_chain
from .ggn_dense import first_wanted

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: The layers that the recursion passes.
LINEAR = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)

#: How far two derivatives of the same probe may differ, relatively, to count as the same. The
#: recursion is an approximation, so that a weak coupling of units may be left out as well.
PROBE_RTOL = 1e-3

#: What torch.nn.grad has for a convolution: derivatives by its input and its weight.
BY_INPUT: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: grad.conv1d_input,
    nn.Conv2d: grad.conv2d_input,
    nn.Conv3d: grad.conv3d_input,
}
BY_WEIGHT: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: grad.conv1d_weight,
    nn.Conv2d: grad.conv2d_weight,
    nn.Conv3d: grad.conv3d_weight,
}


def sums(problem: Problem, batch: Batch, second_slopes: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over a batch, and the batch's part of the denominator.

    Raises NotALayerChain where the module is not one, or a map between layers mixes units.
    """
    linear = [m for m in problem.module.modules() if passes(m)]
    chain = trace_layer_chain(problem.module, problem.loss, batch.X, linear)
    logits = chain.logits.detach()
    h = batch.form(logits).diagonal()
    delta = batch.gradient(logits) if second_slopes else None
    total: dict[str, Tensor] = {}
    first = first_wanted(problem, [link.layer for link in chain.links])
    for i in range(len(chain.links) - 1, first - 1, -1):
        layer, z, after = chain.links[i].layer, chain.links[i].z, chain.after(i)
        h = through(z, after, h, layer)
        if delta is not None:
            residual = residual_of(z, after, delta, layer)
            h = h if residual is None else h + residual
            delta = vector_between(z, after, delta)
        x = chain.links[i].x.detach()
        total.update(of_parameters(problem, layer, x, h))
        if i:
            W = weight_of(layer)
            h = to_input(layer, W.square(), x, h)
            delta = None if delta is None else to_input(layer, W, x, delta)
    return total, batch.denominator(chain.output)


def passes(layer: nn.Module) -> bool:
    """Whether the layer is one that the recursion passes, and computes as such."""
    return any(computes_as(layer, kind) for kind in LINEAR)


# -- from one layer to the next --------------------------------------------------------------------


def through(z: Tensor, x: Tensor, h: Tensor, layer: nn.Module) -> Tensor:
    """``(J^T 1)(J^T h)`` of the map z -> x, shaped like z.

    Raises NotALayerChain where a number feeds more than one.
    """
    if x is z:
        return h
    path = path_between(z, x)
    if path is not None and all(map(switches, path)):
        return vector_between(z, x, h)  # slopes are 0 or 1, their own squares
    if not ((x.shape == z.shape and elementwise(x)) or feeds_one(z, x)):
        raise NotALayerChain(f"what follows layer {layer}: a map that mixes units")
    return vector_between(z, x, torch.ones_like(x)) * vector_between(z, x, h)


def switches(node: Node) -> bool:
    """Whether the operation copies each number to at most one place (slope 1) or drops it (0)."""
    return windows_apart(node) if is_max_pool(node) else plain_name(node) in SWITCHES


def feeds_one(z: Tensor, x: Tensor) -> bool:
    """Whether every number of z reaches at most one of x, by random probes."""
    v = probe_like(x)
    one, first, second = (vector_between(z, x, t) for t in (torch.ones_like(x), v, v.square()))
    return torch.allclose(first.square(), one * second, rtol=PROBE_RTOL, atol=0)


def vector_between(z: Tensor, x: Tensor, v: Tensor, create_graph: bool = False) -> Tensor:
    """``J^T v`` of the map z -> x, shaped like z."""
    if x is z:
        return v
    return torch.autograd.grad(x, z, v, retain_graph=True, create_graph=create_graph)[0]


def residual_of(z: Tensor, x: Tensor, delta: Tensor, layer: nn.Module) -> Tensor | None:
    """``f''(z) dL/dx`` of the map z -> x, shaped like z; None where it is piecewise linear.

    Raises NotALayerChain where the map is not elementwise but for pooling and reshaping.
    """
    if x is z:
        return None
    refuse_once_differentiable_map(z, x)
    slope = vector_between(z, x, delta, create_graph=True)
    if not slope.requires_grad:
        return None
    v = probe_like(z)
    second, probe = (
        torch.autograd.grad(slope, z, t, retain_graph=True, allow_unused=True)[0]
        for t in (torch.ones_like(z), v)
    )
    if second is None:
        return None
    # Beside large second derivatives, small ones may be off by what rounding makes of the large.
    atol = 1e-6 * second.abs().max().item()
    if not torch.allclose(probe, v * second, rtol=PROBE_RTOL, atol=atol):
        raise NotALayerChain(f"what follows layer {layer}: an activation of more than one unit")
    return second


# -- through a layer -------------------------------------------------------------------------------


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a Linear or convolutional layer, detached."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def of_parameters(problem: Problem, layer: nn.Module, x: Tensor, h: Tensor) -> dict[str, Tensor]:
    """``sum of h x^2`` over rows and positions, for the layer's parameters.

    x is the layer's input (n, ...), h is shaped like its output.
    """
    names = problem.names(layer)
    values = {}
    if "bias" in names:
        kept = h.ndim - 1 if isinstance(layer, nn.Linear) else 1
        values["bias"] = h.sum([d for d in range(h.ndim) if d != kept])
    if "weight" in names:
        weight = weight_of(layer)
        if type(layer) is nn.Linear:
            values["weight"] = h.flatten(0, -2).T @ x.square().flatten(0, -2)
        elif convolves(layer):
            by_weight = BY_WEIGHT[type(layer)]
            values["weight"] = by_weight(x.square(), weight.shape, h, *settings(layer))
        else:
            weight = weight.requires_grad_()
            (values["weight"],) = torch.autograd.grad(
                with_weight(layer, weight, x.square()), weight, h
            )
    return {names[local]: value for local, value in values.items()}


def to_input(layer: nn.Module, weight: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """Carry h from the layer's output to its input, with ``weight`` in its weight's place."""
    if type(layer) is nn.Linear:
        return h @ weight
    if convolves(layer):
        return BY_INPUT[type(layer)](x.shape, weight, h, *settings(layer))
    x = x.detach().requires_grad_()
    return torch.autograd.grad(with_weight(layer, weight, x), x, h)[0]


def convolves(layer: nn.Module) -> bool:
    """Whether torch.nn.grad has the layer's derivatives."""
    return (
        type(layer) in BY_INPUT
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def settings(layer: Any) -> tuple[Any, ...]:
    """The settings of a convolution that torch.nn.grad asks for, in its order."""
    return layer.stride, layer.padding, layer.dilation, layer.groups


def with_weight(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """What the layer gives for x with another weight."""
    return functional_call(layer, {"weight": weight}, (x,))
