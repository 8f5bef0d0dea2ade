"""What a rule is: how derivatives at a layer's output become derivatives of its parameters.

A rule applies to layers whose output is affine in each of their parameters. Its heart is
``pull(layer, x, G)``: for columns ``G`` of shape ``(k, n, ...)`` at the output it gives, for every
parameter, the ``(k, n, *parameter.shape)`` columns of each row, summed over the positions that
share the parameter. From them follow all diagonals, ``sum over k and n of pull(A) * pull(B)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

#: Numbers held at once while the columns of a parameter are squared for each row: 1 MB in float32,
#: so that they are still in the cache when they are summed.
LIMIT = 1 << 18

#: ``pull`` as a function: (layer, x, G) -> {local parameter name: (k, n, *parameter.shape)}.
Pull = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]

Layer = TypeVar("Layer", bound=nn.Module)


class Rule(ABC, Generic[Layer]):
    """How a layer type pulls columns at its output back to its parameters."""

    def accepts(self, layer: Layer) -> bool:
        """Whether the rule holds for this layer with its settings."""
        return True

    def keeps_rows(self, layer: Layer, x: Tensor) -> bool:
        """Whether row i of the output depends only on row i of the input ``x`` (n, ...)."""
        return True

    @abstractmethod
    def pull(self, layer: Layer, x: Tensor, G: Tensor) -> dict[str, Tensor]:
        """Pull columns from the layer's output back to its parameters.

        From the input x (n, ...) and columns G (k, n, ...) at the output to the columns
        (k, n, *parameter.shape) of the parameters, by local name.
        """

    def contract(
        self,
        layer: Layer,
        x: Tensor,
        A: Tensor,
        B: Tensor | None = None,
        signs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Sum over columns and rows of ``signs * pull(A) * pull(B)``; B=None stands for A.

        A and B are (k, n, ...), ``signs`` is (k, n); each sum is shaped like its parameter.
        """
        size = max(p.numel() for p in layer.parameters(recurse=False)) * A.shape[1]
        step = max(1, LIMIT // max(1, size))
        total: dict[str, Tensor] = {}
        for start in range(0, len(A), step):
            part = slice(start, start + step)
            left = self.pull(layer, x, A[part])
            right = left if B is None else self.pull(layer, x, B[part])
            for name, column in left.items():
                product = column * right[name]
                if signs is not None:
                    product = product * signs[part].reshape(
                        *product.shape[:2], *[1] * (product.ndim - 2)
                    )
                add_to(total, name, product.sum((0, 1)))
        return total


class FunctionRule(Rule[nn.Module]):
    """A rule whose ``pull`` is a function."""

    def __init__(self, function: Pull):
        self.function = function

    def pull(self, layer: nn.Module, x: Tensor, G: Tensor) -> dict[str, Tensor]:
        return self.function(layer, x, G)


def add_to(total: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Add a value to the sum of that name, or begin the sum with it."""
    if name in total:
        total[name] += value
    else:
        total[name] = value


def squares(A: Tensor, B: Tensor | None, signs: Tensor | None) -> Tensor:
    """Sum over columns of ``signs * A * B``: (k, n, ...) -> (n, ...); B=None stands for A.

    ``signs`` are (k, n), or (k,) for columns of one row each.
    """
    product = A.square() if B is None else A * B
    if signs is not None:
        product *= signs.reshape(*signs.shape, *[1] * (product.ndim - signs.ndim))
    return product.sum(0)


def outer_squares(
    left: Tensor, right: Tensor, B: tuple[Tensor, Tensor] | None, signs: Tensor | None
) -> Tensor:
    """Sum over columns k and rows n of ``signs * (left @ right)**2``, a matrix for each group.

    ``left`` (k | 1, n, g, a, p), ``right`` (k | 1, n, g, p, b) -> (g, a, b). B: the same pair for
    the other factor, where the product of two different columns is wanted. The columns of a row
    go into one larger matrix product.
    """
    k = max(len(left), len(right))
    n, g, a = left.shape[1:4]
    b = right.shape[-1]
    total = left.new_zeros(g, a, b)
    together = max(1, min(k, LIMIT // (g * a * b)))
    step = max(1, LIMIT // (together * g * a * b))
    for rows in (slice(start, start + step) for start in range(0, n, step)):
        for some in (slice(start, start + together) for start in range(0, k, together)):
            J = matrix_products(left, right, some, rows)
            J = J.square_() if B is None else J.mul_(matrix_products(*B, some, rows))
            if signs is not None:
                J *= signs[some, rows].T[:, None, :, None, None]
            total += J.sum((0, 2))
    return total


def matrix_products(left: Tensor, right: Tensor, some: slice, rows: slice) -> Tensor:
    """``left @ right`` for some of the columns and rows: (n, g, k, a, b)."""
    n, g, a = left[:, rows].shape[1:4]
    p, b = right.shape[-2:]
    if len(left) == 1 and len(right) > 1:
        wide = right[some, rows].permute(1, 2, 3, 0, 4).reshape(n * g, p, -1)
        return (
            torch.bmm(left[0, rows].reshape(n * g, a, p), wide).view(n, g, a, -1, b).transpose(2, 3)
        )
    tall = left[some, rows].permute(1, 2, 0, 3, 4).reshape(n * g, -1, p)
    return torch.bmm(tall, right[0, rows].reshape(n * g, p, b)).view(n, g, -1, a, b)
