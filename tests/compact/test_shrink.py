"""A smaller network returns the same."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sk_obd.compact import SelectColumns, shrink
from sk_obd.training.masks import count_alive, zero_deleted
from tests.library.marks import slow_but
from tests.library.modules import mlp
from tests.library.networks import NETWORKS, SOME, build, close, densities, prune, stored


@pytest.mark.parametrize("name", slow_but(SOME, NETWORKS))
@settings(max_examples=10, deadline=None, derandomize=True)
@given(density=densities, seed=st.integers(0, 10**6))
def test_a_smaller_network_returns_the_same(name, density, seed):
    module, X = build(name, seed)
    masks = prune(module, density, seed)
    before = copy.deepcopy(module.state_dict())
    smaller, new_masks, report = shrink(module, masks, X[:3])

    close(smaller(X), module(X))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    # Never more, alive or stored, and deleted is zero.
    assert count_alive(new_masks) <= count_alive(masks)
    assert stored(smaller) <= stored(module)
    assert report.n_params == (count_alive(masks), count_alive(new_masks))
    assert new_masks.keys() == dict(smaller.named_parameters()).keys()
    for key, parameter in smaller.named_parameters():
        assert parameter.shape == new_masks[key].shape
        assert (parameter[~new_masks[key]] == 0).all()
    assert not any("did not agree" in row["left"] for row in report.rows)

    # Once more changes nothing.
    again, masks_again, _ = shrink(smaller, new_masks, X[:3])
    assert all(
        torch.equal(a, b)
        for a, b in zip(smaller.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert all(torch.equal(masks_again[key], mask) for key, mask in new_masks.items())


@pytest.mark.parametrize(
    "name", ["three hidden layers", "sigmoid", "no biases", "norm", "same", "sequence", "Wide"]
)
def test_no_parameter_that_stays_is_without_effect(name):
    """By autograd: at some of many rows the output moves with each parameter of the smaller net."""
    module, _ = build(name, 3)
    masks = prune(module, 0.25, 3)
    shape = NETWORKS[name][1]
    X = torch.randn(200, *shape, generator=torch.Generator().manual_seed(4)).double()
    smaller, new_masks, _ = shrink(module, masks, X[:3])
    used = {key: torch.zeros(p.shape) for key, p in smaller.named_parameters()}
    for row in X.split(20):
        weights = torch.randn(len(row), 3, generator=torch.Generator().manual_seed(5)).double()
        gradients = torch.autograd.grad(
            (smaller(row) * weights).sum(), list(smaller.parameters()), allow_unused=True
        )
        for key, g in zip(used, gradients, strict=True):
            if g is not None:
                used[key] += g.abs()
    for key, mask in new_masks.items():
        assert (used[key][mask] > 0).all(), key


def test_a_dead_unit_is_folded_into_the_next_bias():
    module = mlp(2, 2, 1, activation=nn.Tanh).double()
    masks = {"0.weight": torch.tensor([[True, True], [False, False]])}
    zero_deleted(module, masks)
    expected = module[2].bias + module[2].weight[:, 1] * torch.tanh(module[0].bias[1])
    smaller, new_masks, _ = shrink(module, masks, torch.zeros(2, 2).double())
    assert smaller[0].weight.shape == (1, 2)
    assert smaller[2].weight.shape == (1, 1)
    close(smaller[2].bias, expected)
    assert count_alive(new_masks) == 5


def test_columns_that_nothing_reads_are_not_selected():
    module = mlp(4, 3, 2)
    masks = {"0.weight": torch.ones(3, 4, dtype=torch.bool)}
    masks["0.weight"][:, [0, 2]] = False
    zero_deleted(module, masks)
    smaller, _, _ = shrink(module, masks, torch.zeros(2, 4))
    assert isinstance(smaller[0], SelectColumns)
    assert smaller[0].index.tolist() == [1, 3]
    assert [name for name, _ in smaller.named_parameters()] == [
        name for name, _ in module.named_parameters()
    ]
    X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(smaller(X), smaller[1:](X[:, [1, 3]]))


def test_a_pruned_smaller_network_becomes_smaller_again():
    module, X = build("one hidden layer", 0)
    smaller, masks, _ = shrink(module, prune(module, 0.2, 0), X[:2])
    for mask in masks.values():
        mask[-1] = False
    zero_deleted(smaller, masks)
    again, _, report = shrink(smaller, masks, X[:2])
    close(again(X), smaller(X))
    assert report.n_stored[1] < report.n_stored[0]
    assert sum(isinstance(layer, SelectColumns) for layer in again) == 1


def test_a_constant_map_is_folded_only_where_no_border_shows_it():
    for padding, channels in ((0, 1), (1, 2)):
        module = nn.Sequential(
            nn.Conv2d(1, 2, 1), nn.Sigmoid(), nn.Conv2d(2, 1, 3, padding=padding)
        ).double()
        masks = {"0.weight": torch.tensor([True, False]).reshape(2, 1, 1, 1)}
        zero_deleted(module, masks)
        X = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(0)).double()
        smaller, _, _ = shrink(module, masks, X)
        assert smaller[0].out_channels == channels
        close(smaller(X), module(X))
    # ReLU makes the constant 0, and zeros beside zeros are not a border.
    module[1] = nn.ReLU()
    with torch.no_grad():
        module[0].bias[1] = -1
    smaller, _, _ = shrink(module, masks, X)
    assert smaller[0].out_channels == 1
    close(smaller(X), module(X))


def test_a_network_entirely_dead_keeps_its_outputs_and_one_unit_a_layer():
    module, X = build("three hidden layers", 0)
    masks = prune(module, 0.0, 0)
    with torch.no_grad():
        module[6].bias += 1
    masks["6.bias"][:] = True
    smaller, new_masks, _ = shrink(module, masks, X)
    one_unit, last = [(1, 1), (1,)], [(3, 1), (3,)]
    assert [tuple(p.shape) for p in smaller.parameters()] == [*one_unit * 3, *last]
    assert count_alive(new_masks) == 3
    assert torch.equal(smaller(X), module(X))


@pytest.mark.parametrize("name", ["nested", "LeNet", "Wide"])
def test_a_smaller_network_pickles_and_trains(name):
    module, X = build(name, 1)
    smaller, _, _ = shrink(module, prune(module, 0.3, 1), X[:2])
    loaded = pickle.loads(pickle.dumps(smaller))
    assert torch.equal(loaded(X), smaller(X))
    smaller(X).sum().backward()
    assert all(p.grad is not None for p in smaller.parameters())


class FoldedWhereItStays(nn.Module):
    """Units of `a` are constants, and their channels have to stay for the sum."""

    def __init__(self, n_more):
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 3, bias=False)
        self.more = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(n_more))

    def forward(self, X):
        h = self.a(X)
        for layer in [self.b, *self.more]:
            h = h + layer(h)
        return h


@pytest.mark.parametrize("n_more", [0, 1, 3])
@pytest.mark.parametrize("dead", [[0], [0, 2], [0, 1, 2]])
def test_no_more_numbers_are_stored_than_before(n_more, dead):
    torch.manual_seed(0)
    module = FoldedWhereItStays(n_more)
    masks = {name: torch.ones(p.shape).bool() for name, p in module.named_parameters()}
    masks["a.weight"][dead] = False
    with torch.no_grad():
        module.a.weight[dead] = 0
    X = torch.randn(4, 2)
    small, _, report = shrink(module, masks, X)
    assert report.n_stored[1] <= report.n_stored[0]
    assert report.n_params[1] <= report.n_params[0]
    torch.testing.assert_close(small(X), module(X))
