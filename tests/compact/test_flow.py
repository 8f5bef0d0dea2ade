"""The graph of a network, and what cannot be followed."""

import pytest
import torch
from torch import nn

from sk_obd.compact import check_traceable, sweep
from sk_obd.compact.flow import NotTraced
from tests.library.modules import mlp
from tests.library.networks import prune


def test_tensors_that_a_forward_makes_are_not_left_on_the_module():
    class Weighted(nn.Sequential):
        def forward(self, X):
            return super().forward(X) * torch.arange(3.0)

    module = Weighted(mlp(9, 6, 3))
    before = set(vars(module))
    check_traceable(module, torch.ones(2, 9))
    sweep(module, prune(module, 0.3, 0), torch.ones(2, 9))
    assert set(vars(module)) == before


class Failing(nn.Module):
    """Raises an error without a message."""

    def forward(self, X):
        raise ValueError


def test_an_error_without_a_message_is_told_by_its_name():
    with pytest.raises(NotTraced, match="cannot trace it: ValueError"):
        check_traceable(Failing(), torch.ones(2, 9))
