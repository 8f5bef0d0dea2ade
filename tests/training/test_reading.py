import pytest
import torch
from torch import nn

from sk_obd.training.reading import importances, reading_layers, support
from tests.library.nets import SmallConv, TwoLayers


class Skip(nn.Module):
    """X enters two Linear layers; or with `more`, also the output itself."""

    def __init__(self, more=False):
        super().__init__()
        self.more = more
        self.a, self.b = nn.Linear(4, 5), nn.Linear(9, 2)

    def forward(self, X):
        hidden = torch.relu(self.a(X))
        return self.b(torch.cat([hidden, X], 1)) if self.more else self.b.weight[:, :5] @ hidden.T


class Parallel(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, X):
        return torch.relu(self.a(X)) + self.b(X)


@pytest.mark.parametrize(
    ("module", "shape", "readers"),
    [
        (TwoLayers(), (2, 4), ["first.weight"]),
        (nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 3)), (2, 4), ["2.weight"]),
        (Parallel(), (2, 4), ["a.weight", "b.weight"]),
        (Skip(more=True), (2, 4), None),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), (2, 4), None),
        (SmallConv(), (2, 1, 8, 8), None),
    ],
)
def test_the_layers_that_read_x_are_found_or_nothing_is_claimed(module, shape, readers):
    module.train()
    assert reading_layers(module, torch.randn(shape)) == readers
    assert module.training


def test_an_input_is_read_while_any_weight_of_it_is_alive():
    masks = {
        "a.weight": torch.tensor([[True, False, False], [False, False, False]]).numpy(),
        "b.weight": torch.tensor([[False, False, True]]).numpy(),
    }
    assert support(masks, ["a.weight", "b.weight"], 3).tolist() == [True, False, True]
    assert support(masks, None, 3).tolist() == [True] * 3
    saliency = {name: mask * 2.0 for name, mask in masks.items()}
    assert importances(saliency, ["a.weight", "b.weight"]).tolist() == [2.0, 0.0, 2.0]
