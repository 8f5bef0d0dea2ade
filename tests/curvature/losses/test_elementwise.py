"""Losses with a term for each output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import diagonal


def test_targets_that_would_be_broadcast_are_refused():
    module, X = nn.Linear(2, 1), torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"shape \(3, 1\) but the targets have shape \(3,\)"):
        diagonal(module, nn.MSELoss(), X, torch.zeros(3))
