"""The recursion where connections share weights (convolutions, positions): the paper's eq. 5.

A shared weight's second derivative is the sum over its connections, cross terms between them
dropped: ``h_W = sum over rows and positions of h_z x^2`` and ``h_x = h_z * W^2`` through the
layer's own linear map. Between layers lie maps where every number feeds at most one other
(activations, pooling without overlap, reshaping); there ``h_z = (J^T 1)(J^T h)``, which is ``J^2``
for such a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .chain import top_logits
from .graph import leaves, refuse_once_differentiable_map
from .losses import Loss
from .problem import Problem

LINEAR = (
    nn.Linear,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


class NoChain(Exception):
    """Why a module cannot be passed."""


@dataclass
class Link:
    layer: nn.Module
    x: Tensor  # what it read, with the little graph since the layer before
    z: Tensor  # what it gave: a leaf


def trace(module: nn.Module, loss: Loss, X: Tensor) -> tuple[list[Link], Tensor, Tensor]:
    """(links, output, logits) of the rows; NoChain where it is none."""
    links: list[Link] = []

    def cut(layer, args, z):
        links.append(Link(layer, args[0], z.detach().requires_grad_()))
        return links[-1].z.clone()

    linears = [m for m in module.modules() if isinstance(m, LINEAR)]
    handles = [m.register_forward_hook(cut) for m in linears]
    try:
        output = module(X)
    finally:
        for handle in handles:
            handle.remove()
    names = {layer: name for name, layer in module.named_modules()}
    if not links:
        raise NoChain("no Linear or convolutional layer")
    if len({link.layer for link in links}) < len(links):
        raise NoChain("a layer that is used twice")
    if not isinstance(output, Tensor):
        raise NoChain("an output that is no tensor")
    logits = top_logits(links[-1].z, output, loss)
    before: set[Tensor] = set()
    for link in links:
        if set(leaves(link.x)) != before:
            raise NoChain(
                f"what layer {names[link.layer]!r} ({link.layer}) reads: not the layer before alone"
            )
        before = {link.z}
    if logits is not links[-1].z and set(leaves(logits)) != before:
        raise NoChain("the way from the last layer to the output")
    for link, after in zip(links, [*[link.x for link in links[1:]], logits], strict=True):
        if not feeds_one(link.z, after):
            raise NoChain(
                f"what follows layer {names[link.layer]!r} ({link.layer}): a map that mixes units"
            )
    return links, output.detach(), logits


def feeds_one(z: Tensor, x: Tensor) -> bool:
    """Whether every number of z reaches at most one of x, by random probes."""
    if x is z:
        return True
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
        refuse_once_differentiable_map(z, x)
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
        raise NoChain(f"what follows layer {layer}: an activation of more than one unit")
    return second


def batch(problem: Problem, X: Tensor, y: Tensor, w: Tensor, bends: bool, form, slopes):
    """Sums for a batch; ``form`` and ``slopes`` give the loss' derivatives at the logits."""
    links, output, logits = trace(problem.module, problem.loss, X)
    loss = problem.loss
    at = logits.detach()
    h = form(at).diagonal()
    delta = slopes(at) if bends else None
    after, sums = logits, {}
    wanted = [bool(problem.names(link.layer)) for link in links]
    for i in range(len(links) - 1, wanted.index(True) - 1, -1):
        layer, z = links[i].layer, links[i].z
        h = pull(z, after, torch.ones_like(after)) * pull(z, after, h)
        if bends:
            residual = bend(z, after, delta, layer)
            h = h if residual is None else h + residual
            delta = pull(z, after, delta)
        x = links[i].x.detach()
        sums.update(of_parameters(problem, layer, x, h))
        if i:
            h = back(layer, layer.weight.detach().square(), x, h)
            delta = back(layer, layer.weight.detach(), x, delta) if bends else None
            after = links[i].x
    return sums, (w * loss.normalisers(output, y)).sum()


def of_parameters(problem: Problem, layer: nn.Module, x: Tensor, h: Tensor) -> dict[str, Tensor]:
    names = problem.names(layer)
    own = {local: p.detach().requires_grad_() for local, p in layer.named_parameters(recurse=False)}
    wanted = [own[local] for local in names]
    if not wanted:
        return {}
    values = torch.autograd.grad(layer_with(layer, own, x.square()), wanted, h)
    return dict(zip(names.values(), values, strict=True))


def back(layer: nn.Module, weight: Tensor, x: Tensor, h: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(layer_with(layer, {"weight": weight}, x), x, h)[0]


def layer_with(layer: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return functional_call(layer, parameters, (x,))
