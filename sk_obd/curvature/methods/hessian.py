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

from ..layers.layer_rule import add, rule_for
from ..losses.hessians import scaled
from ..problem import Problem
from ..routes import dense_chain as chains
from ..routes.any_module import backward, run
from ..routes.graph import refuse_once_differentiable
from . import ggn

CHUNK = 32  # columns of one double backward


def batch(problem: Problem, X: Tensor, y: Tensor, w: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    loss = problem.loss
    if problem.chain:
        chain = chains.trace(problem.module, loss, X, bends=True)
        if chain is not None:
            form = scaled(loss.form(chain.logits, y), w)
            slopes = loss.gradient(chain.logits, y) * w.reshape(-1, *[1] * (chain.logits.ndim - 1))
            diagonals = ggn.chain_diagonals(problem, chain, form, residuals(chain, slopes))
            return ggn.collect(problem, chain, diagonals), (
                w * loss.normalisers(chain.output, y)
            ).sum()
        problem.give_up_chain()
    plan = problem.get_plan()
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
    refuse_once_differentiable([slope])
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
