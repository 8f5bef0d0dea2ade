"""The whole Gauss-Newton matrix and the gradient by plain autograd, over all parameters in a row.

The oracle of products, of compensation and of OBS saliencies, without a line of the package but for
what each loss takes as its logits, which the package's own tests hold to plain torch.
"""

from __future__ import annotations

import torch

from sk_obd.curvature.losses.registry import loss_of
from tests.curvature.plain import differentiable


def flat(tensors):
    """The tensors of a dict as one vector, in their order."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()])


def apart(vector, like):
    """A vector as a dict of tensors shaped like these."""
    parts = vector.split([tensor.numel() for tensor in like.values()])
    return {name: part.view_as(like[name]) for name, part in zip(like, parts, strict=True)}


@differentiable()
def gauss_newton_matrix(module, criterion, X, y, *, outputs=None, weights=None):
    """``sum_i w_i J_i^T H_i J_i`` over the mean's denominator, (P, P)."""
    module.eval()
    loss = loss_of(criterion, outputs)
    parameters = [p for p in module.parameters() if p.requires_grad]
    weights = torch.ones(len(X), dtype=torch.float64) if weights is None else weights
    size = sum(p.numel() for p in parameters)
    total, denominator = torch.zeros(size, size, dtype=torch.float64), 0.0
    for i in range(len(X)):
        output = module(X[i : i + 1])
        logits = loss.logits(output)

        def numerator(at, logits=logits, i=i):
            return loss.rows_at(at.view(logits.shape), y[i : i + 1]).sum()

        H = torch.autograd.functional.hessian(numerator, logits.detach().flatten())
        J = torch.stack([row_of(entry, parameters) for entry in logits.flatten()])
        total += weights[i] * J.T @ H @ J
        denominator += float(weights[i] * loss.normalisers(output.detach(), y[i : i + 1]).sum())
    return total / denominator


def row_of(entry, parameters):
    """The gradient of one number by all parameters, in a row."""
    if not entry.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    slopes = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if slope is None else slope).flatten()
            for p, slope in zip(parameters, slopes, strict=True)
        ]
    )
