"""What a fit leaves on an estimator, and what it takes away: a fit, a refit, a failed refit."""

import numpy as np
import pytest

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor, OBDRegressorCV
from sk_obd.estimators.state import FEATURES, is_learnt
from sk_obd.pruning.recipe import Run
from tests.library.nets import regressor_net
from tests.library.settings import QUICK

CV = QUICK | {"cv": 2, "prune_rate": 0.8}


def learnt(estimator):
    return {name: value for name, value in vars(estimator).items() if is_learnt(name)}


@pytest.fixture
def shuffled(iris):
    """Other data of the same shape: labels renamed, columns turned round."""
    X, y = iris
    return X[:, ::-1].copy(), np.array(["b", "c", "a"])[y]


# -- a compacted estimator fitted again --------------------------------------------------------


def test_a_compacted_estimator_fitted_again_scores_every_row_with_its_new_network(iris, shuffled):
    clf = OBDClassifier(**QUICK, prune_rate=0.8).fit(*iris).compact()
    clf.fit(*shuffled)
    fresh = OBDClassifier(**QUICK, prune_rate=0.8).fit(*shuffled)
    for column in ("train_score", "loss", "n_params"):
        assert [row[column] for row in clf.path_] == [row[column] for row in fresh.path_]
    for i, row in enumerate(clf.path_):
        assert clf.at(iteration=i).score(*shuffled) == row["train_score"]


def test_early_stopping_of_a_compacted_estimator_fitted_again_looks_at_its_new_network(
    iris, shuffled
):
    settings = QUICK | {"early_stopping": True, "n_iter_no_change": 2, "prune_rate": 0.95}
    clf = OBDClassifier(**settings).fit(*iris).compact().fit(*shuffled)
    fresh = OBDClassifier(**settings).fit(*shuffled)
    assert [row["validation_score"] for row in clf.path_] == [
        row["validation_score"] for row in fresh.path_
    ]
    assert clf.n_iter_ == fresh.n_iter_


@pytest.mark.parametrize(
    "make",
    [
        lambda: OBDClassifier(**QUICK),
        lambda: OBDClassifierCV(**CV),
    ],
)
def test_a_compacted_estimator_fitted_again_has_nothing_of_the_first_fit(iris, shuffled, make):
    again = make().fit(*iris).compact().fit(*shuffled)
    fresh = make().fit(*shuffled)
    assert learnt(again).keys() == learnt(fresh).keys()
    assert not hasattr(again, "backend_")
    np.testing.assert_array_equal(again.predict(shuffled[0]), fresh.predict(shuffled[0]))
    np.testing.assert_array_equal(
        again.predict_proba(shuffled[0]), fresh.predict_proba(shuffled[0])
    )


def test_a_refit_with_other_columns_forgets_the_names_of_the_first(iris):
    pd = pytest.importorskip("pandas")
    X, y = iris
    clf = OBDClassifier(**QUICK).fit(pd.DataFrame(X, columns=list("abcd")), y)
    assert list(clf.feature_names_in_) == list("abcd")
    clf.fit(X[:, :3], y)
    assert not hasattr(clf, "feature_names_in_")
    assert clf.n_features_in_ == 3


# -- a refit that fails ----------------------------------------------------------------------------


FAILURES = {
    "one class": (lambda clf, X, y: clf.fit(X[:, :3], np.zeros(len(X))), ValueError),
    "NaN": (lambda clf, X, y: clf.fit(np.full((9, 3), np.nan), y[:9]), ValueError),
    "no y": (lambda clf, X, y: clf.fit(X[:, :3], None), ValueError),
    "lengths": (lambda clf, X, y: clf.fit(X[:9, :3], y[:8]), ValueError),
    "too many to delete": (
        lambda clf, X, y: clf.set_params(prune_rate=10**6).fit(X[:, :3], y),
        ValueError,
    ),
    "nothing prunable": (
        lambda clf, X, y: clf.set_params(prunable="nowhere").fit(X[:, :3], y),
        ValueError,
    ),
    "weights": (
        lambda clf, X, y: clf.fit(X[:, :3], y, sample_weight=-np.ones(len(y))),
        ValueError,
    ),
    "a scorer that is not one": (
        lambda clf, X, y: clf.set_params(scoring="nothing").fit(X[:, :3], y),
        ValueError,
    ),
}


def state(estimator, X):
    """What a user sees of a fitted estimator."""
    return {
        "predictions": estimator.predict(X),
        "n_features": estimator.n_features_in_,
        "names": learnt(estimator).keys(),
        "ids": {name: id(value) for name, value in learnt(estimator).items()},
        "classes": getattr(estimator, "classes_", None),
    }


