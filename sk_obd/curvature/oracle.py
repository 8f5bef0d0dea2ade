"""The slow, obvious way: explicit Jacobians and Hessians per row, for tests and tiny networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .boundary import Rows, as_it_was, check_rows
from .hooks import trainable
from .losses.base import Criterion, Loss
from .losses.registry import loss_of
from .routes.derivatives import refuse_once_differentiable


def dense_diagonal(
    module: nn.Module,
    criterion: Criterion | Loss,
    X: Rows,
    y: Rows,
    *,
    sample_weight: Rows | None = None,
    method: str = "hessian",
    outputs: str | None = None,
) -> dict[str, Tensor]:
    """What :func:`diagonal` returns, by plain autograd: a backward pass per parameter and row.

    Parameters
    ----------
    module, criterion, X, y, sample_weight, outputs
        As for :func:`diagonal`.
    method : {"hessian", "ggn"}, default="hessian"
        ``diag(H)`` entry by entry, or ``diag(J^T H J)`` from the full Jacobian ``J`` of the logits
        and the full Hessian ``H`` of the loss by them.

    Returns
    -------
    dict of str to Tensor
        An entry for every trainable parameter, shaped like it.

    Raises
    ------
    ValueError
        If ``method`` is another, or X, y, ``sample_weight``, the criterion or ``outputs`` do not
        fit.
    RuntimeError
        With "hessian", if the module holds a function that can be differentiated only once.

    Examples
    --------
    >>> import torch
    >>> X, y = torch.tensor([[1., 0.], [3., 1.]]), torch.zeros(2, 1)
    >>> dense_diagonal(torch.nn.Linear(2, 1), torch.nn.MSELoss(), X, y)
    {'weight': tensor([[10.,  1.]]), 'bias': tensor([2.])}
    """
    if method not in ("hessian", "ggn"):
        raise ValueError(f"method={method!r} is not known; expected 'hessian' or 'ggn'.")
    loss = loss_of(criterion, outputs)
    parameters = trainable(module)
    X, y, w = check_rows(module, X, y, sample_weight)
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    denominator = 0.0
    of_row = hessian_of_row if method == "hessian" else ggn_of_row
    with as_it_was(module):
        for i in range(len(X)):
            row, target = X[i : i + 1], y[i : i + 1]
            output = module(row)
            denominator += float(w[i] * loss.normalisers(output.detach(), target).sum())
            for name, value in of_row(loss, output, target, parameters).items():
                total[name] += w[i] * value
    return {name: value / denominator for name, value in total.items()}


def hessian_of_row(
    loss: Loss, output: Tensor, target: Tensor, parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Second derivatives of one row's loss, shaped like the parameters; without those that are 0.

    ``output`` and ``target`` are (1, ...).
    """
    value = loss.exact_rows(output, target).sum()
    out = {}
    for name, p in parameters.items():
        (slope,) = torch.autograd.grad(value, p, create_graph=True, allow_unused=True)
        refuse_once_differentiable([slope])
        if slope is not None and slope.requires_grad:
            seconds = [
                grad_or_zero(entry, p).flatten()[k] for k, entry in enumerate(slope.flatten())
            ]
            out[name] = torch.stack(seconds).view(p.shape)
    return out


def ggn_of_row(
    loss: Loss, output: Tensor, target: Tensor, parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """``diag(J^T H J)`` of one row, shaped like the parameters."""
    logits = loss.logits(output)

    def numerator(flat: Tensor) -> Tensor:
        return loss.rows_at(flat.view(logits.shape), target).sum()

    H = torch.autograd.functional.hessian(numerator, logits.detach().flatten())
    out = {}
    for name, p in parameters.items():
        J = torch.stack([grad_or_zero(entry, p).flatten() for entry in logits.flatten()])
        out[name] = torch.einsum("ak,ab,bk->k", J, H, J).view(p.shape)
    return out


def grad_or_zero(value: Tensor, at: Tensor) -> Tensor:
    """Gradient of a scalar, detached; zeros where it does not depend on ``at``."""
    if not value.requires_grad:
        return torch.zeros_like(at)
    (slope,) = torch.autograd.grad(value, at, retain_graph=True, allow_unused=True)
    return torch.zeros_like(at) if slope is None else slope.detach()
