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
from ..layers.registry import rule_for
from ..losses.base import Loss
from .dense_chain import top_logits
from .derivatives import backward, probe_like
from .graph import (
    SWITCHES,
    elementwise,
    is_max_pool,
    leaves,
    path_between,
    piecewise_linear,
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
    held : dict of str to Tensor or None
        The layer's parameters as they were in the call, by local name, and its weight.
    """

    layer: nn.Module
    x: Tensor
    output: Tensor
    z: Tensor
    held: dict[str, Any]


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

    Raises NotALayerChain where a layer is called twice, or reads anything but the output of the
    layer before and its own parameters, each of them once.
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
        if not isinstance(link.x, Tensor) or not own_parameters_only(link, before):
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
        links.append(LayerLink(layer, first_input(args, kwargs), output, z, held_by(layer)))
        # A copy goes on, so that nothing changes z in place.
        return z.clone()

    with hooked(layers, keep, first=True):
        output = module(X)
    return links, output


def held_by(layer: nn.Module) -> dict[str, Any]:
    """What the layer finds under the names of its own parameters, and as its weight."""
    return {name: getattr(layer, name, None) for name in (*layer._parameters, "weight")}


def unchanged(layer: nn.Module, held: dict[str, Any]) -> bool:
    """Whether the layer was called with its own parameters, not with others in their place."""
    own = layer._parameters
    return all(
        value is (own[name] if name in own else getattr(layer, name, None))
        for name, value in held.items()
    )


def own_parameters_only(link: LayerLink, before: set[Tensor]) -> bool:
    """Whether a layer's output depends on these leaves and its own parameters, once on each."""
    own = {p for p in link.layer.parameters(recurse=False) if p.requires_grad}
    found = leaves(link.output)
    return (
        unchanged(link.layer, link.held)
        and found.keys() == before | own
        and all(found[p] == 1 for p in own)
    )


def rows_are_rows(chain: LayerChain, rows: int) -> bool:
    """Whether every layer reads as many rows as X has, and none of them mixes its rows."""
    return len(chain.logits) == rows and all(
        link.x.ndim > 0
        and len(link.x) == len(link.z) == rows
        and (rule := rule_for(link.layer)) is not None
        and rule.keeps_rows(link.layer, link.x)
        for link in chain.links
    )


def keeps_rows_apart(chain: LayerChain) -> bool:
    """Whether row i of what follows a layer depends only on row i of the layer's output.

    Tried with a backward pass for each row of the chain, which should be of a few rows.
    """
    for i, link in enumerate(chain.links):
        z, x = link.z, chain.after(i)
        if x is z or (x.shape == z.shape and elementwise(x)):
            continue
        for row in range(len(x)):
            towards = torch.zeros_like(x)
            towards[row] = probe_like(x[row])
            (reached,) = torch.autograd.grad(x, z, towards, retain_graph=True)
            reached[row] = 0
            if reached.any():
                return False
    return True


def piecewise_linear_chain(chain: LayerChain, loss: Loss) -> bool:
    """Whether the logits of a chain are piecewise linear in every parameter."""
    return all(piecewise_linear(link.output) for link in chain.links) and piecewise_linear(
        chain.logits, loss.tops, loss.dimension(chain.logits)
    )


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
