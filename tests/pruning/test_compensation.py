"""Survivors move to the minimum of the quadratic model, and never to where the loss is larger."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor
from sk_obd.pruning import compensation
from sk_obd.pruning.compensation import Model, System, compensate, solve
from sk_obd.pruning.moves import Survivors, take, taken
from sk_obd.training.masks import zero_deleted
from sk_obd.training.objective import Objective
from sk_obd.training.penalty import Penalty
from tests.curvature.dense import flat, gauss_newton_matrix
from tests.library.cases import BY_NAME
from tests.library.modules import tanh_mlp
from tests.library.settings import QUICK

F64 = torch.float64


def objective_of(module, criterion, X, y, weights=None, outputs=None):
    return Objective(module, criterion, X, y, weights, outputs=outputs)


def penalty_of(module, strength):
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    return Penalty(parameters, dict.fromkeys(parameters, strength))


def some_gone(module, share, seed=0):
    """Which parameters are alive, and which of them a deletion takes: a random share."""
    generator = torch.Generator().manual_seed(seed)
    masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in module.named_parameters()}
    gone = {
        n: torch.rand(p.shape, generator=generator) < share
        for n, p in module.named_parameters()
        if p.requires_grad
    }
    return masks, gone


def compensated(objective, penalty, masks, gone, damping=0.0):
    return compensate(
        objective,
        penalty,
        Survivors(objective.parameters(), masks, gone),
        gradient=objective.gradient(),
        curvature=objective.curvature("ggn"),
        damping=damping,
    )


def apply(objective, masks, gone, found):
    """Take the step, as the recipe does."""
    take(objective.parameters(), found.step)
    zero_deleted(objective.whole, {n: masks[n] & ~chosen for n, chosen in gone.items()})


# -- what the move is ------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.3])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_on_a_linear_model_the_survivors_become_the_least_squares_fit(share, strength):
    torch.manual_seed(0)
    X, y = torch.randn(40, 6, dtype=F64), torch.randn(40, 1, dtype=F64)
    module = nn.Linear(6, 1, bias=False, dtype=F64)  # not at a minimum
    objective = objective_of(module, nn.MSELoss(), X, y)
    masks, gone = some_gone(module, share)
    found = compensated(objective, penalty_of(module, strength), masks, gone)
    apply(objective, masks, gone, found)
    alive = ~gone["weight"][0]
    A = X[:, alive]
    ridge = strength * torch.eye(A.shape[1], dtype=F64)
    fit = torch.linalg.solve(A.T @ A / 20 + ridge, A.T @ y / 20)
    torch.testing.assert_close(module.weight[0, alive], fit[:, 0], rtol=1e-10, atol=1e-10)
    assert not module.weight[0, ~alive].any()


SOLVED = [
    "mlp Tanh",
    "mlp ReLU",
    "conv2d",
    "batch norm 2d",
    "residual",
    "tied autoencoder",
    "one parameter in two layers",
    "gru",
    "attention",
    "embedding",
    "weighted classes",
    "nll on probabilities",
    "bce with logits",
    "mse",
]


@pytest.mark.parametrize("name", SOLVED)
def test_the_move_is_that_of_a_dense_solve_and_predicts_the_dense_formula(name):
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    masks, gone = some_gone(module, 0.3)
    objective = objective_of(module, criterion, X, y, outputs=case.outputs)
    penalty, damping = penalty_of(module, 0.05), 0.1
    survivors = Survivors(objective.parameters(), masks, gone)
    gradient, h = objective.gradient(), objective.curvature("ggn")
    model = Model(objective, penalty, gradient)

    G = gauss_newton_matrix(module, criterion, X, y, outputs=case.outputs)
    alive = flat(survivors.alive).bool()
    u, g = flat(survivors.before), flat(gradient)
    A = G + 0.05 * torch.eye(len(u), dtype=F64)
    fixed = torch.where(alive, 0, -u)
    slope = g + 0.05 * u
    right = -(slope + A @ fixed)[alive]
    diagonal = (flat(h) + 0.05)[alive]
    damped = A[alive][:, alive] + damping * torch.diag(diagonal)
    expected = torch.linalg.solve(damped, right)

    system = System(model, survivors, right.numpy(), diagonal.numpy(), damping)
    move = solve(system, 4 * len(u))[-1]
    np.testing.assert_allclose(move, expected.numpy(), rtol=0, atol=1e-8 * expected.abs().max())

    step = fixed.clone()
    step[alive] = expected
    of_loss = g @ step + step @ G @ step / 2
    of_both = slope @ step + step @ A @ step / 2
    assert model.changes(survivors.step(move)) == pytest.approx(
        (of_loss.item(), of_both.item()), rel=1e-7
    )


@pytest.mark.parametrize("points", [1, 4])
def test_what_is_predicted_is_what_the_models_on_the_way_say(points, monkeypatch):
    monkeypatch.setattr(compensation, "N_POINTS", points)
    monkeypatch.setattr(compensation, "GAIN", 0.0)
    module, criterion, X, y = BY_NAME["mse"].make()
    objective = objective_of(module, criterion, X, y)
    masks, gone = some_gone(module, 0.3)
    places = []
    move_at = compensation.move_at

    def noting(*args):
        G, g = gauss_newton_matrix(module, criterion, X, y), flat(objective.gradient())
        move = move_at(*args)
        step = flat(move.step)
        places.append((g @ step + step @ G @ step / 2).item())
        return move

    monkeypatch.setattr(compensation, "move_at", noting)
    found = compensated(objective, penalty_of(module, 0.01), masks, gone)
    assert len(places) == points
    assert found.predicted == pytest.approx(sum(places), rel=1e-10)


def test_a_row_of_weight_two_is_the_row_twice():
    module, criterion, X, y = BY_NAME["conv2d"].make()
    masks, gone = some_gone(module, 0.3)
    weights, rows = torch.tensor([2.0, 1.0, 1.0], dtype=F64), [0, 0, 1, 2]
    steps = [
        compensated(objective, penalty_of(module, 0.01), masks, gone).step
        for objective in (
            objective_of(module, criterion, X, y, weights),
            objective_of(module, criterion, X[rows], y[rows]),
        )
    ]
    torch.testing.assert_close(*map(flat, steps), rtol=1e-6, atol=1e-9)


def test_deleted_parameters_frozen_ones_and_buffers_stay_and_the_module_comes_back():
    module, criterion, X, y = BY_NAME["batch norm 1d"].make()
    next(module.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    masks, gone = some_gone(module, 0.4)
    objective = objective_of(module, criterion, X, y)
    found = compensated(objective, penalty_of(module, 0.01), masks, gone)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    frozen = next(iter(before))
    assert frozen not in found.step
    apply(objective, masks, gone, found)
    state = module.state_dict()
    assert torch.equal(state[frozen], before[frozen])
    for name, _ in module.named_buffers():
        assert torch.equal(state[name], before[name])
    for name, chosen in gone.items():
        assert not state[name][chosen].any()
        assert not torch.equal(state[name][~chosen], before[name][~chosen])


# -- never worse -----------------------------------------------------------------------------------


def random_problem(seed):
    """A small random network with data, a loss, a deletion and settings."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n, inputs, outputs = int(rng.integers(4, 30)), int(rng.integers(1, 6)), int(rng.integers(2, 5))
    sizes = [inputs, *rng.integers(1, 7, size=rng.integers(0, 3)).tolist(), outputs]
    module = tanh_mlp(*sizes) if rng.random() < 0.5 else relu_mlp(*sizes)
    module = module.to(F64 if rng.random() < 0.5 else torch.float32)
    scale = 10 ** rng.uniform(-1, 1)
    X = (torch.randn(n, inputs) * scale).to(next(module.parameters()).dtype)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(10 ** rng.uniform(-1, 1))
    if rng.random() < 0.5:
        criterion, y = nn.CrossEntropyLoss(), torch.randint(0, outputs, (n,))
    else:
        criterion = nn.MSELoss() if rng.random() < 0.5 else nn.SmoothL1Loss()
        y = torch.randn(n, outputs).to(X.dtype) * scale
    return module, criterion, X, y, rng


