"""scikit-learn's callbacks are told of every iteration, and may end them."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_obd import OBDClassifier, OBDClassifierCV
from tests.library.marks import slow_but
from tests.library.settings import QUICK


class Log:
    """Notes what it is told; asks to stop after an iteration."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events, self.fitted = [], []

    def setup(self, estimator, context):
        self.events.append(("setup", context.max_subtasks))

    def teardown(self, estimator, context):
        self.events.append(("teardown",))

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.events.append(("end", context.task_name, context.task_id))
        self.fitted.append((fitted_estimator.n_params_, fitted_estimator.score(X, y)))
        return context.task_name == "iteration" and context.task_id == self.stop_after


def test_every_iteration_is_told_of_and_the_fit_around_them(iris):
    X, y = iris
    log = Log()
    clf = OBDClassifier(**QUICK).set_callbacks(log).fit(X, y)
    iterations = [
        (when, "iteration", i) for i in range(len(clf.path_)) for when in ("begin", "end")
    ]
    assert log.events == [
        ("setup", len(clf.path_)),
        ("begin", "fit", 0),
        *iterations,
        ("end", "fit", 0),
        ("teardown",),
    ]
    rows = [(row["n_params"], row["train_score"]) for row in clf.path_]
    assert log.fitted == [*rows, rows[-1]]


def test_a_callback_may_end_the_path(iris):
    clf = OBDClassifier(**QUICK).set_callbacks(Log(stop_after=1)).fit(*iris)
    assert clf.n_iter_ == 1
    assert clf.n_params_ == clf.path_[-1]["n_params"]


def test_callbacks_change_nothing_else(iris):
    X, y = iris
    told = OBDClassifier(**QUICK).set_callbacks(Log()).fit(X, y)
    np.testing.assert_array_equal(
        told.predict_proba(X), OBDClassifier(**QUICK).fit(X, y).predict_proba(X)
    )
    assert not hasattr(told, "_callback_fit_ctx")


def test_a_fit_that_fails_is_torn_down(iris):
    def broken(parameters, curvature):
        raise RuntimeError("broken")

    log = Log()
    with pytest.raises(RuntimeError, match="broken"):
        OBDClassifier(**QUICK, saliency=broken).set_callbacks(log).fit(*iris)
    assert log.events[-1] == ("teardown",)


@pytest.mark.parametrize("settings", [{}, {"trust_region": 0.1}, {"sweep": True}])
def test_a_progress_bar_runs_also_through_a_search(iris, settings, capsys):
    X, y = iris
    pytest.importorskip("rich")
    pipe = make_pipeline(StandardScaler(), OBDClassifier(**settings, **QUICK))
    grid = {"obdclassifier__prune_rate": [0, 0.5]}
    search = GridSearchCV(pipe, grid, cv=2).set_callbacks(ProgressBar(max_propagation_depth=None))
    search.fit(X, y)
    shown = capsys.readouterr().out
    assert "OBDClassifier - fit" in shown
    assert search.best_score_ > 0


@pytest.mark.parametrize("n_jobs", slow_but([1], [1, 2]))
def test_the_folds_of_a_cross_validated_path_are_told_of(iris, n_jobs, capsys):
    X, y = iris
    bar = ProgressBar(max_propagation_depth=None)
    clf = OBDClassifierCV(cv=2, step=0.6, n_jobs=n_jobs, **QUICK)
    told = clone(clf).set_callbacks(bar).fit(X, y)
    shown = capsys.readouterr().out
    assert "OBDClassifierCV - fit" in shown
    assert "final fit" in shown
    assert "fold" in shown
    np.testing.assert_array_equal(told.predict_proba(X), clf.fit(X, y).predict_proba(X))


def test_scikit_learns_scoring_monitor_sees_every_network(iris):
    X, y = iris
    monitor = ScoringMonitor(scoring="accuracy")
    clf = clone(OBDClassifier(**QUICK)).set_callbacks(monitor).fit(X, y)
    rows = [log for log in monitor.get_logs().data if log["task_name"] == "iteration"]
    assert [row["accuracy"] for row in rows] == [row["train_score"] for row in clf.path_]
