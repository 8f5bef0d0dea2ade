"""Gauss-Newton columns carried down a line of layers with rules, layer by layer.

What autograd cannot know is used here: where a convolution's output goes through a max pool, the
columns are 0 at all positions but those chosen, so the weights' sums run over these alone, and
below the first layer nothing is carried.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..layers.layer_rule import add, rule_for
from ..layers.torch_layers import ConvRule, ConvTransposeRule
from ..losses.hessians import Form
from ..problem import Problem
from ..routes.any_module import backward
from ..routes.layer_chain import Line, chosen, pulled

#: Fewest columns for which it pays to gather what a max pool chose.
FEW = 4


def diagonals(problem: Problem, line: Line, form: Form) -> dict[str, Tensor]:
    """Sum of ``signs * (J^T s)**2`` over the columns s of the form, for every parameter."""
    sums: dict[str, Tensor] = {}
    picks = [picked(link.layer, link.z, line.after(i)) for i, link in enumerate(line.links)]
    for S, signs in form.columns():
        for i in range(len(line.links) - 1, -1, -1):
            link, after, pick = line.links[i], line.after(i), picks[i]
            names, rule = problem.names(link.layer), rule_for(link.layer)
            x = link.x.detach()
            few = pick is None or len(S) < FEW
            G = pulled(link.z, after, S) if few or i else None
            if few:
                found = rule.contract(link.layer, x, G, None, signs)
            else:
                where, slope = pick
                at = S.reshape(len(S), *where.shape)
                at = at if slope is None else at * slope
                found = rule.contract_chosen(link.layer, x, at, where, signs)
            for local, value in found.items():
                if local in names:
                    add(sums, names[local], value)
            if i:
                S = passed(link.layer, link.x, link.given, G)
    return sums


def picked(layer: nn.Module, z: Tensor, after: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """What a max pool chose of a convolution's output, where that is at most half of it."""
    rule = rule_for(layer)
    if not isinstance(rule, ConvRule) or isinstance(rule, ConvTransposeRule):
        return None
    found = chosen(z, after)
    return found if found and 2 * found[0].numel() <= z.numel() else None


def passed(layer: nn.Module, x: Tensor, given: Tensor, G: Tensor) -> Tensor:
    """Columns at a layer's output pulled back to its input."""
    if type(layer) is nn.Linear:
        return G @ layer.weight.detach()
    return backward(given, [x], G)[0]
