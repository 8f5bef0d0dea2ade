"""Gauss-Newton columns carried down a dense chain, with what the Hessian has besides.

A layer's weights need only the sum of squares at each unit, since the input enters as ``x**2``.
The Hessian's residual ``r = f''(z) dL/dx`` is a diagonal at each layer: it reaches the layer below
as ``r @ W**2`` and the layers under that as one column for each unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..losses.hessians import Form
from ..problem import Problem
from ..routes.dense_chain import DenseChain, DenseLink

#: Bytes of columns carried at once, so that a block of them stays in the cache.
BLOCK = 1 << 20


def first_wanted(problem: Problem, layers: Sequence[nn.Module]) -> int:
    """The first of a chain's layers with a parameter that is wanted; past the last if none has."""
    return next((i for i, layer in enumerate(layers) if problem.names(layer)), len(layers))


def dense_chain_diagonals(
    problem: Problem,
    chain: DenseChain,
    form: Form,
    residuals: Sequence[Tensor | None] | None = None,
) -> dict[int, Tensor]:
    """Second derivatives (n, units) by the output of layer i, from the first wanted one on.

    ``residuals[i]`` (n, units) is what Gauss-Newton leaves out at layer i, None for zero.
    ``at_input[i]`` is d2L by the input of layer i + 1 (for the last i by the logits); at layer i's
    own output that becomes ``f'^2 * at_input[i] + residuals[i]``.
    """
    links, n = chain.links, len(chain.output)
    first = first_wanted(problem, [link.layer for link in links])
    last, top_slope = len(links) - 1, links[-1].slope
    at_input = {i: torch.zeros_like(links[i].z, requires_grad=False) for i in range(first, last)}
    at_input[last] = form.diagonal().reshape(n, -1)
    step = columns_at_once(chain)
    if first < last:
        for block, signs in form.columns():
            block = block.reshape(len(block), n, -1)
            if top_slope is not None:
                block *= top_slope
            for k in range(0, len(block), step):
                part = None if signs is None else signs[k : k + step]
                columns = block[k : k + step]
                carry(problem, chain, columns, part, at=last, first=first, at_input=at_input)
    if residuals is None:
        residuals = [None] * len(links)
    for i in range(last, first, -1):
        r = residuals[i]
        if r is None:
            continue
        W, slope = links[i].weight.detach(), links[i - 1].slope
        at_input[i - 1].addmm_(r, W.square())
        if i - 1 > first:
            for rows, weights in zip(W.split(step), r.T.split(step), strict=True):
                S = problem.buffers.lend("units", r, len(rows), n, W.shape[1])
                S = (
                    S.copy_(rows.unsqueeze(1).expand_as(S))
                    if slope is None
                    else torch.mul(rows.unsqueeze(1), slope, out=S)
                )
                carry(problem, chain, S, weights, at=i - 1, first=first, at_input=at_input)
    return {i: at_output(D, links[i], residuals[i]) for i, D in at_input.items()}


def at_output(D: Tensor, link: DenseLink, residual: Tensor | None) -> Tensor:
    """``f'^2 * D + residual``, in the place of D (n, units)."""
    if link.slope is not None:
        D = D.mul_(link.slope).mul_(link.slope)
    return D if residual is None else D.add_(residual)


def columns_at_once(chain: DenseChain) -> int:
    """How many columns make a block that stays in the cache."""
    widest = max((link.x.numel() for link in chain.links[1:]), default=1)
    return max(1, BLOCK // (widest * chain.output.element_size()))


def carry(
    problem: Problem,
    chain: DenseChain,
    S: Tensor,
    weights: Tensor | None,
    *,
    at: int,
    first: int,
    at_input: dict[int, Tensor],
) -> None:
    """Carry columns S (k, n, units) from layer ``at`` down to ``first`` and add up their squares.

    ``weights`` (k, n) weigh the squares, None for 1. ``at_input[i]`` (n, units) are the sums.
    """
    links, (k, n, _) = chain.links, S.shape
    for i in range(at - 1, first - 1, -1):
        W, slope = links[i + 1].weight.detach(), links[i].slope
        out = problem.buffers.lend(i % 2, S, k * n, W.shape[1])
        S = torch.mm(S.reshape(k * n, -1), W, out=out).view(k, n, -1)
        add_squares(at_input[i], S, weights)
        if i > first and slope is not None:
            S.mul_(slope)


def add_squares(total: Tensor, S: Tensor, weights: Tensor | None) -> None:
    """Add the sum over columns of ``weights * S**2`` to ``total``: (k, n, units) -> (n, units).

    Column by column: one pass over numbers that are still in the cache.
    """
    for j, s in enumerate(S):
        total.addcmul_(s if weights is None else s * weights[j].unsqueeze(1), s)


def of_parameters(
    problem: Problem, chain: DenseChain, diagonals: dict[int, Tensor]
) -> dict[str, Tensor]:
    """From second derivatives (n, units) at the layers' outputs to those of weights and biases."""
    sums = {}
    for i, D in diagonals.items():
        names = problem.names(chain.links[i].layer)
        if "weight" in names:
            sums[names["weight"]] = D.T @ chain.links[i].x.square()
        if "bias" in names:
            sums[names["bias"]] = D.sum(0)
    return sums
