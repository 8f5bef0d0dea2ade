"""``sk_obd.curvature.diagonal`` beside BackPACK, curvlinops and per-row torch.func.

Times are in units of one gradient pass over the same rows, medians of runs taken in turn, so that
what else the machine does hits all alike. BackPACK runs at the best of three chunk sizes. Inputs
are random numbers in the shapes named: only the time is looked at, and the largest difference from
BackPACK's result. Memory is what a fresh process takes at its peak above the one that only holds
the data and has done a gradient pass.

    python docs/benchmarks/curvature.py --threads 1 --output docs/benchmarks/curvature.md

BackPACK and curvlinops are left out where they are not installed. Memory needs Linux.
"""

import argparse
import copy
import importlib.util
import itertools
import multiprocessing
import resource
import statistics
import time
import warnings

import torch
from report import machine, table
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from sk_obd.curvature import diagonal


def mlp(act, *sizes):
    pairs = list(itertools.pairwise(sizes))
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1])


def lenet(kernel, padding, flat):
    def block(a, b):
        return nn.Conv2d(a, b, kernel, padding=padding), nn.ReLU(), nn.MaxPool2d(2)

    return nn.Sequential(
        *block(1, 6),
        *block(6, 16),
        *(nn.Flatten(), nn.Linear(flat, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


NETS = {
    "64-100-100-10 ReLU": (lambda: mlp(nn.ReLU, 64, 100, 100, 10), (1797, 64)),
    "64-100-100-10 tanh": (lambda: mlp(nn.Tanh, 64, 100, 100, 10), (1797, 64)),
    "256-512-512-10 ReLU": (lambda: mlp(nn.ReLU, 256, 512, 512, 10), (7291, 256)),
    "256-512-512-10 tanh": (lambda: mlp(nn.Tanh, 256, 512, 512, 10), (7291, 256)),
    "LeNet-like 16x16": (lambda: lenet(3, 1, 256), (7291, 1, 16, 16)),
    "LeNet-like 28x28": (lambda: lenet(5, 0, 256), (2000, 1, 28, 28)),
}
METHODS = ("ggn", "hessian", "recursion", "recursion-lm", "ggn-mc", "fisher")
CHUNKS = (128, 512, 2048)


def problem(name, rows=None):
    build, shape = NETS[name]
    torch.manual_seed(0)
    rows = rows or shape[0]
    return (
        build(),
        nn.CrossEntropyLoss(),
        torch.rand(rows, *shape[1:]),
        torch.randint(0, 10, (rows,)),
    )


def gradient(module, criterion, X, y):
    parameters = list(module.parameters())
    return lambda: torch.autograd.grad(criterion(module(X), y), parameters)


def ours(method):
    def make(module, criterion, X, y):
        return lambda: diagonal(module, criterion, X, y, method=method, random_state=0)

    return make


def backpack(extension, attribute, chunk):
    def make(module, criterion, X, y):
        from backpack import backpack as within
        from backpack import extend, extensions

        module, criterion = extend(copy.deepcopy(module)), extend(copy.deepcopy(criterion))

        def call():
            total = {}
            for rows in torch.arange(len(X)).split(chunk):
                with within(getattr(extensions, extension)()):
                    criterion(module(X[rows]), y[rows]).backward()
                for name, p in module.named_parameters():
                    part = getattr(p, attribute) * (len(rows) / len(X))
                    total[name] = total[name] + part if name in total else part
            return total

        return call

    return make


def hutchinson(module, criterion, X, y):
    from curvlinops import GGNLinearOperator, hutchinson_diag

    parameters = [p for p in module.parameters() if p.requires_grad]

    def call():
        operator = GGNLinearOperator(
            module, criterion, parameters, [(X, y)], check_deterministic=False
        )
        return hutchinson_diag(operator, 10)

    return call


def per_row(module, criterion, X, y):
    """J^T H J of every row by torch.func, in chunks of rows."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def row(x):
        def logits(parameters):
            return functional_call(module, parameters, (x.unsqueeze(0),)).squeeze(0)

        J, p = jacrev(logits)(parameters), logits(parameters).softmax(0)
        H = p.diag() - p.outer(p)
        return {k: torch.einsum("c...,cd,d...->...", v, H, v) for k, v in J.items()}

    def call():
        parts = [vmap(row)(rows) for rows in X.split(64)]
        return {k: sum(part[k].sum(0) for part in parts) / len(X) for k in parameters}

    return call


def per_row_fisher(module, criterion, X, y):
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def value(parameters, x, target):
        return criterion(
            functional_call(module, parameters, (x.unsqueeze(0),)), target.unsqueeze(0)
        )

    def call():
        slopes = [
            vmap(grad(value), (None, 0, 0))(parameters, *rows)
            for rows in zip(X.split(256), y.split(256), strict=True)
        ]
        return {k: sum(s[k].square().sum(0) for s in slopes) / len(X) for k in parameters}

    return call


def contenders(name, quick):
    """{label: make}; ways that take minutes are left out of the large networks."""
    small = name.startswith("64")
    conv = name.startswith("LeNet")
    found = {method: ours(method) for method in METHODS}
    if importlib.util.find_spec("backpack"):
        for chunk in CHUNKS[:1] if quick else CHUNKS:
            if chunk <= 512 or not conv:
                found[f"BackPACK DiagGGNExact {chunk}"] = backpack(
                    "DiagGGNExact", "diag_ggn_exact", chunk
                )
        found["BackPACK DiagGGNMC"] = backpack("DiagGGNMC", "diag_ggn_mc", 512)
        if name == "64-100-100-10 tanh":
            found["BackPACK DiagHessian"] = backpack("DiagHessian", "diag_h", 128)
    if importlib.util.find_spec("curvlinops"):
        found["curvlinops Hutchinson, 10 probes"] = hutchinson
    if small:
        found["torch.func, GGN by rows"] = per_row
    found["torch.func, Fisher by rows"] = per_row_fisher
    return found


def measure(calls, rounds, patience=8.0):
    """Median seconds of each call, taken in turn after one to warm up; slow ones fewer times."""
    taken = {label: [] for label in calls}
    for i in range(rounds + 1):
        for label, call in calls.items():
            if len(taken[label]) > 1 and sum(taken[label]) > patience:
                continue
            start = time.perf_counter()
            call()
            if i:
                taken[label].append(time.perf_counter() - start)
    return {label: statistics.median(times) for label, times in taken.items()}


def difference(got, expected):
    return max(((got[k] - v).abs().max() / v.abs().max()).item() for k, v in expected.items())


def peak(name, rows, label, pipe):
    """In a fresh process: KiB above a gradient pass over 64 rows."""
    torch.set_num_threads(1)
    given = problem(name, rows)
    gradient(*given[:2], given[2][:64], given[3][:64])()
    call = contenders(name, False)[label](*given)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def memory(name, rows, label):
    """MiB, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=peak, args=(name, rows, label, there))
    process.start()
    there.close()
    try:
        return here.recv() / 1024
    except EOFError:
        return float("nan")
    finally:
        process.join()


def report(names, rounds, quick):
    for name in names:
        given = problem(name, 256 if quick else None)
        makes = {"gradient": gradient, **contenders(name, quick)}
        calls = {label: make(*given) for label, make in makes.items()}
        seconds = measure(calls, rounds * (5 if name.startswith("64") else 1))
        unit = seconds["gradient"]
        rows = [(k, f"{v * 1e3:.1f}", f"{v / unit:.2f}") for k, v in seconds.items()]
        yield f"## {name}, {len(given[2])} rows\n\n{table(('', 'ms', 'passes'), rows)}\n"
        peers = {k: v for k, v in seconds.items() if k.startswith("BackPACK DiagGGNExact")}
        if peers:
            best = min(peers, key=peers.get)
            gap = difference(calls["ggn"](), calls[best]())
            yield (
                f"`ggn` is {peers[best] / seconds['ggn']:.1f} times as fast as {best}; largest "
                f"difference between the two, relative to each tensor's largest entry: {gap:.1e}.\n"
            )
        if "BackPACK DiagHessian" in seconds:
            times = seconds["BackPACK DiagHessian"] / seconds["hessian"]
            yield f"`hessian` is {times:.0f} times as fast as BackPACK DiagHessian.\n"


def memory_report(names):
    labels = ("ggn", "hessian", "BackPACK DiagGGNExact 128")
    rows = []
    for name in names:
        full = NETS[name][1][0]
        known = [label for label in labels if label in contenders(name, False)]
        rows += [
            (f"{name}, {n} rows", *(f"{memory(name, n, label):.0f}" for label in known))
            for n in (full, 4 * full)
        ]
    return f"## Peak memory, MiB\n\n{table(('', *known), rows)}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=NETS, metavar="NET")
    parser.add_argument("--memory", action="store_true", help="measure peak memory, not time")
    parser.add_argument("--quick", action="store_true", help="few rows, one round")
    parser.add_argument("--output", help="a file for the Markdown report")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    parts = [f"# Diagonal curvature\n\n{machine()} {options.threads} thread(s).\n"]
    rounds = 1 if options.quick else options.rounds
    found = report(options.nets, rounds, options.quick)
    for part in [memory_report(options.nets)] if options.memory else found:
        print(part, flush=True)
        parts.append(part)
    if options.output:
        with open(options.output, "w") as file:
            file.write("\n".join(parts))


if __name__ == "__main__":
    main()
