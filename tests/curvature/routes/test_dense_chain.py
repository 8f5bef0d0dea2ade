"""Chains of Linear layers."""

from __future__ import annotations

import torch
from torch import nn

from sk_obd.curvature import METHODS, diagonal
from tests.curvature.comparison import error
from tests.library.cases import Case, labels


def test_in_place_functions_are_no_obstacle():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.two(torch.relu_(self.one(x)))

    case = Case("in place", InPlace, nn.CrossEntropyLoss, labels(5, 4))
    module, criterion, X, y = case.make()
    plain = nn.Sequential(module.one, nn.ReLU(), module.two)
    for method in METHODS:
        got = diagonal(module, criterion, X, y, method=method, random_state=0)
        expected = diagonal(plain, criterion, X, y, method=method, random_state=0)
        assert error(dict(zip(expected, got.values(), strict=True)), expected) == 0
