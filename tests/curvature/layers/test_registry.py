"""Which rule a layer has, and rules of the user's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import dense_diagonal, diagonal, register_rule
from sk_obd.curvature.layers.layer_rule import Rule
from sk_obd.curvature.layers.registry import RULES, layers_with_rules, rule_for
from tests.curvature.comparison import error

F64 = torch.float64


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.rand(4))

    def forward(self, x):
        return x * self.by


def test_a_users_rule_is_used():
    calls = []

    def pull(layer, x, G):
        calls.append(layer)
        return {"by": G * x}

    register_rule(Scale, pull)
    try:
        module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Scale(), nn.Linear(4, 3)).to(F64)
        X, y = torch.randn(5, 4, dtype=F64), torch.arange(5) % 3
        for method in ("ggn", "hessian"):
            calls.clear()
            got = diagonal(module, nn.CrossEntropyLoss(), X, y, method=method)
            assert (
                error(got, dense_diagonal(module, nn.CrossEntropyLoss(), X, y, method=method))
                <= 1e-10
            )
            assert calls
    finally:
        del RULES[Scale]


class ScaleRule(Rule):
    def pull(self, layer, x, G):
        return {"by": G * x}


def test_a_rule_may_be_an_object():
    rule = ScaleRule()
    register_rule(Scale, rule)
    try:
        assert rule_for(Scale()) is rule
    finally:
        del RULES[Scale]


@pytest.mark.parametrize("kind", [Scale(), "Scale", int])
def test_only_layer_types_have_rules(kind):
    with pytest.raises(ValueError, match=r"kind=.*; expected a subclass of nn\.Module"):
        register_rule(kind, ScaleRule())


def test_a_rule_is_a_rule_or_a_function():
    with pytest.raises(ValueError, match=r"rule=\{\}; expected a Rule or callable"):
        register_rule(Scale, {})
    assert Scale not in RULES


class Halved(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 2


class Named(nn.Linear):
    pass


def test_subclasses_have_the_rule_unless_they_have_a_forward_of_their_own():
    assert rule_for(Named(2, 2)) is RULES[nn.Linear]
    assert rule_for(Halved(2, 2)) is None
    assert rule_for(nn.Bilinear(2, 2, 2)) is None


def test_batch_norm_without_running_statistics_has_no_rule():
    assert rule_for(nn.BatchNorm1d(2)) is RULES[nn.BatchNorm1d]
    assert rule_for(nn.BatchNorm1d(2, track_running_stats=False)) is None


def test_layers_with_rules_are_those_with_trainable_parameters_of_their_own():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    module = nn.Sequential(one, nn.Tanh(), nn.Bilinear(2, 2, 2).requires_grad_(False), two)
    assert layers_with_rules(module) == [one, two]
    module[2].requires_grad_(True)
    assert layers_with_rules(module) is None
    two.weight = one.weight
    assert layers_with_rules(nn.Sequential(one, two)) is None
