"""Prediction: what a pruned network saves in time and on disk.

There are four float32 networks, each pruned along one path to 99 % by OBD: 64-100-100-10 on
scikit-learn's digits and, on USPS (16 x 16 images, 256 inputs, from --data), one with the hidden
layers of LeNet-300-100, 256-512-512-10, and a LeNet with two convolutions. All contenders predict
labels for the same test rows, in turns in one process; times are medians. Accuracies are those on
the test rows, and nothing was chosen on these. Everything runs on one thread (--threads): on a
machine that does anything else, a second thread makes torch's dense layers wait, and the comparison
becomes worthless.

Each contender is called as a user would call it, with one float32 array, and its time is that of
the whole call:

- dense: skorch's `net_.predict` of the pruned network in its original shape. This includes skorch's
  steps around each block of rows, the forward pass, softmax and argmax. X is not checked.
- compact, dense / sparse / auto: the estimator's `predict` after `compact(...)`. This includes the
  check of X (type, shape, finite values), the module called on blocks of rows without skorch's
  steps, softmax, argmax, and looking up the labels. For few rows, the steps left out are a good
  part of the gain over "dense"; `structured.py` times bare modules.
- ONNX: `compact("dense").to_onnx`, run by onnxruntime: the session's `run` is asked for the labels.
  This includes the check of X's type and shape, the forward pass, softmax, argmax and the labels.
- NumPy: `predict` of the file that `compact("dense").to_numpy` writes. This includes the check of
  X's shape, the forward pass, softmax, argmax and the labels. It multiplies with dense matrices.

The ONNX and safetensors files are left out where the packages that write or run them are not
installed.

    python docs/benchmarks/inference.py --data FOLDER --cache FOLDER --train
    python docs/benchmarks/inference.py --data FOLDER --cache FOLDER --output inference.md

The first command only trains the paths; the second times them, on an idle machine. The file
usps.npz in the data folder has X_train, y_train, X_test and y_test, with pixels in thousandths. The
same data are in zip.train.gz and zip.test.gz at the site of The Elements of Statistical Learning.
"""

import argparse
import io
import json
import runpy
import tempfile
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median

import joblib
import numpy as np
import torch
from report import machine, publish, table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from threadpoolctl import threadpool_limits
from torch import nn

from sk_obd import OBDClassifier

RATES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
# Some 1 - 0.795^k lies just below each of the rates.
STEP = 0.205
#: Rows predicted at a time: how often a contender predicts them in its turn.
BATCHES = {10_000: 1, 100: 10, 1: 100}

#: Epochs of dense training and of retraining for each data set.
FULL = {"digits": (100, 20), "usps": (15, 3), "seconds": 0.5}
QUICK = {"digits": (2, 1), "seconds": 0.02}


