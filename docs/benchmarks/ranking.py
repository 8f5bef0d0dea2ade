"""Which curvature ranks best? Saliencies beside what deleting really costs.

Small networks are trained as the default one is: with weight decay, until the training loss stands
still. Three things are measured for each criterion: the rank correlation of its saliency with the
true change of the training loss when only that parameter is deleted; the training loss after
deleting 10, 30 and 50 % at once, without retraining; and the test accuracy at the end of a
retrained path to 2 %. The settings are fixed beforehand; test rows are only scored. curvature.py
measures what a curvature costs.

    python docs/benchmarks/ranking.py --data FOLDER --cache ranking.jsonl \\
        --output docs/benchmarks/ranking.md

FOLDER holds usps.npz with X_train, y_train, X_test and y_test, and X in -1000 .. 1000. Without it
only scikit-learn's digits are used. USPS, scaled to -1 .. 1, can be found at the site of The
Elements of Statistical Learning (zip.train.gz, zip.test.gz), among LIBSVM's data sets, and as
torchvision's USPS.
"""

import argparse
import copy
import json
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from report import machine, publish, table
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping
from torch import nn

from sk_obd import OBDClassifier
from sk_obd.curvature import diagonal
from sk_obd.pruning.saliency import NEEDS, lowest, saliencies
from sk_obd.training.isolation import one_thread
from sk_obd.training.masks import all_alive, zero_deleted
from sk_obd.training.mlp import MLP
from sk_obd.training.objective import Objective

# Where f'' is 0, "hessian" equals "ggn", and "recursion" equals "recursion-lm".
CRITERIA = {
    "ggn": ("obd", "ggn"),
    "hessian": ("obd", "hessian"),
    "recursion": ("obd", "recursion"),
    "recursion-lm": ("obd", "recursion-lm"),
    "ggn-mc": ("obd", "ggn-mc"),
    "fisher": ("obd", "fisher"),
    "taylor, ggn": ("taylor", "ggn"),
    "magnitude": ("magnitude", None),
    "random": ("random", None),
}
SMOOTH = ("hessian", "recursion")
AT_ONCE = (0.1, 0.3, 0.5)
LEFT = 0.02

# The epochs of retraining make about 150 steps.
FULL = {
    "seeds": 3,
    "epochs": 200,
    "step": 0.3,
    "retrain": {"digits": 20, "USPS": 4},
    "deletions": 400,
}
QUICK = {"seeds": 1, "epochs": 20, "step": 0.7, "retrain": {"digits": 1}, "deletions": 30}


def perceptron(n_features, activation):
    return MLP(n_features, 10, (32, 16), activation)


def convolutional(n_features):
    side = round(n_features**0.5)
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * n_features // 16, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    ).double()


MODULES = {
    "MLP, ReLU": partial(perceptron, activation="relu"),
    "MLP, tanh": partial(perceptron, activation="tanh"),
    "conv, ReLU": convolutional,
}


def criteria(kind):
    return [label for label in CRITERIA if "tanh" in kind or label not in SMOOTH]


def load(data, seed, folder):
    """X and y to train and to test on. digits are split anew for each seed; USPS comes split."""
    if data == "digits":
        X, y = load_digits(return_X_y=True)
        X, X_test, y, y_test = train_test_split(
            X / 16, y, test_size=0.25, stratify=y, random_state=seed
        )
        return X, y, X_test, y_test
    with np.load(Path(folder) / "usps.npz") as file:
        X, X_test = file["X_train"] / 1000, file["X_test"] / 1000
        return X, file["y_train"].astype(int), X_test, file["y_test"].astype(int)


def train(kind, X, y, seed, epochs):
    """A dense network, trained with the settings of the default one."""
    torch.manual_seed(seed)
    net = NeuralNetClassifier(
        MODULES[kind](X.shape[1]),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=min(1e-2, 4 / len(X)),
        lr=3e-3,
        max_epochs=epochs,
        batch_size=200,
        iterator_train__shuffle=True,
        callbacks=[EarlyStopping("train_loss", patience=10, threshold=1e-4, threshold_mode="abs")],
    )
    return OBDClassifier(net, prune_rate=0, random_state=seed).fit(X, y)


