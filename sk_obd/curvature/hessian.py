"""The exact diagonal of the Hessian.

In a chain, ``d2L/dz_l^2 = f'^2 [W^T H W]_jj + f''(z_l) dL/dx``: the Gauss-Newton columns plus one
signed column a unit for every smooth map above. A residual needs no columns for the layer right
below, ``r @ W**2``. Elsewhere each layer's ``d2L/dz^2`` comes from double backward, one column an
output, or each parameter's from its own column, whichever are fewer. Where the logits are
piecewise linear it is the Gauss-Newton diagonal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import chain as chains
from . import ggn
from .general import backward, run
from .layers import add, rule_for, squares
from .outputs import Form, scaled
from .problem import Problem

CHUNK = 32  # columns of one double backward


def batch(problem: Problem, X: Tensor, y: Tensor, w: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    loss = problem.loss
    if problem.chain:
        chain = chains.trace(problem.module, loss, X, bends=True)
        if chain is not None:
            form = scaled(loss.form(chain.logits, y), w)
            slopes = loss.gradient(chain.logits, y) * w.reshape(-1, *[1] * (chain.logits.ndim - 1))
            diagonals = chain_diagonals(problem, chain, form, slopes)
            return ggn.collect(problem, chain, diagonals), (
                w * loss.normalisers(chain.output, y)
            ).sum()
        problem.chain = False
    plan = problem.get_plan(X)
    if plan.linear:
        return ggn.batch(problem, X, y, w)
    return by_double_backward(problem, X, y, w)


def residuals(chain: chains.Chain, slopes: Tensor) -> list[Tensor | None]:
    """f''(z) * dL/dx of every link: what Gauss-Newton leaves out."""
    delta = slopes.reshape(chain.links[-1].z.shape)
    out: list[Tensor | None] = []
    for link in reversed(chain.links):
        out.append(None if link.bend is None else link.bend * delta)
        if link.slope is not None:
            delta = delta * link.slope
        if link is not chain.links[0]:
            delta = delta @ link.layer.weight.detach()
    return out[::-1]


def chain_diagonals(
    problem: Problem, chain: chains.Chain, form: Form, slopes: Tensor
) -> list[Tensor | None]:
    """Second derivatives at every layer's output: Gauss-Newton columns, then residuals as signed
    ones.
    """
    links, first = chain.links, ggn.lowest(problem, chain)
    left_out = residuals(chain, slopes)
    total = ggn.chain_diagonals(problem, chain, form.columns(), form.diagonal())
    for top in range(len(links) - 1, first - 1, -1):
        r = left_out[top]
        if r is None:
            continue
        total[top] += r
        if top == first:
            continue
        W, below = links[top].layer.weight.detach(), links[top - 1]
        D = r @ W.square()
        total[top - 1] += D if below.slope is None else D.mul_(below.slope.square())
        if top - 1 > first:
            pull_residual(problem, chain, top, r, first, total)
    return total


def pull_residual(
    problem: Problem, chain: chains.Chain, top: int, r: Tensor, first: int, total: list
) -> None:
    """Carry one layer's residual, a column a unit, from two layers below it down to the first."""
    links = chain.links
    W = links[top].layer.weight.detach()
    units, n = W.shape[0], len(r)
    weights = r.T.contiguous()
    below = links[top - 1]
    shape = (units, n, W.shape[1])
    S = problem.buffers.lend("first", r, *shape)
    S = (
        torch.mul(W.unsqueeze(1), below.slope, out=S)
        if below.slope is not None
        else S.copy_(W.unsqueeze(1).expand(shape))
    )
    for i in range(top - 2, first - 1, -1):
        link = links[i]
        V = links[i + 1].layer.weight.detach()
        out = problem.buffers.lend(i % 2, S, units * n, V.shape[1])
        S = torch.mm(S.reshape(units * n, -1), V, out=out).view(units, n, -1)
        if link.slope is not None and i > first:
            S.mul_(link.slope)
        D = squares(S, None, weights)
        if link.slope is not None and i == first:
            D *= link.slope.square()
        total[i] += D


def by_double_backward(problem: Problem, X: Tensor, y: Tensor, w: Tensor):
    plan, loss = problem.plan, problem.loss
    went = run(problem.module, loss, X, plan.layers)
    value = (w * loss.rows_at(went.logits, y)).sum()
    sums: dict[str, Tensor] = {}
    direct = list(plan.rest)
    for layer, names in plan.layers.items():
        x, z = went.calls[layer][0]
        if z[0].numel() > sum(problem.parameters[name].numel() for name in names.values()):
            direct.extend(names.values())
            continue
        for columns, basis in second_columns(value, z, len(X)):
            for local, part in rule_for(layer).contract(layer, x, columns, basis).items():
                if local in names:
                    add(sums, names[local], part)
    for name in direct:
        parameter = problem.parameters[name]
        diagonal = torch.zeros(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
        start = 0
        for columns, _ in second_columns(value, parameter, None):
            k = len(columns)
            diagonal[start : start + k] = columns.reshape(k, -1)[:, start : start + k].diagonal()
            start += k
        sums[name] = diagonal.view(parameter.shape)
    return sums, (w * loss.normalisers(went.output, y)).sum()


def second_columns(value: Tensor, at: Tensor, rows: int | None):
    """Yield (columns of the second derivative of ``value`` at ``at``, their unit columns).

    With ``rows``, ``at`` is (rows, ...) and rows do not mix: one unit column a number of a row
    serves all rows.
    """
    (slope,) = torch.autograd.grad(value, at, create_graph=True, allow_unused=True)
    if slope is None or not slope.requires_grad:
        return
    per = at.numel() if rows is None else at[0].numel()
    for start in range(0, per, CHUNK):
        k = min(CHUNK, per - start)
        unit = at.new_zeros(k, per)
        unit[:, start : start + k].fill_diagonal_(1)
        basis = (
            unit.view(k, *at.shape)
            if rows is None
            else unit.view(k, 1, *at.shape[1:]).expand(k, *at.shape)
        )
        (columns,) = backward(slope, [at], basis.contiguous())
        yield torch.zeros_like(basis) if columns is None else columns.detach(), basis
