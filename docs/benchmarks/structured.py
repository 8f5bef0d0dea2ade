"""Whole units pruned on USPS: the smallest network within a point of dense accuracy, and its speed.

sk_obd and Torch-Pruning prune two float32 networks of `inference.py`: 256-512-512-10 and a LeNet.
For each seed, 20 % of the training rows (stratified) are held out for validation, and one dense
network is trained on the rest. Starting from its weights, every method follows a path with the same
number of steps, with the same optimiser and the same number of epochs of retraining after each
step:

- sk_obd, units: `granularity="unit"`, each step deletes a fifth of the parameters in the units
  left, then `compact("dense")`;
- sk_obd, parameters: the default, each step deletes a fifth of the parameters left, then
  `compact("dense")`;
- Torch-Pruning, by its magnitude (its own default), Taylor or Hessian importance: each step deletes
  a fifth of the units left, in each layer alike (its default) or over all layers together
  (*global*). Taylor is given the gradient of all training rows. Hessian is given the mean square of
  every row's gradient: its own `accumulate_grad` (1.6.1) keeps only that of the last row.

All training is done by the same code. From each path the network with the fewest parameters is
taken whose accuracy on the validation rows is at most a point below the dense network's. Test rows
are scored with this network and the dense one, and nothing is chosen on them. The smallest of some
twenty networks that pass on 1,458 rows passes partly by luck, so the test accuracy may be lower;
that is the same for all methods. Times are those of the bare modules, without any estimator around
them, on one thread, in turns in one process; they are medians.

    python docs/benchmarks/structured.py --data FOLDER --cache FOLDER --train
    python docs/benchmarks/structured.py --data FOLDER --cache FOLDER --output structured.md

The first command only follows the paths; the second times the networks chosen, on an idle machine.
inference.py says where the data are from. The lines of Torch-Pruning are left out where it is not
installed (`pip install torch-pruning`).
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from inference import NETWORKS, data, installed, net_of, timed, widths
from report import machine, publish, table
from sklearn.model_selection import train_test_split
from torch import nn

from sk_obd import OBDClassifier
from sk_obd.curvature import diagonal
from sk_obd.pruning.schedule import schedule

#: The share of what is left that each step deletes.
STEP = 0.2
#: How far below the dense network's accuracy a network may be.
TOLERANCE = 0.01
#: Rows in a forward pass: how often it is made in its turn.
BATCHES = {10_000: 1, 1: 100}

FULL = {
    "networks": ("256-512-512-10", "LeNet"),
    "seeds": 3,
    "epochs": 40,
    "retrain_epochs": 3,
    "prune_rate": 0.99,
    "seconds": 0.5,
}
QUICK = FULL | {
    "networks": ("64-100-100-10",),
    "seeds": 1,
    "epochs": 10,
    "retrain_epochs": 1,
    "prune_rate": 0.8,
    "seconds": 0.02,
}


def split(name, folder, seed):
    """X and y of the training, validation and test rows."""
    X, X_test, y, y_test = data(NETWORKS[name][0], folder)
    X, X_val, y, y_val = train_test_split(X, y, test_size=0.2, stratify=y, random_state=seed)
    return {"train": (X, y), "validation": (X_val, y_val), "test": (X_test, y_test)}


def trained(module, epochs, rows, seed):
    """A copy of a module, trained from its weights."""
    net = net_of(module, epochs)
    return OBDClassifier(net, prune_rate=0, random_state=seed).fit(*rows["train"]).net_.module_


# -- the methods: each yields the networks of a path, and how many of their parameters are alive ---


def ours(**parameters):
    def path(dense, rows, settings, seed):
        clf = OBDClassifier(
            net_of(dense, max_epochs=0),
            prune_rate=settings["prune_rate"],
            step=STEP,
            retrain_epochs=settings["retrain_epochs"],
            random_state=seed,
            **parameters,
        ).fit(*rows["train"])
        for iteration in range(len(clf.path_)):
            small = clf.at(iteration=iteration).compact("dense")
            yield small.net_.module_, small.n_params_

    return path


def theirs(importance, is_global, prepare=None):
    def path(dense, rows, settings, seed):
        # An optional dependency.
        import torch_pruning as tp

        module = copy.deepcopy(dense)
        X, y = map(torch.from_numpy, rows["train"])
        *_, output = (m for m in module.modules() if isinstance(m, nn.Linear))
        gone = shares(settings)
        pruner = tp.pruner.BasePruner(
            module,
            X[:1],
            importance=getattr(tp.importance, importance)(),
            global_pruning=is_global,
            pruning_ratio=settings["prune_rate"],
            iterative_steps=len(gone),
            iterative_pruning_ratio_scheduler=lambda *_: [0.0, *gone],
            ignored_layers=[output],
        )
        yield copy.deepcopy(module), n_stored(module)
        for step in range(len(gone)):
            if prepare:
                prepare(module, X, y)
            pruner.step()
            again = trained(module, settings["retrain_epochs"], rows, 100 * (seed + 1) + step)
            module.load_state_dict(again.state_dict())
            yield again, n_stored(again)

    return path


def shares(settings, n=10_000):
    """The shares deleted after each step, the same for units as for parameters."""
    return [total / n for total in schedule(n, settings["prune_rate"], STEP)]


def gradients(module, X, y):
    module.zero_grad()
    nn.functional.cross_entropy(module(X), y).backward()


def squared_gradients(module, X, y):
    """Put squared gradients where GroupHessianImportance looks for gradients."""
    fisher = diagonal(module, nn.CrossEntropyLoss(), X, y, method="fisher")
    for name, parameter in module.named_parameters():
        parameter.grad = fisher[name].to(parameter.dtype)


METHODS = {
    "sk_obd, units": ours(granularity="unit"),
    "sk_obd, parameters": ours(),
}
if installed("torch_pruning"):
    for _name, _parts in {
        "magnitude": ("GroupMagnitudeImportance", None),
        "Taylor": ("GroupTaylorImportance", gradients),
        "Hessian": ("GroupHessianImportance", squared_gradients),
    }.items():
        METHODS[f"Torch-Pruning, {_name}"] = theirs(_parts[0], False, _parts[1])
        METHODS[f"Torch-Pruning, {_name}, global"] = theirs(_parts[0], True, _parts[1])


# -- what is measured ------------------------------------------------------------------------------


def n_stored(module):
    return sum(p.numel() for p in module.parameters())


@torch.inference_mode()
def accuracy(module, X, y):
    return float(np.mean(module(torch.from_numpy(X)).argmax(dim=1).numpy() == y))


@torch.inference_mode()
def multiplications(module, X):
    """The multiplications of a forward pass for one row, in Linear layers and convolutions."""
    counts = []

    def count(layer, inputs, output):
        counts.append(output[0].numel() * layer.weight[0].numel())

    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    module(torch.from_numpy(X[:1]))
    for handle in handles:
        handle.remove()
    return sum(counts)


def described(module, n_alive, rows):
    return {
        "module": module,
        "alive": n_alive,
        "stored": n_stored(module),
        "macs": multiplications(module, rows["test"][0]),
        "widths": widths([p.shape for p in module.parameters() if p.dim() > 1]),
        "validation": accuracy(module, *rows["validation"]),
    }


def smallest(path, rows, dense_validation):
    """The smallest network that is good enough on the validation rows, with its test accuracy."""
    found = [described(module.eval(), n_alive, rows) for module, n_alive in path]
    curve = [(network["stored"], network["validation"]) for network in found]
    enough = [n for n in found if n["validation"] >= dense_validation - TOLERANCE]
    chosen = min(enough, key=lambda network: network["stored"])
    return chosen | {
        "test": accuracy(chosen["module"], *rows["test"]),
        "is_last": chosen is found[-1],
        "curve": curve,
    }


def follow(name, seed, settings, folder, cache):
    """The dense network and the one each method ends with; from the cache where it has them."""
    rows, found = split(name, folder, seed), {}
    for method in ["dense", *METHODS]:
        file = cache / f"{name}-{seed}-{method.replace(', ', '-')}.joblib"
        if not file.exists():
            started = time.perf_counter()
            if method == "dense":
                torch.manual_seed(seed)
                module = trained(NETWORKS[name][1](), settings["epochs"], rows, seed).eval()
                network = described(module, n_stored(module), rows)
                network["test"] = accuracy(module, *rows["test"])
            else:
                path = METHODS[method](found["dense"]["module"], rows, settings, seed)
                network = smallest(path, rows, found["dense"]["validation"])
            joblib.dump(network, file)
            print(f"{file.stem}: {time.perf_counter() - started:.0f} s", flush=True)
        found[method] = joblib.load(file)
    return found


def with_times(found, X, settings):
    """Add the seconds of a forward pass to each network."""
    many = torch.from_numpy(np.tile(X, (-(-max(BATCHES) // len(X)), 1)))
    modules = {method: network["module"] for method, network in found.items()}
    for n, calls in BATCHES.items():
        with torch.inference_mode():
            seconds = timed(modules, many[:n].clone(), calls, settings["seconds"])
        for method, network in found.items():
            network.setdefault("seconds", {})[n] = seconds[method]
    return found


# -- the report ------------------------------------------------------------------------------------


def report(results, settings):
    """The tables, as parts of a Markdown text."""
    n_steps = len(shares(settings))
    parts = [
        "# Whole units pruned, beside Torch-Pruning",
        f"Each line is for the smallest network of a path that is within {TOLERANCE:.0%} of the "
        f"dense network's accuracy on validation rows. Dense training takes {settings['epochs']} "
        f"epochs; then follow {n_steps} steps, each of which deletes a fifth of what is left and "
        f"retrains for {settings['retrain_epochs']} epochs. *parameters*: those stored in the "
        "dense layers left. *alive*: those of them that are not deleted. *MACs*: multiplications "
        "of a forward pass, as a share of the dense network's. *test*, *- dense*: test accuracy, "
        "and its difference to the dense network's in points. *speed*: how many times as fast the "
        f"bare module is as the dense one, for {' / '.join(f'{n:,}' for n in BATCHES)} rows, on "
        f"{torch.get_num_threads()} thread(s). Each network has a table of means over the seeds, "
        "and then one of all seeds. Made by `docs/benchmarks/structured.py`.",
        machine(),
    ]
    for name, seeds in results.items():
        dense = seeds[0]["dense"]
        tests = ", ".join(f"{found['dense']['test']:.4f}" for found in seeds)
        parts += [
            f"## {name}",
            f"Dense: {dense['stored']} parameters, {dense['macs']} MACs; test accuracy, seed by "
            f"seed: {tests}.",
            table(
                ["", "parameters", "alive", "MACs", "validation", "test", "- dense", "speed"],
                [mean_row(method, seeds) for method in METHODS],
            ),
            table(
                ["", "seed", "widths", "parameters", "alive", "validation", "test", "- dense"],
                [seed_row(m, seed, found) for m in METHODS for seed, found in enumerate(seeds)],
            ),
        ]
        if any(found[method]["is_last"] for found in seeds for method in METHODS):
            parts.append("\\* The last network of its path: a longer one might go below.")
    return parts


def mean_row(method, seeds):
    def mean(of):
        return float(np.mean([of(found[method], found["dense"]) for found in seeds]))

    speeds = [
        mean(lambda ours, dense, n=n: dense["seconds"][n] / ours["seconds"][n]) for n in BATCHES
    ]
    return [
        method,
        f"{mean(lambda ours, _: ours['stored']):.0f}",
        f"{mean(lambda ours, _: ours['alive']):.0f}",
        f"{mean(lambda ours, dense: ours['macs'] / dense['macs']):.1%}",
        f"{mean(lambda ours, _: ours['validation']):.4f}",
        f"{mean(lambda ours, _: ours['test']):.4f}",
        f"{100 * mean(lambda ours, dense: ours['test'] - dense['test']):+.2f}",
        " / ".join(f"{speed:.1f}" for speed in speeds),
    ]


def seed_row(method, seed, found):
    network, dense = found[method], found["dense"]
    return [
        method,
        seed,
        network["widths"] + ("\\*" if network["is_last"] else ""),
        network["stored"],
        network["alive"],
        f"{network['validation']:.4f}",
        f"{network['test']:.4f}",
        f"{100 * (network['test'] - dense['test']):+.2f}",
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small net on digits: does it run?")
    parser.add_argument("--data", type=Path, help="folder with usps.npz")
    parser.add_argument("--cache", type=Path, help="folder for the networks, to continue from")
    parser.add_argument("--train", action="store_true", help="only follow paths not in the cache")
    parser.add_argument("--output", help="Markdown file to write")
    options = parser.parse_args()
    if not (options.quick or options.data):
        parser.error("--data names the folder with usps.npz; only --quick does not need it.")
    if not installed("torch_pruning"):
        print("Torch-Pruning is not installed, so its lines are left out.")

    settings = QUICK if options.quick else FULL
    torch.set_num_threads(1)
    cache = options.cache or Path(tempfile.mkdtemp())
    cache.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in settings["networks"]:
        for seed in range(settings["seeds"]):
            found = follow(name, seed, settings, options.data, cache)
            if not options.train:
                X = split(name, options.data, seed)["test"][0]
                results.setdefault(name, []).append(with_times(found, X, settings))
    if results:
        publish(report(results, settings), options.output)


if __name__ == "__main__":
    main()
