"""scikit-learn's own checks, every one of them, and its tools on real data.

A check fits several times. Only the classifier and the regressor keep their defaults here; with the
environment variable FULL_CHECKS=1 (set by ``.ci/run full``) the others are checked with theirs too.
"""

import copy
import os
import pickle
import subprocess
import sys
from unittest import SkipTest

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SelectFromModel
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor, OBDRegressorCV
from tests.library.modules import FullBatch
from tests.library.nets import SizedByData, classifier_net


def full_batch(net_class, criterion):
    """An explicit net: float64, all rows in a batch, sized by a callback."""
    return net_class(
        FullBatch,
        criterion=criterion,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=1e-2,
        lr=2e-2,
        max_epochs=100,
        batch_size=-1,
        train_split=None,
        callbacks=[SizedByData()],
    )


SHORT = {
    "max_epochs": 60,
    "retrain_epochs": 2,
    "hidden_layer_sizes": (20,),
    "learning_rate_init": 1e-2,
}
TO_80 = {"prune_rate": 0.8}
SWEPT = {"prune_rate": 0.9, "step": 0.5, "sweep": True}
FOLDS = {"cv": 2, "prune_rate": 0.9, "step": 0.7}
ESTIMATORS = {
    "classifier": OBDClassifier(),
    "regressor": OBDRegressor(),
    "classifier to 0.8": OBDClassifier(**TO_80, **SHORT),
    "regressor to 0.8": OBDRegressor(**TO_80, **SHORT),
    "classifier, swept": OBDClassifier(**SWEPT, **SHORT),
    "regressor, swept": OBDRegressor(**SWEPT, **SHORT),
    "classifier net": OBDClassifier(
        full_batch(NeuralNetClassifier, nn.CrossEntropyLoss), retrain_epochs=5
    ),
    "regressor net": OBDRegressor(full_batch(NeuralNetRegressor, nn.MSELoss), retrain_epochs=5),
    "classifier CV": OBDClassifierCV(**FOLDS, **SHORT),
    "regressor CV": OBDRegressorCV(**FOLDS, **SHORT),
}
if os.environ.get("FULL_CHECKS"):
    ESTIMATORS |= {
        "classifier to 0.8, defaults": OBDClassifier(**TO_80),
        "regressor to 0.8, defaults": OBDRegressor(**TO_80),
        "classifier, swept, defaults": OBDClassifier(**SWEPT),
        "regressor, swept, defaults": OBDRegressor(**SWEPT),
        "classifier CV, defaults": OBDClassifierCV(),
        "regressor CV, defaults": OBDRegressorCV(),
    }


def every_check():
    """Each check that scikit-learn generates for each estimator: none is skipped or excused."""
    for label, estimator in ESTIMATORS.items():
        for n, (_, check) in enumerate(estimator_checks_generator(estimator, legacy=True)):
            yield pytest.param(
                estimator,
                check,
                id=f"{label}-{n}-{check.func.__name__}",
                marks=() if label == "classifier net" else pytest.mark.slow,
            )


@pytest.mark.parametrize(("estimator", "check"), list(every_check()))
def test_sklearn_check(estimator, check):
    try:
        check(clone(estimator))
    except SkipTest as skipped:
        raise AssertionError("a skipped check shows nothing") from skipped


FAST = {"max_epochs": 60, "retrain_epochs": 5, "hidden_layer_sizes": (10,), "random_state": 0}


@pytest.mark.slow
def test_pipeline_and_grid_search_over_prune_rate_and_learning_rate_in_two_processes(iris):
    X, y = iris
    pipeline = make_pipeline(
        StandardScaler(), OBDClassifier(classifier_net(), retrain_epochs=2, random_state=0)
    )
    grid = {"obdclassifier__prune_rate": [0.0, 0.5, 0.9], "obdclassifier__net__lr": [1e-2, 3e-2]}
    search = GridSearchCV(pipeline, grid, n_jobs=2, cv=3).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ > 0.8
    best = search.best_estimator_[-1]
    assert best.net_.lr == search.best_params_["obdclassifier__net__lr"]
    assert best.path_[-1]["prune_rate"] == pytest.approx(
        search.best_params_["obdclassifier__prune_rate"], abs=0.01
    )


