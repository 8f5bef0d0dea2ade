"""The diagonal of the inverse Gauss-Newton matrix, against dense matrices by plain autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import inverse
from sk_obd.curvature.inverse import ggn_inverse_diagonal, grouped
from sk_obd.curvature.losses.registry import loss_of
from tests.curvature.dense import apart, flat, gauss_newton_matrix
from tests.library.cases import BY_NAME

F64 = torch.float64
DAMPING = 0.05


def found(case, alive, weights=None):
    module, criterion, X, y = case.make()
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    w = torch.ones(len(X), dtype=F64) if weights is None else weights
    return ggn_inverse_diagonal(
        module,
        loss_of(criterion, case.outputs),
        parameters,
        lambda: [(X, y, w)],
        alive=alive,
        damping=dict.fromkeys(parameters, DAMPING),
    )


def some_alive(case):
    module = case.make()[0]
    generator = torch.Generator().manual_seed(0)
    return {
        n: torch.rand(p.shape, generator=generator) < 0.7
        for n, p in module.named_parameters()
        if p.requires_grad
    }


def of_blocks_by_hand(matrix, alive, blocks):
    """The inverse's diagonal where only some places, by block, are taken together."""
    wanted = flat(alive).bool()
    result = torch.zeros(len(matrix), dtype=F64)
    for block in blocks:
        at = block[wanted[block]]
        own = matrix[at][:, at] + DAMPING * torch.eye(len(at), dtype=F64)
        result[at] = torch.linalg.inv(own).diagonal()
    return result


def blocks_of(module):
    """Places of the numbers of each unit: weight and bias of a layer, or one parameter's own."""
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    places = apart(torch.arange(sum(p.numel() for p in parameters.values())), parameters)
    blocks = []
    for names in grouped(module, parameters):
        for unit in range(len(parameters[names[0]])):
            blocks.append(torch.cat([places[n][unit].flatten() for n in names]))
    return blocks


NAMES = [
    "mlp Tanh",
    "conv2d",
    "batch norm 2d",
    "linear over positions",
    "residual",
    "gru",
    "embedding",
    "tied autoencoder",
    "weighted classes",
    "mse",
    "max pool under a loss that is not convex",
]


