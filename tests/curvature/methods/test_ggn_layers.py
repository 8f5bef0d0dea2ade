"""What a max pool passed on is gathered."""

from __future__ import annotations

import pytest

from sk_obd.curvature import diagonal
from sk_obd.curvature.layers.torch_layers import ConvRule
from tests.library.cases import BY_NAME


@pytest.mark.parametrize(
    ("name", "gathered"),
    [
        ("relu, max pool", 1),
        ("max pool, relu, in groups", 2),
        ("overlapping windows", 1),
        ("dilated windows", 1),
        ("max pool 1d", 1),
        ("max pool 3d", 1),
        ("max pool under a loss that is not convex", 1),
        ("max pool behind tanh", 0),
        ("planes reshaped before a max pool", 0),
        ("transposed, max pool", 0),
        ("batch norm, max pool", 0),
    ],
)
def test_what_a_max_pool_chose_is_gathered_where_that_is_all_there_is(name, gathered, monkeypatch):
    calls, whole = [], ConvRule.contract_pooled

    def counting(self, *args):
        calls.append(args)
        return whole(self, *args)

    monkeypatch.setattr(ConvRule, "contract_pooled", counting)
    module, criterion, X, y = BY_NAME[name].make()
    diagonal(module, criterion, X, y, check=False)
    assert len(calls) == gathered