def relu_mlp(*sizes):
    layers = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def losses_after(objective, penalty, step):
    """The loss after a step, without and with the penalty."""
    with taken(objective.parameters(), step):
        loss = objective.loss()
        return loss, loss + penalty.value()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Neither SmoothL1Loss")  # where all errors are above 1
def test_the_loss_after_compensation_is_never_above_that_after_the_bare_deletion():
    better = 0
    for seed in range(200):
        module, criterion, X, y, rng = random_problem(seed)
        objective = objective_of(module, criterion, X, y)
        penalty = penalty_of(module, 0.0 if rng.random() < 0.3 else 10 ** rng.uniform(-4, 0))
        masks, gone = some_gone(module, rng.uniform(0.05, 0.95), seed)
        damping = 0.0 if rng.random() < 0.5 else 10 ** rng.uniform(-3, 2)
        found = compensated(objective, penalty, masks, gone, damping)
        survivors = Survivors(objective.parameters(), masks, gone)
        bare = losses_after(objective, penalty, survivors.step(None))
        after = losses_after(objective, penalty, found.step)
        assert after[0] <= bare[0], seed
        assert after[1] <= bare[1], seed
        better += after[0] < bare[0]
    assert better > 100


def test_a_product_that_is_not_finite_ends_the_solve_with_the_last_good_point(monkeypatch):
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    objective = objective_of(module, criterion, X, y)
    masks, gone = some_gone(module, 0.3)
    product, calls = Model.product, []

    def fails_later(self, vectors):
        calls.append(1)
        found = product(self, vectors)
        return {n: v * torch.nan for n, v in found.items()} if 5 < len(calls) < 9 else found

    monkeypatch.setattr(Model, "product", fails_later)
    with pytest.warns(UserWarning, match="not finite; the survivors .* last good point"):
        found = compensated(objective, penalty_of(module, 0.01), masks, gone)
    survivors = Survivors(objective.parameters(), masks, gone)
    assert all(bool(du.isfinite().all()) for du in found.step.values())
    assert not torch.equal(flat(found.step), flat(survivors.step(None)))


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_loss_without_curvature_moves_nothing_unless_the_penalty_has_some(strength):
    torch.manual_seed(0)
    X, y = torch.randn(30, 4, dtype=F64), 9 * torch.randn(30, 2, dtype=F64) + 5
    module = nn.Linear(4, 2).to(F64)
    objective = objective_of(module, nn.L1Loss(), X, y)
    masks, gone = some_gone(module, 0.3)
    survivors = Survivors(objective.parameters(), masks, gone)
    penalty, bare = penalty_of(module, strength), survivors.step(None)
    if not strength:
        with pytest.warns(UserWarning, match="L1Loss nor a penalty has any curvature .* no min"):
            found = compensated(objective, penalty, masks, gone)
        assert torch.equal(flat(found.step), flat(bare))
        return
    found = compensated(objective, penalty, masks, gone)
    assert not torch.equal(flat(found.step), flat(bare))
    before, after = (losses_after(objective, penalty, step) for step in (bare, found.step))
    assert after[0] <= before[0]
    assert after[1] < before[1]


