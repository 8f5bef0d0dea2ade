"""Modules that are a chain of layers: cut at each layer's output, so that each is passed singly.

A forward hook detaches what every layer gives, so the way from one layer's output ``z`` to the
next one's input ``x`` is a little graph of its own, and so is each layer. Between layers may lie
any map of rows, such as activations, pooling and reshaping.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks import first_input, hooked
from ..losses.base import Loss
from .dense_chain import top_logits
from .derivatives import backward
from .graph import (
    SWITCHES,
    elementwise,
    is_max_pool,
    leaves,
    path_between,
    plain_name,
    pooled_from,
)


class NotALayerChain(Exception):
    """The module is not a chain of layers; the message is a noun phrase for what breaks it."""


@dataclass
class LayerLink:
    """One layer of a chain of layers.

    Attributes
    ----------
    layer : nn.Module
    x : Tensor of shape (n, ...)
        What the layer read, with the little graph since the layer before.
    output : Tensor of shape (n, ...)
        What it gave, with its own graph from ``x``.
    z : Tensor of shape (n, ...)
        The same as a leaf.
    """

    layer: nn.Module
    x: Tensor
    output: Tensor
    z: Tensor


@dataclass
class LayerChain:
    """A batch gone through a chain of layers.

    Attributes
    ----------
    links : list of LayerLink
        From the input to the logits.
    output : Tensor
        What the module returned, detached.
    logits : Tensor
        With the little graph since the last layer.
    """

    links: list[LayerLink]
    output: Tensor
    logits: Tensor

    def after(self, i: int) -> Tensor:
        """What follows layer i: the next one's input, or the logits."""
        return self.links[i + 1].x if i + 1 < len(self.links) else self.logits


def trace_layer_chain(
    module: nn.Module, loss: Loss, X: Tensor, layers: Iterable[nn.Module]
) -> LayerChain:
    """Run the rows through the module, cut at these layers.

    Raises NotALayerChain where a layer is called twice, or reads another tensor than the output of
    the layer before.
    """
    links, output = cut(module, X, layers)
    names = {layer: name for name, layer in module.named_modules()}
    if not links:
        raise NotALayerChain("no Linear or convolutional layer")
    if len({link.layer for link in links}) < len(links):
        raise NotALayerChain("a layer that is used twice")
    if not isinstance(output, Tensor):
        raise NotALayerChain("an output that is not a tensor")
    logits = top_logits(links[-1].z, output, loss)
    before: set[Tensor] = set()
    for link in links:
        if not isinstance(link.x, Tensor) or set(leaves(link.x)) != before:
            raise NotALayerChain(
                f"what layer {names[link.layer]!r} ({link.layer}) reads: not only the layer before"
            )
        before = {link.z}
    if logits is not links[-1].z and set(leaves(logits)) != before:
        raise NotALayerChain("the way from the last layer to the output")
    return LayerChain(links, output.detach(), logits)


def cut(module: nn.Module, X: Tensor, layers: Iterable[nn.Module]) -> tuple[list[LayerLink], Any]:
    """The links in the order in which the layers were called, and what the module returned."""
    links: list[LayerLink] = []

    def keep(
        layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor:
        if not isinstance(output, Tensor):
            raise NotALayerChain(f"layer {layer}, which gives more than a tensor")
        z = output.detach().requires_grad_()
        links.append(LayerLink(layer, first_input(args, kwargs), output, z))
        # A copy goes on, so that nothing changes z in place.
        return z.clone()

    with hooked(layers, keep):
        output = module(X)
    return links, output


def columns_between(z: Tensor, x: Tensor, S: Tensor) -> Tensor:
    """Columns S (k, n, ...) at x pulled back to z through the map z -> x: (k, *z.shape)."""
    if x is z:
        return S
    if x.shape == z.shape and elementwise(x):
        (slope,) = torch.autograd.grad(x, z, torch.ones_like(x), retain_graph=True)
        return S * slope
    (G,) = backward(x, [z], S)
    return torch.zeros_like(z).expand(len(S), *z.shape) if G is None else G


def pooled_positions(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Where x is a max pool of z, ReLU and reshaping allowed: what each number of x came from.

    Returns the flat position (n, channels, m) in the channel of z, and whether ReLU let the number
    through, of the same shape (None without ReLU). None where x is not such a pool.
    """
    path = path_between(z, x) or []
    pools = [node for node in path if is_max_pool(node)]
    if len(pools) != 1:
        return None
    (pool,) = pools
    others = {plain_name(node) for node in path} - {plain_name(pool)}
    source, where = pooled_from(pool)
    same_planes = source.shape[:2] == z.shape[:2] and source.numel() == z.numel()
    if not same_planes or not others <= SWITCHES:
        return None
    where = where.flatten(2)
    return where, (x.detach().reshape(where.shape) > 0) if "Relu" in others else None
