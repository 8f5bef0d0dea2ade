"""Exact products of the Hessian with a vector, by double backward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .boundary import (
    as_it_was,
    check_rows,
    checked_batch_size,
    default_batch_size,
)
from .losses.registry import resolve
from .problem import Problem
from .routes.any_module import refuse_dependent_rows
from .routes.graph import refuse_once_differentiable


def hessian_vector_product(
    module: nn.Module,
    criterion,
    X,
    y,
    vectors: dict[str, Tensor],
    *,
    sample_weight=None,
    outputs: str | None = None,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """``H v`` for the Hessian of the loss that :func:`diagonal` takes the diagonal of.

    Parameters
    ----------
    module, criterion, X, y, sample_weight, outputs, batch_size
        As for :func:`diagonal`.
    vectors : dict of str to Tensor
        A tensor for some or all trainable parameters; what is missing counts as zero.

    Returns
    -------
    dict of str to Tensor
        An entry for every trainable parameter.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Linear(1, 1)
    >>> X, y = torch.tensor([[1.], [3.]]), torch.zeros(2, 1)
    >>> hessian_vector_product(module, torch.nn.MSELoss(), X, y, {"weight": torch.ones(1, 1)})
    {'weight': tensor([[10.]]), 'bias': tensor([4.])}
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for name, vector in vectors.items():
        if name not in parameters:
            raise ValueError(
                f"vectors has {name!r}, which is no trainable parameter of {type(module).__name__}."
            )
        if vector.shape != parameters[name].shape:
            raise ValueError(
                f"vectors[{name!r}] has shape {tuple(vector.shape)}, expected "
                f"{tuple(parameters[name].shape)}."
            )
    loss = resolve(criterion, outputs)
    size = checked_batch_size(batch_size)
    X, y, w = check_rows(module, X, y, sample_weight)
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    given = [
        torch.as_tensor(vectors[name]).to(p) if name in vectors else torch.zeros_like(p)
        for name, p in parameters.items()
    ]
    denominator = 0.0
    with as_it_was(module):
        refuse_dependent_rows(module, X)
        size = size or default_batch_size(Problem(module, loss, parameters, X[:2]), X)
        for start in range(0, len(X), size):
            rows = slice(start, start + size)
            output = module(X[rows])
            value = (w[rows] * loss.exact_rows(output, y[rows])).sum()
            denominator += float((w[rows] * loss.normalisers(output.detach(), y[rows])).sum())
            for name, part in zip(
                parameters, product(value, list(parameters.values()), given), strict=True
            ):
                if part is not None:
                    total[name] += part
    if not denominator > 0:
        raise ValueError(f"the weights of all rows sum to {denominator}: there is no mean loss.")
    return {name: value / denominator for name, value in total.items()}


def product(
    value: Tensor, parameters: list[Tensor], given: list[Tensor]
) -> tuple[Tensor | None, ...]:
    slopes = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
    refuse_once_differentiable(slopes)
    along = sum((s * v).sum() for s, v in zip(slopes, given, strict=True) if s is not None)
    if not isinstance(along, Tensor) or not along.requires_grad:
        return tuple(None for _ in parameters)
    return torch.autograd.grad(along, parameters, allow_unused=True)
