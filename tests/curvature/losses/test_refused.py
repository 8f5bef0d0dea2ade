"""Criteria without a curvature, or with a mean that is not the mean over rows, are refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sk_obd.curvature import dense_diagonal, diagonal, hessian_vector_product
from sk_obd.curvature.losses.registry import loss_of
from tests.curvature.comparison import error
from tests.library.cases import OnceSquare, mlp

F64 = torch.float64


class OnceLoss(nn.Module):
    reduction = "mean"

    def forward(self, output, target):
        value = OnceSquare.apply(output - target)
        return value if self.reduction == "none" else value.mean()


def partly(output, target):
    return ((output - target).square() + OnceSquare.apply(output)).mean()


@pytest.mark.parametrize("method", ["ggn", "hessian", "ggn-mc"])
@pytest.mark.parametrize("act", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize(
    "criterion", [OnceLoss(), partly, lambda o, t: OnceSquare.apply(o - t).mean()]
)
def test_criteria_that_can_be_differentiated_once_are_refused(criterion, act, method):
    conv = nn.Sequential(nn.Conv1d(1, 2, 2), act(), nn.Flatten(), nn.Linear(4, 2)).to(F64)
    y = torch.randn(4, 2, dtype=F64)
    for module, X in (
        (conv, torch.randn(4, 1, 3, dtype=F64)),
        (mlp(3, 4, 2, activation=act).to(F64), torch.randn(4, 3, dtype=F64)),
    ):
        with pytest.raises(ValueError, match=r"once_differentiable.*no curvature of this loss"):
            diagonal(module, criterion, X, y, method=method)
        vectors = {name: torch.ones_like(p) for name, p in module.named_parameters()}
        with pytest.raises(ValueError, match="once_differentiable"):
            hessian_vector_product(module, criterion, X, y, vectors)


def ignoring(output, target):
    return F.cross_entropy(output, target, ignore_index=2)


def masked(output, target):
    kept = (target != 2).to(output.dtype)
    return (F.cross_entropy(output, target, reduction="none") * kept).sum() / kept.sum().clamp(1)


def every_other(output, target):
    return F.cross_entropy(output[::2], target[::2])


class Masked(nn.Module):
    reduction = "mean"

    def forward(self, output, target):
        kept = (target != 2).to(output.dtype)
        value = F.cross_entropy(output, target, reduction="none") * kept
        return value if self.reduction == "none" else value.sum() / kept.sum()


@pytest.mark.parametrize("criterion", [ignoring, masked, every_other, Masked()])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("n", [6, 500])
def test_a_mean_that_leaves_out_rows_is_refused(criterion, dtype, n):
    torch.manual_seed(0)
    module, X = mlp(4, 3).to(dtype), torch.randn(n, 4, dtype=dtype)
    y = torch.arange(n) % 2
    y[n // 2] = 2
    for method in ("ggn", "hessian", "fisher"):
        with pytest.raises(ValueError, match="but the mean over single rows is"):
            diagonal(module, criterion, X, y, method=method)


@pytest.mark.parametrize("top", [(), [nn.Sigmoid()], [nn.Softmax(1)]])
def test_a_divergence_of_no_distribution_is_refused(top):
    module, X = mlp(3, 4, top=top).to(F64), torch.randn(5, 3, dtype=F64)
    y = torch.randn(5, 4, dtype=F64).softmax(1)
    for method in ("ggn", "hessian"):
        with pytest.raises(ValueError, match=r"KLDivLoss: .*not sum to 1 .*LogSoftmax"):
            diagonal(module, nn.KLDivLoss(reduction="batchmean"), X, y, method=method)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("reduction", ["batchmean", "mean"])
def test_a_divergence_is_over_the_dimension_that_sums_to_one(d, reduction):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 12), nn.Unflatten(1, (2, 3, 2)), nn.LogSoftmax(d)
    ).to(F64)
    X, y = torch.randn(4, 3, dtype=F64), torch.randn(4, 2, 3, 2, dtype=F64).softmax(d)
    criterion = nn.KLDivLoss(reduction=reduction)
    loss = loss_of(criterion)
    assert loss.dimension(module(X)) == d
    for method in ("ggn", "hessian"):
        got = diagonal(module, criterion, X, y, method=method)
        assert error(got, dense_diagonal(module, criterion, X, y, method=method)) <= 1e-10
    # The mean over 300 draws for each row.
    sampled = diagonal(
        *(module, criterion, X.repeat(300, 1), y.repeat(300, 1, 1, 1)),
        method="ggn-mc",
        random_state=0,
    )["2.bias"]
    ggn = diagonal(module, criterion, X, y)["2.bias"]
    assert (sampled - ggn).abs().max() < 0.3 * ggn.max()