@pytest.mark.slow
def test_halving_grid_search(iris):
    # Few rows are few steps an epoch, so the first rungs need all the epochs.
    settings = FAST | {"max_epochs": 200}
    grid = {"prune_rate": [0.0, 0.5, 0.8]}
    search = HalvingGridSearchCV(
        OBDClassifier(**settings), grid, min_resources=40, factor=2, cv=3, random_state=0
    )
    assert search.fit(*iris).best_score_ > 0.8
    assert search.n_iterations_ == 2


@pytest.mark.slow
def test_cross_validate_learning_curve_and_validation_curve(diabetes):
    regressor = OBDRegressor(**FAST)
    X, y = diabetes
    scores = cross_validate(regressor, X, y, cv=3, return_train_score=True)
    assert scores["test_score"].mean() > 0.3
    sizes, _, test = learning_curve(regressor, X, y, cv=3, train_sizes=[0.3, 1.0])
    assert list(sizes) == [88, 294]
    assert test[1].mean() > test[0].mean()
    _, test = validation_curve(
        regressor, X, y, param_name="prune_rate", param_range=[0.0, 0.5], cv=3
    )
    assert test.shape == (2, 3)
    assert (test.mean(axis=1) > 0.3).all()


def test_clone_keeps_parameters_and_drops_what_was_fitted(iris):
    fitted = OBDClassifier(classifier_net(), prune_rate=0.7, retrain_epochs=1).fit(*iris)
    cloned = clone(fitted)
    assert cloned.prune_rate == 0.7
    assert cloned.net.lr == fitted.net.lr
    assert not hasattr(cloned, "net_")


def test_clone_keeps_the_weights_of_a_trained_net(iris):
    X, y = iris
    net = classifier_net(module__n_in=4, verbose=0).fit(X.astype(np.float32), y)
    cloned = clone(OBDClassifier(net))
    trained, copied = net.module_.state_dict(), cloned.net.module_.state_dict()
    assert all(torch.equal(trained[k], copied[k]) for k in trained)
    assert cloned.net.module_ is not net.module_


@pytest.mark.parametrize("through", ["pickle", "joblib", "deepcopy"])
def test_a_copy_predicts_the_same(through, iris, tmp_path):
    X, y = iris
    fitted = OBDClassifier(classifier_net(), retrain_epochs=1, random_state=0).fit(X, y)
    if through == "pickle":
        copied = pickle.loads(pickle.dumps(fitted))
    elif through == "joblib":
        joblib.dump(fitted, tmp_path / "fitted.joblib")
        copied = joblib.load(tmp_path / "fitted.joblib")
    else:
        copied = copy.deepcopy(fitted)
    np.testing.assert_array_equal(copied.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(
        copied.at(iteration=0).predict(X), fitted.at(iteration=0).predict(X)
    )


@pytest.mark.slow
def test_a_pickled_estimator_predicts_the_same_in_a_new_process(iris, tmp_path):
    X, y = iris
    fitted = OBDClassifier(prune_rate=0.8, **FAST).fit(X, y)
    joblib.dump((fitted, X), tmp_path / "fitted.joblib")
    code = (
        "import joblib, numpy as np, sys\n"
        "fitted, X = joblib.load(sys.argv[1])\n"
        "np.save(sys.argv[2], fitted.predict_proba(X))\n"
    )
    out = tmp_path / "proba.npy"
    subprocess.run([sys.executable, "-c", code, tmp_path / "fitted.joblib", out], check=True)
    np.testing.assert_array_equal(np.load(out), fitted.predict_proba(X))


def test_select_from_model_by_importance_and_by_support(cancer):
    X, y = cancer
    estimator = OBDClassifier(prune_rate=0.95, **FAST)
    selector = SelectFromModel(estimator).fit(X, y)
    assert 0 < selector.transform(X).shape[1] < X.shape[1]
    read = SelectFromModel(estimator, importance_getter="support_", threshold=0.5).fit(X, y)
    np.testing.assert_array_equal(read.get_support(), read.estimator_.support_)
