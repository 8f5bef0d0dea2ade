"""OBD with retraining, or with the survivors moved: accuracy at the same processor time.

Every cell is one path, to 99 % of the parameters deleted, each step a tenth of what is left:
criterion (saliency), compensation, and epochs of retraining after each step. All cells of a seed
have the same split and the same dense network. At 80, 90, 95, 98 and 99 % the network of the path
is scored on the test rows, which nothing is chosen on: settings are those written here.

What a path costs is counted in passes, each as much as one gradient of the loss of all training
rows: an epoch is one, a product with the Gauss-Newton matrix 4/3 of one for these chains of dense
layers (2 for the LeNet), a saliency as many as the curvature takes (counted as 3). Beside it stands
the processor time of the whole path after the dense training, on one thread.

digits comes with scikit-learn. The others are read from the folder that --data names, as .npz files
with X and y: satimage and spambase (OpenML data sets of these names) and concrete (UCI data set
165, "Concrete Compressive Strength"); usps.npz has X_train, y_train, X_test and y_test, with pixels
in thousandths, so that its split is the same for every seed. Results are kept in the file that
--cache names, and what is there is not run again; --tables and --seeds run a part.

    python docs/benchmarks/compensation.py --data FOLDER --cache compensation.jsonl \\
        --output docs/benchmarks/compensation.md
"""

import argparse
import json
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from report import machine, publish, table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor

RATES = (0.8, 0.9, 0.95, 0.98, 0.99)
SALIENCIES = ("obd", "obd-decay", "obs", "magnitude")
COMPENSATIONS = (None, "layer", "obs")
EPOCHS = (0, 5, 20)
#: Cells of the first table and, where there are many rows, all that is run.
MAIN = [
    *product(("obd", "magnitude"), (None,), EPOCHS),
    *product(("obd",), ("layer", "obs"), (0, 5)),
]
ALL = list(product(SALIENCIES, COMPENSATIONS, EPOCHS))
#: Table: its cells, its hidden layers ("lenet" for the LeNet), its weight decay and dense epochs.
TABLES = {
    "digits": (ALL, (64, 32), 1e-3, 200),
    "satimage": (MAIN, (100,), 1e-3, 60),
    "spambase": (MAIN, (100,), 1e-3, 100),
    "concrete": (MAIN, (50, 20), 1e-3, 200),
    "usps": (MAIN, (300, 100), 1e-3, 30),
    "usps, LeNet": (MAIN, "lenet", 1e-3, 20),
}
FULL = {"seeds": 5, "step": 0.1, "n_rows": 10**6, "prune_rate": 0.99}
QUICK = {"seeds": 1, "step": 0.6, "n_rows": 200, "prune_rate": 0.9}


