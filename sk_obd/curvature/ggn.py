"""The exact Gauss-Newton diagonal: columns of the square root of the output Hessian, pulled back.

``diag(sum_i J_i^T H_i J_i)`` with ``J_i`` the derivative of row i's logits by the parameters and
``H_i`` the second derivative of its loss by the logits. With ``H_i = S_i S_i^T`` it is the sum of
squares of ``J_i^T S_i``. In a chain a layer's weights need only the sum of squares at each unit,
since the input enters as ``x**2``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import chain as chains
from .general import Run, backward, run
from .layers import add, rule_for, squares
from .outputs import Columns, Form, scaled
from .problem import Problem
from .rows import pulled_squares


def batch(problem: Problem, X: Tensor, y: Tensor, w: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over a batch, and the batch's part of the denominator."""

    def columns(logits: Tensor) -> Columns:
        return form(logits).columns()

    def form(logits: Tensor) -> Form:
        return scaled(problem.loss.form(logits, y), w)

    return pull_back(problem, X, y, w, columns, form)


def pull_back(problem: Problem, X, y, w, columns: Callable[[Tensor], Columns], form=None):
    """Sum of ``signs * (J^T s)**2`` over the columns s at the logits: the core of three methods.

    ``form`` gives what the columns are the root of, where its diagonal is known in closed form.
    """
    loss = problem.loss
    if problem.chain:
        chain = chains.trace(problem.module, loss, X)
        if chain is not None:
            top = None if form is None else form(chain.logits).diagonal()
            found = chain_diagonals(problem, chain, columns(chain.logits), top)
            return collect(problem, chain, found), (w * loss.normalisers(chain.output, y)).sum()
        problem.chain = False
    plan = problem.get_plan(X)
    went = run(problem.module, loss, X, plan.layers)
    sums: dict[str, Tensor] = {}
    for S, signs in columns(went.logits.detach()):
        by_rules(problem, went, S, signs, sums)
        if plan.rest:
            for name, value in pulled_squares(problem, X, S, signs, plan.rest).items():
                add(sums, name, value)
    return sums, (w * loss.normalisers(went.output, y)).sum()


def lowest(problem: Problem, chain: chains.Chain) -> int:
    """The first layer of the chain with a parameter wanted."""
    return next(i for i, link in enumerate(chain.links) if problem.names(link.layer))


def chain_diagonals(
    problem: Problem, chain: chains.Chain, blocks: Columns, top: Tensor | None
) -> list[Tensor | None]:
    """Sum of squared columns at every layer's output; ``top``: what it is at the logits, if known."""
    links, first = chain.links, lowest(problem, chain)
    total: list[Tensor | None] = [None] * len(links)
    last = len(links) - 1
    if top is not None:
        last -= 1
        slope = links[-1].slope
        total[-1] = top.reshape(links[-1].z.shape) * (1 if slope is None else slope.square())
    for S, signs in blocks if first <= last else ():
        k, n = S.shape[:2]
        S = S.reshape(k, n, -1)
        for i in range(len(links) - 1, first - 1, -1):
            link = links[i]
            if i < len(links) - 1:
                W = links[i + 1].layer.weight.detach()
                out = problem.buffers.lend(i % 2, S, k * n, W.shape[1])
                S = torch.mm(S.reshape(k * n, -1), W, out=out).view(k, n, -1)
            if link.slope is not None and i > first:
                S = S.mul_(link.slope)
            if i > last:
                continue
            D = squares(S, None, signs)
            if link.slope is not None and i == first:
                D *= link.slope.square()
            total[i] = D if total[i] is None else total[i].add_(D)
    return total


def collect(
    problem: Problem, chain: chains.Chain, diagonals: list[Tensor | None]
) -> dict[str, Tensor]:
    """From second derivatives at the layers' outputs to those of weights and biases."""
    sums = {}
    for link, D in zip(chain.links, diagonals, strict=True):
        names = problem.names(link.layer)
        if "weight" in names:
            sums[names["weight"]] = D.T @ link.x.square()
        if "bias" in names:
            sums[names["bias"]] = D.sum(0)
    return sums


def by_rules(
    problem: Problem, went: Run, S: Tensor, signs: Tensor | None, sums: dict[str, Tensor]
) -> None:
    """One batched backward pass to all layers with a rule, which then do the rest."""
    layers = problem.plan.layers
    if not layers:
        return
    pulled = backward(went.logits, [went.calls[layer][0][1] for layer in layers], S)
    for (layer, names), G in zip(layers.items(), pulled, strict=True):
        if G is None:
            continue
        x = went.calls[layer][0][0]
        for local, value in rule_for(layer).contract(layer, x, G, None, signs).items():
            if local in names:
                add(sums, names[local], value)
