"""Each unit's survivors are refitted by least squares to what the unit received before."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sk_obd import OBDClassifier
from sk_obd.pruning import layer_compensation
from sk_obd.pruning.layer_compensation import (
    RIDGE,
    compensate_layers,
    left_as_they_are,
    refit,
)
from sk_obd.pruning.moves import Survivors, take, taken
from sk_obd.training.objective import Objective
from tests.library.cases import BY_NAME
from tests.library.modules import SmallConv, TwoLayers, tanh_mlp
from tests.library.nets import classifier_net
from tests.library.settings import QUICK
from tests.pruning.test_compensation import losses_after, penalty_of, random_problem, some_gone

F64 = torch.float64


def receives(layer, x):
    """The Jacobian of each unit's received sum by its own weights and bias, by autograd.

    (units, rows and positions, d), with what the units receive, (units, rows and positions).
    """

    def by_unit(parameters):
        found = torch.func.functional_call(layer, parameters, (x,))
        return found.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    slopes = torch.func.jacrev(by_unit)(parameters)
    units = range(len(parameters["weight"]))
    # Of each parameter only the part that belongs to the unit: (units, positions, own numbers).
    own = [
        torch.stack([J[u, :, u].reshape(J.shape[1], -1) for u in units]) for J in slopes.values()
    ]
    return torch.cat(own, 2), by_unit(parameters)


def refitted_by_hand(layer, x, wanted, alive, weights, ridge):
    """The move of every unit, one least squares after the other."""
    J, received = receives(layer, x)
    w = weights.repeat_interleave(J.shape[1] // len(weights))
    w = w / w.sum()
    moves = torch.zeros(J.shape[0], J.shape[2], dtype=F64)
    for unit, (j, lacking) in enumerate(zip(J, wanted - received, strict=True)):
        at = alive[unit]
        A = j[:, at].T @ (w[:, None] * j[:, at]) + ridge * torch.eye(int(at.sum()), dtype=F64)
        moves[unit, at] = torch.linalg.solve(A, j[:, at].T @ (w * lacking))
    return moves


def side_by_side(tensors):
    """The weights and bias of each unit in a row: (units, d)."""
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], 1)


LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 4, bias=False), (5,)),
    "linear over positions": (lambda: nn.Linear(3, 4), (2, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 7)),
    "conv2d in groups": (lambda: nn.Conv2d(4, 6, 2, groups=2, dilation=2), (4, 5, 4)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, bias=False, padding=1), (1, 2, 2, 2)),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_refit_is_the_weighted_least_squares_of_every_unit(name, weighted):
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build().to(F64)
    module = nn.Sequential(layer, nn.Flatten())
    X = torch.randn(12, *shape, dtype=F64)
    weights = torch.rand(12, dtype=F64) if weighted else torch.ones(12, dtype=F64)
    y = torch.zeros_like(module(X)).detach()
    objective = Objective(module, nn.MSELoss(), X, y, weights if weighted else None, batch_size=5)
    masks, gone = some_gone(module, 0.4)
    survivors = Survivors(objective.parameters(), masks, gone)
    teacher, before = copy.deepcopy(module), copy.deepcopy(layer)
    take(objective.parameters(), survivors.step(None))
    after = copy.deepcopy(layer)

    J, wanted = receives(before, X)
    w = weights.repeat_interleave(J.shape[1] // 12) / weights.sum() / (J.shape[1] // 12)
    scale = (J.square() * w[:, None]).sum(1)  # units, d: mean squares of the inputs
    alive = side_by_side([~chosen for chosen in gone.values()])
    groups = getattr(layer, "groups", 1)
    ridges = RIDGE * scale.unflatten(0, (groups, -1)).mean((1, 2))
    refit(objective, teacher, "0", survivors, RIDGE)
    pairs = zip(layer.parameters(), after.parameters(), strict=True)
    moved = side_by_side([(p - q).detach() for p, q in pairs])
    per = len(J) // groups
    for g in range(groups):
        units = slice(g * per, (g + 1) * per)
        expected = refitted_by_hand(after, X, wanted, alive, weights, float(ridges[g]))[units]
        torch.testing.assert_close(moved[units], expected, rtol=1e-8, atol=1e-10)


def test_a_layer_reads_the_outputs_of_the_refitted_layers_below():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(F64)
    X = torch.randn(50, 4, dtype=F64)
    objective = Objective(module, nn.MSELoss(), X, module(X).detach())
    masks, gone = some_gone(module, 0.3)
    survivors = Survivors(objective.parameters(), masks, gone)
    teacher = copy.deepcopy(module)
    found = compensate_layers(objective, survivors)
    assert found.damping == RIDGE
    take(objective.parameters(), survivors.step(None))
    refit(objective, teacher, "0", survivors, RIDGE)
    below = torch.tanh(module[0](X)).detach()
    J, _ = receives(module[2], below)
    ridge = RIDGE * float(J.square().mean())
    alive = torch.cat([~gone["2.weight"], ~gone["2.bias"][:, None]], 1)
    move = refitted_by_hand(module[2], below, teacher(X).detach().T, alive, torch.ones(50), ridge)
    bare = survivors.step(None)
    expected = bare["2.weight"] + move[:, :-1].reshape(3, 6)
    torch.testing.assert_close(found.step["2.weight"], expected, rtol=1e-7, atol=1e-9)


class DeadBranch(nn.Module):
    """A network beside a branch whose last layer reads nothing but zeros, and has no bias."""

    def __init__(self):
        super().__init__()
        self.live = tanh_mlp(4, 6, 2)
        self.dead = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
        with torch.no_grad():
            self.dead[0].bias.fill_(-100)

    def forward(self, X):
        return self.live(X) + self.dead(X)


def test_a_layer_that_reads_only_zeros_stays_and_the_others_are_refitted():
    torch.manual_seed(0)
    module = DeadBranch().to(F64)
    X = torch.randn(50, 4, dtype=F64)
    objective = Objective(module, nn.MSELoss(), X, module(X).detach())
    masks, gone = some_gone(module, 0.3)
    gone = {name: chosen for name, chosen in gone.items() if name.startswith("live")}
    survivors = Survivors(objective.parameters(), masks, gone)
    found = compensate_layers(objective, survivors)
    bare = survivors.step(None)
    assert torch.equal(found.step["dead.2.weight"], bare["dead.2.weight"])
    with taken(objective.parameters(), bare):
        loss = objective.loss()
    with taken(objective.parameters(), found.step):
        assert objective.loss() < loss


def test_many_units_are_solved_in_parts(monkeypatch):
    torch.manual_seed(0)
    A = torch.randn(30, 8, dtype=F64)
    A, C = A.T @ A, torch.randn(20, 8, dtype=F64)
    alive = torch.rand(20, 8) < torch.rand(20, 1)
    together = layer_compensation.solve_units(A, C, alive, 0.1)
    monkeypatch.setattr(layer_compensation, "BYTES", 8 * 3 * 36)
    torch.testing.assert_close(layer_compensation.solve_units(A, C, alive, 0.1), together)
    for unit, at in enumerate(alive):
        block = A[at][:, at] + 0.1 * torch.eye(int(at.sum()), dtype=F64)
        torch.testing.assert_close(together[unit, at], torch.linalg.solve(block, C[unit, at]))
        assert not together[unit, ~at].any()


@pytest.mark.slow
def test_the_loss_after_a_refit_is_never_above_that_after_the_bare_deletion():
    better = 0
    for seed in range(200):
        module, criterion, X, y, rng = random_problem(seed)
        objective = Objective(module, criterion, X, y)
        masks, gone = some_gone(module, rng.uniform(0.05, 0.95), seed)
        survivors = Survivors(objective.parameters(), masks, gone)
        found = compensate_layers(objective, survivors)
        penalty = penalty_of(module, 0.0)
        bare, _ = losses_after(objective, penalty, survivors.step(None))
        after, _ = losses_after(objective, penalty, found.step)
        assert after <= bare, seed
        better += after < bare
    assert better > 50


LEFT = {
    "mlp Tanh": [],
    "conv2d": [],
    "batch norm 1d": ["1.weight", "1.bias"],
    "embedding": ["0.weight"],
    "transposed 1d": ["0.weight", "0.bias"],
}


@pytest.mark.parametrize("name", LEFT)
def test_it_is_said_which_parameters_no_refit_reaches(name):
    module, criterion, X, y = BY_NAME[name].make()
    objective = Objective(module, criterion, X, y)
    assert left_as_they_are(objective, list(objective.parameters())) == LEFT[name]


def test_layers_that_are_called_twice_or_share_a_weight_are_left():
    for name in ("layer used twice", "one parameter in two layers"):
        module, criterion, X, y = BY_NAME[name].make()
        objective = Objective(module, criterion, X, y)
        left = left_as_they_are(objective, list(objective.parameters()))
        assert 0 < len(left) < len(list(objective.parameters()))


class OfNoRow(nn.Module):
    """One Linear reads a parameter in the place of rows."""

    def __init__(self, *shape):
        super().__init__()
        self.query = nn.Parameter(torch.ones(shape))
        self.scale = nn.Linear(3, 3)
        self.last = nn.Linear(3, 2)

    def forward(self, X):
        return self.last(torch.tanh(X * self.scale(self.query)))


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_layers_that_read_no_rows_are_left(shape):
    torch.manual_seed(0)
    module = OfNoRow(*shape).to(F64)
    X = torch.randn(20, 3, dtype=F64)
    objective = Objective(module, nn.MSELoss(), X, module(X).detach())
    left = left_as_they_are(objective, list(objective.parameters()))
    assert left == ["query", "scale.weight", "scale.bias"]
    masks, gone = some_gone(module, 0.3)
    compensate_layers(objective, Survivors(objective.parameters(), masks, gone))


class TimeFirst(nn.Module):
    """The first layer reads (positions, rows, features)."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, X):
        return self.last(torch.tanh(self.first(X.transpose(0, 1))).mean(0))


