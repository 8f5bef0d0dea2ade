"""Gauss-Newton columns carried down a chain of layers with rules, layer by layer.

What autograd cannot know is used here: where a convolution's output goes through a max pool, the
columns are 0 at all positions but the pooled ones, so the weights' sums run over these only, and
below the first layer nothing is carried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..layers.layer_rule import add_to
from ..layers.registry import rule_for
from ..layers.torch_layers import ConvRule, ConvTransposeRule
from ..losses.hessians import Form
from ..problem import Problem
from ..routes.derivatives import backward
from ..routes.layer_chain import LayerChain, LayerLink, columns_between, pooled_positions

#: Fewest columns for which it pays to gather what a max pool passed on: the windows of the input
#: are gathered once for all columns together, which for fewer costs more than it saves.
FEW = 4


@dataclass
class Pooled:
    """What a max pool passed on of a convolution's output.

    Attributes
    ----------
    link : LayerLink
        Of the convolution.
    rule : ConvRule
        The convolution's.
    where : Tensor of shape (n, channels, m)
        Flat positions in the channels.
    slope : Tensor of shape (n, channels, m) or None
        Whether a ReLU let the number through; None without one.
    """

    link: LayerLink
    rule: ConvRule
    where: Tensor
    slope: Tensor | None

    def contract(self, S: Tensor, signs: Tensor | None) -> dict[str, Tensor]:
        """The sums of the convolution's parameters, for columns S (k, n, ...) after the pool."""
        S = S.reshape(len(S), *self.where.shape)
        S = S if self.slope is None else S * self.slope
        layer, x = cast(_ConvNd, self.link.layer), self.link.x.detach()
        return self.rule.contract_pooled(layer, x, S, self.where, signs)


def layer_chain_sums(problem: Problem, chain: LayerChain, form: Form) -> dict[str, Tensor] | None:
    """Sum of ``signs * (J^T s)**2`` over the columns s of the form, for every parameter.

    None where a layer has a parameter that its rule does not know.
    """
    sums: dict[str, Tensor] = {}
    pools = [worth_gathering(link, chain.after(i)) for i, link in enumerate(chain.links)]
    for S, signs in form.columns():
        for i in range(len(chain.links) - 1, -1, -1):
            link, pool = chain.links[i], pools[i]
            if pool is not None and len(S) >= FEW:
                found = pool.contract(S, signs)
                G = columns_between(link.z, chain.after(i), S) if i else None
            else:
                G = columns_between(link.z, chain.after(i), S)
                rule = rule_for(link.layer)
                assert rule is not None
                found = rule.contract(link.layer, link.x.detach(), G, None, signs)
            names = problem.names(link.layer)
            if not names.keys() <= found.keys():
                return None
            for local, value in found.items():
                if local in names:
                    add_to(sums, names[local], value)
            if G is not None and i:
                S = to_input(link, G)
    return sums


def worth_gathering(link: LayerLink, after: Tensor) -> Pooled | None:
    """What a max pool passed on of a convolution's output, where that is at most half of it."""
    rule = rule_for(link.layer)
    if not isinstance(rule, ConvRule) or isinstance(rule, ConvTransposeRule):
        return None
    found = pooled_positions(link.z, after)
    if found is None or 2 * found[0].numel() > link.z.numel():
        return None
    return Pooled(link, rule, *found)


def to_input(link: LayerLink, G: Tensor) -> Tensor:
    """Columns G (k, n, ...) at a layer's output pulled back to its input."""
    if type(link.layer) is nn.Linear:
        return G @ link.layer.weight.detach()
    (S,) = backward(link.output, [link.x], G)
    assert S is not None
    return S
