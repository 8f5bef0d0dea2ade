"""The exact diagonal of the Hessian.

In a dense chain, ``d2L/dz_l^2 = f'^2 [W^T H W]_jj + f''(z_l) dL/dx``: the Gauss-Newton columns plus
one signed column per unit for every smooth map above. A residual needs no columns for the layer
right below, ``r @ W**2``. Elsewhere each layer's ``d2L/dz^2`` comes from double backward, one
column per output, or each parameter's from its own column, whichever are fewer. Where the logits
are piecewise linear it is the Gauss-Newton diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..layers.layer_rule import add_to
from ..layers.registry import rule_for
from ..problem import Batch, Problem
from ..routes.any_module import Plan, Recorded
from ..routes.dense_chain import DenseChain
from ..routes.derivatives import backward, refuse_once_differentiable
from ..routes.layer_chain import piecewise_linear_chain
from . import ggn
from .ggn_dense import dense_chain_diagonals, of_parameters
from .ggn_layers import layer_chain_sums

#: Columns of one double backward: enough to share what it costs to walk the graph, while all that
#: the graph holds is there once for each of them.
CHUNK = 32


def sums(problem: Problem, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over a batch, and the batch's part of the denominator."""
    chain = problem.dense_chain(batch, second_slopes=True)
    if chain is not None:
        form, gradient = batch.form(chain.logits), batch.gradient(chain.logits)
        diagonals = dense_chain_diagonals(problem, chain, form, residuals_of(chain, gradient))
        return of_parameters(problem, chain, diagonals), batch.denominator(chain.output)
    layers = problem.layer_chain(batch)
    if layers is not None and piecewise_linear_chain(layers, problem.loss):
        found = layer_chain_sums(problem, layers, batch.form(layers.logits.detach()))
        if found is not None:
            return found, batch.denominator(layers.output)
    problem.try_layer_chain = False
    recorded, plan = problem.record(batch)
    if plan.piecewise_linear and problem.use_rules:
        return ggn.pull_back_recorded(problem, batch, recorded, plan, batch.form)
    return by_double_backward(problem, batch, recorded, plan)


def residuals_of(chain: DenseChain, gradient: Tensor) -> list[Tensor | None]:
    """``f''(z) * dL/dx`` (n, units) of every link: what Gauss-Newton leaves out. None for zero."""
    delta = gradient.reshape(chain.links[-1].z.shape)
    out: list[Tensor | None] = []
    for link in reversed(chain.links):
        out.append(None if link.second_slope is None else link.second_slope * delta)
        if link.slope is not None:
            delta = delta * link.slope
        if link is not chain.links[0]:
            delta = delta @ link.weight.detach()
    return out[::-1]


def by_double_backward(
    problem: Problem, batch: Batch, recorded: Recorded, plan: Plan
) -> tuple[dict[str, Tensor], Tensor]:
    """Columns of the Hessian itself: by layers' outputs where rules go on, else by parameters."""
    if not recorded.logits.requires_grad:
        return {}, batch.denominator(recorded.output)
    problem.loss.refuse_once_differentiable(recorded.logits, batch.y)
    value = (batch.w * problem.loss.exact_at(recorded.logits, batch.y)).sum()
    total: dict[str, Tensor] = {}
    direct = list(plan.rest)
    for layer, names in plan.layers.items():
        x, z = recorded.calls[layer][0].x, recorded.calls[layer][0].z
        if z[0].numel() > sum(problem.parameters[name].numel() for name in names.values()):
            direct.extend(names.values())
            continue
        rule = rule_for(layer)
        assert rule is not None
        for columns, basis in second_columns(value, z, len(batch.X)):
            for local, part in rule.contract(layer, x, columns, basis).items():
                if local in names:
                    add_to(total, names[local], part)
    for name in direct:
        total[name] = second_diagonal(value, problem.parameters[name])
    return total, batch.denominator(recorded.output)


def second_diagonal(value: Tensor, parameter: Tensor) -> Tensor:
    """The second derivatives of ``value`` by each number of the parameter, shaped like it."""
    diagonal = torch.zeros(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
    start = 0
    for columns, _ in second_columns(value, parameter, None):
        k = len(columns)
        diagonal[start : start + k] = columns.reshape(k, -1)[:, start : start + k].diagonal()
        start += k
    return diagonal.view(parameter.shape)


def second_columns(value: Tensor, at: Tensor, rows: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield columns of the second derivative of ``value`` at ``at``, with their unit columns.

    Both have shape (k, *at.shape).
    With ``rows``, ``at`` is (rows, ...) and rows do not mix: the unit column of one number of a row
    serves all rows.
    """
    # torch marks once-differentiable functions only where the incoming gradient requires grad.
    marked = torch.ones_like(value, requires_grad=True)
    (slope,) = torch.autograd.grad(value, at, marked, create_graph=True, allow_unused=True)
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
