"""Rows over normalisers is torch's mean; criteria are left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sk_obd.curvature import diagonal
from sk_obd.curvature.losses.registry import loss_of
from tests.library.cases import BY_NAME, CASES

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@CASE
def test_rows_over_normalisers_is_the_mean(case):
    criterion, output, y = case.judged()
    loss = loss_of(criterion, case.outputs)
    loss.eps = 0.0
    mean = loss.rows(output, y).sum() / loss.normalisers(output, y).sum()
    expected = criterion(
        output.log() if isinstance(criterion, nn.NLLLoss) and case.outputs else output, y
    )
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=0)


def test_the_criterion_is_never_called_or_changed():
    module, criterion, X, y = BY_NAME["weighted classes"].make()
    expected = diagonal(module, criterion, X, y)

    def refuse(*_):
        raise AssertionError("called")

    criterion.reduction = "none"
    criterion.register_forward_hook(refuse)
    criterion.register_forward_pre_hook(refuse)
    got = diagonal(module, criterion, X, y)
    assert criterion.reduction == "none"
    assert len(criterion._forward_hooks) == len(criterion._forward_pre_hooks) == 1
    for name, value in expected.items():
        assert torch.equal(got[name], value)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("name", ["weighted classes", "mse", "gaussian of fixed variance"])
def test_the_criterions_own_reduction_does_not_matter(name, reduction):
    module, criterion, X, y = BY_NAME[name].make()
    expected = diagonal(module, criterion, X, y)
    criterion.reduction = reduction
    for key, value in diagonal(module, criterion, X, y).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-12, atol=0)


def test_a_sum_over_rows_without_reduction_is_refused():
    def total(output, target):
        return (output - target).square().sum()

    module, _, X, y = BY_NAME["mse"].make()
    with pytest.raises(ValueError, match=r"total gives .* mean over single rows"):
        diagonal(module, total, X, y)


def bare(output, target):
    return F.cross_entropy(output, target)


def branching(output, target):
    # torch.func cannot follow a branch on a value.
    return F.cross_entropy(output, target) * (2.0 if output.max() > 100 else 1.0)


def in_numpy(output, target):
    assert output.detach().numpy().ndim == 2
    return F.cross_entropy(output, target)


@pytest.mark.parametrize("criterion", [bare, branching, in_numpy])
def test_rows_without_a_reduction_are_computed_together_where_that_is_the_same(criterion):
    output = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    y = torch.arange(7) % 3
    rows = loss_of(criterion).rows(output, y)
    expected = F.cross_entropy(output, y, reduction="none")
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(
        torch.autograd.grad(rows.sum(), output), torch.autograd.grad(expected.sum(), output)
    )


def test_one_call_is_enough_for_many_rows():
    calls = []

    def counted(output, target):
        calls.append(len(output))
        return F.mse_loss(output, target)

    loss_of(counted).rows(torch.randn(100, 2), torch.randn(100, 2))
    assert len(calls) <= 3


def test_rows_that_torch_func_gets_wrong_are_computed_one_by_one(monkeypatch):
    monkeypatch.setattr(torch.func, "vmap", lambda f: lambda o, t: torch.zeros(len(o)))
    output, y = torch.randn(7, 3), torch.arange(7) % 3
    expected = F.cross_entropy(output, y, reduction="none")
    torch.testing.assert_close(loss_of(bare).rows(output, y), expected)
