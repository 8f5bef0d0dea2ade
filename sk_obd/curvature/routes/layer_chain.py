"""A module that is a line of layers: cut at each layer's output, so that each can be passed alone.

A forward hook detaches what every layer gives, so the way from one layer's output ``z`` to the
next one's input ``x`` is a little graph of its own, and so is each layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..losses.base import Loss
from .any_module import backward
from .dense_chain import top_logits
from .graph import (
    SWITCHES,
    chosen_by,
    elementwise,
    is_max_pool,
    leaves,
    line,
    plain_name,
)


class NoLine(Exception):
    """What in a module is not passed from layer to layer."""


@dataclass
class Link:
    layer: nn.Module
    x: Tensor  # what it read, with the little graph since the layer before
    given: Tensor  # what it gave, with its own graph from x
    z: Tensor  # the same as a leaf


@dataclass
class Line:
    links: list[Link]
    output: Tensor
    logits: Tensor  # with the little graph since the last layer

    def after(self, i: int) -> Tensor:
        """What follows layer i: the next one's input, or the logits."""
        return self.links[i + 1].x if i + 1 < len(self.links) else self.logits


def trace(module: nn.Module, loss: Loss, X: Tensor, layers: Iterable[nn.Module]) -> Line:
    """Run the rows through the module, cut at the layers given; NoLine where they are none."""
    links, output = cut(module, X, layers)
    names = {layer: name for name, layer in module.named_modules()}
    if not links:
        raise NoLine("no Linear or convolutional layer")
    if len({link.layer for link in links}) < len(links):
        raise NoLine("a layer that is used twice")
    if not isinstance(output, Tensor):
        raise NoLine("an output that is no tensor")
    logits = top_logits(links[-1].z, output, loss)
    before: set[Tensor] = set()
    for link in links:
        if not isinstance(link.x, Tensor) or set(leaves(link.x)) != before:
            raise NoLine(
                f"what layer {names[link.layer]!r} ({link.layer}) reads: not the layer before alone"
            )
        before = {link.z}
    if logits is not links[-1].z and set(leaves(logits)) != before:
        raise NoLine("the way from the last layer to the output")
    return Line(links, output.detach(), logits)


def cut(module: nn.Module, X: Tensor, layers: Iterable[nn.Module]) -> tuple[list[Link], Tensor]:
    links: list[Link] = []

    def keep(layer, args, kwargs, given):
        if not isinstance(given, Tensor):
            raise NoLine(f"layer {layer}, which gives more than a tensor")
        x = args[0] if args else next(iter(kwargs.values()))
        links.append(Link(layer, x, given, given.detach().requires_grad_()))
        # A copy goes on, so that nothing changes z in place.
        return links[-1].z.clone()

    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    try:
        return links, module(X)
    finally:
        for handle in handles:
            handle.remove()


def pulled(z: Tensor, x: Tensor, S: Tensor) -> Tensor:
    """Columns (k, n, ...) at x pulled back to z."""
    if x is z:
        return S
    if x.shape == z.shape and elementwise(x):
        (slope,) = torch.autograd.grad(x, z, torch.ones_like(x), retain_graph=True)
        return S * slope
    (G,) = backward(x, [z], S)
    return torch.zeros_like(z).expand(len(S), *z.shape) if G is None else G


def chosen(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Where x is what a max pool chose from z, apart from ReLU and reshaping: for each number of
    x (n, channels, ...) its position in the channel of z, and its slope, 0 or 1.
    """
    nodes = line(z, x)
    pools = [node for node in nodes or () if is_max_pool(node)]
    if len(pools) != 1:
        return None
    (pool,) = pools
    rest = {plain_name(node) for node in nodes} - {plain_name(pool)}
    source, where = chosen_by(pool)
    same_planes = source.shape[:2] == z.shape[:2] and source.numel() == z.numel()
    if not same_planes or not rest <= SWITCHES:
        return None
    where = where.flatten(2)
    return where, (x.detach().reshape(where.shape) > 0) if "Relu" in rest else None