def mlp(*sizes):
    layers = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet():
    """A LeNet for images of 16 x 16."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 16, 16)),
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(64, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


#: name: (data, network)
NETWORKS = {
    "64-100-100-10": ("digits", lambda: mlp(64, 100, 100, 10)),
    "256-300-100-10": ("usps", lambda: mlp(256, 300, 100, 10)),
    "256-512-512-10": ("usps", lambda: mlp(256, 512, 512, 10)),
    "LeNet": ("usps", lenet),
}


def data(name, folder):
    """X_train, X_test, y_train and y_test, with X in float32."""
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(
            X / 16, y, test_size=0.5, stratify=y, random_state=0
        )
    else:
        with np.load(folder / "usps.npz") as usps:
            X_train, X_test = usps["X_train"] / 1000, usps["X_test"] / 1000
            y_train, y_test = usps["y_train"], usps["y_test"]
    return X_train.astype(np.float32), X_test.astype(np.float32), y_train, y_test


def net_of(module, max_epochs):
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=1e-4,
        lr=1e-3,
        max_epochs=max_epochs,
        batch_size=128,
        iterator_train__shuffle=True,
    )


def train(name, X, y, settings):
    """Train a network and prune it along its path."""
    max_epochs, retrain_epochs = settings[NETWORKS[name][0]]
    torch.manual_seed(0)
    clf = OBDClassifier(
        net_of(NETWORKS[name][1](), max_epochs),
        prune_rate=RATES[-1],
        step=STEP,
        retrain_epochs=retrain_epochs,
        random_state=0,
        verbose=1,
    )
    return clf.fit(X, y)


# -- the contenders: each gives (its predict, the bytes that have to be kept) ---------------------


def saved(module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return len(file.getvalue())


def dense(clf, folder):
    return clf.net_.predict, saved(clf.net_.module_)


def compact(backend):
    def contender(clf, folder):
        small = clf.compact(backend)
        return small.predict, saved(small.net_.module_)

    return contender


def onnx(clf, folder):
    # An optional dependency.
    import onnxruntime

    path = folder / "network.onnx"
    clf.compact("dense").to_onnx(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda X: session.run(["label"], {"X": X})[0], path.stat().st_size


def numpy(clf, folder):
    path = folder / "network.py"
    clf.compact("dense").to_numpy(path)
    return runpy.run_path(path)["predict"], path.stat().st_size


def installed(*modules):
    return all(find_spec(module) for module in modules)


CONTENDERS = {
    "dense": dense,
    "compact, dense": compact("dense"),
    "compact, sparse": compact("sparse"),
    "compact, auto": compact("auto"),
    **({"ONNX": onnx} if installed("onnx", "onnxscript", "onnxruntime") else {}),
    "NumPy": numpy,
}

#: Contenders that have the same state_dict as another one.
SAME_FILE = ("compact, sparse", "compact, auto")


def parameters_file(clf, folder):
    """The size in bytes of the file that save_params writes: what is alive, and where."""
    path = folder / "network.safetensors"
    clf.save_params(path)
    return path.stat().st_size


def timed(contenders, X, calls, budget):
    """Median seconds of each contender's prediction for X. Each turn is `calls` calls long."""
    times = {name: [] for name in contenders}
    for predict in contenders.values():
        predict(X)
    started = time.perf_counter()
    while time.perf_counter() - started < budget * len(contenders) or len(times["dense"]) < 5:
        for name, predict in contenders.items():
            begun = time.perf_counter()
            for _ in range(calls):
                predict(X)
            times[name].append((time.perf_counter() - begun) / calls)
    return {name: median(seconds) for name, seconds in times.items()}