def assert_same_state(found, expected):
    np.testing.assert_array_equal(found.pop("predictions"), expected.pop("predictions"))
    np.testing.assert_array_equal(found.pop("classes"), expected.pop("classes"))
    assert found == expected


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        pytest.param(kind, failure, marks=pytest.mark.slow if "CV" in kind.__name__ else ())
        for kind in (OBDClassifier, OBDClassifierCV, OBDRegressor, OBDRegressorCV)
        for failure in FAILURES
        # Values may all be equal.
        if failure != "one class" or "Classifier" in kind.__name__
    ],
)
def test_a_refit_that_fails_leaves_the_earlier_fit_whole(iris, kind, failure):
    X, y = iris
    refit, error = FAILURES[failure]
    estimator = kind(**(CV if kind.__name__.endswith("CV") else QUICK)).fit(X, y)
    before = state(estimator, X)
    with pytest.raises(error):
        refit(estimator, X, y)
    assert_same_state(state(estimator, X), before)


@pytest.mark.parametrize("error", [ValueError("mine"), MemoryError(), KeyboardInterrupt()])
def test_a_refit_that_stops_in_its_first_training_leaves_the_earlier_fit_whole(
    iris, error, monkeypatch
):
    X, y = iris
    clf = OBDClassifier(**QUICK).fit(X, y)
    before = state(clf, X)

    def interrupted(self, masks):
        raise error

    monkeypatch.setattr(Run, "retrain", interrupted)
    with pytest.raises(type(error)):
        clf.fit(X[:60, :3], np.array(["x", "y"])[y[:60]])
    assert_same_state(state(clf, X), before)


def test_a_refit_that_stops_later_has_the_last_good_network_of_the_new_fit(iris, monkeypatch):
    X, y = iris
    clf = OBDClassifier(**QUICK).fit(X, y)
    retrain, calls = Run.retrain, []

    def interrupted(self, masks):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return retrain(self, masks)

    monkeypatch.setattr(Run, "retrain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X[:, :3], np.array(["a", "b", "c"])[y])
    assert clf.n_features_in_ == 3
    assert list(clf.classes_) == ["a", "b", "c"]
    assert len(clf.path_) == 2
    assert clf.path_[-1]["n_params"] == clf.n_params_
    assert set(clf.predict(X[:, :3])) <= {"a", "b", "c"}


def test_a_first_fit_that_fails_leaves_nothing(iris):
    X, y = iris
    clf = OBDRegressor(regressor_net(module__n_in=7), random_state=0)
    with pytest.raises(ValueError, match="could not compute"):
        clf.fit(X.astype(np.float32), y.astype(np.float32))
    assert learnt(clf) == {}


def test_a_fit_leaves_nothing_private_but_one_record(iris):
    clf = OBDClassifier(**QUICK).fit(*iris)
    private = [name for name in learnt(clf) if name.startswith("_")]
    assert private == ["_fitted"]
    assert set(FEATURES[:1]) <= learnt(clf).keys()


# -- assessments are made once --------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"granularity": "unit", "step": 0.05},
        {"sweep": True, "step": 0.1, "prune_rate": 0.95},
        {"n_recomputations": 1},
        {"trust_region": 0.1},
    ],
)
def test_each_network_is_assessed_once(iris, monkeypatch, settings):
    assess, assessed = Run.assess, []

    def counting(self, masks, row, part=0):
        assessed.append((row, part))
        return assess(self, masks, row, part)

    monkeypatch.setattr(Run, "assess", counting)
    settings = QUICK | {"prune_rate": 0.8} | settings
    clf = OBDClassifier(**settings).fit(*iris)
    assert len(clf.path_) > 2
    whole = [row for row, part in assessed if part == 0]
    assert whole == list(range(len(clf.path_)))
    assert len(set(assessed)) == len(assessed)


@pytest.mark.parametrize("saliency", ["random", "obd"])
def test_a_path_continued_from_a_cache_draws_as_a_fresh_one_where_totals_were_passed(
    iris, tmp_path, saliency
):
    settings = QUICK | {
        "granularity": "unit",
        "step": 0.05,
        "saliency": saliency,
        "curvature": "ggn-mc",
    }
    OBDClassifier(**settings, prune_rate=0.4, memory=tmp_path).fit(*iris)
    resumed = OBDClassifier(**settings, prune_rate=0.8, memory=tmp_path).fit(*iris)
    fresh = OBDClassifier(**settings, prune_rate=0.8).fit(*iris)
    for name, mask in fresh.mask_.items():
        np.testing.assert_array_equal(mask, resumed.mask_[name])
    np.testing.assert_array_equal(fresh.predict_proba(iris[0]), resumed.predict_proba(iris[0]))
