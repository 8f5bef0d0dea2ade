"""The chosen size and its scores are what plain fits, fold by fold, say they are."""

import inspect
import pickle
import re
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, get_scorer, log_loss, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor, OBDRegressorCV
from sk_obd.estimators.folds import choose_size
from tests.library.modules import TwoLayers
from tests.library.nets import SizedByData, classifier_net, regressor_net
from tests.library.settings import TRAINED

SLOW = pytest.mark.slow
#: A path of few iterations in each of three folds.
QUICK = TRAINED | {"step": 0.5, "prune_rate": 0.95, "cv": 3}


def plain_path(estimator, X, y, **fit_params):
    """The plain estimator of the same parameters, fitted to the end of the path."""
    kind = OBDClassifier if isinstance(estimator, OBDClassifierCV) else OBDRegressor
    names = kind().get_params(deep=False)
    own = estimator.get_params(deep=False)
    parameters = {name: own[name] for name in names if name in own} | {"scoring": None}
    return kind(**parameters).fit(X, y, **fit_params)


def scores_of(fitted, scorer, X, y):
    return [scorer(fitted.at(iteration=i), X, y) for i in range(len(fitted.path_))]


# -- the path in the folds -------------------------------------------------------------------------

SCORED = [
    (OBDClassifierCV(**QUICK), "iris", None, "accuracy"),
    (OBDClassifierCV(scoring="neg_log_loss", **QUICK), "iris", None, "neg_log_loss"),
    (OBDClassifierCV(classifier_net(), retrain_epochs=2, random_state=0, cv=3), "iris", None, None),
    (OBDRegressorCV(**QUICK), "diabetes", None, "r2"),
    (OBDRegressorCV(scoring="neg_median_absolute_error", **QUICK), "diabetes", KFold(3), None),
]
SCORED[1:] = [pytest.param(*case, marks=SLOW) for case in SCORED[1:]]


@pytest.mark.parametrize(("estimator", "data", "cv", "scoring"), SCORED)
def test_fold_scores_are_those_of_a_plain_fit_on_that_fold(estimator, data, cv, scoring, request):
    X, y = request.getfixturevalue(data)
    fitted = clone(estimator).fit(X, y)
    classifier = isinstance(estimator, OBDClassifierCV)
    splitter = cv or (StratifiedKFold(3) if classifier else KFold(3))
    scorer = get_scorer(scoring or estimator.scoring or ("accuracy" if classifier else "r2"))
    results = fitted.cv_results_
    for k, (train, test) in enumerate(splitter.split(X, y)):
        oracle = plain_path(estimator, X[train], y[train])
        np.testing.assert_array_equal(
            results[f"split{k}_test_score"], scores_of(oracle, scorer, X[test], y[test])
        )
        frame = oracle.path_.to_frame()
        np.testing.assert_array_equal(results["n_params"], frame["n_params"])
        np.testing.assert_array_equal(results["prune_rate"], frame["prune_rate"])


def test_the_final_network_is_that_of_a_plain_fit_to_the_chosen_size(iris):
    X, y = iris
    fitted = OBDClassifierCV(**QUICK).fit(X, y)
    path = plain_path(fitted, X, y)
    at_chosen = path.at(iteration=fitted.best_index_)
    np.testing.assert_array_equal(fitted.predict_proba(X), at_chosen.predict_proba(X))
    assert fitted.n_params_ == at_chosen.n_params_ == fitted.path_[-1]["n_params"]
    assert fitted.prune_rate_ == path.path_[fitted.best_index_]["prune_rate"]
    assert fitted.n_iter_ == fitted.best_index_
    missing = [name for name in vars(path) if name.endswith("_") and not hasattr(fitted, name)]
    assert missing == []


@pytest.mark.slow
def test_a_grid_search_with_a_fresh_fit_a_cell_finds_the_same_scores(iris):
    X, y = iris
    fitted = OBDClassifierCV(**QUICK).fit(X, y)
    deleted = np.cumsum([row["n_deleted"] for row in plain_path(fitted, X, y).path_]).tolist()
    search = GridSearchCV(OBDClassifier(step=0.5, **TRAINED), {"prune_rate": deleted}, cv=3)
    search.fit(X, y)
    for key in ("mean_test_score", "std_test_score", "split0_test_score", "split2_test_score"):
        np.testing.assert_allclose(fitted.cv_results_[key], search.cv_results_[key], rtol=1e-15)


