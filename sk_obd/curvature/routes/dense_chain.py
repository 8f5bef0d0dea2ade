"""Modules that are a chain Linear -> elementwise map -> Linear ...: traced layer by layer.

A forward hook cuts the graph at every Linear's output, so each map from one layer's output ``z``
to the next layer's input ``x`` is a little graph of its own. Its slope f'(z) and bend f''(z) come
from autograd, whatever the forward method does in between (functional calls, dropout and batch
norm in eval mode).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..losses.base import Loss
from ..losses.categorical import NLL, CrossEntropy
from ..losses.elementwise import BCE
from .graph import elementwise, leaves, plain_name, refuse_once_differentiable_map


@dataclass
class Link:
    """One Linear layer of a chain, and the elementwise map that follows it."""

    layer: nn.Linear
    x: Tensor  # what it read (n, in)
    z: Tensor  # what it gave (n, out)
    slope: Tensor | None = None  # f'(z); None: 1
    bend: Tensor | None = None  # f''(z); None: 0


@dataclass
class Chain:
    links: list[Link]
    output: Tensor
    logits: Tensor  # as many numbers a row as the last z, in the shape the targets belong to


def linear_chain(module: nn.Module) -> bool:
    """Whether every trainable parameter belongs to one plain Linear layer (what a chain needs
    first).
    """
    owners = {}
    for layer in module.modules():
        plain = type(layer) is nn.Linear or (
            isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward
        )
        for parameter in layer.parameters(recurse=False):
            if parameter.requires_grad and (not plain or parameter in owners):
                return False
            owners[parameter] = layer
    return bool(owners)


def trace(module: nn.Module, loss: Loss, X: Tensor, bends: bool = False) -> Chain | None:
    """Run the rows through the module; None where it is no chain after all."""
    inplace = any(getattr(m, "inplace", False) for m in module.modules())
    try:
        return _trace(module, loss, X, bends, inplace)
    except RuntimeError as error:
        if inplace or "in-place" not in str(error):
            raise
        return _trace(module, loss, X, bends, True)


def _trace(module, loss, X, bends, inplace) -> Chain | None:
    links: list[Link] = []

    def cut(layer, args, kwargs, z):
        links.append(Link(layer, args[0] if args else kwargs["input"], z.detach().requires_grad_()))
        return links[-1].z.clone() if inplace else links[-1].z

    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    handles = [m.register_forward_hook(cut, with_kwargs=True) for m in linears]
    try:
        output = module(X)
    finally:
        for handle in handles:
            handle.remove()
    return _connect(links, output, loss, len(X), bends)


def _connect(links, output, loss, rows, bends) -> Chain | None:
    if (
        not links
        or len({link.layer for link in links}) < len(links)
        or not isinstance(output, Tensor)
    ):
        return None
    if any(link.x.ndim != 2 or len(link.x) != rows for link in links) or leaves(links[0].x):
        return None
    for link, after in itertools.pairwise(links):
        if after.x.shape != link.z.shape or not _follow(link, after.x, bends):
            return None
        after.x = after.x.detach()
    logits, z = top_logits(links[-1].z, output, loss), links[-1].z
    fits = logits.ndim and len(logits) == rows and logits.numel() == z.numel()
    if not fits or (isinstance(loss, CrossEntropy) and logits.ndim != 2):
        return None
    if not _follow(links[-1], logits.reshape(z.shape), bends):
        return None
    return Chain(links, output.detach(), logits.detach())


def top_logits(z: Tensor, output: Tensor, loss: Loss) -> Tensor:
    """Where the split is made: the last layer's output ``z`` itself under a known top."""
    kind = None
    if output.grad_fn is not None and output.shape == z.shape:
        behind = output.grad_fn.next_functions[0][0]
        behind = behind.next_functions[0][0] if behind and plain_name(behind) == "Clone" else behind
        kind = plain_name(output.grad_fn) if getattr(behind, "variable", None) is z else None
    if isinstance(loss, NLL):
        loss.check(output.detach())
    over_classes = (kind == "Softmax" and loss.outputs == "proba") or kind == "LogSoftmax"
    if isinstance(loss, CrossEntropy) and over_classes and _dimension(output.grad_fn, z) == 1:
        return z
    if isinstance(loss, BCE) and kind == "Sigmoid":
        return z
    return loss.logits(output)


def _dimension(node, z: Tensor) -> int:
    dimension = node._saved_dim
    return (dimension - 2**64 if dimension > 2**63 else dimension) % z.ndim


def _follow(link: Link, x: Tensor, bends: bool) -> bool:
    """Set the link's slope and bend from its map z -> x; False where it is not elementwise."""
    if x is link.z or (x.grad_fn is not None and x._base is link.z):
        return True
    if set(leaves(x)) != {link.z}:
        return False
    known = elementwise(x)
    ones = x.new_ones(()).expand_as(x)
    if not known:
        generator = torch.Generator().manual_seed(0)
        probe = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x) + 0.5
        (pulled,) = torch.autograd.grad(x, link.z, probe, retain_graph=True)
    if bends and not known:
        refuse_once_differentiable_map(link.z, x)
    (slope,) = torch.autograd.grad(x, link.z, ones, create_graph=bends)
    if not known and not torch.allclose(pulled, slope.detach() * probe, rtol=1e-3, atol=0):
        return False
    if bends and slope.requires_grad:
        (link.bend,) = torch.autograd.grad(slope, link.z, ones, allow_unused=True)
        if link.bend is not None and not link.bend.any():
            link.bend = None
    link.slope = slope.detach()
    return True
