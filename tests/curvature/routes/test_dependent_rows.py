"""Modules that have no loss of a single row are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sk_obd.curvature import diagonal


@pytest.mark.parametrize("method", ["ggn", "hessian", "fisher"])
def test_batch_norm_without_running_statistics_is_refused(method):
    module = nn.Sequential(
        nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2)
    )
    with pytest.raises(
        ValueError, match=r"'1' .*statistics of the batch.*track_running_stats=True"
    ):
        diagonal(
            module,
            nn.CrossEntropyLoss(),
            torch.randn(4, 2),
            torch.tensor([0, 1, 0, 1]),
            method=method,
        )


class Mixing(nn.Module):
    """Subtracts the mean over the batch."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        z = self.one(x)
        return self.two(torch.tanh(z - z.mean(0)))


@pytest.mark.parametrize("method", ["ggn", "hessian", "fisher", "ggn-mc"])
def test_rows_that_depend_on_each_other_are_refused(method):
    with pytest.raises(ValueError, match="rows depend on each other"):
        diagonal(
            Mixing(),
            nn.CrossEntropyLoss(),
            torch.randn(4, 3),
            torch.tensor([0, 1, 0, 1]),
            method=method,
        )


def test_embeddings_that_change_their_weights_are_refused():
    module = nn.Sequential(nn.Embedding(5, 2, max_norm=1.0), nn.Flatten(), nn.Linear(4, 2))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="max_norm=None"):
        diagonal(
            module, nn.CrossEntropyLoss(), torch.randint(0, 5, (3, 2)), torch.tensor([0, 1, 0])
        )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_outputs_that_are_no_tensor_with_the_rows_first_are_refused():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    class Scalar(nn.Linear):
        def forward(self, x):
            return super().forward(x).sum()

    X, y = torch.randn(3, 2), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="returned tuple; expected one tensor"):
        diagonal(Two(2, 2), nn.MSELoss(), X, y)
    with pytest.raises(ValueError, match=r"shape \(\) for \d rows"):
        diagonal(Scalar(2, 2), nn.MSELoss(), X, y)
