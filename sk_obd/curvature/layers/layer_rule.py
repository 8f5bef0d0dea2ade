"""Rules: how derivatives at a layer's output become derivatives of its parameters.

A rule applies to layers whose output is affine in each of their parameters. Its heart is
``pull(layer, x, G)``: for columns ``G`` of shape ``(k, n, ...)`` at the output it gives, for every
parameter, the ``(k, n, *parameter.shape)`` columns of each row, summed over the positions that
share the parameter. From them follow all diagonals, ``sum over k and n of pull(A) * pull(B)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

LIMIT = 1 << 18  # numbers held at once while per-row columns of a parameter are squared
RULES: dict[type, Rule] = {}


class Rule:
    """How a layer type pulls columns at its output back to its parameters."""

    def __init__(self, pull: Callable | None = None):
        if pull is not None:
            self.pull = pull

    def accepts(self, layer: nn.Module) -> bool:
        return True

    def pull(self, layer: nn.Module, x: Tensor, G: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def contract(
        self,
        layer: nn.Module,
        x: Tensor,
        A: Tensor,
        B: Tensor | None = None,
        signs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Sum over columns and rows of ``signs * pull(A) * pull(B)``; B=None stands for A."""
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
                add(total, name, product.sum((0, 1)))
        return total


def add(total: dict, name: str, value: Tensor) -> None:
    if name in total:
        total[name] += value
    else:
        total[name] = value


def register_rule(kind: type, rule: Rule | Callable) -> None:
    """Teach the fast routes a layer type.

    Parameters
    ----------
    kind : type
        A subclass of nn.Module; its own subclasses are covered unless they override ``forward``.
    rule : Rule or callable(layer, x, G) -> dict
        The pull: from the layer, its input ``x`` (n, ...) and columns ``G`` (k, n, ...) at its
        output to ``{local parameter name: (k, n, *parameter.shape)}``. The output must be affine
        in each parameter.

    Examples
    --------
    >>> import torch
    >>> class Scale(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.by = torch.nn.Parameter(torch.ones(3))
    ...     def forward(self, x):
    ...         return x * self.by
    >>> register_rule(Scale, lambda layer, x, G: {"by": G * x})
    """
    RULES[kind] = rule if isinstance(rule, Rule) else Rule(rule)


def rule_for(layer: nn.Module) -> Rule | None:
    for kind in type(layer).__mro__:
        if kind in RULES:
            same = type(layer).forward is kind.forward
            return RULES[kind] if same and RULES[kind].accepts(layer) else None
    return None


def layers_with_rules(module: nn.Module) -> list[nn.Module] | None:
    """The layers that own the trainable parameters, if each has a rule and shares none."""
    layers, seen = [], set()
    for layer in module.modules():
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        if rule_for(layer) is None or not seen.isdisjoint(own):
            return None
        seen.update(own)
        layers.append(layer)
    return layers


def squares(A: Tensor, B: Tensor | None, signs: Tensor | None) -> Tensor:
    """Sum over columns of ``signs * A * B``: (k, n, ...) -> (n, ...)."""
    product = A.square() if B is None else A * B
    if signs is not None:
        product *= signs.reshape(*signs.shape, *[1] * (product.ndim - 2))
    return product.sum(0)


def outer_squares(
    left: Tensor, right: Tensor, B: tuple[Tensor, Tensor] | None, signs: Tensor | None
) -> Tensor:
    """Sum over columns k and rows n of ``(left @ right)**2``, a matrix a group.

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
            J = products(left, right, some, rows)
            J = J.square_() if B is None else J.mul_(products(*B, some, rows))
            if signs is not None:
                J *= signs[some, rows].T[:, None, :, None, None]
            total += J.sum((0, 2))
    return total


def products(left: Tensor, right: Tensor, some: slice, rows: slice) -> Tensor:
    """(n, g, k, a, b): ``left @ right`` of some columns and rows."""
    n, g, a = left[:, rows].shape[1:4]
    p, b = right.shape[-2:]
    if len(left) == 1 and len(right) > 1:
        wide = right[some, rows].permute(1, 2, 3, 0, 4).reshape(n * g, p, -1)
        return (
            torch.bmm(left[0, rows].reshape(n * g, a, p), wide).view(n, g, a, -1, b).transpose(2, 3)
        )
    tall = left[some, rows].permute(1, 2, 0, 3, 4).reshape(n * g, -1, p)
    return torch.bmm(tall, right[0, rows].reshape(n * g, p, b)).view(n, g, -1, a, b)
