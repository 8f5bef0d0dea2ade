"""The empirical Fisher."""

from __future__ import annotations

import pytest
import torch

from sk_obd.curvature import diagonal
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME

F64 = torch.float64


def row_gradients(module, criterion, X, y):
    """Gradients of each row's own loss, one backward pass per row."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    for i in range(len(X)):
        value = criterion(module.eval()(X[i : i + 1]), y[i : i + 1])
        yield dict(
            zip(names, torch.autograd.grad(value, parameters, allow_unused=True), strict=True)
        )


@pytest.mark.parametrize(
    "name", ["mlp Tanh", "conv2d", "mse", "lstm", "layer used twice", "transformer"]
)
def test_fisher_is_the_weighted_mean_of_squared_row_gradients(name):
    module, criterion, X, y = BY_NAME[name].make()
    w = torch.rand(len(X), dtype=F64)
    expected = {key: torch.zeros_like(p) for key, p in module.named_parameters()}
    for weight, slopes in zip(w, row_gradients(module, criterion, X, y), strict=True):
        for key, slope in slopes.items():
            expected[key] += 0 if slope is None else weight * slope.square() / w.sum()
    got = diagonal(module, criterion, X, y, method="fisher", sample_weight=w)
    assert error(got, expected) <= 1e-10