def test_the_results_make_a_table(iris):
    fitted = OBDClassifierCV(**QUICK).fit(*iris)
    frame = pd.DataFrame(fitted.cv_results_)
    assert list(frame.columns[:5]) == [
        "n_params",
        "prune_rate",
        "mean_test_score",
        "std_test_score",
        "split0_test_score",
    ]
    splits = frame[[f"split{k}_test_score" for k in range(3)]]
    np.testing.assert_allclose(frame["mean_test_score"], splits.mean(axis=1))
    np.testing.assert_allclose(frame["std_test_score"], splits.std(axis=1, ddof=0))
    assert (frame["mean_fit_time"] > 0).all()
    assert frame["n_params"].is_monotonic_decreasing
    assert frame["n_params"][0] == 99
    assert fitted.best_score_ == frame["mean_test_score"][fitted.best_index_]


# -- the rule --------------------------------------------------------------------------------------

tables = st.integers(2, 6).flatmap(
    lambda n_folds: st.lists(
        st.lists(st.integers(0, 30), min_size=n_folds, max_size=n_folds), min_size=1, max_size=12
    )
)


@given(tables)
def test_best_takes_the_smallest_of_equal_means(rows):
    # Accuracies of 30 test rows: the exact means decide who is equal.
    means = [sum(Fraction(hits, 30) for hits in row) for row in rows]
    chosen = choose_size(np.array(rows).T / 30, "best")
    assert chosen == max(i for i, mean in enumerate(means) if mean == max(means))


@given(tables)
def test_one_se_takes_the_smallest_within_a_standard_error_of_the_best(rows):
    n = len(rows[0])
    means = [Fraction(sum(row), n) for row in rows]
    best = max(i for i, mean in enumerate(means) if mean == max(means))
    # mean >= best - s / sqrt(n), squared, without a root or a rounding.
    variance = sum((hits - means[best]) ** 2 for hits in rows[best]) / Fraction(n - 1)
    fits = [i for i, mean in enumerate(means) if (means[best] - mean) ** 2 * n <= variance]
    assert choose_size(np.array(rows, float).T, "one_se") == max(fits)


def test_a_size_with_a_nan_is_never_chosen():
    nan = np.nan
    assert choose_size([[0.5, nan, 0.1], [0.5, 0.9, 0.1]], "best") == 0
    with pytest.raises(ValueError, match="NaN or -inf in some fold for every size"):
        choose_size([[nan, 0.5], [0.5, nan]], "best")


@pytest.mark.slow
def test_one_se_is_never_larger_than_best(cancer):
    X, y = cancer
    best, one_se = (OBDClassifierCV(rule=r, **QUICK).fit(X, y) for r in ("best", "one_se"))
    np.testing.assert_array_equal(
        best.cv_results_["mean_test_score"], one_se.cv_results_["mean_test_score"]
    )
    assert one_se.n_params_ < best.n_params_
    for fitted in (best, one_se):
        splits = [fitted.cv_results_[f"split{k}_test_score"] for k in range(3)]
        assert fitted.best_index_ == choose_size(splits, fitted.rule)


# -- folds of every kind ---------------------------------------------------------------------------


def test_a_class_missing_from_a_fold_keeps_its_column(iris):
    X, y = iris
    labels = np.array(["setosa", "versicolor", "virginica"])[y]
    # Sorted rows: each of the three folds lacks one class.
    fitted = OBDClassifierCV(scoring=log_loss_of_all, **(QUICK | {"cv": KFold(3)})).fit(X, labels)
    assert list(fitted.classes_) == ["setosa", "versicolor", "virginica"]
    assert np.isfinite(fitted.cv_results_["mean_test_score"]).all()
    assert fitted.cv_results_["n_params"][0] == 99
    assert fitted.predict_proba(X).shape == (len(y), 3)


def log_loss_of_all(estimator, X, y):
    assert len(estimator.classes_) == 3
    return -log_loss(y, estimator.predict_proba(X), labels=estimator.classes_)


