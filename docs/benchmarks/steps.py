"""What a deletion costs, term by term, and how long the steps should be.

A 64-32-10 network on digits is trained as the default one is. The first part measures the Taylor
terms of a path in small steps, and how far the prediction is off with only the diagonal and with
the gradient's term added, for networks with the default weight decay, with a strong one, or stopped
early. The second part compares fixed steps, steps in parts with saliencies recomputed, and trust
regions, to 5 and 2 % of the parameters: iterations, epochs, and the training loss and the accuracy
on test rows at the end. Seeds change the split and the network; test rows are only scored.

    python docs/benchmarks/steps.py --output docs/benchmarks/steps.md
"""

import argparse

import numpy as np
from joblib import Parallel, delayed
from report import machine, publish, table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sk_obd import OBDClassifier

REASONS = {
    "default weight decay": {},
    "weight decay 1e-2": {"weight_decay": 1e-2},
    "15 epochs": {"max_epochs": 15},
}
TERMS = ("first_order", "diagonal", "off_diagonal", "higher_order", "actual_increase")
STEPS = {
    "step=0.4": {"step": 0.4},
    "step=0.2": {"step": 0.2},
    "step=0.1": {"step": 0.1},
    "step=0.05": {"step": 0.05},
    "step=0.4, n_recomputations=3": {"step": 0.4, "n_recomputations": 3},
    "step=0.2, n_recomputations=3": {"step": 0.2, "n_recomputations": 3},
    "trust_region=0.03": {"trust_region": 0.03},
    "trust_region=0.1": {"trust_region": 0.1},
    "trust_region=0.3": {"trust_region": 0.3},
    "trust_region=1": {"trust_region": 1.0},
}
FULL = {
    "seeds": 5,
    "n_rows": 1797,
    "hidden_layer_sizes": (32,),
    "max_epochs": 200,
    "retrain_epochs": 20,
    "small_step": 0.02,
    "left": (0.05, 0.02),
}
QUICK = {
    "seeds": 1,
    "n_rows": 400,
    "hidden_layer_sizes": (8,),
    "max_epochs": 10,
    "retrain_epochs": 1,
    "small_step": 0.2,
    "left": (0.3, 0.2),
}


def split(seed, n_rows):
    X, y = load_digits(return_X_y=True)
    X, y = X[:n_rows] / 16, y[:n_rows]
    return train_test_split(X, y, test_size=0.25, stratify=y, random_state=seed)


def fit(seed, settings, **parameters):
    """A fitted classifier, and its accuracy on test rows."""
    X, X_test, y, y_test = split(seed, settings["n_rows"])
    sizes = settings["hidden_layer_sizes"]
    epochs = {name: settings[name] for name in ("max_epochs", "retrain_epochs")}
    parameters = epochs | parameters
    clf = OBDClassifier(hidden_layer_sizes=sizes, random_state=seed, **parameters).fit(X, y)
    return clf, clf.score(X_test, y_test)


def terms(seed, settings, reason, saliency):
    """The sums of the terms over a path in small steps, and the errors of two predictions."""
    clf, _ = fit(
        seed,
        settings,
        prune_rate=0.8,
        step=settings["small_step"],
        retrain_epochs=5,
        saliency=saliency,
        **REASONS[reason],
    )
    column = {name: np.array([row[name] for row in clf.path_.rows[1:]]) for name in TERMS}
    actual = column["actual_increase"]
    by_diagonal = np.abs(actual - column["diagonal"]).sum() / np.abs(actual).sum()
    with_gradient = actual - column["diagonal"] - column["first_order"]
    by_both = np.abs(with_gradient).sum() / np.abs(actual).sum()
    return [*(column[name].sum() for name in TERMS), by_diagonal, by_both, clf.path_[-1]["loss"]]


def end(seed, settings, steps, left):
    """Iterations, epochs of retraining, training loss and test accuracy at the end of a path."""
    clf, accuracy = fit(seed, settings, prune_rate=1 - left, **STEPS[steps])
    epochs = sum(row["n_epochs"] for row in clf.path_.rows[1:])
    return [clf.n_iter_, epochs, clf.path_[-1]["loss"], accuracy]


def with_error(values, digits=3):
    """Mean ± standard error."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}"


def report(settings, n_jobs):
    run, seeds = Parallel(n_jobs), range(settings["seeds"])
    parts = [
        "# What a deletion costs, and how long steps should be",
        f"Digits, one hidden layer of {settings['hidden_layer_sizes'][0]} units; seeds: "
        f"{settings['seeds']}; mean ± standard error. Made by `docs/benchmarks/steps.py`.",
        machine(),
        "## Terms",
        f"Paths delete {100 * settings['small_step']:.0f} % of what is left at a time, to 80 %, "
        "with 5 epochs of retraining. Terms are sums over the path. *off*: the sum of the absolute "
        "errors of the prediction, divided by that of the actual increases, with only the diagonal "
        "and with the first-order term added.",
    ]
    cells = [
        (reason, saliency) for reason in REASONS for saliency in ("obd", "obd-decay", "taylor")
    ]
    rows = []
    for reason, saliency in cells:
        found = run(delayed(terms)(seed, settings, reason, saliency) for seed in seeds)
        *sums, diagonal, both, loss = np.transpose(found)
        rows.append(
            [
                f"{reason}, {saliency}",
                *(f"{np.mean(values):.3f}" for values in sums),
                f"{np.mean(diagonal):.0%}",
                f"{np.mean(both):.0%}",
                with_error(loss, 4),
            ]
        )
    names = [name.replace("_", " ") for name in TERMS]
    header = ["", *names, "off, diagonal", "off, both", "final loss"]
    parts.append(table(header, rows))
    for left in settings["left"]:
        rows = []
        for steps in STEPS:
            found = run(delayed(end)(seed, settings, steps, left) for seed in seeds)
            iterations, epochs, loss, accuracy = np.transpose(found)
            rows.append(
                [
                    steps,
                    f"{np.mean(iterations):.1f}",
                    f"{np.mean(epochs):.0f}",
                    with_error(loss, 4),
                    with_error(accuracy),
                ]
            )
        header = ["", "iterations", "epochs", "training loss", "test accuracy"]
        parts += [f"## {left:.0%} left", table(header, rows)]
    return parts


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, few rows: does it run?")
    parser.add_argument("--output", help="Markdown file to write")
    parser.add_argument("--jobs", type=int, default=2, help="fits at a time (default: 2)")
    options = parser.parse_args()
    publish(report(QUICK if options.quick else FULL, options.jobs), options.output)


if __name__ == "__main__":
    main()