@pytest.mark.parametrize("weighted", [False, True])
def test_layers_whose_rows_are_not_first_are_left_where_rows_have_weights(weighted):
    module, X = TimeFirst().to(F64), torch.randn(6, 3, 2, dtype=F64)
    weights = torch.rand(6, dtype=F64) if weighted else None
    objective = Objective(module, nn.MSELoss(), X, module(X).detach(), weights)
    left = left_as_they_are(objective, list(objective.parameters()))
    assert left == (["first.weight", "first.bias"] if weighted else [])


def test_a_module_without_such_layers_is_refused_before_training():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 2, dtype=F64))

        def forward(self, X):
            return X @ self.weight

    X, y = torch.randn(5, 3, dtype=F64), torch.randn(5, 2, dtype=F64)
    objective = Objective(Product(), nn.MSELoss(), X, y)
    with pytest.raises(ValueError, match='Use compensation="obs"'):
        left_as_they_are(objective, list(objective.parameters()))


LAYER = QUICK | {"compensation": "layer", "retrain_epochs": 0}


def test_a_refit_takes_the_place_of_retraining(iris):
    with_it = OBDClassifier(prune_rate=0.8, **LAYER).fit(*iris)
    bare = OBDClassifier(prune_rate=0.8, **(LAYER | {"compensation": None})).fit(*iris)
    assert with_it.path_[-1]["loss"] < bare.path_[-1]["loss"]
    assert with_it.path_.uncompensated == []
    row = with_it.path_[-1]
    terms = ("first_order", "diagonal", "off_diagonal", "higher_order")
    assert sum(row[term] for term in terms) == pytest.approx(row["actual_increase"], abs=1e-12)
    assert np.isfinite(row["predicted_increase"])