def test_nothing_moves_where_nothing_is_left():
    module, criterion, X, y = BY_NAME["mse"].make()
    objective = objective_of(module, criterion, X, y)
    masks, gone = some_gone(module, 2.0)
    found = compensated(objective, penalty_of(module, 0.01), masks, gone)
    survivors = Survivors(objective.parameters(), masks, gone)
    assert torch.equal(flat(found.step), flat(survivors.step(None)))


# -- in a fit --------------------------------------------------------------------------------------

OBS = QUICK | {"compensation": "obs", "retrain_epochs": 0}


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def weights(estimator):
    return [p.detach().numpy() for p in estimator.net_.module_.parameters()]


def test_compensation_takes_the_place_of_retraining(iris):
    with_it = OBDClassifier(prune_rate=0.9, **OBS).fit(*iris)
    bare = OBDClassifier(prune_rate=0.9, **(OBS | {"compensation": None})).fit(*iris)
    assert with_it.path_[-1]["loss"] < 0.5 * bare.path_[-1]["loss"]
    for name, mask in with_it.mask_.items():
        assert not dict(with_it.net_.module_.named_parameters())[name].detach().numpy()[~mask].any()


@pytest.mark.parametrize("settings", [{}, {"n_recomputations": 2}, {"curvature": "hessian"}])
def test_the_terms_of_the_whole_step_add_up_to_the_actual_increase(iris, settings):
    path = OBDClassifier(prune_rate=0.8, **(OBS | settings)).fit(*iris).path_
    terms = ("first_order", "diagonal", "off_diagonal", "higher_order")
    for i, row in enumerate(path.rows[1:], start=1):
        assert sum(row[term] for term in terms) == pytest.approx(row["actual_increase"], abs=1e-12)
        assert row["actual_increase"] == pytest.approx(row["loss"] - path[i - 1]["loss"], abs=1e-12)
        assert row["n_products"] > 0
        assert row["damping"] >= 0
    assert np.isnan(path[0]["n_products"])


