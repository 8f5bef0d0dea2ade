"""Dead parameters go right after each deletion: they are free, and counted as deleted."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sk_obd import OBDClassifier, OBDRegressor, obd_path
from sk_obd.compact import dead_parameters
from sk_obd.pruning.rows import INCREMENTS
from sk_obd.pruning.schedule import schedule
from tests.library.marks import slow_but
from tests.library.modules import Branching, SmallConv
from tests.library.nets import classifier_net, regressor_net

QUICK = {"hidden_layer_sizes": (8, 6), "max_epochs": 40, "retrain_epochs": 4, "random_state": 0}
#: One deletion, and nothing after it: what sweeping itself does can be seen.
ONCE = QUICK | {"step": None, "retrain_epochs": 0}


def pair(kind, **settings):
    """The same estimator without and with sweeping."""
    return kind(**settings), kind(sweep=True, **settings)


def n_alive(estimator):
    return sum(int(mask.sum()) for mask in estimator.mask_.values())


def nothing_is_dead(estimator, X):
    masks = {name: torch.from_numpy(mask) for name, mask in estimator.mask_.items()}
    module = estimator.net_.module_
    kind = next(module.parameters()).dtype
    rows = torch.as_tensor(X[:2]).to(kind)
    found = dead_parameters(module, masks, rows, estimator.path_.prunable)
    return not any(mask.any() for mask in found.values())


@pytest.mark.parametrize("rate", [0.9, 0.95])
def test_exactly_the_weights_on_no_way_from_x_to_the_output_go(rate, digits):
    """Boolean matrix products say which: every bias lives, so that it takes any constant over."""
    X, y = digits
    plain, swept = pair(OBDClassifier, prunable="weight", prune_rate=rate, **ONCE)
    masks = plain.fit(X, y).mask_
    layers = ["hidden0.weight", "hidden1.weight", "output.weight"]
    weights = [masks[name].astype(int) for name in layers]
    varies, read = [np.ones(64, int)], [np.ones(10, int)]
    for weight in weights:
        varies.append((weight @ varies[-1] > 0).astype(int))
    for weight in reversed(weights):
        read.insert(0, (read[0] @ weight > 0).astype(int))
    swept.fit(X, y)
    n_swept = 0
    for name, weight, x, out in zip(layers, weights, varies, read[1:], strict=False):
        expected = (weight * out[:, None] * x) > 0
        np.testing.assert_array_equal(swept.mask_[name], expected)
        n_swept += weight.sum() - expected.sum()
    assert n_swept > 0
    assert swept.n_params_ == plain.n_params_ - n_swept
    np.testing.assert_allclose(swept.predict_proba(X), plain.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "gelu"])
@pytest.mark.parametrize("rate", slow_but([0.9], [0.7, 0.9, 0.97]))
def test_sweeping_is_free_and_the_row_tells_of_the_deletion_alone(activation, rate, cancer):
    X, y = cancer
    plain, swept = pair(OBDClassifier, prune_rate=rate, activation=activation, **ONCE)
    plain.fit(X, y)
    swept.fit(X, y)
    np.testing.assert_allclose(swept.predict_proba(X), plain.predict_proba(X), rtol=0, atol=1e-12)
    assert all((swept.mask_[k] <= mask).all() for k, mask in plain.mask_.items())
    one, other = plain.path_[1], swept.path_[1]
    assert {k: one[k] for k in INCREMENTS} == pytest.approx(
        {k: other[k] for k in INCREMENTS}, rel=0, abs=0
    )
    assert other["loss"] == pytest.approx(one["loss"], abs=1e-12)
    assert one["n_deleted"] <= other["n_deleted"] == swept.path_.n_deleted


def test_the_cases_above_do_sweep(cancer):
    X, y = cancer
    counts = {}
    for rate in (0.9, 0.97):
        plain, swept = pair(OBDClassifier, prune_rate=rate, **ONCE)
        counts[rate] = n_alive(plain.fit(X, y)) - n_alive(swept.fit(X, y))
    assert min(counts.values()) > 0


def test_a_regressor_of_several_outputs_sweeps_for_nothing(diabetes):
    X, y = diabetes
    Y = np.stack([y, X[:, 0] * y], axis=1)
    plain, swept = pair(OBDRegressor, prune_rate=0.93, activation="tanh", **ONCE)
    plain.fit(X, Y)
    swept.fit(X, Y)
    assert n_alive(swept) < n_alive(plain)
    np.testing.assert_allclose(swept.predict(X), plain.predict(X), rtol=0, atol=1e-12)


def test_every_living_parameter_moves_the_output(cancer):
    """By autograd, at each network of a path; tanh, so that no unit is off for all rows."""
    X, y = cancer
    clf = OBDClassifier(prune_rate=0.95, activation="tanh", sweep=True, **QUICK).fit(X, y)
    rows = torch.tensor(X)
    weights = torch.randn(len(X), 2, generator=torch.Generator().manual_seed(0)).double()
    for i in range(1, len(clf.path_)):
        module, masks = clf.path_.network(i), clf.path_.masks(i)
        gradients = torch.autograd.grad((module(rows) * weights).sum(), list(module.parameters()))
        for (name, p), gradient in zip(module.named_parameters(), gradients, strict=True):
            assert (gradient[masks[name]] != 0).all(), (i, name)
            assert (p[~masks[name]] == 0).all()


@pytest.mark.parametrize(
    "settings", slow_but([{}], [{}, {"trust_region": 0.3}, {"n_recomputations": 2}])
)
def test_rows_masks_and_ranks_count_what_was_swept(settings, cancer):
    X, y = cancer
    clf = OBDClassifier(prune_rate=0.95, sweep=True, **QUICK, **settings).fit(X, y)
    n = sum(mask.size for mask in clf.mask_.values())
    deleted = 0
    for i, row in enumerate(clf.path_):
        assert i == 0 or row["n_deleted"] > 0
        deleted += row["n_deleted"]
        assert row["n_params"] == n - deleted == n_alive(clf.at(iteration=i))
        assert row["prune_rate"] == deleted / n
        total = sum(row[k] for k in ("first_order", "diagonal", "off_diagonal", "higher_order"))
        assert i == 0 or total == pytest.approx(row["actual_increase"], rel=1e-9, abs=1e-13)
    for name, ranking in clf.ranking_.items():
        np.testing.assert_array_equal(ranking == 1, clf.mask_[name])
        first = clf.at(iteration=1).mask_[name]
        np.testing.assert_array_equal(ranking == clf.n_iter_ + 1, ~first)
    assert clf.n_params_ == n_alive(clf) <= n - round(0.95 * n)
    assert nothing_is_dead(clf, X)


@pytest.mark.slow
def test_the_rate_is_reached_and_totals_that_were_passed_are_left_out(cancer):
    X, y = cancer
    clf = OBDClassifier(prune_rate=0.97, step=0.03, sweep=True, **QUICK).fit(X, y)
    grid = schedule(clf.path_.n_prunable, 0.97, 0.03)
    totals = np.cumsum([row["n_deleted"] for row in clf.path_])
    expected = 0
    for before, after in pairwise(totals):
        # The next total on the grid, and what was free then.
        expected = next(total for total in grid if total > before)
        assert after >= expected
    assert expected == grid[-1]
    assert len(clf.path_) - 1 < len(grid)


def test_nothing_is_swept_where_nothing_is_deleted(iris):
    X, y = iris
    plain, swept = pair(OBDClassifier, prune_rate=0, **QUICK)
    np.testing.assert_array_equal(
        swept.fit(X, y).predict_proba(X), plain.fit(X, y).predict_proba(X)
    )
    assert all(mask.all() for mask in swept.mask_.values())


def test_a_number_is_reached_or_exceeded(iris):
    clf = OBDClassifier(prune_rate=100, step=30, sweep=True, **QUICK).fit(*iris)
    assert clf.path_.n_deleted >= 100 > clf.path_.n_deleted_before


def test_support_is_what_predictions_depend_on(cancer):
    """By autograd: inputs read by dead units alone are no support, as without sweeping they are."""
    X, y = cancer
    settings = {"prune_rate": 0.97, "activation": "tanh", "step": None}
    plain, swept = pair(OBDClassifier, **(ONCE | settings))
    for clf in (plain, swept):
        clf.fit(X, y)
        rows = torch.tensor(X, requires_grad=True)
        weights = torch.randn(len(X), 2, generator=torch.Generator().manual_seed(0)).double()
        (clf.net_.module_(rows) * weights).sum().backward()
        moves = (rows.grad != 0).any(0).numpy()
        if clf is swept:
            np.testing.assert_array_equal(clf.support_, moves)
        else:
            assert (clf.support_ & ~moves).any()


def test_what_may_not_be_deleted_is_not_swept(cancer):
    X, y = cancer
    clf = OBDClassifier(prune_rate=0.95, prunable="hidden.*weight", sweep=True, **QUICK)
    clf.fit(X, y)
    for name, mask in clf.mask_.items():
        assert mask.all() or name in ("hidden0.weight", "hidden1.weight")
    assert nothing_is_dead(clf, X)


@pytest.mark.slow
def test_a_convolution_with_batch_norm_is_swept(digits):
    X, y = digits
    X = X.reshape(-1, 1, 8, 8).astype(np.float32)
    settings = {"prune_rate": 0.97, "step": None, "retrain_epochs": 0, "random_state": 0}
    plain, swept = pair(OBDClassifier, net=classifier_net(SmallConv), **settings)
    plain.fit(X, y)
    swept.fit(X, y)
    assert n_alive(swept) < n_alive(plain)
    np.testing.assert_allclose(swept.predict_proba(X), plain.predict_proba(X), atol=1e-6)
    swept.set_params(step=0.3, retrain_epochs=2).fit(X, y)
    assert nothing_is_dead(swept, X)
    assert swept.mask_["norm.weight"].all()


@pytest.mark.parametrize(
    "optimizer",
    slow_but([torch.optim.Adam], [torch.optim.Adam, torch.optim.SGD, torch.optim.LBFGS]),
)
def test_what_was_swept_stays_zero_whatever_trains(optimizer, diabetes):
    X, y = (part[:100] for part in diabetes)
    net = regressor_net(optimizer=optimizer, module__hidden=6, batch_size=-1)
    reg = OBDRegressor(net, prune_rate=0.9, sweep=True, retrain_epochs=3, random_state=0).fit(X, y)
    before = None
    for i in range(len(reg.path_)):
        fitted = reg.at(iteration=i)
        for name, p in fitted.net_.module_.named_parameters():
            assert (p.detach().numpy()[~fitted.mask_[name]] == 0).all()
            assert before is None or (fitted.mask_[name] <= before[name]).all()
        before = fitted.mask_


def test_units_that_go_whole_take_along_what_reads_them(digits):
    X, y = digits
    settings = QUICK | {"hidden_layer_sizes": (20, 15)}
    clf = OBDClassifier(granularity="unit", prune_rate=0.7, sweep=True, **settings).fit(X, y)
    units = clf.mask_["hidden0.weight"].any(axis=1)
    assert 0 < units.sum() < 20
    assert not clf.mask_["hidden1.weight"][:, ~units].any()
    assert clf.mask_["output.weight"].all()


def test_the_stop_rule_keeps_the_last_good_network(cancer):
    X, y = cancer
    settings = QUICK | {"prune_rate": 0.99, "sweep": True}
    clf = OBDClassifier(max_loss_increase=0.02, **settings).fit(X, y)
    free = OBDClassifier(**settings).fit(X, y).at(iteration=clf.n_iter_)
    assert clf.n_iter_ == len(clf.path_) - 2
    np.testing.assert_array_equal(clf.predict_proba(X), free.predict_proba(X))
    assert nothing_is_dead(clf, X)


@pytest.mark.slow
def test_warm_start_goes_on_as_the_undisturbed_run(cancer):
    X, y = cancer
    settings = QUICK | {"sweep": True, "step": 0.1, "warm_start": True}
    straight = OBDClassifier(prune_rate=0.95, **settings).fit(X, y)
    grid = schedule(straight.path_.n_prunable, 0.95, 0.1)
    totals = np.cumsum([row["n_deleted"] for row in straight.path_])
    visited = [next(t for t in grid if t > before) for before in totals[:-1]]
    part = OBDClassifier(**settings)
    for total in visited:
        part.set_params(prune_rate=total).fit(X, y)
    for name, mask in straight.mask_.items():
        np.testing.assert_array_equal(part.mask_[name], mask)
    np.testing.assert_array_equal(part.predict_proba(X), straight.predict_proba(X))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"sweep": True}, {"granularity": "unit"}])
def test_warm_start_may_ask_again_for_the_rate_that_was_exceeded(settings, cancer):
    X, y = cancer
    clf = OBDClassifier(warm_start=True, **QUICK, **settings)
    for rate in (0.5, 0.85, 0.9):
        clf.set_params(prune_rate=rate).fit(X, y)
        if clf.path_[-1]["prune_rate"] > rate:
            break
    n_params, rows = clf.n_params_, len(clf.path_)
    assert clf.path_[-1]["prune_rate"] > rate
    clf.fit(X, y)
    assert clf.n_params_ == n_params
    assert len(clf.path_) == rows + 1
    with pytest.raises(ValueError, match=r"warm_start.*already"):
        clf.set_params(prune_rate=0.2).fit(X, y)


def test_a_value_that_is_no_bool_is_refused(iris):
    with pytest.raises(TypeError, match="sweep='yes' is a str; expected True or False"):
        OBDClassifier(sweep="yes").fit(*iris)


class Untrained(Callback):
    def on_batch_begin(self, net, **kwargs):
        raise AssertionError("trained before it was refused")


def test_a_network_that_cannot_be_followed_is_refused_before_it_is_trained(digits):
    X, y = digits
    three = y < 3
    net = classifier_net(Branching, module__n_in=9, callbacks=[Untrained()])
    with pytest.raises(ValueError, match=r"sweep=True cannot follow.*Branching.*cannot trace.*or"):
        OBDClassifier(net, sweep=True).fit(X[three, :9], y[three])


def test_the_function_form_has_it(diabetes):
    X, y = diabetes
    settings = {"step": None, "prune_rate": 0.8, "retrain_epochs": 0, "random_state": 0}
    net = regressor_net(module__hidden=20)
    plain, swept = (obd_path(net, X, y, sweep=sweep, **settings) for sweep in (False, True))
    assert swept[-1]["n_params"] < plain[-1]["n_params"] == 48
    assert swept[-1]["loss"] == pytest.approx(plain[-1]["loss"], abs=1e-6)