def close(got, expected):
    """The inverse is raised by a millionth, to be one at all."""
    torch.testing.assert_close(flat(got), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_small_network_has_the_whole_inverse(name):
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    alive = some_alive(case)
    G = gauss_newton_matrix(module, criterion, X, y, outputs=case.outputs)
    close(found(case, alive), of_blocks_by_hand(G, alive, [torch.arange(len(G))]))


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_larger_one_has_the_inverse_of_each_units_block(name, monkeypatch):
    monkeypatch.setattr(inverse, "FULL_BYTES", 0)
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    alive = some_alive(case)
    G = gauss_newton_matrix(module, criterion, X, y, outputs=case.outputs)
    close(found(case, alive), of_blocks_by_hand(G, alive, blocks_of(module)))


class Scaled(nn.Module):
    """Has a parameter that is a single number, and one whose numbers do not lie in order."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.shift = nn.Parameter(torch.tensor(0.5))

    def forward(self, X):
        return torch.tanh(self.conv(X)).flatten(1) * self.scale + self.shift


@pytest.mark.parametrize("full", [0, 1 << 21])
def test_single_numbers_and_parameters_in_another_order_have_an_inverse(full, monkeypatch):
    monkeypatch.setattr(inverse, "FULL_BYTES", full)
    torch.manual_seed(0)
    module = Scaled().to(F64)
    X, y = torch.randn(9, 2, 3, 2, dtype=F64), torch.randn(9, 6, dtype=F64)
    parameters = dict(module.named_parameters())
    alive = {name: torch.ones_like(p, dtype=torch.bool) for name, p in parameters.items()}
    alive["conv.weight"][0, 1, 0, 1] = alive["shift"][...] = False
    got = ggn_inverse_diagonal(
        module,
        loss_of(nn.MSELoss()),
        parameters,
        lambda: [(X, y, torch.ones(9, dtype=F64))],
        alive=alive,
        damping=dict.fromkeys(parameters, DAMPING),
    )
    G = gauss_newton_matrix(module, nn.MSELoss(), X, y)
    numbers = apart(torch.arange(len(G)), parameters)
    units = [
        torch.cat([numbers["conv.weight"][u].flatten(), numbers["conv.bias"][u : u + 1]])
        for u in range(3)
    ]
    blocks = [*units, numbers["scale"].reshape(1), numbers["shift"].reshape(1)]
    close(got, of_blocks_by_hand(G, alive, [torch.arange(len(G))] if full else blocks))


def test_blocks_that_are_too_large_are_their_diagonals(monkeypatch):
    monkeypatch.setattr(inverse, "FULL_BYTES", 0)
    monkeypatch.setattr(inverse, "BLOCKS_BYTES", 0)
    case = BY_NAME["conv2d"]
    module, criterion, X, y = case.make()
    alive = some_alive(case)
    got = found(case, alive)
    G = gauss_newton_matrix(module, criterion, X, y)
    conv = next(iter(got))
    expected = 1 / (apart(G.diagonal(), alive)[conv] + DAMPING)
    torch.testing.assert_close(got[conv], torch.where(alive[conv], expected, 0), rtol=1e-4, atol=0)


def test_where_a_loss_is_not_convex_the_result_is_finite():
    case = BY_NAME[NAMES[-1]]
    alive = some_alive(case)
    assert all(bool(value.isfinite().all()) for value in found(case, alive).values())


@pytest.mark.parametrize("full", [0, 1 << 21])
def test_a_row_of_weight_two_is_the_row_twice(full, monkeypatch):
    monkeypatch.setattr(inverse, "FULL_BYTES", full)
    case = BY_NAME["mlp Tanh"]
    module, criterion, X, y = case.make()
    rows = [0, 0, 1, 2, 3, 4, 5, 6]
    alive = some_alive(case)
    weights = torch.tensor([2.0, 1, 1, 1, 1, 1, 1], dtype=F64)
    parameters = dict(module.named_parameters())
    twice = ggn_inverse_diagonal(
        module,
        loss_of(criterion),
        parameters,
        lambda: [
            (X[rows[:3]], y[rows[:3]], torch.ones(3)),
            (X[rows[3:]], y[rows[3:]], torch.ones(5)),
        ],
        alive=alive,
        damping=dict.fromkeys(parameters, DAMPING),
    )
    close(found(case, alive, weights), flat(twice))


def test_batches_that_go_different_ways_are_one_sum(monkeypatch):
    monkeypatch.setattr(inverse, "FULL_BYTES", 0)
    case = BY_NAME["experts of later rows"]
    module, criterion, X, y = case.make()
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        module.b.bias.fill_(3.0)  # no unit of the layer is dead
    alive = {n: torch.ones_like(p, dtype=torch.bool) for n, p in parameters.items()}
    parts = [2, 3, 4], [0, 1, 5]  # row 5 takes one layer twice, rows 0 and 1 do not take it
    batches = [(X[at], y[at], torch.ones(3, dtype=F64)) for at in parts]
    got = ggn_inverse_diagonal(
        module,
        loss_of(criterion),
        parameters,
        lambda: batches,
        alive=alive,
        damping=dict.fromkeys(parameters, DAMPING),
    )
    G = gauss_newton_matrix(module, criterion, X, y)
    close(got, of_blocks_by_hand(G, alive, blocks_of(module)))


def test_a_weight_and_its_bias_are_one_unit_and_other_parameters_their_own():
    module = nn.Sequential(
        nn.Linear(3, 2), nn.PReLU(), nn.ConvTranspose1d(2, 4, 1), nn.GRUCell(2, 2)
    )
    names = grouped(module, dict(module.named_parameters()))
    assert ("0.weight", "0.bias") in names
    assert ("1.weight",) in names
    assert ("2.weight",) in names
    assert ("3.weight_ih",) in names
