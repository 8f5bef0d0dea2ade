"""Parameters without a rule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import dense_diagonal, diagonal
from sk_obd.curvature.losses.registry import loss_of
from sk_obd.curvature.routes.per_row import PerRow
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME, bounded


@pytest.mark.parametrize(
    "name",
    [
        *("rnn", "gru", "lstm", "time first lstm, as many steps as rows", "projected lstm"),
        *("a learned first state", "tied autoencoder", "transformer"),
    ],
)
def test_rows_without_a_rule_are_taken_together(name, monkeypatch):
    module, criterion, X, y = BY_NAME[name].make()

    def alone(*args):
        raise AssertionError("one row at a time takes ten times as long")

    monkeypatch.setattr(PerRow, "one_row", alone)
    for method in ("ggn", "fisher"):
        diagonal(module, criterion, X, y, method=method)


F64 = torch.float64


class Prototypes(nn.Module):
    """Squared distances from a few points, which torch.func differentiates wrongly."""

    def __init__(self, distance):
        super().__init__()
        self.first, self.points = nn.Linear(3, 4), nn.Parameter(torch.randn(3, 4))
        self.distance = distance

    def forward(self, x):
        return -self.distance(self.first(x), self.points)


@pytest.mark.parametrize(
    "distance",
    [
        torch.cdist,
        lambda x, p: torch.cdist(x, p).square(),
        lambda x, p: torch.cdist(x, p, p=1),
        lambda x, p: torch.cdist(x, p, compute_mode="donot_use_mm_for_euclid_dist"),
    ],
)
@pytest.mark.parametrize("method", ["ggn", "fisher"])
def test_what_torch_cannot_batch_rightly_goes_row_by_row(distance, method):
    torch.manual_seed(0)
    module, criterion = Prototypes(distance).to(F64), nn.CrossEntropyLoss()
    X, y = torch.randn(7, 3, dtype=F64), torch.arange(7) % 3
    got = diagonal(module, criterion, X, y, method=method, check=False)
    if method == "fisher":
        rows = [
            torch.autograd.grad(criterion(module(X[[i]]), y[[i]]), list(module.parameters()))
            for i in range(7)
        ]
        expected = [sum(g.square() for g in each) / 7 for each in zip(*rows, strict=True)]
        expected = dict(zip(got, expected, strict=True))
    else:
        expected = dense_diagonal(module, criterion, X, y, method="ggn")
    assert error(got, expected) <= 1e-10


def test_a_batching_rule_that_is_wrong_for_some_rows_is_noticed():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4), nn.PReLU(4), nn.Linear(4, 2)).to(F64)
    per_row = PerRow(module, loss_of(nn.CrossEntropyLoss()), dict(module.named_parameters()))
    X, S = torch.randn(5, 3, dtype=F64), torch.randn(2, 5, 2, dtype=F64)
    rows = [per_row.one_row(X[[i]], S[:, [i]]) for i in range(5)]
    together = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    assert per_row.confirmed(together, X, S)
    together["0.bias"][1, 0, 1] *= 1.001
    assert not per_row.confirmed(together, X, S)


def test_signs_belong_to_rows_and_columns_whatever_the_parameters_shape():
    """A parameter with as many rows as there are columns of all rows together."""
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).to(F64)
    X, y = torch.randn(4, 3, dtype=F64), 3 * torch.randn(4, 2, dtype=F64)
    per_row = PerRow(module, loss_of(bounded), dict(module.named_parameters()))
    total = dict.fromkeys(per_row.parameters, 0)
    form = per_row.loss.form(module(X).detach(), y)
    for S, signs in form.columns():
        assert (signs < 0).any()
        for name, value in per_row.pulled_squares(X, S, signs).items():
            total[name] = total[name] + value / 4
    assert error(total, dense_diagonal(module, bounded, X, y, method="ggn")) <= 1e-10
