"""Derivatives by autograd: many columns at once, and functions that have a first one only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..losses.base import holds_once_differentiable

#: How far two derivatives of the same probe may differ to count as the same, in units of what
#: rounding does to a number. A coupling that is taken for none changes the result by as little.
PROBE_ULPS = 100


def backward(output: Tensor, inputs: Sequence[Tensor], S: Tensor) -> Sequence[Tensor | None]:
    """Columns S (k, *output.shape) pulled back to every input: (k, *input.shape), None for zero.

    All columns go together, or one by one where torch cannot batch them.
    """
    try:
        return torch.autograd.grad(
            output, inputs, S, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
    except RuntimeError:
        each = [
            torch.autograd.grad(output, inputs, s, retain_graph=True, allow_unused=True) for s in S
        ]
        return [
            None if column[0] is None else torch.stack(column) for column in zip(*each, strict=True)
        ]


def refuse_once_differentiable(tensors: Iterable[Tensor | None]) -> None:
    """Raise RuntimeError where derivatives came from a function that can be differentiated once.

    torch marks such a function's derivative by a node that raises when it is reached, but
    ``autograd.grad`` does not reach it, and leaves its part out.
    """
    for tensor in tensors:
        if tensor is not None and holds_once_differentiable(tensor):
            raise RuntimeError(
                "the network holds a function marked once_differentiable, which has no second "
                "derivative"
            )


def refuse_once_differentiable_map(z: Tensor, x: Tensor) -> None:
    """As above, for the map z -> x.

    torch marks the node only if the incoming gradient requires grad, hence the leaf of ones.
    """
    marked = torch.ones_like(x, requires_grad=True)
    refuse_once_differentiable(
        torch.autograd.grad(x, z, marked, create_graph=True, allow_unused=True)
    )


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two derivatives of the same probe differ by rounding only."""
    rtol = PROBE_ULPS * torch.finfo(expected.dtype).eps
    atol = rtol * expected.abs().max().item() if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=rtol, atol=atol)


def probe_like(tensor: Tensor) -> Tensor:
    """Random numbers in [0.5, 1.5), the same at every call, shaped like the tensor.

    They show whether a map mixes numbers; being away from 0, they hide no number.
    """
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor) + 0.5
