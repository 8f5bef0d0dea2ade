"""The recipe: sizes, prefixes, stop rules, going on, and what a row says."""

import copy

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor
from sk_obd.curvature import METHODS
from sk_obd.pruning.path import PruningPath
from sk_obd.pruning.recipe import Run
from sk_obd.pruning.schedule import advance, trusted_step
from sk_obd.training.objective import Objective
from tests.library.marks import slow_but
from tests.library.nets import classifier_net, regressor_net
from tests.library.settings import TRAINED


def same_network(a, b, X):
    return all((a.mask_[k] == b.mask_[k]).all() for k in a.mask_) and np.array_equal(
        a.predict_proba(X), b.predict_proba(X)
    )


def test_a_fit_to_half_visits_the_networks_of_a_fit_to_nine_tenths(iris):
    X, y = iris
    half = OBDClassifier(prune_rate=0.5, **TRAINED).fit(X, y)
    far = OBDClassifier(prune_rate=0.9, **TRAINED).fit(X, y)
    assert half.n_iter_ >= 3
    for i in range(half.n_iter_):
        assert half.path_[i] | {"fit_time": 0} == pytest.approx(
            far.path_[i] | {"fit_time": 0}, nan_ok=True, rel=0, abs=0
        )
        assert same_network(half.at(iteration=i), far.at(iteration=i), X)


@pytest.mark.parametrize(
    "kind",
    [
        {"saliency": "obd"},
        {"saliency": "taylor"},
        {"saliency": "magnitude"},
        {"saliency": "random"},
        {"curvature": "ggn-mc"},
    ],
)
def test_two_fits_with_one_random_state_are_identical(kind, iris):
    X, y = iris
    first, second = (OBDClassifier(**kind, **TRAINED).fit(X, y) for _ in range(2))
    assert same_network(first, second, X)
    other = OBDClassifier(**kind, **(TRAINED | {"random_state": 1})).fit(X, y)
    assert not same_network(first, other, X)


def test_generators_are_as_they_were(iris):
    import random

    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    OBDClassifier(early_stopping=True, **TRAINED).fit(*iris)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


def test_rows_say_what_was_deleted_and_what_it_cost(iris):
    """Each row against the networks themselves."""
    X, y = iris
    fitted = OBDClassifier(prune_rate=0.9, step=0.4, **TRAINED).fit(X, y)
    target = torch.tensor(y)
    for i in range(1, len(fitted.path_)):
        row, before, after = fitted.path_[i], fitted.at(iteration=i - 1), fitted.at(iteration=i)
        gone = {k: before.mask_[k] & ~after.mask_[k] for k in before.mask_}
        assert row["n_deleted"] == sum(m.sum() for m in gone.values())
        assert row["n_params"] == after.n_params_
        module = before.net_.module_
        tensor = torch.tensor(X)
        with torch.no_grad():
            loss = nn.functional.cross_entropy(module(tensor), target)
            for k, p in module.named_parameters():
                p[torch.tensor(gone[k])] = 0.0
            cut = nn.functional.cross_entropy(module(tensor), target)
            retrained = nn.functional.cross_entropy(after.net_.module_(tensor), target)
        assert row["actual_increase"] == pytest.approx((cut - loss).item(), rel=1e-9, abs=1e-14)
        assert row["loss"] == pytest.approx(retrained.item(), rel=1e-12)
        assert row["train_score"] == after.score(X, y)


def test_the_lowest_saliencies_go_and_their_sum_is_the_prediction(iris):
    X, y = iris
    fitted = OBDClassifier(prune_rate=0.3, step=None, **TRAINED).fit(X, y)
    dense = OBDClassifier(prune_rate=0.0, **TRAINED).fit(X, y)
    assert same_network(dense, fitted.at(iteration=0), X)
    saliency = np.concatenate([s.ravel() for s in dense.saliencies_.values()])
    alive = np.concatenate([m.ravel() for m in fitted.mask_.values()])
    assert saliency[~alive].max() <= saliency[alive].min() * (1 + 1e-5)
    assert fitted.path_[1]["predicted_increase"] == pytest.approx(saliency[~alive].sum())


