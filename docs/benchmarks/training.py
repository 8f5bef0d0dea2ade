"""Training a small network: an epoch of `fit` beside three others.

A 64-100-10 network is trained on scikit-learn's digits, in float32, by Adam, with batches of 128
shuffled rows. All competitors take turns in one run, and times are medians. Then the same is
measured while another process keeps one core busy: there torch's default of one thread per core
makes small networks very slow.

    python docs/benchmarks/training.py --output docs/benchmarks/training.md
    python docs/benchmarks/training.py --threads

The second command times single steps on one and two threads, for a range of network sizes.
SMALL_STEP in sk_obd/training comes from it.
"""

import argparse
import multiprocessing
import time
import warnings
from contextlib import contextmanager
from functools import cache, partial
from itertools import product

import numpy as np
import torch
from report import machine, publish, table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from skorch import NeuralNetClassifier
from torch import nn
from torch.nn.utils import prune

from sk_obd import OBDClassifier
from sk_obd.training.isolation import one_thread
from sk_obd.training.nets import start
from sk_obd.training.rounds import train_round

BATCH = 128
DEFAULT_THREADS = torch.get_num_threads()


@cache
def data():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def skorch_net(epochs):
    """A net as users of skorch write it. It trains on every row, as the others do."""
    return NeuralNetClassifier(
        network(),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=BATCH,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


def random_masks(module):
    """Masks with four of five parameters deleted."""
    torch.manual_seed(1)
    return {name: torch.rand(p.shape) > 0.8 for name, p in module.named_parameters()}


# -- the competitors: each trains for some epochs, and returns the seconds that one took -----------


def bare_loop(epochs, masked, threads):
    """The loop written by hand; deleted weights are set to zero after each step."""
    X, y = map(torch.from_numpy, data())
    module = network()
    parameters = list(module.parameters())
    masks = [mask.float() for mask in random_masks(module).values()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    criterion = nn.CrossEntropyLoss()
    torch.set_num_threads(threads)
    started = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(BATCH):
            optimizer.zero_grad()
            criterion(module(X[rows]), y[rows]).backward()
            optimizer.step()
            if masked:
                with torch.no_grad():
                    torch._foreach_mul_(parameters, masks)
    seconds = time.perf_counter() - started
    torch.set_num_threads(DEFAULT_THREADS)
    return seconds / epochs


def fit_training(epochs, masked):
    """The training inside `fit`."""
    X, y = data()
    net = start(skorch_net(epochs), X, y)
    masks = random_masks(net.module_) if masked else None
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    started = time.perf_counter()
    with one_thread():
        train_round(net, X, y, epochs=epochs, masks=masks)
    return (time.perf_counter() - started) / epochs


def whole_fit(epochs, masked):
    """`fit` from validation to scores and saliencies, without pruning."""
    if masked:
        return None
    clf = OBDClassifier(skorch_net(epochs), prune_rate=0, random_state=0)
    started = time.perf_counter()
    clf.fit(*data())
    return (time.perf_counter() - started) / epochs


def stock_skorch(epochs, masked):
    """skorch as it comes; deleted weights are masked by torch.nn.utils.prune."""
    net = skorch_net(epochs).initialize()
    if masked:
        for name, mask in random_masks(net.module_).items():
            layer, kind = name.split(".")
            prune.custom_from_mask(net.module_[int(layer)], kind, mask)
        net.initialize_optimizer()
    started = time.perf_counter()
    net.partial_fit(*data())
    return (time.perf_counter() - started) / epochs


def mlp_classifier(epochs, masked):
    """scikit-learn's network, which cannot hold weights at zero."""
    if masked:
        return None
    mlp = MLPClassifier(
        hidden_layer_sizes=(100,),
        batch_size=BATCH,
        max_iter=epochs,
        tol=0,
        n_iter_no_change=epochs,
        random_state=0,
    )
    started = time.perf_counter()
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        mlp.fit(*data())
    return (time.perf_counter() - started) / mlp.n_iter_


BARE, TORCH_DEFAULT = "bare loop, 1 thread", f"bare loop, torch's {DEFAULT_THREADS} threads"
COMPETITORS = {
    BARE: partial(bare_loop, threads=1),
    "sk_obd, training in fit": fit_training,
    "sk_obd, all of fit": whole_fit,
    "stock skorch": stock_skorch,
    "MLPClassifier": mlp_classifier,
    TORCH_DEFAULT: partial(bare_loop, threads=DEFAULT_THREADS),
}
# These use one thread per core: beside a busy process they may be 100 times slower.
UNGUARDED = ("stock skorch", "MLPClassifier", TORCH_DEFAULT)


# -- measuring -------------------------------------------------------------------------------------


def spin(ready):
    ready.set()
    while True:
        pass


@contextmanager
def busy_core():
    """Another process that keeps one core busy."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=spin, args=(ready,), daemon=True)
    process.start()
    ready.wait()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def medians(repetitions, epochs, unguarded_epochs):
    """Median seconds of an epoch, by (competitor, masked); the competitors take turns."""
    found = {}
    for _ in range(repetitions):
        for name, run in COMPETITORS.items():
            for masked in (False, True):
                few = unguarded_epochs if name in UNGUARDED else epochs
                found.setdefault((name, masked), []).append(run(few, masked))
    return {key: None if None in times else np.median(times) for key, times in found.items()}


def milliseconds(seconds, reference):
    """A time in milliseconds, and its ratio to the reference."""
    if seconds is None:
        return "", ""
    return f"{seconds * 1e3:.1f}", f"{seconds / reference:.2f}"


def epochs_report(quick):
    epochs, repetitions = (3, 1) if quick else (50, 9)
    for run in COMPETITORS.values():  # imports and allocates what is needed once
        run(1, masked=False)
    alone = medians(repetitions, epochs, epochs)
    with busy_core():
        beside = medians(1 if quick else 5, epochs, 1 if quick else 3)

    def rows(times, reference):
        return [
            [name]
            + [
                cell
                for masked in (False, True)
                for cell in milliseconds(times[name, masked], alone[reference(name), masked])
            ]
            for name in COMPETITORS
        ]

    header = ["", "dense, ms", "ratio", "masked, ms", "ratio"]
    return [
        "# Training a small network",
        "Times are for an epoch of a 64-100-10 network on the digits (1797 rows, batches of "
        f"{BATCH}, float32, Adam), in milliseconds; they are medians of {repetitions} interleaved "
        f"repetitions of {epochs} epochs. *masked*: with 80 % of the parameters held at zero. Made "
        "by `docs/benchmarks/training.py`.",
        machine(),
        "Ratios are to the bare loop on one thread (fused Adam, rows taken by index):",
        table(header, rows(alone, reference=lambda name: BARE)),
        "While another process keeps one core busy; ratios are to the undisturbed time:",
        table(header, rows(beside, reference=lambda name: name)),
    ]


# -- threads ---------------------------------------------------------------------------------------


def step_time(module, batch, threads, seconds):
    """Median seconds of a training step, measured for about `seconds` seconds."""
    torch.set_num_threads(threads)
    X = torch.randn(batch, module[0].in_features, dtype=module[0].weight.dtype)
    y = torch.randint(10, (batch,))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-5, fused=True)
    criterion = nn.CrossEntropyLoss()
    times = []
    while len(times) < 8 or sum(times) < seconds:
        started = time.perf_counter()
        optimizer.zero_grad()
        criterion(module(X), y).backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    torch.set_num_threads(DEFAULT_THREADS)
    return np.median(times[3:])


def threads_report(quick):
    widths = (10, 100) if quick else (2, 8, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536)
    seconds, repetitions = (0.02, 1) if quick else (0.2, 3)
    rows = []
    for dtype, width, batch in product((torch.float32, torch.float64), widths, (32, 200)):
        layers = nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, 10)
        module = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).to(dtype)
        work = sum(p.numel() for p in module.parameters()) * batch * 3
        one, two = np.median(
            [[step_time(module, batch, k, seconds) for k in (1, 2)] for _ in range(repetitions)],
            axis=0,
        )
        times = f"{one * 1e3:.3f}", f"{two * 1e3:.3f}", f"{one / two:.2f}"
        rows.append((str(dtype).removeprefix("torch."), work, width, batch, *times))
    rows = [[dtype, f"{work:.1e}", *rest] for dtype, work, *rest in sorted(rows)]
    return [
        "# One thread or two",
        "Times are for a training step of a 64-width-width-10 network (fused Adam); multiply-adds "
        "are parameters x batch x 3. Where the column 1/2 is above 1, two threads are faster.",
        machine(),
        table(["", "multiply-adds", "width", "batch", "1 thread, ms", "2, ms", "1/2"], rows),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", action="store_true", help="time steps on 1 and 2 threads")
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run?")
    parser.add_argument("--output", help="Markdown file to write")
    options = parser.parse_args()
    make = threads_report if options.threads else epochs_report
    publish(make(options.quick), options.output)


if __name__ == "__main__":
    main()