def test_convolutional_networks_are_refitted(digits):
    X, y = digits
    images = X.reshape(-1, 1, 8, 8).astype(np.float32)
    settings = {"prune_rate": 0.5, "step": 0.2, "retrain_epochs": 0, "random_state": 0}
    net = classifier_net(SmallConv, max_epochs=4)
    losses = [
        OBDClassifier(net, compensation=how, **settings).fit(images, y).path_[-1]["loss"]
        for how in (None, "layer")
    ]
    assert losses[1] < losses[0]


class WithinBatch(TwoLayers):
    """Rows depend on each other, so that there is no loss of a single row."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, X):
        return super().forward(self.norm(X))


class Bags(nn.Module):
    """EmbeddingBag can be differentiated only once."""

    def __init__(self):
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(9, 4), nn.Linear(4, 3)

    def forward(self, X):
        return self.last(self.bag(X))


MIXED = {"step": 0.4, "retrain_epochs": 0, "random_state": 0, "saliency": "magnitude"}


@pytest.mark.parametrize("module", [WithinBatch, Bags])
def test_what_has_no_gauss_newton_matrix_is_refitted_without_a_prediction(iris, module):
    X, y = iris
    X = np.abs(X).astype(np.int64) if module is Bags else X
    net = classifier_net(module, max_epochs=3)
    with pytest.warns(UserWarning, match="What a refit costs cannot be predicted"):
        fitted = OBDClassifier(net, compensation="layer", **MIXED).fit(X, y)
    row = fitted.path_[-1]
    assert np.isnan(row["predicted_increase"])
    assert np.isfinite(row["actual_increase"])
    assert row["n_products"] == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"compensation": "obs"},
        {"compensation": "layer", "saliency": "obs"},
        {"compensation": "layer", "saliency": "taylor", "trust_region": 0.1},
    ],
)
def test_what_needs_the_matrix_is_refused_with_the_way_out(iris, settings):
    net = classifier_net(Bags, max_epochs=10**6)
    X = np.abs(iris[0]).astype(np.int64)
    with pytest.raises(RuntimeError, match=r"Bags computes .* only once: .* with other operations"):
        OBDClassifier(net, **(MIXED | settings)).fit(X, iris[1])
