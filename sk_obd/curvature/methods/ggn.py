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
from ..routes.any_module import Recorded, run_and_record
from ..routes.dense_chain import trace_dense_chain
from ..routes.derivatives import backward
from ..routes.layer_chain import NotALayerChain, trace_layer_chain
from .ggn_dense import dense_chain_diagonals, of_parameters
from .ggn_layers import layer_chain_sums


def sums(problem: Problem, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over a batch, and the batch's part of the denominator."""
    return pull_back(problem, batch, batch.form)


def pull_back(
    problem: Problem, batch: Batch, form_at: Callable[[Tensor], Form]
) -> tuple[dict[str, Tensor], Tensor]:
    """Sum of ``signs * (J^T s)**2`` over the columns s of a form at the logits."""
    module, loss = problem.module, problem.loss
    if problem.try_dense_chain:
        dense = trace_dense_chain(module, loss, batch.X)
        if dense is not None:
            diagonals = dense_chain_diagonals(problem, dense, form_at(dense.logits))
            return of_parameters(problem, dense, diagonals), batch.denominator(dense.output)
        problem.give_up_dense_chain()
    if problem.try_layer_chain and problem.layers_with_rules:
        try:
            chain = trace_layer_chain(module, loss, batch.X, problem.layers_with_rules)
        except NotALayerChain:
            problem.try_layer_chain = False
        else:
            found = layer_chain_sums(problem, chain, form_at(chain.logits.detach()))
            return found, batch.denominator(chain.output)
    recorded = run_and_record(module, loss, batch.X, problem.plan.layers)
    total: dict[str, Tensor] = {}
    for S, signs in form_at(recorded.logits.detach()).columns():
        add_by_rules(problem, recorded, S, signs, total)
        if problem.plan.rest:
            for name, value in problem.per_row.pulled_squares(batch.X, S, signs).items():
                add_to(total, name, value)
    return total, batch.denominator(recorded.output)


def add_by_rules(
    problem: Problem,
    recorded: Recorded,
    S: Tensor,
    signs: Tensor | None,
    total: dict[str, Tensor],
) -> None:
    """Add the sums of the layers with a rule, for columns S (k, n, ...) at the logits.

    One batched backward pass reaches all these layers' outputs; the rules do the rest.
    """
    layers = problem.plan.layers
    if not layers:
        return
    pulled = backward(recorded.logits, [recorded.calls[layer][0][1] for layer in layers], S)
    for (layer, names), G in zip(layers.items(), pulled, strict=True):
        if G is None:
            continue
        rule, x = rule_for(layer), recorded.calls[layer][0][0]
        assert rule is not None
        for local, value in rule.contract(layer, x, G, None, signs).items():
            if local in names:
                add_to(total, names[local], value)