def test_saliencies_are_half_h_u_squared_by_autograd(iris):
    """The Hessian of the training loss, whole, by torch.func; tanh, so that it is not the GGN."""
    X, y = iris
    settings = TRAINED | {"hidden_layer_sizes": (3,)}
    fitted = OBDClassifier(prune_rate=0.3, activation="tanh", curvature="hessian", **settings).fit(
        X, y
    )
    module = fitted.net_.module_
    names = [n for n, _ in module.named_parameters()]
    shapes = [p.shape for p in module.parameters()]
    u = torch.cat([p.detach().flatten() for p in module.parameters()])

    def loss(u):
        parts = u.split([s.numel() for s in shapes])
        parameters = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        output = torch.func.functional_call(module, parameters, (torch.tensor(X),))
        return nn.functional.cross_entropy(output, torch.tensor(y))

    expected = torch.func.hessian(loss)(u).diagonal() * u**2 / 2
    found = np.concatenate([fitted.saliencies_[n].ravel() for n in names])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.isfinite(fitted.path_[-1]["negative_curvature"])


def test_max_loss_increase_keeps_the_last_good_network(iris):
    X, y = iris
    fitted = OBDClassifier(prune_rate=0.98, max_loss_increase=0.05, **TRAINED).fit(X, y)
    losses = [row["loss"] for row in fitted.path_]
    assert max(losses[:-1]) <= losses[0] + 0.05 < losses[-1]
    assert fitted.n_iter_ == fitted.path_.kept == len(losses) - 2
    assert fitted.n_params_ == fitted.path_[-2]["n_params"]
    free = OBDClassifier(prune_rate=0.98, **TRAINED).fit(X, y)
    assert same_network(fitted, free.at(iteration=fitted.n_iter_), X)


def test_early_stopping_keeps_the_smallest_network_near_the_best_score(cancer):
    X, y = cancer
    fitted = OBDClassifier(
        prune_rate=0.995, early_stopping=True, n_iter_no_change=3, tol=0.01, **TRAINED
    ).fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    scores = np.array([row["validation_score"] for row in fitted.path_])
    good = np.flatnonzero(scores >= scores.max() - 0.01)
    assert fitted.n_iter_ == good[-1]
    assert fitted.score(X[300:], y[300:]) == scores[good[-1]]
    if len(scores) - 1 > good[-1]:
        assert len(scores) - 1 - good[-1] <= 3


def test_early_stopping_holds_out_rows_of_its_own(digits):
    X, y = digits
    fitted = OBDClassifier(
        prune_rate=0.5, early_stopping=True, validation_fraction=0.25, **TRAINED
    ).fit(X, y)
    scores = [row["validation_score"] * 150 for row in fitted.path_]
    assert scores == pytest.approx(np.round(scores))


def test_validation_rows_without_early_stopping_are_scored_only(iris):
    X, y = iris
    fitted = OBDClassifier(prune_rate=0.9, **TRAINED).fit(X, y, X_val=X[:30], y_val=y[:30])
    plain = OBDClassifier(prune_rate=0.9, **TRAINED).fit(X, y)
    assert same_network(fitted, plain, X)
    assert fitted.path_[-1]["validation_score"] == fitted.score(X[:30], y[:30])


def test_scoring_is_what_the_path_scores(diabetes):
    X, y = diabetes
    fitted = OBDRegressor(scoring="neg_mean_absolute_error", **TRAINED).fit(X, y)
    assert fitted.path_[-1]["train_score"] == pytest.approx(-np.abs(fitted.predict(X) - y).mean())


def test_warm_start_goes_on_and_rates_refer_to_the_original_count(iris):
    X, y = iris
    fitted = OBDClassifier(prune_rate=0.5, warm_start=True, **TRAINED).fit(X, y)
    n = fitted.n_params_
    rows = len(fitted.path_)
    mask = {k: m.copy() for k, m in fitted.mask_.items()}
    fitted.set_params(prune_rate=0.8).fit(X, y)
    total = sum(m.size for m in mask.values())
    assert fitted.n_params_ == total - round(0.8 * total) < n
    assert all((fitted.mask_[k] <= mask[k]).all() for k in mask)
    assert len(fitted.path_) > rows
    assert fitted.path_[rows - 1]["n_params"] == n
    fitted.fit(X, y)
    assert fitted.n_params_ == total - round(0.8 * total)
    assert fitted.path_[-1]["n_deleted"] == 0
    with pytest.raises(ValueError, match="warm_start"):
        fitted.fit(X, y + 1)
    with pytest.raises(ValueError, match=r"warm_start.*estimator's net now has"):
        copy.deepcopy(fitted).set_params(hidden_layer_sizes=(5,)).fit(X, y)
    with pytest.raises(ValueError, match=r"warm_start.*already"):
        fitted.set_params(prune_rate=0.5).fit(X, y)