def curvature(objective, method, seed):
    module, criterion = objective.module, objective.criterion
    return diagonal(module, criterion, objective.X, objective.y, method=method, random_state=seed)


def saliency_of(label, objective, seed):
    """The saliencies of all parameters under one criterion."""
    kind, method = CRITERIA[label]
    torch.manual_seed(seed)
    return saliencies(
        kind,
        {name: p.detach() for name, p in objective.parameters().items()},
        curvature=curvature(objective, method, seed) if "curvature" in NEEDS[kind] else None,
        gradient=objective.gradient() if "gradient" in NEEDS[kind] else None,
    )


def some_parameters(objective, n, seed):
    """Masks that select `n` parameters, each with the same probability."""
    sizes = {name: p.numel() for name, p in objective.parameters().items()}
    chosen = torch.zeros(sum(sizes.values()), dtype=torch.bool)
    rng = np.random.default_rng(seed)
    chosen[rng.choice(len(chosen), min(n, len(chosen)), replace=False)] = True
    parts = chosen.split(list(sizes.values()))
    parameters = objective.parameters().values()
    return {name: c.view(p.shape) for name, c, p in zip(sizes, parts, parameters, strict=True)}


def at(tensors, masks):
    return torch.cat([tensors[name][mask] for name, mask in masks.items()]).numpy()


def loss_without(objective, saliency, rate):
    """The training loss after deleting the lowest saliencies at once; the network is restored."""
    module = objective.whole
    before = copy.deepcopy(module.state_dict())
    alive = all_alive(module)
    n = sum(mask.numel() for mask in alive.values())
    gone = lowest(saliency, alive, alive, round(rate * n))
    zero_deleted(module, {name: ~chosen for name, chosen in gone.items()})
    loss = objective.loss()
    module.load_state_dict(before)
    return loss


def end_of_path(dense, label, X, y, step, retrain_epochs):
    """The network with 2 % of the parameters left."""
    saliency, method = CRITERIA[label]
    pruned = copy.deepcopy(dense).set_params(
        prune_rate=1 - LEFT,
        step=step,
        saliency=saliency,
        curvature=method or "ggn",
        retrain_epochs=retrain_epochs,
        warm_start=True,
    )
    return pruned.fit(X, y)


def judge(data, kind, seed, settings, folder):
    """The results of one trained network."""
    X, y, X_test, y_test = load(data, seed, folder)
    dense = train(kind, X, y, seed, settings["epochs"])
    objective = Objective.of_net(dense.net_, torch.from_numpy(X), torch.from_numpy(y))
    labels = criteria(kind)
    chosen = some_parameters(objective, settings["deletions"], seed)
    increases = {name: objective.increases(name, mask) for name, mask in chosen.items()}
    truth = at(increases, chosen)
    found = {}
    for label in labels:
        saliency = saliency_of(label, objective, seed)
        pruned = end_of_path(dense, label, X, y, settings["step"], settings["retrain"][data])
        found[label] = {
            "correlation": float(spearmanr(at(saliency, chosen), truth).statistic),
            "losses": [loss_without(objective, saliency, rate) for rate in AT_ONCE],
            "accuracy": pruned.score(X_test, y_test),
        }
    return {
        "n_params": [dense.n_params_, pruned.n_params_],
        "loss": objective.loss(),
        "accuracy": dense.score(X_test, y_test),
        "gains": float((truth < 0).mean()),
        "found": found,
    }


def study(cell, settings, folder):
    """The results of one trained network, on one thread, since two of them run side by side."""
    started = time.perf_counter()
    with one_thread():
        result = judge(*cell, settings, folder)
    seconds = time.perf_counter() - started
    return {"cell": cell, "settings": settings, "seconds": seconds} | result


