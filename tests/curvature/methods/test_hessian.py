"""The Hessian's diagonal beside Gauss-Newton's; functions that are differentiable only once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import dense_diagonal, diagonal
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME, OnceSquare, Square


@pytest.mark.parametrize("name", ["mlp ReLU", "mlp LeakyReLU", "deep relu convs"])
def test_hessian_is_ggn_for_piecewise_linear_networks(name):
    module, criterion, X, y = BY_NAME[name].make()
    ggn, exact = (diagonal(module, criterion, X, y, method=m) for m in ("ggn", "hessian"))
    assert error(exact, ggn) <= 1e-12


def test_hessian_is_not_ggn_for_smooth_networks():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    ggn, exact = (diagonal(module, criterion, X, y, method=m) for m in ("ggn", "hessian"))
    assert error(exact, ggn) > 0.1
    assert any((value < 0).any() for value in exact.values())
    assert all((value >= 0).all() for value in ggn.values())


class Squared(nn.Module):
    def __init__(self, function, first):
        super().__init__()
        self.function, self.first = function, first
        self.last = nn.LazyLinear(3, dtype=torch.float64)

    def forward(self, X):
        return self.last(self.function.apply(self.first(X)).flatten(1))


FIRST = {
    "chain": (lambda: nn.Linear(4, 5, dtype=torch.float64), (6, 4)),
    "conv": (lambda: nn.Conv1d(1, 2, 2, dtype=torch.float64), (6, 1, 4)),
}


@pytest.mark.parametrize("method", ["hessian", "recursion"])
@pytest.mark.parametrize("first", FIRST)
def test_a_function_marked_once_differentiable_is_refused_not_left_out(first, method):
    build, shape = FIRST[first]
    torch.manual_seed(0)
    X, y = torch.randn(shape, dtype=torch.float64), torch.arange(6) % 3
    module = Squared(OnceSquare, build())
    module(X)
    with pytest.raises(RuntimeError, match="marked once_differentiable"):
        diagonal(module, nn.CrossEntropyLoss(), X, y, method=method)


@pytest.mark.parametrize("first", FIRST)
def test_a_users_own_function_that_is_twice_differentiable_is_exact(first):
    build, shape = FIRST[first]
    torch.manual_seed(0)
    X, y = torch.randn(shape, dtype=torch.float64), torch.arange(6) % 3
    module = Squared(Square, build())
    module(X)
    found = diagonal(module, nn.CrossEntropyLoss(), X, y, method="hessian")
    expected = dense_diagonal(module, nn.CrossEntropyLoss(), X, y)
    for name, h in expected.items():
        torch.testing.assert_close(found[name], h, rtol=1e-10, atol=1e-12)
