"""What it costs to choose the prune rate: one path per fold, or a network trained for each cell.

A 64-32-10 network is pruned on digits, with 5 folds and the 10 prune rates that a path with
step=0.3 passes, so that all ways visit the same networks. The ways run in one process, one after
the other:

- OBDClassifierCV;
- the part that it cannot do without: its five fold paths and the final fit, written out by hand and
  not scored;
- GridSearchCV over the rates with `memory`, which keeps every state, so that none is trained twice;
- GridSearchCV over the rates with a fresh fit for each cell.

The first two alternate for three rounds (medians); the others run once. Times are processor
seconds, which other work on the machine changes little. Scores must agree exactly.

    python docs/benchmarks/search.py --output docs/benchmarks/search.md
"""

import argparse
import tempfile
import time

import numpy as np
from report import machine, publish, table
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sk_obd import OBDClassifier, OBDClassifierCV
from sk_obd.pruning.schedule import schedule

STEP = 0.3
N_RATES = 10
FULL = {"folds": 5, "rounds": 3, "n_rows": 1797, "parameters": {"hidden_layer_sizes": (32,)}}
QUICK = {
    "folds": 2,
    "rounds": 1,
    "n_rows": 300,
    "parameters": {"hidden_layer_sizes": (8,), "max_epochs": 20, "retrain_epochs": 3},
}


def timed(function, *args):
    """What a function returns, and the processor seconds that it took."""
    started = time.process_time()
    return function(*args), time.process_time() - started


def cross_validated(X, y, rates, settings):
    estimator = OBDClassifierCV(
        prune_rate=rates[-1], step=STEP, cv=settings["folds"], **settings["parameters"]
    )
    return estimator.fit(X, y)


def by_hand(X, y, rates, settings, chosen):
    """Follow the paths of the folds and make the final fit, and do nothing else."""
    common = {"step": STEP, **settings["parameters"]}
    for train, _ in StratifiedKFold(settings["folds"]).split(X, y):
        OBDClassifier(prune_rate=rates[-1], **common).fit(X[train], y[train])
    OBDClassifier(prune_rate=chosen, **common).fit(X, y)


def grid_search(X, y, rates, settings, memory=None):
    estimator = OBDClassifier(step=STEP, memory=memory, **settings["parameters"])
    # The search takes the first of equals: ties go to the smaller network, as in OBDClassifierCV.
    grid = {"prune_rate": rates[::-1]}
    return GridSearchCV(estimator, grid, cv=settings["folds"]).fit(X, y)


def scores(results, n_folds, order):
    """Test scores: one row per fold, one column per row of the path."""
    return np.array([results[f"split{k}_test_score"][::order] for k in range(n_folds)])


def compare(settings):
    """The seconds of each way (a list over its rounds), and the fitted OBDClassifierCV."""
    settings = settings | {"parameters": settings["parameters"] | {"random_state": 0}}
    X, y = load_digits(return_X_y=True)
    X, y = X[: settings["n_rows"]] / 16, y[: settings["n_rows"]]
    dense = OBDClassifier(prune_rate=0, **settings["parameters"]).fit(X, y)
    rates = [0, *schedule(dense.n_params_, 0.99, STEP)[: N_RATES - 1]]
    seconds = {"OBDClassifierCV": [], "its paths and final fit, by hand": []}
    for _ in range(settings["rounds"]):
        ours, taken = timed(cross_validated, X, y, rates, settings)
        seconds["OBDClassifierCV"].append(taken)
        chosen = rates[ours.best_index_]
        _, taken = timed(by_hand, X, y, rates, settings, chosen)
        seconds["its paths and final fit, by hand"].append(taken)
    found = {"OBDClassifierCV": scores(ours.cv_results_, settings["folds"], 1)}
    with tempfile.TemporaryDirectory() as folder:
        search, taken = timed(grid_search, X, y, rates, settings, folder)
    ways = {"GridSearchCV with memory": (search, taken)}
    ways["GridSearchCV, a fresh fit a cell"] = timed(grid_search, X, y, rates, settings)
    for way, (search, taken) in ways.items():
        seconds[way] = [taken]
        found[way] = scores(search.cv_results_, settings["folds"], -1)
        best = search.best_estimator_
        if not np.array_equal(best.predict_proba(X), ours.predict_proba(X)):
            raise AssertionError(f"{way} chose another network than OBDClassifierCV")
    for way, table_of in found.items():
        if not np.array_equal(table_of, found["OBDClassifierCV"]):
            raise AssertionError(f"the scores of {way} differ from those of OBDClassifierCV")
    return seconds, ours


def report(seconds, ours, settings):
    """The tables, as parts of a Markdown text."""
    medians = {way: float(np.median(times)) for way, times in seconds.items()}
    base = medians["its paths and final fit, by hand"]
    rows = [
        [way, f"{medians[way]:.1f}", f"{medians[way] / base:.2f}", len(times)]
        for way, times in seconds.items()
    ]
    ratios = np.divide(*list(seconds.values())[:2])
    results = ours.cv_results_
    sizes = [
        [
            f"{n}" + (" (chosen)" if i == ours.best_index_ else ""),
            f"{results['prune_rate'][i]:.3f}",
            f"{results['mean_test_score'][i]:.4f}",
            f"{results['std_test_score'][i]:.4f}",
        ]
        for i, n in enumerate(results["n_params"])
    ]
    return [
        "# The cost of choosing the prune rate",
        f"{settings['n_rows']} rows of digits, {settings['folds']} folds, {N_RATES} prune rates "
        f"(step={STEP}), networks with {settings['parameters']} and other defaults; one "
        "process. Made by `docs/benchmarks/search.py`.",
        machine(),
        table(["", "processor seconds", "ratio", "rounds"], rows),
        "Ratio of OBDClassifierCV to its parts, round by round: "
        f"{', '.join(f'{r:.3f}' for r in ratios)}. All three ways gave exactly equal scores for "
        "every fold and prune rate, and the same final network.",
        "Test accuracy over the folds, by parameters left:",
        table(["parameters", "prune rate", "mean", "std"], sizes),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small and short: does it run?")
    parser.add_argument("--output", help="Markdown file to write")
    options = parser.parse_args()
    settings = QUICK if options.quick else FULL
    publish(report(*compare(settings), settings), options.output)


if __name__ == "__main__":
    main()
