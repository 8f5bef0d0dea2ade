"""Exact products of the Hessian, and of the Gauss-Newton matrix, with a vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .boundary import (
    Rows,
    as_it_was,
    check_rows,
    checked_batch_size,
    default_batch_size,
    sums_over_batches,
)
from .gauss_newton import GaussNewton
from .hooks import trainable
from .losses.base import Criterion, Loss
from .losses.registry import loss_of
from .problem import Batch, Problem
from .routes.dependent_rows import refuse_dependent_rows
from .routes.derivatives import refuse_once_differentiable


def hessian_vector_product(
    module: nn.Module,
    criterion: Criterion | Loss,
    X: Rows,
    y: Rows,
    vectors: Mapping[str, Tensor],
    *,
    sample_weight: Rows | None = None,
    outputs: str | None = None,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Product ``H v`` of the Hessian whose diagonal :func:`diagonal` gives, and a vector.

    Parameters
    ----------
    module, criterion, X, y, sample_weight, outputs, batch_size
        As for :func:`diagonal`.
    vectors : dict of str to Tensor
        v: a tensor for some or all trainable parameters, shaped like them; what is missing counts
        as zero.

    Returns
    -------
    dict of str to Tensor
        An entry for every trainable parameter, shaped like it.

    Raises
    ------
    ValueError
        If ``vectors`` names another than a trainable parameter or has another shape, and for the
        arguments and modules that :func:`diagonal` refuses with any method.
    RuntimeError
        If the module holds a function that can be differentiated only once.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Linear(1, 1)
    >>> X, y = torch.tensor([[1.], [3.]]), torch.zeros(2, 1)
    >>> hessian_vector_product(module, torch.nn.MSELoss(), X, y, {"weight": torch.ones(1, 1)})
    {'weight': tensor([[10.]]), 'bias': tensor([4.])}
    """
    parameters = trainable(module)
    given = check_vectors(module, parameters, vectors)
    loss = loss_of(criterion, outputs)
    size = checked_batch_size(batch_size)
    X, y, w = check_rows(module, X, y, sample_weight)

    def method(problem: Problem, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        output = module(batch.X)
        loss.refuse_once_differentiable(loss.logits(output), batch.y)
        value = (batch.w * loss.exact_rows(output, batch.y)).sum()
        return product(value, parameters, given), batch.denominator(output.detach())

    with as_it_was(module):
        refuse_dependent_rows(module, X[:3])
        problem = Problem(module, loss, parameters, draw_probe=lambda: X[:2])
        size = size or default_batch_size(problem, X)
        total, denominator = sums_over_batches(problem, method, (X, y, w), size)
    return {name: value / denominator for name, value in total.items()}


def ggn_vector_product(
    module: nn.Module,
    criterion: Criterion | Loss,
    X: Rows,
    y: Rows,
    vectors: Mapping[str, Tensor],
    *,
    sample_weight: Rows | None = None,
    outputs: str | None = None,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Product ``J^T H J v`` of the Gauss-Newton matrix of the mean loss, and a vector.

    J is the Jacobian of the logits by the parameters, H the second derivative of the loss by the
    logits; the matrix is the one whose diagonal is ``diagonal(..., method="ggn")``. For a chain of
    Linear layers it takes about 4/3 of the time of a gradient, for any other module about twice as
    much as :func:`hessian_vector_product` needs after its gradient.

    Parameters
    ----------
    module, criterion, X, y, sample_weight, outputs, batch_size
        As for :func:`diagonal`.
    vectors : dict of str to Tensor
        v: a tensor for some or all trainable parameters, shaped like them; what is missing counts
        as zero.

    Returns
    -------
    dict of str to Tensor
        An entry for every trainable parameter, shaped like it.

    Raises
    ------
    ValueError
        If ``vectors`` names another than a trainable parameter or has another shape, and for the
        arguments and modules that :func:`diagonal` refuses with any method.
    RuntimeError
        If the module is not a chain of Linear layers and holds a function that can be
        differentiated only once.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Linear(1, 1)
    >>> X, y = torch.tensor([[1.], [3.]]), torch.zeros(2, 1)
    >>> ggn_vector_product(module, torch.nn.MSELoss(), X, y, {"weight": torch.ones(1, 1)})
    {'weight': tensor([[10.]]), 'bias': tensor([4.])}
    """
    parameters = trainable(module)
    given = check_vectors(module, parameters, vectors)
    loss = loss_of(criterion, outputs)
    size = checked_batch_size(batch_size)
    rows = check_rows(module, X, y, sample_weight)
    matrix = GaussNewton(module, loss, parameters, lambda: [rows], batch_size=size)
    return matrix.product(given)


def check_vectors(
    module: nn.Module, parameters: Mapping[str, nn.Parameter], vectors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The vector as a tensor for every parameter, of its dtype and on its device.

    Raises ValueError for other names or shapes.
    """
    for name, vector in vectors.items():
        if name not in parameters:
            raise ValueError(
                f"vectors has {name!r}, which is not a trainable parameter of "
                f"{type(module).__name__}."
            )
        if vector.shape != parameters[name].shape:
            raise ValueError(
                f"vectors[{name!r}] has shape {tuple(vector.shape)}, expected "
                f"{tuple(parameters[name].shape)}."
            )
    return {
        name: torch.as_tensor(vectors[name]).to(p) if name in vectors else torch.zeros_like(p)
        for name, p in parameters.items()
    }


def product(
    value: Tensor, parameters: Mapping[str, nn.Parameter], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``H v`` for the Hessian of a scalar, for the parameters where it is not zero throughout."""
    at = list(parameters.values())
    slopes = torch.autograd.grad(value, at, create_graph=True, allow_unused=True)
    refuse_once_differentiable(slopes)
    terms = [(s * v).sum() for s, v in zip(slopes, given.values(), strict=True) if s is not None]
    along = sum(terms, start=value.new_zeros(()))
    if not along.requires_grad:
        return {}
    found = torch.autograd.grad(along, at, allow_unused=True)
    return {name: f for name, f in zip(parameters, found, strict=True) if f is not None}
