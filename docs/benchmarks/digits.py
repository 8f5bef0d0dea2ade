"""Digits: OBD beside magnitude and random deletion, each with its own best setting.

A 64-64-32-10 ReLU network is pruned along one path to 98 %, and judged there and on the way, at
80 % and 95 %, by 5 x 5-fold stratified cross-validation. The settings that each criterion trains
with (weight decay, epochs of retraining) are chosen from one grid on a fifth of the training fold,
by the accuracy averaged over the three sizes; the network is then refitted on the whole training
fold. The dense network that it is compared with has a weight decay of its own, chosen on the same
rows. Test folds are only scored.

    python docs/benchmarks/digits.py --cache digits.jsonl --output docs/benchmarks/digits.md
"""

import argparse
import copy
import json
import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from report import Difference, machine, publish, table
from sklearn.datasets import load_digits
from sklearn.model_selection import RepeatedStratifiedKFold, train_test_split

from sk_obd import OBDClassifier

CRITERIA = ("obd", "magnitude", "random")
RATES = (0.8, 0.95, 0.98)
# 1 - 0.795^7 and 1 - 0.795^13 are just below 0.8 and 0.95, so that the path passes them.
STEP = 0.205

FULL = {"repeats": 5, "folds": 5, "weight_decay": [1e-4, 1e-3, 1e-2], "retrain_epochs": [10, 30]}
QUICK = {"repeats": 1, "folds": 2, "weight_decay": [1e-3], "retrain_epochs": [3]}


def train(X, y, weight_decay, seed):
    """The dense network, which is row 0 of every path that starts from it."""
    network = OBDClassifier(
        prune_rate=0, hidden_layer_sizes=(64, 32), weight_decay=weight_decay, random_state=seed
    )
    return network.fit(X, y)


def prune(dense, X, y, saliency, retrain_epochs):
    """The path from a dense network to the largest prune rate."""
    pruned = copy.deepcopy(dense).set_params(
        prune_rate=RATES[-1],
        step=STEP,
        saliency=saliency,
        retrain_epochs=retrain_epochs,
        warm_start=True,
    )
    return pruned.fit(X, y)


def score(path, X, y):
    """Accuracy at each of the three sizes."""
    return [path.at(prune_rate=rate).score(X, y) for rate in RATES]


def choose(X, y, settings, seed):
    """The best weight decay for the dense network, and the best setting for each criterion."""
    X, X_val, y, y_val = train_test_split(X, y, test_size=0.2, stratify=y, random_state=seed)
    dense = {decay: train(X, y, decay, seed) for decay in settings["weight_decay"]}
    choices = {"dense": max(dense, key=lambda decay: dense[decay].score(X_val, y_val))}
    grid = list(product(settings["weight_decay"], settings["retrain_epochs"]))
    for saliency in CRITERIA:
        accuracy = {
            (decay, epochs): np.mean(
                score(prune(dense[decay], X, y, saliency, epochs), X_val, y_val)
            )
            for decay, epochs in grid
        }
        choices[saliency] = max(accuracy, key=accuracy.get)
    return choices


def study(index, train_rows, test_rows, settings):
    """The results of one outer fold: the choices, the sizes and the test accuracies."""
    started = time.perf_counter()
    X, y = load_digits(return_X_y=True)
    X = X / 16
    rows, held_out = (X[train_rows], y[train_rows]), (X[test_rows], y[test_rows])
    choices = choose(*rows, settings, seed=index)
    decays = {choices["dense"], *(choices[saliency][0] for saliency in CRITERIA)}
    dense = {decay: train(*rows, decay, seed=index) for decay in decays}
    result = {
        "fold": index,
        "settings": settings,
        "choices": choices,
        "dense": dense[choices["dense"]].score(*held_out),
    }
    for saliency in CRITERIA:
        decay, epochs = choices[saliency]
        path = prune(dense[decay], *rows, saliency, epochs)
        result[saliency] = [path.at(iteration=0).score(*held_out), *score(path, *held_out)]
        result["n_params"] = [path.at(prune_rate=rate).n_params_ for rate in RATES]
    return result | {"seconds": time.perf_counter() - started}