def measure(clf, X, y, settings):
    """For each rate: the sizes, the accuracy, and every contender's times and bytes."""
    many = np.tile(X, (-(-max(BATCHES) // len(X)), 1))
    rows = []
    for rate in RATES:
        pruned = clf.at(prune_rate=rate)
        with tempfile.TemporaryDirectory() as folder:
            made = {name: make(pruned, Path(folder)) for name, make in CONTENDERS.items()}
            sizes = {name: size for name, (_, size) in made.items() if name not in SAME_FILE}
            if installed("safetensors"):
                sizes["save_params"] = parameters_file(pruned, Path(folder))
            predicts = {name: predict for name, (predict, _) in made.items()}
            # The compacted estimator: `predict` is its method.
            small = predicts["compact, auto"].__self__
            expected = pruned.predict(X)
            agree = {name: float(np.mean(p(X) == expected)) for name, p in predicts.items()}
            times = {
                n: timed(predicts, many[:n].copy(), calls, settings["seconds"])
                for n, calls in BATCHES.items()
            }
        rows.append(
            {
                "rate": rate,
                "alive": pruned.n_params_,
                "after": [r["after"] for r in small.compact_report_.rows],
                "sparse": small.compact_report_.sparse,
                "accuracy": float(np.mean(expected == y)),
                "agree": agree,
                "bytes": sizes,
                "seconds": times,
            }
        )
        print(f"{rate:.0%} done", flush=True)
    return {"dense_accuracy": clf.at(iteration=0).score(X, y), "rows": rows}


def widths(shapes):
    """The widths of the layers, from the shapes of their weights."""
    return "-".join(str(n) for n in [shapes[0][1], *(shape[0] for shape in shapes)])


def names_of(results):
    """The contenders that were measured, and the kinds of files that were written."""
    row = next(iter(results.values()))["rows"][0]
    return list(row["seconds"]["1"]), [name for name in row["bytes"] if name != "dense"]


def files_of(results):
    """What the column of file sizes contains, in words."""
    named = {
        "compact, dense": "the compacted network's state_dict",
        "ONNX": "its ONNX file",
        "NumPy": "its NumPy program",
        "save_params": "what `save_params` writes (safetensors)",
    }
    return " / ".join(named[name] for name in names_of(results)[1])


def winners(results):
    """Where each contender is the fastest, and how fast the choice by measurement is."""
    lines = []
    for n in BATCHES:
        cells = [
            {
                name: row["seconds"][str(n)]["dense"] / t
                for name, t in row["seconds"][str(n)].items()
            }
            for result in results.values()
            for row in result["rows"]
        ]
        fixed = [name for name in names_of(results)[0] if name != "compact, auto"]
        firsts = [max(fixed, key=speeds.get) for speeds in cells]
        counts = "; ".join(f"{name} {firsts.count(name)}" for name in fixed)
        auto = [speeds["compact, auto"] for speeds in cells]
        lines.append(
            f"- {n:,} rows: how often each is the fastest, of {len(cells)} networks and sizes: "
            f"{counts}. auto, which takes dense or sparse by measurement, is not counted; it has "
            f"{min(auto):.1f} to {max(auto):.1f} times the dense network's speed."
        )
    return "\n".join(lines)


def report(results, settings):
    """The tables, as parts of a Markdown text."""
    parts = [
        "# Prediction with pruned networks",
        f"Float32, {torch.get_num_threads()} thread(s); one path per network, with {STEP:.1%} of "
        "what is left deleted at a time. *widths*: channels in and out of the layers that "
        "compact() leaves. Contenders: how many times as fast they are as the dense network's "
        "`net_.predict`, for 10,000 / 100 / 1 rows; ONNX and NumPy run the compacted network. The "
        "docstring of the script says what each time includes. *files*: how many times as small "
        f"they are as the dense network's state_dict, for {files_of(results)}. Made by "
        "`docs/benchmarks/inference.py`.",
        machine(),
        "Where each wins:",
        winners(results),
    ]
    contenders, files = names_of(results)
    smaller = [name for name in contenders if name != "dense"]
    for name, result in results.items():
        rows = []
        for row in result["rows"]:
            seconds = row["seconds"]
            speeds = [
                " / ".join(f"{seconds[str(n)]['dense'] / seconds[str(n)][c]:.1f}" for n in BATCHES)
                for c in smaller
            ]
            sizes = row["bytes"]
            rows.append(
                [
                    f"{row['rate']:.0%}",
                    row["alive"],
                    f"{row['accuracy']:.3f}",
                    widths(row["after"]),
                    *speeds,
                    len(row["sparse"]),
                    " / ".join(f"{sizes['dense'] / sizes[file]:.1f}" for file in files),
                ]
            )
        slow = result["rows"][0]["seconds"]
        slow = ", ".join(f"{1e3 * slow[str(n)]['dense']:.3g} ms for {n:,}" for n in BATCHES)
        epochs, more = settings[NETWORKS[name][0]]
        header = ["deleted", "alive", "accuracy", "widths"]
        header += [*smaller, "CSR layers", "files"]
        lowest = min(min(row["agree"].values()) for row in result["rows"])
        stored = result["rows"][0]["bytes"]["dense"] / 1000
        parts += [
            f"## {name} ({NETWORKS[name][0]})",
            f"Trained for {epochs} epochs, and for {more} after each deletion. The dense network: "
            f"test accuracy {result['dense_accuracy']:.3f}; state_dict {stored:.0f} kB; prediction "
            f"{slow} rows. The labels of every contender agree with the pruned network's for at "
            f"least {lowest:.2%} of the test rows.",
            table(header, rows),
        ]
    return parts


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only digits: does it run?")
    parser.add_argument("--data", type=Path, help="folder with usps.npz (default: only digits)")
    parser.add_argument("--cache", type=Path, help="folder for paths and times, to continue from")
    parser.add_argument("--train", action="store_true", help="only train what is not in the cache")
    parser.add_argument("--only", choices=NETWORKS, help="measure only this network")
    parser.add_argument("--threads", type=int, default=1, help="for all contenders (default: 1)")
    parser.add_argument("--output", help="Markdown file to write")
    options = parser.parse_args()

    settings = QUICK if options.quick else FULL
    torch.set_num_threads(options.threads)
    cache = options.cache or Path(tempfile.mkdtemp())
    cache.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, (source, _) in NETWORKS.items():
        usable = source == "digits" or (options.data and not options.quick)
        if not usable or options.only not in (None, name):
            continue
        X_train, X_test, y_train, y_test = data(source, options.data)
        path, times = cache / f"{name}.joblib", cache / f"{name}.json"
        if not path.exists():
            started = time.perf_counter()
            joblib.dump(train(name, X_train, y_train, settings), path)
            print(f"{name}: trained in {time.perf_counter() - started:.0f} s", flush=True)
        if options.train:
            continue
        if not times.exists():
            with threadpool_limits(options.threads, user_api="blas"):
                measured = measure(joblib.load(path), X_test, y_test, settings)
            times.write_text(json.dumps(measured))
        results[name] = json.loads(times.read_text())
    if results:
        publish(report(results, settings), options.output)


if __name__ == "__main__":
    main()
