"""Iterations kept on disk: nothing is trained twice, nothing stale comes back."""

import os
import signal
import subprocess
import sys
import textwrap

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor
from sk_obd.pruning.schedule import schedule
from tests.library.marks import slow_but
from tests.library.modules import TwoLayers
from tests.library.nets import classifier_net, regressor_net
from tests.library.settings import TRAINED


def same(a, b, X):
    for one, other in zip(a.path_, b.path_, strict=True):
        assert one | {"fit_time": 0} == pytest.approx(
            other | {"fit_time": 0}, rel=0, abs=0, nan_ok=True
        )
    for name, mask in a.mask_.items():
        np.testing.assert_array_equal(mask, b.mask_[name])
        np.testing.assert_array_equal(a.saliencies_[name], b.saliencies_[name])
    np.testing.assert_array_equal(a.predict(X), b.predict(X))
    return True


@pytest.mark.parametrize("as_path", [True, False])
def test_a_second_fit_trains_nothing_and_is_the_same(iris, tmp_path, trained, as_path):
    X, y = iris
    memory = str(tmp_path) if as_path else joblib.Memory(tmp_path, verbose=0)
    plain = OBDClassifier(**TRAINED).fit(X, y)
    first = OBDClassifier(memory=memory, **TRAINED).fit(X, y)
    assert same(first, plain, X)
    trained.clear()
    second = OBDClassifier(memory=memory, **TRAINED).fit(X, y)
    assert trained == []
    assert same(second, plain, X)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"saliency": "taylor"}, marks=pytest.mark.slow),
        pytest.param({"curvature": "ggn-mc"}, marks=pytest.mark.slow),
        pytest.param({"n_recomputations": 2}, marks=pytest.mark.slow),
        pytest.param({"trust_region": 0.1}, marks=pytest.mark.slow),
        pytest.param({"sweep": True}, marks=pytest.mark.slow),
        pytest.param({"keep_path": "last"}, marks=pytest.mark.slow),
        pytest.param({"early_stopping": True}, marks=pytest.mark.slow),
    ],
)
def test_a_longer_path_goes_on_from_a_shorter_one(iris, tmp_path, trained, settings):
    X, y = iris
    OBDClassifier(prune_rate=0.5, memory=tmp_path, **TRAINED, **settings).fit(X, y)
    known = len(trained)
    trained.clear()
    far = OBDClassifier(prune_rate=0.9, memory=tmp_path, **TRAINED, **settings).fit(X, y)
    # All but the shorter path's own last row lie on the longer one.
    assert trained == list(range(known - 1, len(far.path_)))
    assert same(far, OBDClassifier(prune_rate=0.9, **TRAINED, **settings).fit(X, y), X)


@pytest.mark.slow
def test_a_grid_search_trains_each_state_of_a_fold_once(iris, tmp_path, trained):
    X, y = iris
    grid = {"prune_rate": [0, 0.5, 0.8, 0.9]}
    search = GridSearchCV(OBDClassifier(memory=tmp_path, **TRAINED), grid, cv=3, refit=False)
    search.fit(X, y)
    # The union of the four schedules: that of 0.9, and the last rows of 0.5 and 0.8.
    grid_points = len(schedule(12 * 4 + 12 + 3 * 12 + 3, 0.9, 0.2)) + 1
    assert len(trained) == 3 * (grid_points + 2)
    plain = GridSearchCV(OBDClassifier(**TRAINED), grid, cv=3, refit=False).fit(X, y)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )


class Wider(TwoLayers):
    """A module of the same shapes that computes something else."""

    def forward(self, X):
        return 2 * super().forward(X)


def changed(**change):
    """Arguments of a fit, one of them changed: (estimator's parameters, X, y, weights)."""

    def make(X, y):
        weights = np.ones(len(y))
        parts = {"net": classifier_net(max_epochs=3), "X": X, "y": y, "weights": weights}
        parts |= {k: v(parts[k]) if callable(v) else v for k, v in change.items() if k in parts}
        rest = {k: v for k, v in change.items() if k not in parts}
        return rest, parts

    return make


def bumped(X):
    X = X.copy()
    X[3, 2] = np.nextafter(X[3, 2], 9)
    return X


def flipped(y):
    y = y.copy()
    y[0] = 1 - y[0]
    return y


def doubled(weights):
    weights = weights.copy()
    weights[0] = 2
    return weights