def run(settings, cache, n_jobs):
    """The results of all outer folds; those in the cache are not computed again."""
    X, y = load_digits(return_X_y=True)
    splitter = RepeatedStratifiedKFold(
        n_splits=settings["folds"], n_repeats=settings["repeats"], random_state=0
    )
    splits = list(splitter.split(X, y))
    results = {}
    if cache and cache.exists():
        lines = [json.loads(line) for line in cache.read_text().splitlines()]
        results = {line["fold"]: line for line in lines if line["settings"] == settings}
    todo = [
        delayed(study)(index, train_rows, test_rows, settings)
        for index, (train_rows, test_rows) in enumerate(splits)
        if index not in results
    ]
    for result in Parallel(n_jobs, return_as="generator_unordered")(todo):
        results[result["fold"]] = result
        if cache:
            with cache.open("a") as file:
                file.write(json.dumps(result) + "\n")
        print(f"{len(results)}/{len(splits)} folds, {result['seconds']:.0f} s", flush=True)
    return [results[index] for index in sorted(results)]


def report(results, settings):
    """The tables, as parts of a Markdown text."""
    column = {name: np.array([r[name] for r in results]) for name in ("dense", *CRITERIA)}
    own_dense, obd = column["obd"][:, 0], column["obd"][:, 1:]
    header = [f"{n} ({rate:.0%})" for n, rate in zip(results[0]["n_params"], RATES, strict=True)]

    means = [
        [criterion, *(f"{mean:.4f}" for mean in column[criterion].mean(axis=0))]
        for criterion in CRITERIA
    ]
    means.append(["dense", f"{column['dense'].mean():.4f}", "", "", ""])

    peers = {name: column[name][:, 1:].T for name in ("magnitude", "random")}
    peers["dense"] = [column["dense"]] * len(RATES)
    peers["the dense network it came from"] = [own_dense] * len(RATES)
    differences = [
        [
            f"obd - {name}",
            *(
                Difference.of(ours, theirs, n_folds=settings["folds"])
                for ours, theirs in zip(obd.T, peer, strict=True)
            ),
        ]
        for name, peer in peers.items()
    ]

    choices = []
    for name in column:
        found = Counter(str(r["choices"][name]).strip("[]()") for r in results)
        times = "; ".join(f"{choice} ({count} times)" for choice, count in found.most_common())
        choices.append(f"- {name}: {times}")

    return [
        "# Digits: OBD, magnitude and random deletion",
        f"A 64-64-32-10 ReLU network on scikit-learn's digits, pruned with step={STEP} and judged "
        f"by {settings['repeats']} x {settings['folds']}-fold stratified cross-validation. Each "
        f"criterion has the weight decay (out of {settings['weight_decay']}) and the number of "
        f"retraining epochs (out of {settings['retrain_epochs']}) that did best on a fifth of the "
        "training fold, averaged over the three sizes; the dense network has a weight decay of its "
        "own. Made by `docs/benchmarks/digits.py`.",
        machine(),
        "Mean test accuracy, by the number of parameters left (in brackets the share deleted). "
        "The column *not pruned* is for the dense networks that the criteria started from.",
        table(["", "not pruned", *header], means),
        "Paired differences with 95 % intervals (corrected resampled t-test, Nadeau and Bengio "
        "2003):",
        table(["", *header], differences),
        "Chosen on the inner validation rows (weight decay, retraining epochs):",
        "\n".join(choices),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 folds, no choice: does it run?")
    parser.add_argument("--cache", type=Path, help="file of finished folds, to continue from")
    parser.add_argument("--output", help="Markdown file to write")
    parser.add_argument("--jobs", type=int, default=2, help="outer folds at a time (default: 2)")
    options = parser.parse_args()

    started = time.perf_counter()
    settings = QUICK if options.quick else FULL
    results = run(settings, options.cache, options.jobs)
    publish(report(results, settings), options.output)
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
