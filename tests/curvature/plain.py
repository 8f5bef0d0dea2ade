"""Diagonal second derivatives by plain autograd, without a line of the package.

The loss is the criterion's own value for all rows at once; every second derivative is one backward
pass.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class Written(TorchFunctionMode):
    """torch's fused weight norm has wrong second derivatives: here it is written out."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._weight_norm:
            v, g, dim = args
            keep = [d for d in range(v.ndim) if d != dim]
            return v / v.square().sum(keep, keepdim=True).sqrt() * g
        return func(*args, **(kwargs or {}))


@contextmanager
def differentiable():
    """Attention and weight norm by operations with second derivatives."""
    with sdpa_kernel(SDPBackend.MATH), Written():
        yield


@differentiable()
def hessian_diagonal(module, value):
    """``d2 value(module) / du^2`` for every trainable parameter."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    slopes = torch.autograd.grad(
        value(module), list(parameters.values()), create_graph=True, allow_unused=True
    )
    found = {}
    for (name, p), slope in zip(parameters.items(), slopes, strict=True):
        found[name] = torch.zeros_like(p, requires_grad=False)
        if slope is None or not slope.requires_grad:
            continue
        for k, entry in enumerate(slope.flatten()):
            (second,) = torch.autograd.grad(entry, p, retain_graph=True, allow_unused=True)
            if second is not None:
                found[name].view(-1)[k] = second.flatten()[k]
    return found


@differentiable()
def hessian_product(module, value, vectors):
    """``H v``, with every row of the Hessian of ``value(module)`` written out."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    at = list(parameters.values())

    def flat(tensors):
        filled = [torch.zeros_like(p) if t is None else t for p, t in zip(at, tensors, strict=True)]
        return torch.cat([t.flatten() for t in filled])

    slopes = flat(torch.autograd.grad(value(module), at, create_graph=True, allow_unused=True))
    v = flat([vectors[name] for name in parameters])
    product = [
        flat(torch.autograd.grad(entry, at, retain_graph=True, allow_unused=True)) @ v
        for entry in slopes
    ]
    parts = torch.stack(product).split([p.numel() for p in at])
    return {
        name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)
    }


@differentiable()
def ggn_diagonal(module, logits_of, loss_at):
    """``diag(J^T H J)``: J of ``logits_of(module)``, H of ``loss_at(logits)`` by them."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    logits = logits_of(module)
    H = torch.autograd.functional.hessian(
        lambda flat: loss_at(flat.view(logits.shape)), logits.detach().flatten()
    )
    rows = [
        torch.autograd.grad(entry, list(parameters.values()), retain_graph=True, allow_unused=True)
        for entry in logits.flatten()
    ]
    found = {}
    for (name, p), column in zip(parameters.items(), zip(*rows, strict=True), strict=True):
        J = torch.stack([torch.zeros_like(p) if g is None else g for g in column]).flatten(1)
        found[name] = (J * (H @ J)).sum(0).view(p.shape).detach()
    return found