def test_groups_stay_together(iris):
    X, y = iris
    groups = np.arange(len(y)) % 7
    fitted = OBDClassifierCV(**(QUICK | {"cv": GroupKFold(3)})).fit(X, y, groups=groups)
    splits = list(GroupKFold(3).split(X, y, groups))
    same = OBDClassifierCV(**(QUICK | {"cv": splits})).fit(X, y)
    np.testing.assert_array_equal(
        fitted.cv_results_["mean_test_score"], same.cv_results_["mean_test_score"]
    )
    with pytest.raises(ValueError, match="groups"):
        OBDClassifierCV(**(QUICK | {"cv": GroupKFold(3)})).fit(X, y)


def test_splits_may_be_a_generator_also_with_routing(iris):
    X, y = iris
    for routing in (False, True):
        with sklearn.config_context(enable_metadata_routing=routing):
            splits = KFold(3, shuffle=True, random_state=0).split(X)
            fitted = OBDClassifierCV(**(QUICK | {"cv": splits})).fit(X, y, np.ones(len(y)))
        assert "split2_test_score" in fitted.cv_results_


@pytest.mark.slow
def test_input_of_every_kind_gives_the_same(iris):
    X, y = iris
    X = np.where(np.abs(X) < 0.3, 0.0, X)
    expected = OBDClassifierCV(**QUICK).fit(X, y)
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(len(y))[::-1])
    series = pd.Series(y, index=frame.index)
    inputs = [(frame, series), (X.tolist(), y.tolist()), (sparse.csr_array(X), y)]
    for X_given, y_given in [*inputs, (sparse.coo_array(X), y)]:
        fitted = OBDClassifierCV(**QUICK).fit(X_given, y_given)
        np.testing.assert_allclose(
            fitted.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
        )
        assert hasattr(fitted, "feature_names_in_") == (X_given is frame)
    assert list(OBDClassifierCV(**QUICK).fit(frame, y).feature_names_in_) == list("abcd")


def test_images_and_several_outputs(diabetes, rng):
    X, y = diabetes
    both = np.column_stack([y, X[:, 0]])
    fitted = OBDRegressorCV(**QUICK).fit(X, both)
    assert fitted.predict(X).shape == both.shape
    net = regressor_net()
    fitted = OBDRegressorCV(net, retrain_epochs=1, cv=2, prune_rate=0.5).fit(X, y)
    assert fitted.path_[0]["n_params"] == 97
    assert not getattr(net, "initialized_", False)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(iris):
    X, y = iris
    one, two = (OBDClassifierCV(n_jobs=n, **QUICK).fit(X, y) for n in (1, 2))
    for key in one.cv_results_:
        if "time" not in key:
            np.testing.assert_array_equal(one.cv_results_[key], two.cv_results_[key])
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))


def test_a_seed_decides_everything(iris):
    X, y = iris

    def fit(random_state):
        return OBDClassifierCV(**(QUICK | {"random_state": random_state})).fit(X, y)

    first, second = fit(np.random.RandomState(3)), fit(np.random.RandomState(3))
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert not np.array_equal(first.predict_proba(X), fit(4).predict_proba(X))


# -- weights and metadata routing ------------------------------------------------------------------


@pytest.fixture
def weighted(iris):
    X, y = iris
    return X, y, np.random.default_rng(0).integers(0, 4, len(y)).astype(float)


def weighted_oracle(estimator, X, y, weights, *, in_score):
    scores = []
    for train, test in StratifiedKFold(3).split(X, y):
        path = plain_path(estimator, X[train], y[train], sample_weight=weights[train])
        networks = [path.at(iteration=i) for i in range(len(path.path_))]
        given = weights[test] if in_score else None
        scores.append(
            [accuracy_score(y[test], n.predict(X[test]), sample_weight=given) for n in networks]
        )
    return np.array(scores)