@pytest.mark.parametrize("saliency", ["obd", "random"])
def test_warm_start_from_a_row_of_the_grid_is_the_undisturbed_run(saliency, iris):
    X, y = iris
    settings = TRAINED | {"saliency": saliency}
    straight = OBDClassifier(prune_rate=0.9, **settings).fit(X, y)
    stop = straight.path_[3]
    part = OBDClassifier(prune_rate=int(straight.path_.n_prunable - stop["n_params"]), **settings)
    part.set_params(warm_start=True).fit(X, y)
    assert part.n_params_ == stop["n_params"]
    part.set_params(prune_rate=0.9).fit(X, y)
    assert same_network(part, straight, X)


@pytest.mark.parametrize("curvature", slow_but(["ggn"], METHODS))
@pytest.mark.parametrize("saliency", ["obd", "taylor"])
def test_every_curvature_prunes_and_keeps_predicting(curvature, saliency, cancer):
    fitted = OBDClassifier(
        prune_rate=0.8, curvature=curvature, saliency=saliency, activation="tanh", **TRAINED
    ).fit(*cancer)
    assert fitted.score(*cancer) > 0.95


def test_deletion_saliency_is_the_loss_really_evaluated(iris):
    X, y = iris
    settings = TRAINED | {"hidden_layer_sizes": (3,)}
    fitted = OBDClassifier(prune_rate=0.4, saliency="deletion", step=None, **settings).fit(X, y)
    assert fitted.path_[1]["predicted_increase"] < fitted.path_[1]["actual_increase"] + 1
    module, target = fitted.net_.module_, torch.tensor(y)
    weight = module.hidden0.weight
    i, j = map(int, np.argwhere(fitted.mask_["hidden0.weight"])[0])
    with torch.no_grad():
        before = nn.functional.cross_entropy(module(torch.tensor(X)), target).item()
        weight[i, j] = 0.0
        after = nn.functional.cross_entropy(module(torch.tensor(X)), target).item()
    assert fitted.saliencies_["hidden0.weight"][i, j] == pytest.approx(after - before, abs=1e-12)


def test_a_callable_saliency_decides(iris):
    """Deleting the largest weights first, to see that it is obeyed."""

    def largest_first(parameters, curvature):
        assert curvature.keys() == parameters.keys()
        return {k: -u.abs() for k, u in parameters.items()}

    X, y = iris
    dense = OBDClassifier(prune_rate=0, **TRAINED).fit(X, y)
    fitted = OBDClassifier(prune_rate=5, step=None, saliency=largest_first, **TRAINED).fit(X, y)
    size = np.concatenate(
        [p.detach().abs().numpy().ravel() for p in dense.net_.module_.parameters()]
    )
    alive = np.concatenate([m.ravel() for m in fitted.mask_.values()])
    assert set(np.flatnonzero(~alive)) == set(np.argsort(-size)[:5])
    assert np.isnan(fitted.path_[1]["predicted_increase"])


def test_negative_saliencies_go_first(iris):
    def signed(parameters, curvature):
        found = {k: torch.full_like(u, 1.0) for k, u in parameters.items()}
        found["output.bias"][1] = -5.0
        return found

    fitted = OBDClassifier(prune_rate=1, saliency=signed, **TRAINED).fit(*iris)
    assert not fitted.mask_["output.bias"][1]


def test_one_at_a_time_and_all_at_once(iris):
    one = OBDClassifier(prune_rate=4, step=1, **TRAINED).fit(*iris)
    assert [row["n_deleted"] for row in one.path_] == [0, 1, 1, 1, 1]
    once = OBDClassifier(prune_rate=0.5, step=None, **TRAINED).fit(*iris)
    assert once.n_iter_ == 1
    dense = OBDClassifier(prune_rate=0, **TRAINED).fit(*iris)
    assert dense.n_iter_ == 0
    assert all(mask.all() for mask in dense.mask_.values())


def test_no_retraining_is_allowed(iris):
    fitted = OBDClassifier(prune_rate=0.5, step=None, **(TRAINED | {"retrain_epochs": 0})).fit(
        *iris
    )
    dense = fitted.at(iteration=0)
    for name, p in fitted.net_.module_.named_parameters():
        q = dict(dense.net_.module_.named_parameters())[name]
        assert torch.equal(p, q * torch.tensor(fitted.mask_[name]))


