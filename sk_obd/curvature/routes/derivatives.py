"""Derivatives by autograd: many columns at once, and functions that have a first one only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .graph import nodes

#: Names of the node by which torch marks the derivative of a once-differentiable function.
ONCE = ("torch::autograd::Error", "Error")

#: How far two derivatives of the same probe may differ, relatively, to count as the same: more than
#: rounding in float32, far less than any map that mixes numbers.
PROBE_RTOL = 1e-3


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
        if tensor is None or tensor.grad_fn is None:
            continue
        if any(node.name() in ONCE for node in nodes(tensor.grad_fn)):
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


def probe_like(tensor: Tensor) -> Tensor:
    """Random numbers in [0.5, 1.5), the same at every call, shaped like the tensor.

    They show whether a map mixes numbers; being away from 0, they hide no number.
    """
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor) + 0.5
