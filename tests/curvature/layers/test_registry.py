"""Which rule a layer has, and rules of the user's own."""

from __future__ import annotations

import torch
from torch import nn

from sk_obd.curvature import dense_diagonal, diagonal, register_rule
from sk_obd.curvature.layers.registry import RULES
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
