"""How the parameters of any module are reached."""

from __future__ import annotations

import pytest

from sk_obd.curvature.losses.registry import loss_of
from sk_obd.curvature.routes.any_module import candidates_for_rules, make_plan, run_and_record
from tests.library.cases import BY_NAME


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("deep relu convs", True),
        ("probabilities of a conv net", True),
        ("conv2d", False),
        ("relu layer used twice", False),
        ("instance norm", False),
        ("lstm", False),
    ],
)
def test_only_piecewise_linear_networks_take_the_short_way(name, linear):
    case = BY_NAME[name]
    module, criterion, X, _ = case.make()
    loss, parameters = loss_of(criterion, case.outputs), dict(module.named_parameters())
    layers = candidates_for_rules(module.eval(), parameters)
    plan = make_plan(loss, parameters, run_and_record(module, loss, X[:2], layers))
    assert plan.piecewise_linear is linear