def test_without_compensation_the_path_has_no_products(iris):
    path = OBDClassifier(prune_rate=0.5, **QUICK).fit(*iris).path_
    assert all(np.isnan(row["n_products"]) and np.isnan(row["damping"]) for row in path)
    assert "products" not in path._repr_html_()


def test_small_steps_are_predicted_well(digits):
    settings = OBS | {"step": 0.05, "max_epochs": 60, "hidden_layer_sizes": (16,)}
    path = OBDClassifier(prune_rate=0.5, **settings).fit(*digits).path_
    rows = path.rows[1:]
    error = sum(abs(row["predicted_increase"] - row["actual_increase"]) for row in rows)
    assert error < 0.5 * sum(abs(row["actual_increase"]) for row in rows)


def test_weighted_rows_and_a_callable_saliency_are_compensated(iris):
    X, y = iris
    weights = np.linspace(0.5, 2, len(y))
    settings = OBS | {"saliency": lambda u, h: {n: p.abs() for n, p in u.items()}}
    path = OBDClassifier(prune_rate=0.8, **settings).fit(X, y, sample_weight=weights).path_
    assert all(np.isfinite(row["predicted_increase"]) for row in path.rows[1:])


def test_a_trust_region_takes_any_saliency_with_it(iris):
    settings = OBS | {"trust_region": 0.1, "saliency": "magnitude"}
    fitted = OBDClassifier(prune_rate=0.8, **settings).fit(*iris)
    assert fitted.path_[-1]["prune_rate"] == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ValueError, match="trust_region"):
        OBDClassifier(**(settings | {"compensation": "layer"})).fit(*iris)


def test_cached_iterations_and_continued_fits_are_those_of_one_fit(iris, tmp_path):
    settings = OBS | {"memory": str(tmp_path)}
    short = OBDClassifier(prune_rate=0.6, **settings).fit(*iris)
    longer = OBDClassifier(prune_rate=0.9, **settings).fit(*iris)
    fresh = OBDClassifier(prune_rate=0.9, **OBS).fit(*iris)
    assert same(longer, fresh)
    assert longer.path_[1]["fit_time"] == short.path_[1]["fit_time"]
    assert longer.path_[-1]["damping"] == fresh.path_[-1]["damping"]
    at = longer.at(prune_rate=0.6)
    assert at.n_params_ >= short.n_params_


def test_the_cv_classes_and_grids_compensate(iris):
    X, y = iris
    found = OBDClassifierCV(cv=3, prune_rate=0.9, **OBS).fit(X, y)
    assert found.best_score_ > 0.9
    assert found.path_[-1]["n_products"] > 0
    from sklearn.model_selection import GridSearchCV

    grid = {"compensation": [None, "obs"], "prune_rate": [0.5, 0.9]}
    search = GridSearchCV(OBDClassifier(**(OBS | {"step": 0.5})), grid, cv=3).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_an_interrupted_compensation_leaves_the_last_good_network(iris, monkeypatch):
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compensate(*args, **kwargs)

    monkeypatch.setattr("sk_obd.pruning.recipe.compensate", interrupted)
    estimator = OBDClassifier(prune_rate=0.9, **OBS)
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(*iris)
    assert len(estimator.path_) == 3
    whole = OBDClassifier(prune_rate=0.9, **OBS)
    monkeypatch.undo()
    assert same(whole.fit(*iris).at(iteration=2), estimator)


def test_a_sparse_x_is_compensated_as_the_dense_one(iris):
    from scipy.sparse import csr_matrix

    X, y = iris
    dense = OBDRegressor(prune_rate=0.6, **OBS).fit(X, y)
    sparse = OBDRegressor(prune_rate=0.6, **OBS).fit(csr_matrix(X), y)
    np.testing.assert_allclose(dense.predict(X), sparse.predict(X), rtol=1e-3, atol=1e-3)
