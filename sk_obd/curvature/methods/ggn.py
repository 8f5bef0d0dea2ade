"""The exact Gauss-Newton diagonal: columns of the square root of the output Hessian, pulled back.

``diag(sum_i J_i^T H_i J_i)`` with ``J_i`` the derivative of row i's logits by the parameters and
``H_i`` the second derivative of its loss by the logits. With ``H_i = S_i S_i^T`` it is the sum of
squares of ``J_i^T S_i``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..layers.layer_rule import add_to
from ..layers.registry import rule_for
from ..losses.hessians import Form
from ..problem import Batch, Problem
from ..routes.any_module import Plan, Recorded
from ..routes.derivatives import backward
from .ggn_dense import dense_chain_diagonals, of_parameters
from .ggn_layers import layer_chain_sums


def sums(problem: Problem, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over a batch, and the batch's part of the denominator."""
    return pull_back(problem, batch, batch.form)


def pull_back(
    problem: Problem, batch: Batch, form_at: Callable[[Tensor], Form]
) -> tuple[dict[str, Tensor], Tensor]:
    """Sum of ``signs * (J^T s)**2`` over the columns s of a form at the logits."""
    dense = problem.dense_chain(batch)
    if dense is not None:
        diagonals = dense_chain_diagonals(problem, dense, form_at(dense.logits))
        return of_parameters(problem, dense, diagonals), batch.denominator(dense.output)
    chain = problem.layer_chain(batch)
    if chain is not None:
        found = layer_chain_sums(problem, chain, form_at(chain.logits.detach()))
        if found is not None:
            return found, batch.denominator(chain.output)
        problem.try_layer_chain = False
    return pull_back_recorded(problem, batch, *problem.record(batch), form_at)


def pull_back_recorded(
    problem: Problem,
    batch: Batch,
    recorded: Recorded,
    plan: Plan,
    form_at: Callable[[Tensor], Form],
) -> tuple[dict[str, Tensor], Tensor]:
    """The same for a module that is not a chain, after it has been run."""
    total: dict[str, Tensor] = {}
    for S, signs in form_at(recorded.logits.detach()).columns():
        add_by_rules(plan, recorded, S, signs, total)
        if plan.rest:
            for name, value in problem.per_row(plan).pulled_squares(batch.X, S, signs).items():
                add_to(total, name, value)
    return total, batch.denominator(recorded.output)


def add_by_rules(
    plan: Plan,
    recorded: Recorded,
    S: Tensor,
    signs: Tensor | None,
    total: dict[str, Tensor],
) -> None:
    """Add the sums of the layers with a rule, for columns S (k, n, ...) at the logits.

    One batched backward pass reaches all these layers' outputs; the rules do the rest.
    """
    layers = plan.layers
    if not layers:
        return
    pulled = backward(recorded.logits, [recorded.calls[layer][0].z for layer in layers], S)
    for (layer, names), G in zip(layers.items(), pulled, strict=True):
        if G is None:
            continue
        rule, x = rule_for(layer), recorded.calls[layer][0].x
        assert rule is not None
        for local, value in rule.contract(layer, x, G, None, signs).items():
            if local in names:
                add_to(total, names[local], value)