class LeNet(nn.Module):
    """Two convolutions and two dense layers, for images of 16 x 16."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 60),
            nn.ReLU(),
            nn.Linear(60, 10),
        )

    def forward(self, X):
        return self.layers(X.reshape(-1, 1, 16, 16))


def load(name, data, n_rows, seed):
    """Training and test rows: three quarters and one quarter, where they are not given."""
    if name.startswith("usps"):
        with np.load(data / "usps.npz", allow_pickle=False) as usps:
            X_train, X_test = (usps[k].astype(np.float32) / 1000 for k in ("X_train", "X_test"))
            return X_train[:n_rows], X_test, usps["y_train"][:n_rows], usps["y_test"]
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        X = X / 16
    else:
        with np.load(data / f"{name}.npz", allow_pickle=False) as file:
            X, y = file["X"].astype(float), file["y"]
    rows = np.random.default_rng(seed).permutation(len(y))[:n_rows]
    X, y = X[rows].astype(np.float32), y[rows]
    stratify = None if name == "concrete" else y
    return train_test_split(X, y, test_size=0.25, stratify=stratify, random_state=seed)


def estimator(name, seed, settings, cell):
    """The estimator of a cell; all cells of a seed have the same dense network."""
    saliency, compensation, epochs = cell
    _, hidden, weight_decay, max_epochs = TABLES[name]
    common = {
        "prune_rate": settings["prune_rate"],
        "step": settings["step"],
        "saliency": saliency,
        "compensation": compensation,
        "retrain_epochs": epochs,
        "random_state": seed,
    }
    max_epochs = max_epochs if settings["n_rows"] > 1000 else 5
    if hidden == "lenet":
        net = NeuralNetClassifier(
            LeNet,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            optimizer__weight_decay=weight_decay,
            lr=2e-3,
            batch_size=200,
            max_epochs=max_epochs,
            iterator_train__shuffle=True,
            train_split=None,
        )
        return OBDClassifier(net, **common)
    kind = OBDRegressor if name == "concrete" else OBDClassifier
    return kind(
        hidden_layer_sizes=hidden, weight_decay=weight_decay, max_epochs=max_epochs, **common
    )


def run_cell(name, seed, settings, cell, data):
    """What one path gives at every rate, and costs up to it."""
    torch.set_num_threads(1)
    X, X_test, y, y_test = load(name, data, settings["n_rows"], seed)
    warnings.simplefilter("ignore", ConvergenceWarning)
    started = time.process_time()
    fitted = estimator(name, seed, settings, cell).fit(X, y)
    total = time.process_time() - started
    per_product = 2 if TABLES[name][1] == "lenet" else 4 / 3
    path, found = fitted.path_, {"dense": fitted.at(iteration=0).score(X_test, y_test)}
    share = total / sum(row["fit_time"] for row in path)
    for rate in RATES:
        if rate > settings["prune_rate"]:
            continue
        i = path.find(prune_rate=rate)
        rows = path.rows[1 : i + 1]
        passes = sum(row["n_epochs"] + 3 * (cell[0] != "magnitude") for row in rows)
        passes += per_product * np.nansum([row["n_products"] for row in rows])
        found[str(rate)] = {
            "score": fitted.at(iteration=i).score(X_test, y_test),
            "loss": path[i]["loss"],
            "passes": float(passes),
            "seconds": share * sum(row["fit_time"] for row in rows),
        }
    return {"table": name, "seed": seed, "cell": list(cell), "found": found}


def named(cell):
    saliency, compensation, epochs = cell
    moved = "" if compensation is None else f" + {compensation}"
    return f"{saliency}{moved}, {epochs} epochs"


def of_table(name, done, seeds):
    """The parts of the report for one table."""
    cells = [c for c in TABLES[name][0] if (name, seeds[0], *c) in done]
    if not cells:
        return []
    seeds = [s for s in seeds if all((name, s, *c) in done for c in cells)]
    dense = [done[name, s, *cells[0]]["dense"] for s in seeds]
    rates = [r for r in RATES if str(r) in done[name, seeds[0], *cells[0]]]
    # The rate whose loss and cost are shown.
    shown = rates[-2 if len(rates) > 1 else 0]
    rows = []
    for cell in cells:
        found = [done[name, s, *cell] for s in seeds]
        row = [named(cell)]
        for rate in rates:
            scores = [f[str(rate)]["score"] for f in found]
            spread = np.std(scores, ddof=1) / len(seeds) ** 0.5 if len(seeds) > 1 else 0.0
            row.append(f"{np.mean(scores):.3f} ± {spread:.3f}")
        for key, digits in (("loss", 4), ("passes", 0), ("seconds", 0)):
            row.append(f"{np.mean([f[str(shown)][key] for f in found]):.{digits}f}")
        rows.append(row)
    header = ["", *(f"{r:.0%}" for r in rates)]
    header += [f"loss at {shown:.0%}", f"passes to {shown:.0%}", "seconds"]
    metric = "R²" if name == "concrete" else "accuracy"
    return [
        f"## {name}",
        f"Dense: {metric} {np.mean(dense):.3f}; seeds: {len(seeds)}. Test {metric} by share "
        "deleted, mean ± standard error.",
        table(header, rows),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the .npz files")
    parser.add_argument("--cache", type=Path, help="a .jsonl file of finished cells")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tables", nargs="*", choices=TABLES)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    args = parser.parse_args()
    settings = QUICK if args.quick else FULL
    seeds = list(range(args.seeds or settings["seeds"]))
    names = args.tables or (list(TABLES) if args.data else ["digits"])
    done = {}
    if args.cache and args.cache.exists():
        for line in args.cache.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            done[entry["table"], entry["seed"], *entry["cell"]] = entry["found"]
    todo = [
        (name, seed, cell)
        for seed, name in product(seeds, names)
        for cell in (TABLES[name][0] if not args.quick else MAIN)
        if (name, seed, *cell) not in done
    ]
    jobs = (delayed(run_cell)(name, seed, settings, cell, args.data) for name, seed, cell in todo)
    for entry in Parallel(args.jobs, return_as="generator")(jobs):
        done[entry["table"], entry["seed"], *entry["cell"]] = entry["found"]
        if args.cache:
            with args.cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
    parts = [
        "# Compensation: the survivors moved, with and without retraining",
        "Made by `docs/benchmarks/compensation.py`, whose first lines say how.",
        machine(),
    ]
    for name in names:
        parts += of_table(name, done, seeds)
    publish(parts, args.output)


if __name__ == "__main__":
    main()
