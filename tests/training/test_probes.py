"""What one trial pass shows of a network."""

import numpy as np
import pytest
import torch
from torch import nn

from sk_obd.training.nets import start
from sk_obd.training.probes import RowsSeen, probe, try_net
from tests.library.modules import Residual, SmallConv, Twice, TwoLayers, TwoOutputs, mlp
from tests.library.nets import classifier_net


class Skip(nn.Module):
    """X enters two Linear layers; or with `more`, also the output itself."""

    def __init__(self, more=False):
        super().__init__()
        self.more = more
        self.a, self.b = nn.Linear(4, 5), nn.Linear(9, 2)

    def forward(self, X):
        hidden = torch.relu(self.a(X))
        return self.b(torch.cat([hidden, X], 1)) if self.more else self.b.weight[:, :5] @ hidden.T


class FlattenedOnce(nn.Module):
    """One view of X, read by two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, X):
        X = X.flatten(1)
        return self.a(X) * self.b(X)


class BesideRaw(FlattenedOnce):
    """X enters a layer, and what the output is multiplied with."""

    def forward(self, X):
        return self.a(X) * X.sum(1, keepdim=True)


class Parallel(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, X):
        return torch.relu(self.a(X)) + self.b(X)


@pytest.mark.parametrize(
    ("module", "shape", "readers"),
    [
        (TwoLayers(), (2, 4), ["first.weight"]),
        (nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 3)), (2, 4), ["2.weight"]),
        (Parallel(), (2, 4), ["a.weight", "b.weight"]),
        (Skip(more=True), (2, 4), None),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), (2, 4), None),
        (FlattenedOnce(), (2, 4), ["a.weight", "b.weight"]),
        (BesideRaw(), (2, 4), None),
        (SmallConv(), (2, 1, 8, 8), None),
    ],
)
def test_the_layers_that_read_x_are_found_or_nothing_is_claimed(module, shape, readers):
    module.train()
    assert probe(module, torch.randn(shape)).readers == readers
    assert module.training


class TwoHeads(Residual):
    """Two layers give a part of the output each."""

    def forward(self, X):
        h = torch.relu(self.one(X))
        return self.top(h), self.two(h)


@pytest.mark.parametrize(
    ("module", "inner"),
    [
        (Residual(torch.relu), ["one", "two"]),
        (TwoHeads(), ["one", "two"]),
        (mlp(4, 4, 3), ["0"]),
        (nn.Sequential(Twice(torch.relu, 4, 4), nn.ReLU(), nn.Linear(4, 3)), ["0.top"]),
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), []),
    ],
)
def test_layers_that_give_the_output_or_are_used_twice_are_spared(module, inner):
    found = probe(module, torch.rand(2, 4)).inner_layers
    assert found == [module.get_submodule(name) for name in inner]


def test_the_output_is_that_of_eval_mode_and_the_module_stays_as_it_was():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    X = torch.randn(5, 4)
    trial = probe(module, X)
    assert module.training
    assert not any(layer._forward_hooks for layer in module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(trial.output, module.eval()(X).detach())
    assert torch.equal(trial.rows, X)
    assert not trial.rows.requires_grad


def test_an_output_in_a_tuple_is_told_from_a_single_one():
    assert probe(TwoOutputs(), torch.randn(2, 4)).in_tuple
    assert not probe(TwoLayers(), torch.randn(2, 4)).in_tuple


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (TwoLayers(), (2, 4), 4 * 8 + 8 * 3),
        (SmallConv(), (3, 1, 8, 8), 4 * 9 * 9 + 36 * 10),
    ],
)
def test_multiplications_are_counted_per_row(module, shape, expected):
    assert probe(module, torch.randn(shape)).n_multiplications == expected


def test_one_thread_is_for_small_networks_only(iris, rng):
    X, y = iris
    small = try_net(start(classifier_net(), X, y), torch.tensor(X, dtype=torch.float32))
    assert small.rows_seen(64).single_thread
    assert small.rows_seen(64) == RowsSeen((4,), "float32", ["first.weight"], True)
    wide = start(
        classifier_net(module__n_in=2000, module__hidden=4000), rng.normal(size=(9, 2000)), y
    )
    assert not try_net(wide, torch.zeros(500, 2000)).rows_seen(64).single_thread


def test_made_up_rows_have_the_shape_and_dtype_and_indices_that_exist():
    rows = RowsSeen((3, 2), "float64", None, True).made_up(nn.Identity(), 7)
    assert rows.shape == (7, 3, 2)
    assert rows.dtype == torch.float64
    assert torch.equal(rows, RowsSeen((3, 2), "float64", None, True).made_up(nn.Identity(), 7))
    tables = nn.ModuleList([nn.Embedding(9, 2), nn.Embedding(4, 2)])
    indices = RowsSeen((5,), "int64", None, True).made_up(tables, 50)
    assert np.unique(indices).tolist() == [0, 1, 2, 3]
