"""The safety net: a route that gives another result than plain autograd is not taken."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from sk_obd.curvature import check as net
from sk_obd.curvature import dense_diagonal, diagonal, register_rule
from sk_obd.curvature.boundary import drawn_rows
from sk_obd.curvature.layers.registry import RULES
from sk_obd.curvature.methods import ggn_dense
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME, CASES
from tests.library.marks import slow_but

F64 = torch.float64


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x):
        return x * self.by


@pytest.fixture
def wrong_rule():
    register_rule(Scale, lambda layer, x, G: {"by": 1.01 * G * x})
    yield
    del RULES[Scale]


def scaled(dtype=F64):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Scale(), nn.Linear(4, 3)).to(dtype)
    return module, nn.CrossEntropyLoss(), torch.randn(9, 4, dtype=dtype), torch.arange(9) % 3


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("method", ["ggn", "hessian"])
def test_a_wrong_rule_is_noticed_and_the_general_way_taken(wrong_rule, method, dtype):
    module, criterion, X, y = scaled(dtype)
    with pytest.warns(UserWarning, match="'2.by' than plain autograd") as said:
        got = diagonal(module, criterion, X, y, method=method)
    assert len(said) == 1
    assert said[0].filename == __file__
    expected = dense_diagonal(module, criterion, X, y, method=method)
    assert error(got, expected) <= (1e-10 if dtype is F64 else 1e-4)


def test_it_may_be_switched_off(wrong_rule):
    module, criterion, X, y = scaled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = diagonal(module, criterion, X, y, check=False)
    assert error(got, dense_diagonal(module, criterion, X, y, method="ggn")) > 1e-3


def test_approximations_are_not_compared(monkeypatch):
    def compared(*args):
        raise AssertionError("compared")

    monkeypatch.setattr(net, "pulled_squares", compared)
    monkeypatch.setattr(net, "second_derivatives", compared)
    module, criterion, X, y = BY_NAME["conv2d"].make()
    for method in ("recursion", "recursion-lm"):
        diagonal(module, criterion, X, y, method=method)
    for method in ("ggn", "hessian", "fisher", "ggn-mc"):
        with pytest.raises(AssertionError, match="compared"):
            diagonal(module, criterion, X, y, method=method)


@pytest.mark.parametrize("method", ["ggn", "hessian", "fisher"])
def test_a_dense_chain_is_compared_where_there_is_much_work(method, monkeypatch):
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    expected = diagonal(module, criterion, X, y, method=method, check=False)
    right = ggn_dense.of_parameters

    def wrong(problem, chain, diagonals):
        return {name: 1.001 * value for name, value in right(problem, chain, diagonals).items()}

    for place in ("ggn", "hessian"):
        monkeypatch.setattr(f"sk_obd.curvature.methods.{place}.of_parameters", wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert error(diagonal(module, criterion, X, y, method=method), expected) > 1e-4
    monkeypatch.setattr(net, "WORK", 1)
    with pytest.warns(UserWarning, match="than plain autograd"):
        assert error(diagonal(module, criterion, X, y, method=method), expected) <= 1e-10


@pytest.mark.parametrize("dtype", slow_but([F64], [F64, torch.float32]))
@pytest.mark.parametrize(
    "method", slow_but(["ggn", "hessian"], ["ggn", "hessian", "fisher", "ggn-mc"])
)
def test_what_is_right_raises_no_alarm(method, dtype, monkeypatch):
    monkeypatch.setattr(net, "WORK", 0)
    for case in CASES:
        refused = pytest.raises(ValueError, match=r"convex|negative")
        not_convex = method == "ggn-mc" and case.name == "max pool under a loss that is not convex"
        with refused if not_convex else nullcontext(), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*plain autograd")
            diagonal(*case.make(dtype), method=method, outputs=case.outputs, random_state=0)


def test_rows_are_drawn_from_all_that_count_and_by_the_seed():
    w = torch.ones(1000)
    w[:900] = 0
    seen = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows = drawn_rows(w, 3, generator)
        assert torch.equal(rows, drawn_rows(w, 3, torch.Generator().manual_seed(seed)))
        assert (rows >= 900).all()
        seen.update(rows.tolist())
    assert len(seen) > 30
    assert drawn_rows(torch.ones(2), 3, torch.Generator()).tolist() == [0, 1]
    assert len(drawn_rows(torch.ones(10**4), 3, torch.Generator().manual_seed(0))) == 3


def test_random_state_decides_which_rows_are_looked_at(monkeypatch):
    module, criterion, X, y = BY_NAME["conv2d"].make()
    X, y = X.repeat(30, 1, 1, 1), y.repeat(30)
    X += torch.arange(len(X), dtype=F64).view(-1, 1, 1, 1)
    seen, right = [], net.pulled_squares

    def watched(problem, batch, method):
        seen.append(batch.X.clone())
        return right(problem, batch, method)

    monkeypatch.setattr(net, "pulled_squares", watched)
    for state in (None, None, 0, 1, 1):
        diagonal(module, criterion, X, y, random_state=state)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[3], seen[4])
    assert not torch.equal(seen[2], seen[3])


def test_the_module_and_its_float32_parameters_are_left_as_they_were():
    module, criterion, X, y = BY_NAME["batch norm 2d"].make(torch.float32)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    diagonal(module, criterion, X, y, method="hessian")
    for name, value in module.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