@pytest.mark.parametrize(
    ("routing", "request_", "in_score"),
    [
        pytest.param(False, "none", True, id="no routing, default scoring", marks=SLOW),
        pytest.param(True, "none", True, id="routing, default scoring", marks=SLOW),
        pytest.param(True, True, True, id="routing, requested"),
        pytest.param(True, False, False, id="routing, refused", marks=SLOW),
    ],
)
def test_weights_enter_fit_and_where_they_are_wanted_the_scores(
    weighted, routing, request_, in_score
):
    X, y, weights = weighted
    with sklearn.config_context(enable_metadata_routing=routing):
        scoring = None
        if request_ != "none":
            scoring = make_scorer(accuracy_score).set_score_request(sample_weight=request_)
        estimator = OBDClassifierCV(scoring=scoring, **QUICK)
        fitted = clone(estimator).fit(X, y, sample_weight=weights)
        expected = weighted_oracle(estimator, X, y, weights, in_score=in_score)
    found = [fitted.cv_results_[f"split{k}_test_score"] for k in range(3)]
    np.testing.assert_array_equal(found, expected)
    given = weights if in_score else None
    assert fitted.path_[-1]["train_score"] == pytest.approx(fitted.score(X, y, given))


def test_an_unset_request_is_scikit_learns_error(weighted):
    X, y, weights = weighted
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = OBDClassifierCV(scoring="accuracy", **QUICK)
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="sample_weight"):
            estimator.fit(X, y, sample_weight=weights)
        with pytest.raises(TypeError, match=r"unexpected argument.*colour"):
            estimator.fit(X, y, colour=weights)


def test_a_callable_that_takes_no_weights_is_given_none_with_routing(weighted):
    X, y, weights = weighted
    with sklearn.config_context(enable_metadata_routing=True):
        fitted = OBDClassifierCV(scoring=log_loss_of_all, **QUICK).fit(X, y, weights)
    assert (fitted.cv_results_["mean_test_score"] < 0).all()
    assert fitted.path_[-1]["train_score"] < 0


@pytest.mark.slow
def test_groups_and_weights_reach_it_through_an_outer_cross_validation(weighted):
    X, y, weights = weighted
    groups = np.arange(len(y)) % 7
    settings = QUICK | {"cv": GroupKFold(2)}
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = OBDClassifierCV(**settings).set_fit_request(sample_weight=True)
        scores = cross_val_score(
            estimator,
            X,
            y,
            cv=GroupKFold(3),
            scoring=make_scorer(accuracy_score).set_score_request(sample_weight=True),
            params={"groups": groups, "sample_weight": weights},
        )
    expected = []
    for train, test in GroupKFold(3).split(X, y, groups):
        fitted = OBDClassifierCV(**settings)
        fitted.fit(X[train], y[train], weights[train], groups=groups[train])
        expected.append(fitted.score(X[test], y[test], weights[test]))
    np.testing.assert_array_equal(scores, expected)


def test_other_metadata_need_routing(iris):
    with pytest.raises(ValueError, match=r"fit was given colour; .*enable_metadata_routing=True"):
        OBDClassifierCV(**QUICK).fit(*iris, colour="blue")


# -- among scikit-learn's tools --------------------------------------------------------------------


@pytest.mark.slow
def test_nested_cross_validation(iris):
    X, y = iris
    estimator = OBDClassifierCV(**(QUICK | {"max_epochs": 100}))
    scores = cross_val_score(make_pipeline(StandardScaler(), estimator), X, y, cv=3)
    assert scores.mean() > 0.8


def test_clone_and_pickle(iris):
    X, y = iris
    estimator = OBDClassifierCV(classifier_net(), rule="one_se", cv=3, retrain_epochs=1)
    fitted = clone(estimator).set_params(net__lr=2e-2, random_state=0).fit(X, y)
    assert fitted.net_.lr == 2e-2
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(
        copied.cv_results_["mean_test_score"], fitted.cv_results_["mean_test_score"]
    )
    assert copied.at(iteration=0).n_params_ == fitted.path_[0]["n_params"]
    fresh = clone(fitted)
    assert fresh.rule == "one_se"
    assert not hasattr(fresh, "cv_results_")