def test_prunable_limits_what_is_deleted(iris):
    fitted = OBDClassifier(prune_rate=0.9, prunable=r"weight$", **TRAINED).fit(*iris)
    assert fitted.mask_["hidden0.bias"].all()
    assert fitted.mask_["output.bias"].all()
    n = fitted.mask_["hidden0.weight"].size + fitted.mask_["output.weight"].size
    assert (~fitted.mask_["hidden0.weight"]).sum() + (
        ~fitted.mask_["output.weight"]
    ).sum() == round(0.9 * n)


def test_ranking_is_that_of_rfe(iris):
    fitted = OBDClassifier(prune_rate=0.9, **TRAINED).fit(*iris)
    for name, ranking in fitted.ranking_.items():
        np.testing.assert_array_equal(ranking == 1, fitted.mask_[name])
        first = fitted.at(iteration=1)
        np.testing.assert_array_equal(ranking == fitted.n_iter_ + 1, ~first.mask_[name])


def test_support_and_importances_are_of_the_inputs(cancer):
    fitted = OBDClassifier(prune_rate=0.97, **TRAINED).fit(*cancer)
    read = fitted.mask_["hidden0.weight"].any(axis=0)
    np.testing.assert_array_equal(fitted.support_, read)
    assert 0 < read.sum() < 30
    np.testing.assert_allclose(
        fitted.feature_importances_, fitted.saliencies_["hidden0.weight"].sum(axis=0)
    )
    assert (fitted.feature_importances_[~read] == 0).all()


def test_keep_path_last_keeps_one_network(iris):
    fitted = OBDClassifier(prune_rate=0.9, keep_path="last", **TRAINED).fit(*iris)
    everything = OBDClassifier(prune_rate=0.9, **TRAINED).fit(*iris)
    assert same_network(fitted, everything, iris[0])
    assert list(fitted.path_.networks) == [fitted.n_iter_]
    with pytest.raises(ValueError, match="keep_path='all'"):
        fitted.at(iteration=0)


def test_histories_of_all_rounds_are_joined(iris):
    fitted = OBDClassifier(prune_rate=0.5, **TRAINED).fit(*iris)
    epochs = [row["n_epochs"] for row in fitted.path_]
    history = fitted.net_.history
    assert len(history) == sum(epochs)
    assert [sum(e["iteration"] == i for e in history) for i in range(len(epochs))] == epochs
    assert np.isfinite(history[:, "train_loss"]).all()


def test_a_trained_net_is_pruned_without_dense_training(diabetes):
    X, y = diabetes
    net = regressor_net(verbose=0)
    net.fit(X.astype(np.float32), y.astype(np.float32).reshape(-1, 1))
    before = {k: v.clone() for k, v in net.module_.state_dict().items()}
    fitted = OBDRegressor(net, prune_rate=0.5, retrain_epochs=3, random_state=0)
    fitted.set_params(net__max_epochs=0).fit(X, y)
    dense = fitted.at(iteration=0).net_.module_.state_dict()
    assert all(torch.equal(dense[k], before[k]) for k in before)
    assert fitted.path_[0]["n_epochs"] == 0
    assert all(torch.equal(net.module_.state_dict()[k], before[k]) for k in before)


def test_the_users_net_is_never_changed(iris):
    net = classifier_net(module__n_in=4)
    before = dict(vars(net))
    OBDClassifier(net, retrain_epochs=1).fit(*iris)
    assert dict(vars(net)) == before
    assert not net.initialized_


def test_recomputing_within_a_step_is_small_steps_without_training(iris):
    """Three parts of one iteration, against three iterations that do not train."""
    X, y = iris
    net = classifier_net(module__dtype=torch.float64, max_epochs=30)
    settings = {"saliency": "taylor", "retrain_epochs": 0, "random_state": 0}
    once = OBDClassifier(net, prune_rate=30, step=30, n_recomputations=2, **settings).fit(X, y)
    thrice = OBDClassifier(net, prune_rate=30, step=10, **settings).fit(X, y)
    coarse = OBDClassifier(net, prune_rate=30, step=30, **settings).fit(X, y)
    assert len(once.path_) == 2
    assert same_network(once, thrice, X)
    assert not same_network(once, coarse, X)
    for column in ("predicted_increase", "actual_increase", "diagonal", "off_diagonal"):
        total = sum(row[column] for row in thrice.path_.rows[1:])
        assert once.path_[1][column] == pytest.approx(total, rel=1e-9, abs=1e-14)


