"""``sk_obd.curvature.diagonal`` beside BackPACK, curvlinops and per-row torch.func.

Times are in units of one gradient pass over the same rows, computed in one call or in batches of
1024 or 256, whichever is fastest. They are medians of runs taken in turn, so that other work on the
machine affects all of them alike. BackPACK runs at the best of three chunk sizes. Inputs are random
numbers in the shapes named, since only the time and the largest difference from BackPACK's result
are looked at. Memory is the peak of a fresh process, above what it held after loading the data and
after a gradient pass and the same call on 8 rows.

    python docs/benchmarks/curvature.py --cache curvature.jsonl \\
        --output docs/benchmarks/curvature.md

With ``--nets`` only some networks are measured; the report covers everything that the cache holds.
BackPACK and curvlinops are left out where they are not installed. Memory is measured only on Linux.
"""

import argparse
import copy
import importlib.util
import itertools
import json
import multiprocessing
import statistics
import time
import warnings
from pathlib import Path

import torch
from report import machine, publish, table
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


def gradient(rows):
    def make(module, criterion, X, y):
        parameters = list(module.parameters())
        batches = list(zip(X.split(rows), y.split(rows), strict=True))

        def call():
            for X, y in batches:
                torch.autograd.grad(criterion(module(X), y), parameters)

        return call

    return make


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
    """The diagonal of J^T H J, row by row with torch.func, in chunks of rows."""
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
    """All contenders as {label: make}; those that take minutes are left out on large networks."""
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
    """Median seconds of each call. They take turns after a warm-up; slow ones get fewer turns."""
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


