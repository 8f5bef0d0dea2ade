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

from ..layers.layer_rule import add, rule_for
from ..losses.hessians import Form, scaled
from ..problem import Problem
from ..routes import dense_chain as chains
from ..routes import layer_chain as links
from ..routes.any_module import Run, backward, run
from ..routes.per_row import pulled_squares
from . import ggn_layers as columns

BLOCK = 1 << 20  # bytes of columns carried at once


def batch(problem: Problem, X: Tensor, y: Tensor, w: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over a batch, and the batch's part of the denominator."""
    return pull_back(problem, X, y, w, lambda logits: scaled(problem.loss.form(logits, y), w))


def pull_back(problem: Problem, X, y, w, form_at: Callable[[Tensor], Form]):
    """Sum of ``signs * (J^T s)**2`` over the columns s of a form at the logits."""
    loss = problem.loss
    if problem.chain:
        chain = chains.trace(problem.module, loss, X)
        if chain is not None:
            found = chain_diagonals(problem, chain, form_at(chain.logits))
            return collect(problem, chain, found), (w * loss.normalisers(chain.output, y)).sum()
        problem.give_up_chain()
    if problem.line:
        try:
            line = links.trace(problem.module, loss, X, problem.line)
        except links.NoLine:
            problem.line = None
        else:
            found = columns.diagonals(problem, line, form_at(line.logits.detach()))
            return found, (w * loss.normalisers(line.output, y)).sum()
    plan = problem.get_plan()
    went = run(problem.module, loss, X, plan.layers)
    sums: dict[str, Tensor] = {}
    for S, signs in form_at(went.logits.detach()).columns():
        by_rules(problem, went, S, signs, sums)
        if plan.rest:
            for name, value in pulled_squares(problem, X, S, signs, plan.rest).items():
                add(sums, name, value)
    return sums, (w * loss.normalisers(went.output, y)).sum()


def lowest(problem: Problem, chain: chains.Chain) -> int:
    """The first layer of the chain with a parameter wanted."""
    return next(i for i, link in enumerate(chain.links) if problem.names(link.layer))


def chain_diagonals(
    problem: Problem,
    chain: chains.Chain,
    form: Form,
    left_out: list[Tensor | None] | None = None,
) -> list[Tensor | None]:
    """Second derivatives by every layer's output, for collect.

    ``before`` is that by the next layer's input; by the output it is ``f'^2 * before + left_out``.
    What Gauss-Newton leaves out, f'' dL/dx, is a diagonal: it reaches the layer below as
    ``r @ W**2`` and the layers under that as one column a unit.
    """
    links, first = chain.links, lowest(problem, chain)
    left_out = left_out or [None] * len(links)
    last, n = len(links) - 1, len(chain.output)
    before: list[Tensor | None] = [
        None if i < first else torch.zeros_like(link.z, requires_grad=False)
        for i, link in enumerate(links)
    ]
    before[last] = form.diagonal().reshape(n, -1)
    step = columns_at_once(chain)
    if first < last:
        for block, signs in form.columns():
            block = block.reshape(len(block), n, -1)
            if links[last].slope is not None:
                block *= links[last].slope
            for k in range(0, len(block), step):
                part = None if signs is None else signs[k : k + step]
                carry(problem, chain, block[k : k + step], part, last, first, before)
    for i in range(last, first, -1):
        if (r := left_out[i]) is None:
            continue
        W, slope = links[i].layer.weight.detach(), links[i - 1].slope
        before[i - 1].addmm_(r, W.square())
        if i - 1 > first:
            for rows, weights in zip(W.split(step), r.T.split(step), strict=True):
                S = problem.buffers.lend("units", r, len(rows), n, W.shape[1])
                S = (
                    S.copy_(rows.unsqueeze(1).expand_as(S))
                    if slope is None
                    else torch.mul(rows.unsqueeze(1), slope, out=S)
                )
                carry(problem, chain, S, weights, i - 1, first, before)
    return [
        None if b is None else at_output(b, link, r)
        for b, link, r in zip(before, links, left_out, strict=True)
    ]


def at_output(before: Tensor, link: chains.Link, left_out: Tensor | None) -> Tensor:
    D = before if link.slope is None else before.mul_(link.slope).mul_(link.slope)
    return D if left_out is None else D.add_(left_out)


def columns_at_once(chain: chains.Chain) -> int:
    """So many that a block of them stays in the cache."""
    widest = max(link.x.numel() for link in chain.links[1:]) if len(chain.links) > 1 else 1
    return max(1, BLOCK // (widest * chain.output.element_size()))


def carry(
    problem: Problem,
    chain: chains.Chain,
    S: Tensor,
    weights: Tensor | None,
    at: int,
    first: int,
    before,
) -> None:
    """Columns (k, n, units) at layer ``at`` down to ``first``, adding up their squares."""
    links, (k, n, _) = chain.links, S.shape
    for i in range(at - 1, first - 1, -1):
        W = links[i + 1].layer.weight.detach()
        out = problem.buffers.lend(i % 2, S, k * n, W.shape[1])
        S = torch.mm(S.reshape(k * n, -1), W, out=out).view(k, n, -1)
        add_squares(before[i], S, weights)
        if i > first and links[i].slope is not None:
            S.mul_(links[i].slope)


def add_squares(total: Tensor, S: Tensor, weights: Tensor | None) -> None:
    """Column by column: one pass over numbers that are still in the cache."""
    for j, s in enumerate(S):
        total.addcmul_(s if weights is None else s * weights[j].unsqueeze(1), s)


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