def test_a_trust_region_follows_its_rule_to_the_same_end(iris):
    X, y = iris
    fitted = OBDClassifier(prune_rate=0.9, step=0.05, trust_region=0.1, **TRAINED).fit(X, y)
    path = fitted.path_
    for i in range(1, len(path)):
        before = path.rows[:i]
        deleted = sum(row["n_deleted"] for row in before)
        expected = advance(path.n_prunable, deleted, trusted_step(0.05, before, 0.1))
        total = min(expected, round(0.9 * path.n_prunable))
        assert path[i]["n_deleted"] == total - deleted
    assert path[-1]["n_params"] == path.n_prunable - round(0.9 * path.n_prunable)
    assert len({row["n_deleted"] for row in path}) > 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trust_region": 0.0}, "trust_region=0.0; expected a float > 0"),
        ({"trust_region": True}, "trust_region=True; expected a float > 0"),
        ({"trust_region": 0.1, "step": None}, "step=None deletes all at once"),
        ({"trust_region": 0.1, "saliency": "magnitude"}, "'magnitude' predicts none"),
        ({"n_recomputations": -1}, "n_recomputations=-1; expected an int >= 0"),
    ],
)
def test_settings_of_the_step_that_cannot_be_are_refused(settings, message, iris):
    with pytest.raises(ValueError, match=message):
        OBDClassifier(**settings).fit(*iris)


# -- the penalty that a net trains with ------------------------------------------------------------


SUMS = {"criterion__reduction": "sum"}
#: The net, its outputs and settings, and what a batch's sum is divided by in its mean.
TRAINED_SUMS = {
    "of one output": (regressor_net, 1, SUMS, 5),
    "of several outputs": (regressor_net, 3, SUMS, 15),
    "of weighted classes": (
        classifier_net,
        3,
        SUMS | {"criterion__weight": torch.tensor([0.5, 0.1, 0.2])},
        1.4,
    ),
    "a mean of several outputs": (regressor_net, 3, {}, 1),
}


@pytest.mark.parametrize("name", TRAINED_SUMS)
def test_loss_and_penalty_together_have_the_slope_of_what_is_trained(name):
    build, n_out, settings, divisor = TRAINED_SUMS[name]
    settings = settings | {"batch_size": 5, "optimizer__weight_decay": 0.3}
    torch.manual_seed(0)
    net = build(module__n_in=4, module__n_out=n_out, **settings).initialize()
    X, y = torch.randn(5, 4), torch.randn(5, n_out)
    if build is classifier_net:
        y = torch.tensor([0, 1, 2, 0, 1])
    # Four batches of the same rows, so that each has the mean loss of all rows.
    objective = Objective.of_net(net, X.repeat(4, 1), torch.cat([y] * 4))
    run = Run(net, objective, PruningPath(net.module_, ["first.weight"]), None, None)
    slope = objective.gradient()
    added = run.penalty(slope).gradient()
    parameters = dict(net.module_.named_parameters())
    trained = net.get_loss(net.infer(X), y, X=X, training=True)
    trained = trained + 0.15 * sum(p.square().sum() for p in parameters.values())
    expected = torch.autograd.grad(trained, parameters.values())
    for name, of_batch in zip(parameters, expected, strict=True):
        torch.testing.assert_close(slope[name] + added[name], of_batch / divisor)


class ChangingDecay(Callback):
    """Weight decay that rises while a round lasts."""

    def on_epoch_begin(self, net, **kwargs):
        for group in net.optimizer_.param_groups:
            group["weight_decay"] = 0.1 * len(net.history)


@pytest.mark.parametrize("settings", [{"compensation": "obs"}, {"saliency": "obd-decay"}])
def test_decays_that_callbacks_change_do_not_tell_cached_iterations_apart(iris, tmp_path, settings):
    def fit(prune_rate, memory):
        settings_of_net = {"max_epochs": 3, "callbacks": [ChangingDecay()]}
        net = classifier_net(
            module__n_in=4, module__n_out=3, optimizer__weight_decay=1e-3, **settings_of_net
        )
        fixed = {"step": 0.4, "retrain_epochs": 2, "random_state": 0} | settings
        return OBDClassifier(net, prune_rate=prune_rate, memory=memory, **fixed).fit(*iris)

    fit(0.4, str(tmp_path))
    assert same_network(fit(0.64, str(tmp_path)), fit(0.64, None), iris[0])
