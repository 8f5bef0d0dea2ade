"""Chains of Linear layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import METHODS, diagonal
from sk_obd.curvature.losses.registry import loss_of
from sk_obd.curvature.routes.dense_chain import may_be_dense_chain, trace_dense_chain
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME, Case, labels

F64 = torch.float64


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


def traced(*layers, loss=None):
    module, X = nn.Sequential(*layers).to(F64).eval(), torch.randn(4, 3, dtype=F64)
    loss = loss_of(nn.CrossEntropyLoss()) if loss is None else loss
    return trace_dense_chain(module, loss, X, second_slopes=True)


def test_links_hold_the_first_and_second_slope_of_what_follows():
    first, second, top = traced(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Linear(5, 2)).links
    t = torch.tanh(first.z.detach())
    torch.testing.assert_close(first.slope, 1 - t**2)
    torch.testing.assert_close(first.second_slope, -2 * t * (1 - t**2))
    assert torch.equal(second.x, t)
    assert second.slope is second.second_slope is top.slope is None


def test_a_kink_has_no_second_slope():
    first, _ = traced(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).links
    assert torch.equal(first.slope, (first.z > 0).to(F64))
    assert first.second_slope is None


def test_what_mixes_units_is_not_a_dense_chain():
    assert traced(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)) is None
    assert traced(nn.Linear(3, 4), nn.AvgPool1d(2), nn.Linear(2, 2)) is None
    again = nn.Linear(3, 3)
    assert traced(again, nn.Tanh(), again) is None


def test_the_split_is_at_the_last_layer_where_the_loss_sees_through_what_follows():
    proba, log_proba = loss_of(nn.NLLLoss(), "proba"), loss_of(nn.NLLLoss())
    for top, loss in ((nn.Softmax(-1), proba), (nn.LogSoftmax(1), log_proba)):
        chain = traced(nn.Linear(3, 2), top, loss=loss)
        assert torch.equal(chain.logits, chain.links[-1].z)
    chain = traced(nn.Linear(3, 2), nn.Sigmoid(), loss=loss_of(nn.BCELoss()))
    assert torch.equal(chain.logits, chain.links[-1].z)
    chain = traced(nn.Linear(3, 2), nn.Tanh(), loss=loss_of(nn.MSELoss()))
    assert torch.equal(chain.logits, torch.tanh(chain.links[-1].z))


@pytest.mark.parametrize(
    ("name", "may_be"),
    [
        ("mlp Tanh", True),
        ("one layer", True),
        ("residual", True),
        ("layer used twice", True),
        ("one parameter in two layers", False),
        ("conv2d", False),
        ("batch norm 1d", False),
        ("tied autoencoder", False),
    ],
)
def test_a_dense_chain_begins_with_parameters_of_linear_layers(name, may_be):
    module, *_ = BY_NAME[name].make()
    assert may_be_dense_chain(module) is may_be
