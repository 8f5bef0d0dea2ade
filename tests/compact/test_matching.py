"""Which rule a node follows: what is not understood is left as it is."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sk_obd.compact import dead_parameters, shrink
from tests.library.networks import build, close, prune


def test_hooks_and_tied_layers_are_left():
    module, X = build("three hidden layers", 0)
    masks = prune(module, 0.05, 0)
    module[2].register_forward_hook(lambda layer, args, output: output + 1)
    smaller, _, report = shrink(module, masks, X)
    close(smaller(X), module(X))
    assert {row["layer"]: row["left"] for row in report.rows}["2"] == "it has hooks"
    module, X = build("Tied", 0)
    smaller, _, report = shrink(module, prune(module, 0.2, 0), X)
    assert smaller.again.weight is smaller.code.weight
    assert "more than once" in str(report)


class Calling(nn.Module):
    """A convolution, and a function of it before the last layer."""

    def __init__(self, function):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3)
        self.last = nn.Linear(27, 2)
        self.function = function

    def forward(self, X):
        return self.last(self.function(self.first(X)))


@pytest.mark.parametrize(
    "function",
    [
        lambda h: torch.flatten(input=F.max_pool2d(h, 2), start_dim=1),
        lambda h: torch.flatten(F.max_pool2d(input=h, kernel_size=2), 1),
        lambda h: torch.flatten(F.avg_pool2d(input=h, kernel_size=2), 1),
        lambda h: torch.reshape(shape=(h.size(0), -1), input=F.max_pool2d(h, 2)),
        lambda h: torch.cat(tensors=[F.max_pool2d(h, 2).flatten(1)], dim=1),
        lambda h: torch.mean(input=h, dim=3).flatten(1)[:, :1].expand(-1, 27),
    ],
)
def test_functions_called_with_keywords_only_are_left(function):
    torch.manual_seed(0)
    module, X = Calling(function).eval(), torch.randn(4, 1, 8, 8)
    masks = prune(module, 0.2, 0)
    smaller, _, _ = shrink(module, masks, X)
    torch.testing.assert_close(smaller(X), module(X))
    assert not dead_parameters(module, masks, X)["first.weight"].any()