def run(settings, folder, cache, n_jobs):
    """The results of all cells; those in the cache are not computed again."""
    cells = [
        [data, kind, seed]
        for data, kind, seed in product(settings["retrain"], MODULES, range(settings["seeds"]))
        if folder or data == "digits"
    ]
    results = []
    if cache and cache.exists():
        lines = [json.loads(line) for line in cache.read_text().splitlines()]
        results = [r for r in lines if r["settings"] == settings and r["cell"] in cells]
    done = [result["cell"] for result in results]
    # The longest ones come first, so that no core waits at the end.
    todo = [delayed(study)(cell, settings, folder) for cell in cells[::-1] if cell not in done]
    for result in Parallel(n_jobs, return_as="generator_unordered")(todo):
        results.append(result)
        if cache:
            with cache.open("a") as file:
                file.write(json.dumps(result) + "\n")
        print(
            f"{len(results)}/{len(cells)}, {result['cell']}, {result['seconds']:.0f} s", flush=True
        )
    return sorted(results, key=lambda result: cells.index(result["cell"]))


def with_error(values, digits=3, sign=""):
    """Mean ± standard error."""
    mean = f"{np.mean(values):{sign}.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}"


def section(results):
    """The section on one network: a description, and its table."""
    (data, kind, _), (n_dense, n_left) = results[0]["cell"], results[0]["n_params"]
    found = [result["found"] for result in results]
    rows = []
    for label in criteria(kind):
        ours = [f[label] for f in found]
        accuracy = np.array([f["accuracy"] for f in ours])
        gap = accuracy - [f["ggn"]["accuracy"] for f in found]
        losses = np.mean([f["losses"] for f in ours], axis=0)
        rows.append(
            [
                label,
                with_error([f["correlation"] for f in ours]),
                *(f"{loss:.3f}" for loss in losses),
                with_error(accuracy),
                "" if label == "ggn" else with_error(gap, sign="+"),
            ]
        )
    header = [
        *("", "rank correlation", *(f"loss, -{rate:.0%}" for rate in AT_ONCE)),
        *(f"accuracy, {n_left} left", "minus ggn"),
    ]
    dense = with_error([result["accuracy"] for result in results])
    loss, gains = (np.mean([result[key] for result in results]) for key in ("loss", "gains"))
    return [
        f"## {data}, {kind}",
        f"{n_dense} parameters; not pruned: loss {loss:.3f}, test accuracy {dense}. For "
        f"{gains:.0%} of the parameters, deleting only that one lowers the training loss.",
        table(header, rows),
    ]


def report(results, settings):
    """The tables, as parts of a Markdown text."""
    networks = {tuple(result["cell"][:2]): [] for result in results}
    for result in results:
        networks[tuple(result["cell"][:2])].append(result)
    retraining = ", ".join(f"{n} ({data})" for data, n in settings["retrain"].items())
    return [
        "# Which curvature ranks best?",
        "The networks are MLPs with hidden layers of 32 and 16 units, and networks of two strided "
        "convolutions (8 and 12 maps) and a hidden layer of 24 units. Adam with weight decay "
        f"trains them until the training loss stands still (at most {settings['epochs']} epochs). "
        f"Seeds: {settings['seeds']}; mean ± standard error. Made by `docs/benchmarks/ranking.py`.",
        machine(),
        "*rank correlation*: Spearman's, of the saliency with the true change of the training loss "
        f"when only that parameter is deleted, over {settings['deletions']} parameters drawn at "
        "random. *loss, -10%*: training loss after deleting so many at once, without retraining. "
        f"*accuracy*: on test rows, at the end of a path with step={settings['step']}; epochs of "
        f"retraining: {retraining}. *minus ggn*: the difference is taken seed by seed and is "
        "therefore less noisy than the accuracies. With ReLU, hessian equals ggn and recursion "
        "equals recursion-lm. curvature.md has the cost of each.",
        *(part for found in networks.values() for part in section(found)),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="digits, one seed: does it run?")
    parser.add_argument("--data", metavar="FOLDER", help="where usps.npz is (default: no USPS)")
    parser.add_argument("--cache", type=Path, help="file of finished cells, to continue from")
    parser.add_argument("--output", help="Markdown file to write")
    parser.add_argument("--jobs", type=int, default=2, help="networks at a time (default: 2)")
    options = parser.parse_args()

    started = time.perf_counter()
    settings = QUICK if options.quick else FULL
    if not options.data and not options.quick:
        print(__doc__.rpartition("\n\n")[2])
    results = run(settings, options.data, options.cache, options.jobs)
    publish(report(results, settings), options.output)
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
