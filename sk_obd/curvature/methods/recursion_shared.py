"""The recursion where connections share weights (convolutions, positions): the paper's eq. 5.

A shared weight's second derivative is the sum over its connections, cross terms between them
dropped: ``h_W = sum over rows and positions of h_z x^2`` and ``h_x = h_z * W^2`` through the
layer's own linear map. Between layers lie maps where every number feeds at most one other
(activations, pooling without overlap, reshaping); there ``h_z = (J^T 1)(J^T h)``, which is ``J^2``
for such a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import grad

from ..problem import Problem
from ..routes.graph import SWITCHES, elementwise, is_max_pool, line, plain_name, windows_apart
from ..routes.graph import refuse_once_differentiable_map as refuse_once
from ..routes.layer_chain import NoLine, trace

LINEAR = (
    nn.Linear,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
#: What torch.nn.grad has for a convolution: derivatives by its input and its weight.
BY_INPUT = {
    nn.Conv1d: grad.conv1d_input,
    nn.Conv2d: grad.conv2d_input,
    nn.Conv3d: grad.conv3d_input,
}
BY_WEIGHT = {
    nn.Conv1d: grad.conv1d_weight,
    nn.Conv2d: grad.conv2d_weight,
    nn.Conv3d: grad.conv3d_weight,
}


def batch(problem: Problem, X: Tensor, y: Tensor, w: Tensor, bends: bool, form, slopes):
    """Sums for a batch; ``form`` and ``slopes`` give the loss' derivatives at the logits."""
    loss = problem.loss
    found = trace(problem.module, loss, X, [m for m in problem.module.modules() if is_linear(m)])
    links, at = found.links, found.logits.detach()
    h = form(at).diagonal()
    delta = slopes(at) if bends else None
    sums: dict[str, Tensor] = {}
    wanted = [bool(problem.names(link.layer)) for link in links]
    for i in range(len(links) - 1, wanted.index(True) - 1, -1):
        layer, z, after = links[i].layer, links[i].z, found.after(i)
        h = through(z, after, h, layer)
        if bends:
            residual = bend(z, after, delta, layer)
            h = h if residual is None else h + residual
            delta = pull(z, after, delta)
        x = links[i].x.detach()
        sums.update(of_parameters(problem, layer, x, h))
        if i:
            h = back(layer, layer.weight.detach().square(), x, h)
            delta = back(layer, layer.weight.detach(), x, delta) if bends else None
    return sums, (w * loss.normalisers(found.output, y)).sum()


def is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, LINEAR)


# -- from one layer to the next --------------------------------------------------------------------


def through(z: Tensor, x: Tensor, h: Tensor, layer: nn.Module) -> Tensor:
    """``(J^T 1)(J^T h)`` of the map z -> x; NoLine where a number feeds more than one."""
    if x is z:
        return h
    nodes = line(z, x)
    if nodes is not None and all(map(switches, nodes)):
        return pull(z, x, h)  # slopes are 0 or 1, their own squares
    if not ((x.shape == z.shape and elementwise(x)) or feeds_one(z, x)):
        raise NoLine(f"what follows layer {layer}: a map that mixes units")
    return pull(z, x, torch.ones_like(x)) * pull(z, x, h)


def switches(node) -> bool:
    """Whether the operation passes a number on to one place at most, with slope 1, or not."""
    return windows_apart(node) if is_max_pool(node) else plain_name(node) in SWITCHES


def feeds_one(z: Tensor, x: Tensor) -> bool:
    """Whether every number of z reaches at most one of x, by random probes."""
    generator = torch.Generator().manual_seed(0)
    v = (torch.rand(x.shape, generator=generator, dtype=torch.float64) + 0.5).to(x)
    one, first, second = (pull(z, x, t) for t in (torch.ones_like(x), v, v.square()))
    return torch.allclose(first.square(), one * second, rtol=1e-3, atol=0)


def pull(z: Tensor, x: Tensor, v: Tensor, create_graph: bool = False) -> Tensor:
    if x is z:
        return v
    return torch.autograd.grad(x, z, v, retain_graph=True, create_graph=create_graph)[0]


def bend(z: Tensor, x: Tensor, delta: Tensor, layer: nn.Module) -> Tensor | None:
    """f''(z) dL/dx of the map z -> x; None where it is piecewise linear."""
    if x is not z:
        refuse_once(z, x)
    slope = pull(z, x, delta, create_graph=True)
    if x is z or not slope.requires_grad:
        return None
    generator = torch.Generator().manual_seed(0)
    v = (torch.rand(z.shape, generator=generator, dtype=torch.float64) + 0.5).to(z)
    second, probe = (
        torch.autograd.grad(slope, z, t, retain_graph=True, allow_unused=True)[0]
        for t in (torch.ones_like(z), v)
    )
    if second is None:
        return None
    if not torch.allclose(probe, v * second, rtol=1e-3, atol=1e-6 * second.abs().max().item()):
        raise NoLine(f"what follows layer {layer}: an activation of more than one unit")
    return second


# -- through a layer -------------------------------------------------------------------------------


def of_parameters(problem: Problem, layer: nn.Module, x: Tensor, h: Tensor) -> dict[str, Tensor]:
    """``sum of h x^2`` over rows and positions, for the layer's parameters."""
    names = problem.names(layer)
    values = {}
    if "bias" in names:
        kept = h.ndim - 1 if isinstance(layer, nn.Linear) else 1
        values["bias"] = h.sum([d for d in range(h.ndim) if d != kept])
    if "weight" in names:
        shape = layer.weight.shape
        if type(layer) is nn.Linear:
            values["weight"] = h.flatten(0, -2).T @ x.square().flatten(0, -2)
        elif convolves(layer):
            values["weight"] = BY_WEIGHT[type(layer)](x.square(), shape, h, *settings(layer))
        else:
            weight = layer.weight.detach().requires_grad_()
            values["weight"] = torch.autograd.grad(
                with_weight(layer, weight, x.square()), weight, h
            )[0]
    return {names[local]: value for local, value in values.items()}


def back(layer: nn.Module, weight: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """h at the layer's output carried to its input by ``weight`` in its weight's place."""
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


def settings(layer: nn.Module) -> tuple:
    return layer.stride, layer.padding, layer.dilation, layer.groups


def with_weight(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    return functional_call(layer, {"weight": weight}, (x,))
