"""Real use: how small a network do five tables need, and what does choosing the size cost?

This is a nested cross-validation: in each outer fold everything is chosen by an inner
cross-validation on the training rows, then fitted to them and scored once on the test rows. Inputs
are standardised, and for regression y is standardised too. All networks are the default one with a
hidden layer of the same width:

- dense: the network as it is, with the default weight decay, trained for 600 epochs or until the
  training loss stands still, so that pruned networks do not gain merely by more training;
- L2: the dense network with its weight decay chosen;
- L1: the penalty lambda * sum |u|, minimised by proximal steps (each followed by soft thresholding
  in Adam's own metric), so that zeros are exact; lambda is chosen, and training takes 400 epochs.
  This is the "cost with a complexity term" that the paper argues against;
- OBD and magnitude: the size is chosen along one path per fold (OBDClassifierCV, OBDRegressorCV):
  the best size, and the smallest one within one standard error of it.

breast cancer, digits and diabetes come with scikit-learn. The other two are read from the folder
that --data names, as .npz files with X and y: spambase.npz (`fetch_openml("spambase", version=1)`;
1500 of its rows are used) and concrete.npz (UCI data set 165, "Concrete Compressive Strength").

    python docs/benchmarks/practice.py --data FOLDER --cache practice.jsonl \\
        --output docs/benchmarks/practice.md
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from report import Difference, machine, publish, table
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback
from torch import nn

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor, OBDRegressorCV
from sk_obd.estimators.folds import choose_size
from sk_obd.training.mlp import MLP

BUNDLED = {"breast cancer": load_breast_cancer, "digits": load_digits, "diabetes": load_diabetes}
FILES = ("spambase", "concrete")
REGRESSION = ("diabetes", "concrete")
METHODS = ("dense", "L2", "L1", "OBD, best", "OBD, one_se", "magnitude, best", "magnitude, one_se")

FULL = {
    "n_rows": 1800,
    "outer": 3,
    "inner": 3,
    "hidden": 30,
    "epochs": 600,
    "l1_epochs": 400,
    "l2": [0, 1e-4, 1e-3, 1e-2, 1e-1, 1],
    "l1": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    "prune_rate": 0.98,
    "step": 0.2,
}
QUICK = FULL | {
    "n_rows": 150,
    "outer": 2,
    "inner": 2,
    "hidden": 5,
    "epochs": 10,
    "l1_epochs": 10,
    "l2": [1e-3],
    "l1": [1e-3],
    "step": 0.5,
}


class SoftThreshold(Callback):
    """The proximal step of strength * sum |u| after each step of Adam: an L1 penalty, exact at 0.

    Adam divides the gradient of parameter k by d_k = sqrt(v_k) + eps, so the threshold is
    learning rate * strength / d_k.
    """

    def __init__(self, strength):
        self.strength = strength

    @torch.no_grad()
    def on_batch_end(self, net, training=False, **kwargs):
        if not training:
            return
        for group in net.optimizer_.param_groups:
            for p in group["params"]:
                state = net.optimizer_.state[p]
                v = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
                threshold = group["lr"] * self.strength / (v.sqrt() + group["eps"])
                p.copy_(p.sign() * (p.abs() - threshold).clamp(min=0))


def load(name, data, n_rows, seed=0):
    """X and y of a table: at most `n_rows` of its rows, drawn at random."""
    if name in BUNDLED:
        X, y = BUNDLED[name](return_X_y=True)
    else:
        with np.load(data / f"{name}.npz", allow_pickle=False) as file:
            X, y = file["X"].astype(float), file["y"]
    if name == "spambase":
        n_rows = min(n_rows, 1500)
    rows = np.random.default_rng(seed).permutation(len(y))[:n_rows]
    return X[rows], y[rows]


def l1_net(regression, n_features, n_outputs, strength, settings):
    """The default network, but trained with an L1 penalty and without weight decay."""
    net_class, criterion = (
        (NeuralNetRegressor, nn.MSELoss)
        if regression
        else (NeuralNetClassifier, nn.CrossEntropyLoss)
    )
    return net_class(
        MLP,
        criterion=criterion,
        module__n_features=n_features,
        module__n_outputs=n_outputs,
        module__hidden_layer_sizes=(settings["hidden"],),
        optimizer=torch.optim.Adam,
        lr=3e-3,
        max_epochs=settings["l1_epochs"],
        batch_size=200,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[("threshold", SoftThreshold(strength))],
    )


def sized(fitted):
    """The number of parameters that are not exactly zero."""
    parameters = fitted.net_.module_.parameters()
    return sum(int(torch.count_nonzero(p)) for p in parameters)


def along_paths(kind, X, y, settings, common):
    """The network of best mean score, the smallest within a standard error, and the dense one."""
    chosen = kind(
        rule="one_se",
        cv=settings["inner"],
        prune_rate=settings["prune_rate"],
        step=settings["step"],
        **common,
    ).fit(X, y)
    # The path to the smaller network begins at the dense one and passes the best one.
    splits = [chosen.cv_results_[f"split{k}_test_score"] for k in range(settings["inner"])]
    return chosen.at(iteration=choose_size(splits, "best")), chosen, chosen.at(iteration=0)


def networks(name, X, y, settings, seed):
    """The networks of all methods, and what was chosen. All choices are made on these rows."""
    regression = name in REGRESSION
    plain, searched = (
        (OBDRegressor, OBDRegressorCV) if regression else (OBDClassifier, OBDClassifierCV)
    )
    common = {
        "hidden_layer_sizes": (settings["hidden"],),
        "max_epochs": settings["epochs"],
        "random_state": seed,
    }
    found, choices = {}, {}
    best, one_se, found["dense"] = along_paths(searched, X, y, settings, common)
    found |= {"OBD, best": best, "OBD, one_se": one_se}
    magnitude = common | {"saliency": "magnitude"}
    best, one_se, _ = along_paths(searched, X, y, settings, magnitude)
    found |= {"magnitude, best": best, "magnitude, one_se": one_se}

    grid = {"weight_decay": settings["l2"]}
    search = GridSearchCV(plain(prune_rate=0, **common), grid, cv=settings["inner"]).fit(X, y)
    found["L2"], choices["L2"] = search.best_estimator_, search.best_params_["weight_decay"]

    n_outputs = 1 if regression else len(np.unique(y))
    nets = [l1_net(regression, X.shape[1], n_outputs, s, settings) for s in settings["l1"]]
    estimator = plain(prune_rate=0, random_state=seed)
    search = GridSearchCV(estimator, {"net": nets}, cv=settings["inner"]).fit(X, y)
    found["L1"] = search.best_estimator_
    choices["L1"] = settings["l1"][search.best_index_]
    return found, choices


def study(name, fold, settings, data):
    """The results of one outer fold of one table."""
    started = time.perf_counter()
    X, y = load(name, data, settings["n_rows"])
    kind = KFold if name in REGRESSION else StratifiedKFold
    splits = list(kind(settings["outer"], shuffle=True, random_state=0).split(X, y))
    train, test = splits[fold]
    scaler = StandardScaler().fit(X[train])
    X = scaler.transform(X)
    if name in REGRESSION:
        y = (y - y[train].mean()) / y[train].std()
    found, choices = networks(name, X[train], y[train], settings, seed=fold)
    return {
        "name": name,
        "fold": fold,
        "settings": settings,
        "n_rows": len(y),
        "choices": choices,
        "n_params": {method: sized(network) for method, network in found.items()},
        "score": {method: network.score(X[test], y[test]) for method, network in found.items()},
        "seconds": time.perf_counter() - started,
    }


def run(names, settings, data, cache, n_jobs):
    """The results of all outer folds; those in the cache are not computed again."""
    results = {}
    if cache and cache.exists():
        lines = [json.loads(line) for line in cache.read_text().splitlines()]
        results = {(r["name"], r["fold"]): r for r in lines if r["settings"] == settings}
    cells = [(name, fold) for name in names for fold in range(settings["outer"])]
    todo = [delayed(study)(*cell, settings, data) for cell in cells if cell not in results]
    for result in Parallel(n_jobs, return_as="generator_unordered")(todo):
        results[result["name"], result["fold"]] = result
        if cache:
            with cache.open("a") as file:
                file.write(json.dumps(result) + "\n")
        print(
            f"{len(results)}/{len(cells)}: {result['name']}, {result['seconds']:.0f} s", flush=True
        )
    return [results[cell] for cell in cells]


def report(results, names, settings):
    """The tables, as parts of a Markdown text."""
    parts = [
        "# Real use: the size chosen by cross-validation",
        f"Networks have a hidden layer of {settings['hidden']} ReLU units. There are "
        f"{settings['outer']} outer folds, and all choices are made in {settings['inner']} inner "
        f"ones: prune rates along the path to {settings['prune_rate']}, a weight decay out of "
        f"{settings['l2']}, an L1 strength out of {settings['l1']}. *parameters*, *range*: "
        "parameters that are not exactly zero, the median over the outer folds and the range. "
        "*score*: mean test accuracy, or R². *minus dense*: the difference paired over the outer "
        "folds, with its 95 % interval (corrected resampled t-test, Nadeau and Bengio 2003), which "
        "is wide with so few folds. Made by `docs/benchmarks/practice.py`.",
        machine(),
    ]
    for name in names:
        of_name = [r for r in results if r["name"] == name]
        score = {m: np.array([r["score"][m] for r in of_name]) for m in METHODS}
        size = {m: np.array([r["n_params"][m] for r in of_name]) for m in METHODS}
        rows = [
            [
                method,
                f"{np.median(size[method]):.0f}",
                f"{size[method].min()} to {size[method].max()}",
                f"{score[method].mean():.4f}",
                ""
                if method == "dense"
                else Difference.of(score[method], score["dense"], n_folds=settings["outer"]),
            ]
            for method in METHODS
        ]
        measure = "R²" if name in REGRESSION else "accuracy"
        strengths = {m: [f"{r['choices'][m]:g}" for r in of_name] for m in ("L2", "L1")}
        choices = "; ".join(f"{m} {', '.join(chosen)}" for m, chosen in strengths.items())
        parts += [
            f"## {name}",
            table(["", "parameters", "range", f"score ({measure})", "minus dense"], rows),
            f"{of_name[0]['n_rows']} rows. Chosen strengths, fold by fold: {choices}.",
        ]
    return parts


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rows and epochs: does it run?")
    parser.add_argument("--data", type=Path, help="folder with spambase.npz and concrete.npz")
    parser.add_argument("--cache", type=Path, help="file of finished folds, to continue from")
    parser.add_argument("--output", help="Markdown file to write")
    parser.add_argument("--jobs", type=int, default=2, help="folds at a time (default: 2)")
    options = parser.parse_args()

    started = time.perf_counter()
    names = [*BUNDLED]
    if options.data:
        names += [name for name in FILES if (options.data / f"{name}.npz").exists()]
    missing = [name for name in FILES if name not in names]
    if missing:
        print(f"Left out: {' and '.join(missing)}. --help says where these data come from.")
    settings = QUICK if options.quick else FULL
    results = run(names, settings, options.data, options.cache, options.jobs)
    publish(report(results, names, settings), options.output)
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
