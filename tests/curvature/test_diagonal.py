"""What comes back: an entry for every trainable parameter, over all rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import METHODS, diagonal, hessian_vector_product
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME, CASES

F64 = torch.float64


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_have_no_entry_and_change_nothing(method):
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    whole = diagonal(module, criterion, X, y, method=method, random_state=0)
    module[0].weight.requires_grad_(False)
    module[2].bias.requires_grad_(False)
    got = diagonal(module, criterion, X, y, method=method, random_state=0)
    assert (
        error(got, {name: whole[name] for name in whole if name not in ("0.weight", "2.bias")})
        <= 1e-12
    )


@pytest.mark.parametrize("method", ["ggn", "hessian", "fisher"])
@pytest.mark.parametrize("name", ["conv2d", "lstm", "transformer"])
def test_a_frozen_body_leaves_the_head(name, method):
    module, criterion, X, y = BY_NAME[name].make()
    whole = diagonal(module, criterion, X, y, method=method)
    head = dict(module.named_parameters())
    last = list(head)[-2:]
    for key, parameter in head.items():
        parameter.requires_grad_(key in last)
    got = diagonal(module, criterion, X, y, method=method)
    assert error(got, {key: whole[key] for key in last}) <= 1e-10


def test_a_parameter_that_is_not_used_has_curvature_zero():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    for method in METHODS:
        got = diagonal(
            Spare(),
            nn.CrossEntropyLoss(),
            torch.randn(3, 2),
            torch.tensor([0, 1, 1]),
            method=method,
        )
        assert not got["spare.weight"].any()
        assert got["used.weight"].any()


def test_a_module_without_trainable_parameters_has_none():
    module = nn.Linear(2, 2).requires_grad_(False)
    assert diagonal(module, nn.MSELoss(), torch.randn(3, 2), torch.zeros(3, 2)) == {}


def test_every_case_names_its_parameters_in_order():
    for case in CASES:
        module, criterion, X, y = case.make()
        got = diagonal(module, criterion, X, y, outputs=case.outputs)
        assert list(got) == [name for name, _ in module.named_parameters()]


def test_zero_initialised_biases_have_curvature():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    for layer in (module[0], module[2], module[4]):
        nn.init.zeros_(layer.bias)
    got = diagonal(module, criterion, X, y)
    assert all(got[name].all() for name in ("0.bias", "2.bias", "4.bias"))


def test_it_is_the_diagonal_and_not_the_row_sums_and_all_rows_count():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()

    ones = {name: torch.ones_like(p) for name, p in module.named_parameters()}
    sums = hessian_vector_product(module, criterion, X, y, ones)
    exact = diagonal(module, criterion, X, y, method="hessian")
    assert error(exact, sums) > 0.1
    parts = [
        diagonal(module, criterion, X[i : i + 1], y[i : i + 1], method="hessian")
        for i in range(len(X))
    ]
    assert error({k: sum(p[k] for p in parts) / len(X) for k in exact}, exact) <= 1e-12
    assert error(parts[-1], exact) > 0.1


def test_only_the_ratios_of_weights_matter():
    module, criterion, X, y = BY_NAME["weighted classes"].make()
    w = torch.rand(len(X), dtype=F64)
    for method in METHODS:
        one, two = (
            diagonal(module, criterion, X, y, sample_weight=s * w, method=method, random_state=0)
            for s in (1, 10)
        )
        assert error(one, two) <= 1e-12


class Spare(nn.Module):
    """A frozen network beside a trainable layer that it does not use."""

    def __init__(self, used, spare):
        super().__init__()
        self.used, self.spare = used.requires_grad_(False), spare

    def forward(self, x):
        return self.used(x).flatten(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_where_only_a_layer_that_is_not_used_is_trainable_all_is_zero(kind, method):
    module = {
        "linear": lambda: Spare(nn.Linear(4, 3), nn.Linear(2, 2)),
        "conv": lambda: Spare(nn.Conv1d(1, 1, 2), nn.Conv1d(1, 1, 2)),
    }[kind]()
    X, y = torch.randn(5, *([1] if kind == "conv" else []), 4), torch.arange(5) % 3
    got = diagonal(module, nn.CrossEntropyLoss(), X, y, method=method)
    assert got.keys() == {"spare.weight", "spare.bias"}
    assert not any(value.any() for value in got.values())
