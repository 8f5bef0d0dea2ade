"""The problems of BackPACK's and curvlinops' tests, against explicit Jacobians and Hessians."""

from __future__ import annotations

import pytest
import torch

from sk_obd.curvature import dense_diagonal, diagonal, hessian_vector_product
from tests.curvature import plain
from tests.curvature.comparison import error
from tests.library.marks import slow_but
from tests.library.peers import PEERS

QUICK = {"Conv2d, in groups", "AvgPool2d, overlapping", "two shares", "residual blocks"}
CASE = pytest.mark.parametrize(
    "case",
    slow_but([case for case in PEERS if case.name in QUICK], PEERS),
    ids=lambda case: case.name,
)


@CASE
@pytest.mark.parametrize("method", ["ggn", "hessian"])
def test_batches_of_unequal_size_and_weights_of_rows(case, method):
    module, criterion, X, y = case.make()
    w = torch.arange(1, len(X) + 1, dtype=torch.float64)
    expected = dense_diagonal(module, criterion, X, y, sample_weight=w, method=method)
    # Without the check of a few rows: a wrong route is not to be hidden by the general one.
    got = diagonal(
        module, criterion, X, y, sample_weight=w, method=method, batch_size=2, check=False
    )
    assert error(got, expected) <= 1e-10


@CASE
def test_products_are_those_of_the_whole_hessian(case):
    module, criterion, X, y = case.make()
    generator = torch.Generator().manual_seed(1)
    vectors = {
        name: torch.randn(p.shape, dtype=p.dtype, generator=generator)
        for name, p in module.named_parameters()
        if p.requires_grad
    }
    got = hessian_vector_product(module, criterion, X, y, vectors, batch_size=2)
    criterion.reduction = "mean"
    expected = plain.hessian_product(module.eval(), lambda m: criterion(m(X), y), vectors)
    assert error(got, expected) <= 1e-10