def high_water():
    """The most KiB that this process has held. (ru_maxrss starts with what its parent held.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def peak(name, rows, label, pipe):
    """Send the KiB that a call takes above a gradient pass and the same call on a few rows.

    It runs in a fresh process. The first call of anything loads modules (torch's own, and sympy),
    however few rows it gets.
    """
    torch.set_num_threads(1)
    given = problem(name, rows)
    few = (*given[:2], given[2][:8], given[3][:8])
    gradient(64)(*few)()
    contenders(name, False)[label](*few)()
    call = contenders(name, False)[label](*given)
    before = high_water()
    call()
    pipe.send(high_water() - before)


def memory(name, rows, label):
    """The MiB that a call takes, measured in a process of its own."""
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


def time_of(name, threads, rounds, quick):
    """Median seconds of every contender on one network."""
    torch.set_num_threads(threads)
    given = problem(name, 64 if quick else None)
    makes = {f"gradient, {rows} rows at a time": gradient(rows) for rows in (10**4, 1024, 256)}
    makes |= contenders(name, quick)
    calls = {label: make(*given) for label, make in makes.items()}
    seconds = measure(calls, rounds * (5 if name.startswith("64") else 1))
    best = fastest(seconds, "BackPACK DiagGGNExact")
    gap = difference(calls["ggn"](), calls[best]()) if best else None
    return {"rows": len(given[2]), "seconds": seconds, "gap": gap}


def fastest(seconds, start):
    found = {label: value for label, value in seconds.items() if label.startswith(start)}
    return min(found, key=found.get) if found else None


def memory_of(name):
    """The MiB that calls take with all rows of a network, and with four times as many."""
    rows = NETS[name][1][0]
    labels = [label for label in IN_MEMORY if label in contenders(name, False)]
    return {label: [memory(name, n, label) for n in (rows, 4 * rows)] for label in labels}


IN_MEMORY = ("ggn", "hessian", "BackPACK DiagGGNExact 128")


def section(name, found):
    """The section on one network: all contenders, on each number of threads measured."""
    labels, rows = list(next(iter(found.values()))["seconds"]), []
    for label in labels:
        row = [label.replace("10000 rows at a time", "all rows at once")]
        for result in found.values():
            seconds = result["seconds"]
            unit = seconds[fastest(seconds, "gradient")]
            row += [f"{seconds[label] * 1e3:.1f}", f"{seconds[label] / unit:.2f}"]
        rows.append(row)
    header = [""]
    for threads in found:
        header += [f"ms, {threads} thread{'s' * (threads > 1)}", "passes"]
    first = next(iter(found.values()))
    parts = [f"## {name}, {first['rows']} rows", table(header, rows)]
    if first["gap"] is not None:
        parts.append(
            "Largest difference of `ggn` from BackPACK, relative to each tensor's largest entry: "
            f"{first['gap']:.1e}."
        )
    return parts


def goals(name):
    """Yield (what is measured, "<=" or ">=", the goal) for one network."""
    conv, small = name.startswith("LeNet"), name.startswith("64")
    yield "ggn, passes", "<=", 5 if conv else 3.2
    yield "BackPACK DiagGGNExact / ggn", ">=", 1.5 if conv else 3 if small else 2.2
    if "tanh" in name:
        yield "hessian, passes", "<=", 5
        yield "BackPACK DiagHessian / hessian", ">=", 20
    yield "recursion-lm, passes", "<=", 1.2
    yield "fisher, passes", "<=", 1.7


def came_out(what, seconds):
    """The number to compare with a goal, or None where it was not measured."""
    if what.endswith(", passes"):
        return seconds[what.partition(",")[0]] / seconds[fastest(seconds, "gradient")]
    peer, _, method = what.partition(" / ")
    best = fastest(seconds, peer)
    return seconds[best] / seconds[method] if best else None


def judged(times):
    """The table of goals, with the numbers measured."""
    threads = sorted({threads for found in times.values() for threads in found})
    rows = []
    for name, found in times.items():
        for what, sense, goal in goals(name):
            row, missed = [name, what, f"{sense} {goal}"], False
            for n in threads:
                value = came_out(what, found[n]["seconds"]) if n in found else None
                row.append("" if value is None else f"{value:.2f}")
                if value is not None:
                    missed |= value > goal if sense == "<=" else value < goal
            if any(row[3:]):
                rows.append([*row, "missed" if missed else ""])
    heads = [f"{n} thread{'s' * (n > 1)}" for n in threads]
    return ["## Goals", table(("", "what", "goal", *heads, ""), rows)]


def memory_section(found):
    rows = []
    for name, values in found.items():
        for i, times in enumerate(("", ", four times the rows")):
            cells = [values.get(label) for label in IN_MEMORY]
            rows.append([name + times, *("" if v is None else f"{v[i]:.0f}" for v in cells)])
    return ["## Peak memory, MiB, one thread", table(("", *IN_MEMORY), rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=NETS, metavar="NET")
    parser.add_argument("--memory", choices=("too", "only", "not"), default="too")
    parser.add_argument("--quick", action="store_true", help="few rows, one round, no memory")
    parser.add_argument("--cache", type=Path, help="file of what is measured, to continue from")
    parser.add_argument("--output", help="a file for the Markdown report")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cells = [[name, n] for name in options.nets for n in options.threads]
    cells = [] if options.memory == "only" else cells
    if options.memory != "not" and not options.quick:
        cells += [[name, "memory"] for name in options.nets]
    results = []
    if options.cache and options.cache.exists():
        results = [json.loads(line) for line in options.cache.read_text().splitlines()]
    done = [cell for cell, _ in results]
    for cell in cells:
        if cell in done:
            continue
        name, what = cell
        rounds = 1 if options.quick else options.rounds
        found = memory_of(name) if what == "memory" else time_of(name, what, rounds, options.quick)
        results.append([cell, found])
        if options.cache:
            with options.cache.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
        print(cell, flush=True)
    times, memories = {}, {}
    for name in NETS:
        for (other, what), found in results:
            if other == name and what == "memory":
                memories[name] = found
            elif other == name:
                times.setdefault(name, {})[what] = found
    parts = ["# Diagonal curvature", INTRODUCTION, machine()]
    parts += judged(times) if times else []
    for name, found in times.items():
        parts += section(name, found)
    parts += memory_section(memories) if memories else []
    publish(parts, options.output)


INTRODUCTION = (
    "Made by `docs/benchmarks/curvature.py`. One pass is one gradient over the same rows, computed "
    "in one call or in batches, whichever is fastest. All runs use float32, cross-entropy and 10 "
    "classes; times are medians of runs taken in turn. Ratios to BackPACK are taken at the fastest "
    "of its chunk sizes. A goal is `missed` if it is missed on one thread or on two."
)


if __name__ == "__main__":
    main()