CHANGES = {
    "data": changed(X=bumped),
    "targets": changed(y=flipped),
    "weights": changed(weights=doubled),
    "seed": changed(random_state=1),
    "saliency": changed(saliency="taylor"),
    "curvature": changed(curvature="hessian"),
    "retraining": changed(retrain_epochs=3),
    "recomputing": changed(n_recomputations=1),
    "what may go": changed(prunable="weight"),
    "sweeping": changed(sweep=True),
    "step": changed(step=0.3),
    "optimiser": changed(net=lambda net: net.set_params(optimizer=torch.optim.SGD)),
    "its settings": changed(net=lambda net: net.set_params(optimizer__weight_decay=1e-3)),
    "learning rate": changed(net=lambda net: net.set_params(lr=1e-3)),
    "epochs": changed(net=lambda net: net.set_params(max_epochs=4)),
    "activation": changed(net=lambda net: net.set_params(module__activation=nn.Tanh)),
    "module": changed(net=lambda net: net.set_params(module=Wider)),
}


@pytest.mark.parametrize("change", slow_but(["data", "saliency", "module"], CHANGES))
def test_whatever_is_changed_nothing_stale_comes_back(iris, tmp_path, trained, change):
    X, y = iris

    def fit(make, memory):
        settings, parts = make(X.astype(np.float32), y)
        settings = {"retrain_epochs": 2, "random_state": 0, "prune_rate": 0.4} | settings
        clf = OBDClassifier(parts["net"], memory=memory, **settings)
        return clf.fit(parts["X"], parts["y"], sample_weight=parts["weights"])

    fit(changed(), tmp_path)
    trained.clear()
    found = fit(CHANGES[change], tmp_path)
    # A step or a criterion leaves the dense network what it was; it need not be told apart.
    assert len(trained) >= len(found.path_) - 1
    assert same(found, fit(CHANGES[change], None), X)


def test_scoring_and_stop_rules_are_no_part_of_what_is_kept(iris, tmp_path, trained):
    X, y = iris
    OBDClassifier(memory=tmp_path, **TRAINED).fit(X, y)
    trained.clear()
    clf = OBDClassifier(
        memory=tmp_path, scoring="neg_log_loss", max_loss_increase=0.2, verbose=0, **TRAINED
    ).fit(X, y, X_val=X[::5], y_val=y[::5])
    assert trained == []
    assert clf.path_[0]["train_score"] < 0
    assert np.isfinite(clf.path_[0]["validation_score"])


def test_a_regressor_with_a_learnable_criterion_goes_on_with_its_state(tmp_path, trained, diabetes):
    X, y = (part[:60] for part in diabetes)

    def fit(rate, memory):
        net = regressor_net(criterion=LearntScale, max_epochs=3)
        net.set_params(module__dtype=torch.float64)
        return OBDRegressor(
            net, prune_rate=rate, memory=memory, retrain_epochs=2, random_state=0
        ).fit(X, y)

    fit(0.4, tmp_path)
    trained.clear()
    far = fit(0.8, tmp_path)
    assert 0 not in trained
    assert same(far, fit(0.8, None), X)


class LearntScale(nn.Module):
    """A squared error with a scale that is trained along."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, output, target):
        return (output - target).square().mean() * self.scale.exp() - self.scale


@pytest.mark.parametrize("why", ["seed", "digest"])
def test_without_a_stable_key_nothing_is_kept_and_a_warning_says_so(iris, tmp_path, trained, why):
    X, y = iris
    settings = TRAINED | ({"random_state": None} if why == "seed" else {})
    generator = np.random.default_rng(0)

    def own(parameters, curvature):
        generator.random()
        return {name: u.abs() for name, u in parameters.items()}

    if why == "digest":
        settings["saliency"] = own
    message = {"seed": "random_state is None", "digest": "no digest can be made of"}[why]
    for _ in range(2):
        trained.clear()
        with pytest.warns(UserWarning, match=message):
            OBDClassifier(memory=tmp_path, **settings).fit(X, y)
        assert trained
    assert not list(tmp_path.iterdir())


KILLED = """
    import sys
    from sklearn.datasets import load_digits
    from sk_obd import OBDClassifier

    X, y = load_digits(return_X_y=True)
    clf = OBDClassifier(prune_rate=0.9, memory="cache", random_state=0, verbose=1)
    clf.set_params(hidden_layer_sizes=(30,), max_epochs=20, retrain_epochs=5)
    clf.fit(X[:200] / 16, y[:200])
    print(clf.predict_proba(X[:9] / 16).tobytes().hex())
"""


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_its_last_finished_iteration(tmp_path):
    """Kill -9 in the middle of a path; the rerun ends at the network of an undisturbed run."""
    program = tmp_path / "run.py"
    program.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, "-u", str(program)]

    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    lines = [run.stdout.readline() for _ in range(4)]
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert "iteration 3" in lines[-1]

    def output(folder):
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    again = output(tmp_path)
    # What was kept is not computed again: the times to train are still the killed run's.
    assert again[:4] == [line.rstrip() for line in lines]
    (tmp_path / "fresh").mkdir()
    fresh = output(tmp_path / "fresh")
    assert again[-1] == fresh[-1]
    assert len(again) == len(fresh)
