"""Losses over classes, on logits, log-probabilities and probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import METHODS, diagonal
from sk_obd.curvature.losses.registry import loss_of
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME
from tests.library.modules import mlp, tanh_mlp


def test_rows_take_double_outputs_with_single_weights():
    loss = loss_of(nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0])))
    rows = loss.rows(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1]))
    assert rows.dtype == torch.float64
    assert rows.tolist() == pytest.approx([0.5 * 0.6931471805599453, 2 * 0.6931471805599453])


def test_probabilities_carry_skorchs_eps_in_the_rows_alone():
    loss = loss_of(nn.NLLLoss(), outputs="proba")
    p, y = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([1])
    assert loss.rows(p, y).item() == pytest.approx(36.0437, abs=1e-3)
    loss.eps = 1e-3
    assert loss.rows(p, y).item() == pytest.approx(6.9078, abs=1e-3)


@pytest.mark.parametrize("outputs", [None, "proba"])
def test_outputs_that_are_no_probabilities_are_refused(outputs):
    module, X = tanh_mlp(2, 3, 2), torch.randn(3, 2)
    with pytest.raises(ValueError, match="not to 1"):
        diagonal(module, nn.NLLLoss(), X, torch.tensor([0, 1, 0]), outputs=outputs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("top", ["logits", "proba"])
def test_a_class_near_probability_one_keeps_its_small_curvature(method, top):
    torch.manual_seed(0)
    module = mlp(4, 5, 4, 3, activation=nn.ReLU, top=[nn.Softmax(1)] if top == "proba" else ())
    module[4].bias.data[1] = 25.0
    criterion = nn.NLLLoss() if top == "proba" else nn.CrossEntropyLoss()
    X, y = torch.randn(6, 4), torch.ones(6, dtype=torch.long)
    options = {"method": method, "outputs": "proba" if top == "proba" else None}
    if method == "ggn-mc":
        options["random_state"] = 0
    single = diagonal(module, criterion, X, y, **options)
    double = diagonal(module.double(), criterion, X.double(), y, **options)
    assert all(value.max() > 0 for value in double.values())
    assert error({k: v.double() for k, v in single.items()}, double) <= 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_class_numbers_of_a_byte_are_taken_as_torch_takes_them(method):
    module, criterion, X, y = BY_NAME["mlp ReLU"].make()
    options = {"method": method, "random_state": 0}
    expected, got = (diagonal(module, criterion, X, t, **options) for t in (y, y.byte()))
    assert error(got, expected) == 0
