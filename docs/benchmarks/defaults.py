"""Default parameters: OBD with half of the parameters beside scikit-learn's dense networks.

There are five small data sets. The 5 x 5-fold cross-validation has the same splits for all models
(paired), and features are standardised in a pipeline. `OBDClassifier()` deletes half of the
parameters; MLPClassifier has the same hidden layer and its own defaults. On diabetes,
`OBDRegressor()` is also compared with RidgeCV and with an MLPRegressor tuned by inner
cross-validation.

    python docs/benchmarks/defaults.py --output docs/benchmarks/defaults.md
"""

import argparse
import time
import warnings

import numpy as np
from joblib import Parallel, delayed
from report import Difference, machine, publish, table
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, RepeatedKFold, RepeatedStratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sk_obd import OBDClassifier, OBDRegressor

FULL = {"repeats": 5, "folds": 5, "inner_folds": 5}
QUICK = {"repeats": 1, "folds": 2, "inner_folds": 2}


def mlp_regressor(seed):
    mlp = MLPRegressor(hidden_layer_sizes=(100,), random_state=seed)
    return TransformedTargetRegressor(mlp, transformer=StandardScaler())


def tuned_mlp_regressor(seed, inner_folds):
    grid = {
        "regressor__alpha": [1e-3, 1e-1, 1, 10],
        "regressor__learning_rate_init": [1e-3, 1e-2],
        "regressor__max_iter": [25, 200],
    }
    return GridSearchCV(mlp_regressor(seed), grid, cv=inner_folds)


def classifiers(seed, inner_folds):
    return {
        "OBD": OBDClassifier(random_state=seed),
        "MLPClassifier": MLPClassifier(hidden_layer_sizes=(100,), random_state=seed),
    }


def regressors(seed, inner_folds):
    return {
        "OBD": OBDRegressor(random_state=seed),
        "RidgeCV": RidgeCV(alphas=np.logspace(-3, 3, 13)),
        "MLPRegressor": mlp_regressor(seed),
        "MLPRegressor, tuned": tuned_mlp_regressor(seed, inner_folds),
    }


DATA = {
    "iris": (load_iris, classifiers),
    "wine": (load_wine, classifiers),
    "breast cancer": (load_breast_cancer, classifiers),
    "digits": (load_digits, classifiers),
    "diabetes": (load_diabetes, regressors),
}


def one_split(name, index, train, test, inner_folds):
    """For each model: its test score, its fit time and, for OBD, the share of parameters left."""
    load, models = DATA[name]
    X, y = load(return_X_y=True)
    found = {}
    for model, estimator in models(index, inner_folds).items():
        pipeline = make_pipeline(StandardScaler(), estimator)
        started = time.perf_counter()
        with (
            threadpool_limits(1),
            warnings.catch_warnings(action="ignore", category=ConvergenceWarning),
        ):
            pipeline.fit(X[train], y[train])
        found[model] = {
            "seconds": time.perf_counter() - started,
            "score": pipeline.score(X[test], y[test]),
        }
        if model == "OBD":
            found[model]["left"] = estimator.n_params_ / estimator.path_[0]["n_params"]
    return found


def run(settings, n_jobs):
    """The results of all splits, by data set."""
    splitters = {classifiers: RepeatedStratifiedKFold, regressors: RepeatedKFold}
    results = {}
    for name, (load, models) in DATA.items():
        started = time.perf_counter()
        splitter = splitters[models](
            n_splits=settings["folds"], n_repeats=settings["repeats"], random_state=0
        )
        results[name] = Parallel(n_jobs)(
            delayed(one_split)(name, index, train, test, settings["inner_folds"])
            for index, (train, test) in enumerate(splitter.split(*load(return_X_y=True)))
        )
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return results


def report(results, settings):
    """The table, as parts of a Markdown text."""
    rows = []
    for name, splits in results.items():

        def column(model, what, splits=splits):
            return np.array([split[model][what] for split in splits])

        ours, seconds = column("OBD", "score"), column("OBD", "seconds")
        for model in splits[0]:
            mean = f"{column(model, 'score').mean():.4f}"
            if model == "OBD":
                rows.append([name, model, mean, f"{column('OBD', 'left').mean():.3f}", *[""] * 4])
                continue
            gap = Difference.of(ours, column(model, "score"), n_folds=settings["folds"])
            ratio = np.median(seconds / column(model, "seconds"))
            errors = f"{gap.standard_error:.4f}", f"{gap.corrected_error:.4f}"
            rows.append(["", model, mean, "", f"{gap.mean:+.4f}", *errors, f"{ratio:.2f}"])
    header = ["data", "model", "score", "left", "OBD - model", "SE", "corrected SE", "fit time"]
    return [
        "# Default parameters",
        "OBD with its defaults (half of the parameters deleted) beside scikit-learn's dense "
        "networks with the same hidden layer and their own defaults. Features are standardised; "
        f"the {settings['repeats']} x {settings['folds']}-fold cross-validation has the same "
        "splits for all models. Made by `docs/benchmarks/defaults.py`.",
        machine(),
        "*score*: mean test accuracy, or R². *left*: share of the parameters that OBD keeps. Then "
        "follow the mean paired difference, its standard error, the standard error corrected for "
        "overlapping training sets (Nadeau and Bengio 2003), and the median ratio of OBD's fit "
        "time to the model's (one thread each). The default MLPRegressor learns from standardised "
        "y, as OBD does; the tuned one has alpha, learning_rate_init and max_iter from a grid "
        "search on the training fold.",
        table(header, rows),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only 2 folds: does it run?")
    parser.add_argument("--output", help="Markdown file to write")
    parser.add_argument("--jobs", type=int, default=2, help="splits at a time (default: 2)")
    options = parser.parse_args()
    started = time.perf_counter()
    settings = QUICK if options.quick else FULL
    publish(report(run(settings, options.jobs), settings), options.output)
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
