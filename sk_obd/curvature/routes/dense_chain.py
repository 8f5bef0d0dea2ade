"""Modules that are a chain Linear -> elementwise map -> Linear ...: traced layer by layer.

A forward hook cuts the graph at every Linear's output, so each map from one layer's output ``z``
to the next layer's input ``x`` is a little graph of its own. Its slope f'(z) and second slope
f''(z) come from autograd, whatever the forward method does in between (functional calls, dropout
and batch norm in eval mode).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks import first_input, hooked
from ..layers.registry import computes_as
from ..losses.base import Loss
from ..losses.categorical import CrossEntropy
from .derivatives import agree, probe_like, refuse_once_differentiable_map
from .graph import elementwise, leaves, plain_name, saved_dimension


@dataclass
class DenseLink:
    """One Linear layer of a chain, and the elementwise map f that follows it.

    Attributes
    ----------
    layer : nn.Linear
    x : Tensor of shape (n, in)
        What the layer read.
    output : Tensor of shape (n, out)
        What it gave, with its own graph.
    z : Tensor of shape (n, out)
        The same as a leaf.
    weight, bias : Tensor
        As they were in the call.
    slope : Tensor of shape (n, out) or None
        ``f'(z)``; None stands for 1.
    second_slope : Tensor of shape (n, out) or None
        ``f''(z)``; None stands for 0.
    """

    layer: nn.Linear
    x: Tensor
    output: Tensor
    z: Tensor
    weight: Tensor
    bias: Tensor | None
    slope: Tensor | None = None
    second_slope: Tensor | None = None


@dataclass
class DenseChain:
    """A batch gone through a chain of Linear layers.

    Attributes
    ----------
    links : list of DenseLink
        From the input to the logits.
    output : Tensor
        What the module returned.
    logits : Tensor
        As many numbers in a row as the last ``z``, in the shape that the targets belong to.
    reads_rows : bool
        Whether the first layer reads the rows of X as they are, so that they cannot mix before it.
    """

    links: list[DenseLink]
    output: Tensor
    logits: Tensor
    reads_rows: bool


def may_be_dense_chain(module: nn.Module) -> bool:
    """Whether every trainable parameter is the weight or bias of one plain Linear layer.

    That is what a chain needs first; whether the module is one, is seen when it is traced.
    """
    owners = set()
    for layer in module.modules():
        plain = computes_as(layer, nn.Linear)
        for local, parameter in layer._parameters.items():
            if parameter is None:
                continue
            known = plain and local in ("weight", "bias")
            if parameter.requires_grad and (not known or parameter in owners):
                return False
            owners.add(parameter)
    return bool(owners)


def trace_dense_chain(
    module: nn.Module, loss: Loss, X: Tensor, second_slopes: bool = False
) -> DenseChain | None:
    """Run the rows through the module; None where it turns out not to be a dense chain.

    ``second_slopes``: whether they are wanted, which costs a second backward pass for each map.
    """
    inplace = any(getattr(m, "inplace", False) for m in module.modules())
    try:
        return _trace(module, loss, X, second_slopes, inplace)
    except RuntimeError as error:
        if inplace or "in-place" not in str(error):
            raise
        return _trace(module, loss, X, second_slopes, True)


def _trace(
    module: nn.Module, loss: Loss, X: Tensor, second_slopes: bool, inplace: bool
) -> DenseChain | None:
    """``inplace``: pass copies on, since an operation may change what it reads."""
    links: list[DenseLink] = []

    def cut(
        layer: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        z = output.detach().requires_grad_()
        x = first_input(args, kwargs)
        links.append(DenseLink(layer, x, output, z, layer.weight, layer.bias))
        return z.clone() if inplace else z

    with hooked([m for m in module.modules() if computes_as(m, nn.Linear)], cut, first=True):
        output = module(X)
    if not isinstance(output, Tensor):
        return None
    return _connect(links, output, loss, X, second_slopes)


def _connect(
    links: list[DenseLink], output: Tensor, loss: Loss, X: Tensor, second_slopes: bool
) -> DenseChain | None:
    """The chain of these links, with their slopes; None where they are not connected so."""
    rows = len(X)
    if not links or len({link.layer for link in links}) < len(links):
        return None
    before: set[Tensor] = set()
    for link in links:
        if not _reads(link, before):
            return None
        before = {link.z}
    reads_rows = is_the_same(links[0].x, X)
    if any(link.x.ndim != 2 or len(link.x) != rows for link in links) or leaves(links[0].x):
        return None
    for link, after in itertools.pairwise(links):
        if after.x.shape != link.z.shape or not _set_slopes(link, after.x, second_slopes):
            return None
        after.x = after.x.detach()
    last = links[-1]
    logits = top_logits(last.z, output, loss)
    fits = logits.ndim and len(logits) == rows and logits.numel() == last.z.numel()
    if not fits or (isinstance(loss, CrossEntropy) and logits.ndim != 2):
        return None
    if not _set_slopes(last, logits.reshape(last.z.shape), second_slopes):
        return None
    return DenseChain(links, output.detach(), logits.detach(), reads_rows)


def _reads(link: DenseLink, before: set[Tensor]) -> bool:
    """Whether a layer's output depends on these leaves and its own weight and bias, once each.

    Weight and bias must be the module's, not others that took their place for the call.
    """
    if link.weight is not link.layer.weight or link.bias is not link.layer.bias:
        return False
    own = {p for p in (link.weight, link.bias) if p is not None and p.requires_grad}
    found = leaves(link.output)
    return found.keys() == before | own and all(found[p] == 1 for p in own)


def is_the_same(x: Tensor, X: Tensor) -> bool:
    """Whether x is X, or the same numbers in memory, with the rows where they were."""
    return x is X or (
        x.data_ptr() == X.data_ptr()
        and x.dtype == X.dtype
        and len(x) == len(X)
        and x.numel() == X.numel()
        and x.is_contiguous()
        and X.is_contiguous()
    )


def top_logits(z: Tensor, output: Tensor, loss: Loss) -> Tensor:
    """Where the Gauss-Newton split is made.

    At the last layer's output ``z`` where the loss sees through the operation after it, else at
    the logits that the loss computes from the module's output.
    """
    loss.refuse_outputs(output.detach())
    node: Any = output.grad_fn
    if node is not None and output.shape == z.shape:
        behind: Any = node.next_functions[0][0]
        if behind and plain_name(behind) == "Clone":
            behind = behind.next_functions[0][0]
        directly = getattr(behind, "variable", None) is z
        if directly and loss.sees_through(plain_name(node), saved_dimension(node, z.ndim)):
            return z
    return loss.logits(output)


def _set_slopes(link: DenseLink, x: Tensor, second_slopes: bool) -> bool:
    """Set the slopes of the link's map z -> x; False where it is not elementwise."""
    if x is link.z or (x.grad_fn is not None and x._base is link.z):
        return True
    if set(leaves(x)) != {link.z}:
        return False
    known = elementwise(x)
    ones = x.new_ones(()).expand_as(x)
    if not known:
        probe = probe_like(x)
        (pulled,) = torch.autograd.grad(x, link.z, probe, retain_graph=True)
        pulled = pulled.detach()
    if second_slopes and not known:
        refuse_once_differentiable_map(link.z, x)
    (slope,) = torch.autograd.grad(x, link.z, ones, create_graph=second_slopes)
    if not known and not agree(pulled, slope.detach() * probe):
        return False
    if second_slopes and slope.requires_grad:
        (second,) = torch.autograd.grad(
            slope, link.z, ones, allow_unused=True, retain_graph=not known
        )
        if second is not None and not known:
            (pulled,) = torch.autograd.grad(slope, link.z, probe)
            if not agree(pulled, second * probe):
                return False
        link.second_slope = second if second is not None and second.any() else None
    link.slope = slope.detach()
    return True