def test_a_trained_network_is_pruned_in_every_fold(iris):
    X, y = iris
    net = classifier_net().fit(X.astype(np.float32), y)
    before = {name: p.detach().clone() for name, p in net.module_.named_parameters()}
    fitted = OBDClassifierCV(net, cv=3, retrain_epochs=1, random_state=0)
    fitted.set_params(net__max_epochs=0).fit(X, y)
    assert fitted.path_[0]["n_epochs"] == 0
    assert all(torch.equal(before[name], p) for name, p in net.module_.named_parameters())


@pytest.mark.slow
def test_a_second_fit_leaves_nothing_of_the_first(iris, cancer):
    estimator = OBDClassifierCV(saliency="obd", **QUICK)
    frame = pd.DataFrame(iris[0], columns=list("abcd"))
    estimator.fit(frame, iris[1])
    estimator.fit(*cancer)
    fresh = OBDClassifierCV(**QUICK).fit(*cancer)
    assert set(vars(estimator)) == set(vars(fresh))
    np.testing.assert_array_equal(estimator.predict(cancer[0]), fresh.predict(cancer[0]))


def test_progress_is_printed_when_asked(iris, capsys):
    OBDClassifierCV(verbose=1, **QUICK).fit(*iris)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[OBDClassifierCV] fold 1 of 3: test score ")
    assert lines[3].startswith("[OBDClassifierCV] chosen: ")
    assert lines[4].startswith("[OBDClassifier] iteration 0: 99 of 99 parameters")
    OBDClassifierCV(**QUICK).fit(*iris)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", [OBDClassifier, OBDRegressor, OBDClassifierCV, OBDRegressorCV])
def test_every_parameter_is_documented_once_in_the_order_of_the_signature(kind):
    section = kind.__doc__.split("    Attributes\n")[0]
    documented = re.findall(r"^    (\w+) : .+\n        \S", section, flags=re.MULTILINE)
    assert documented == list(inspect.signature(kind).parameters)
    assert "{" not in re.sub(r"(h_|: )\{.*?\}", "", kind.__doc__)


# -- errors ----------------------------------------------------------------------------------------

ERRORS = [
    ({"rule": "first"}, ValueError, "rule='first'; expected 'best' or 'one_se'"),
    ({"prune_rate": 1.0}, ValueError, r"prune_rate=1.0; expected a float in \[0, 1\)"),
    ({"step": 0}, ValueError, "step=0 makes no progress"),
    ({"cv": "five"}, ValueError, "Got five"),
    ({"cv": 1}, ValueError, "n_splits=1"),
    ({"cv": []}, ValueError, "cv gives 0 folds; rule='best' needs at least 1"),
    (
        {"cv": [(np.arange(100), np.arange(100, 150))], "rule": "one_se"},
        ValueError,
        "cv gives 1 folds; rule='one_se' needs at least 2",
    ),
    ({"scoring": "beauty"}, ValueError, "beauty"),
    ({"scoring": ["accuracy"]}, TypeError, r"scoring=\['accuracy'\] is a list; expected one"),
    ({"net": TwoLayers()}, TypeError, "OBDClassifierCV"),
    ({"net": regressor_net()}, TypeError, "OBDClassifierCV"),
]


@pytest.mark.parametrize(("parameters", "error", "message"), ERRORS)
def test_a_bad_parameter_is_named_before_anything_is_trained(parameters, error, message, iris):
    estimator = OBDClassifierCV(**(QUICK | parameters))
    with pytest.raises(error, match=message):
        estimator.fit(*iris)
    with pytest.raises(NotFittedError):
        estimator.predict(iris[0])


@pytest.mark.parametrize("name", ["early_stopping", "max_loss_increase", "warm_start", "sweep"])
def test_what_would_make_sizes_depend_on_data_is_no_parameter(name):
    with pytest.raises(TypeError, match=name):
        OBDClassifierCV(**{name: True})


class SizedByRows(SizedByData):
    """A callback that makes folds of unequal length unequal networks."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        net.set_params(module__hidden=len(X) % 10)


def test_folds_of_different_networks_are_refused(diabetes):
    net = regressor_net(callbacks=[SizedByRows()])
    estimator = OBDRegressorCV(net, cv=3, retrain_epochs=0, prune_rate=0.5)
    with pytest.raises(ValueError, match=r"Fold 1 visited networks of \[61, .*fold 0 of \[49, "):
        estimator.fit(*diabetes)
