"""Exact methods against explicit Jacobians and Hessians, over the shared list of cases."""

from __future__ import annotations

import pytest
import torch

from sk_obd.curvature import dense_diagonal, diagonal
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME, CASES, SOME
from tests.library.marks import slow_but

CASE = pytest.mark.parametrize(
    "case", slow_but([BY_NAME[name] for name in SOME], CASES), ids=lambda case: case.name
)
METHOD = pytest.mark.parametrize("method", ["ggn", "hessian"])


@CASE
@METHOD
def test_exact_in_double_precision(case, method):
    module, criterion, X, y = case.make()
    expected = dense_diagonal(module, criterion, X, y, method=method, outputs=case.outputs)
    got = diagonal(module, criterion, X, y, method=method, outputs=case.outputs)
    assert error(got, expected) <= 1e-10


@CASE
@METHOD
def test_single_precision_agrees_with_double(case, method):
    module, criterion, X, y = case.make()
    expected = diagonal(module, criterion, X, y, method=method, outputs=case.outputs)
    got = diagonal(*case.make(torch.float32), method=method, outputs=case.outputs)
    assert error({k: v.double() for k, v in got.items()}, expected) <= 1e-4


@CASE
@METHOD
def test_the_batch_size_does_not_matter(case, method):
    module, criterion, X, y = case.make()
    whole = diagonal(
        module, criterion, X, y, method=method, outputs=case.outputs, batch_size=len(X)
    )
    for size in (1, 2):
        parts = diagonal(
            module, criterion, X, y, method=method, outputs=case.outputs, batch_size=size
        )
        assert error(parts, whole) <= 1e-12


@METHOD
@pytest.mark.parametrize("name", ["mlp Tanh", "conv2d", "gru", "dense labels"])
def test_twenty_rows_one_or_seven_or_all_at_a_time(name, method):
    module, criterion, X, y = BY_NAME[name].make()
    drawn = torch.randint(len(X), (20,), generator=torch.Generator().manual_seed(0))
    X, y = X[drawn], y[drawn]
    w = torch.arange(20, dtype=torch.float64)
    if X.is_floating_point():
        X = X + torch.linspace(-1, 1, 20, dtype=X.dtype).view(-1, *[1] * (X.ndim - 1))
    one, seven, whole = (
        diagonal(module, criterion, X, y, sample_weight=w, method=method, batch_size=size)
        for size in (1, 7, 20)
    )
    assert max(error(one, whole), error(seven, whole)) <= 1e-12


@CASE
@METHOD
def test_weight_two_is_the_row_twice(case, method):
    module, criterion, X, y = case.make()
    w = torch.ones(len(X), dtype=torch.float64)
    w[0], w[1] = 2.0, 0.0
    rows = [0, 0, *range(2, len(X))]
    twice = diagonal(module, criterion, X[rows], y[rows], method=method, outputs=case.outputs)
    weighted = diagonal(
        module, criterion, X, y, sample_weight=w, method=method, outputs=case.outputs
    )
    assert error(weighted, twice) <= 1e-12
