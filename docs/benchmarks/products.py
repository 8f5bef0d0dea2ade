"""Products with the Gauss-Newton matrix beside torch.func's jvp and vjp.

Times are in units of one gradient pass over the same rows; they are medians of runs taken in turn.
"single" is one call of ``ggn_vector_product``, which looks at the module first; "of many" is one
more product at the same parameters, as conjugate gradients ask for them. torch.func carries the
tangent up by ``jvp``, multiplies by the softmax's second derivative, and pulls back by ``vjp``:
once from scratch, and once with the ``vjp`` of the point kept, for many products. All results are
compared; the largest difference is shown. One thread, inputs are random numbers.

    python docs/benchmarks/products.py --output docs/benchmarks/products.md
"""

import argparse

import torch
from curvature import NETS, difference, gradient, measure, problem
from report import machine, publish, table
from torch import nn
from torch.func import functional_call, jvp, vjp

from sk_obd.curvature import ggn_vector_product
from sk_obd.curvature.gauss_newton import GaussNewton
from sk_obd.curvature.losses.registry import loss_of


def softmax_product(logits, tangent):
    """The second derivative of the mean cross-entropy by the logits, times a tangent."""
    p = logits.softmax(1)
    return p * (tangent - (p * tangent).sum(1, keepdim=True)) / len(logits)


def contenders(module, X, y, vectors):
    """Each gives the product with the same vector."""
    criterion = nn.CrossEntropyLoss()
    parameters = dict(module.named_parameters())
    w = torch.ones(len(X))
    matrix = GaussNewton(module, loss_of(criterion), parameters, lambda: [(X, y, w)])

    def logits(values):
        return functional_call(module, values, (X,))

    values = {name: p.detach() for name, p in parameters.items()}

    def from_scratch():
        output, pull = vjp(logits, values)
        tangent = jvp(logits, (values,), (vectors,))[1]
        return pull(softmax_product(output, tangent))[0]

    kept_output, kept_pull = vjp(logits, values)

    def with_pull_kept():
        tangent = jvp(logits, (values,), (vectors,))[1]
        return kept_pull(softmax_product(kept_output, tangent))[0]

    return {
        "single": lambda: ggn_vector_product(module, criterion, X, y, vectors),
        "of many": lambda: matrix.product(vectors),
        "torch.func, single": from_scratch,
        "torch.func, of many": with_pull_kept,
    }


def row(name, rounds, n_rows):
    """Times in gradient passes, and the largest difference."""
    module, criterion, X, y = problem(name, n_rows)
    torch.manual_seed(0)
    vectors = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    calls = contenders(module.eval(), X, y, vectors)
    results = {label: call() for label, call in calls.items()}
    reference = results["torch.func, single"]
    worst = max(difference(result, reference) for result in results.values())
    passes = {"gradient": gradient(len(X))(module, criterion, X, y)}
    seconds = measure(passes | calls, rounds)
    of_gradient = seconds["gradient"]
    return [name, *(f"{seconds[label] / of_gradient:.2f}" for label in calls), f"{worst:.0e}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output")
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rounds, n_rows = (1, 20) if args.quick else (15, None)
    rows = [row(name, rounds, n_rows) for name in NETS]
    header = ["", "single", "of many", "torch.func, single", "torch.func, of many", "difference"]
    publish(
        [
            "# Products with the Gauss-Newton matrix",
            "In gradient passes over the same rows, one thread. Made by "
            "`docs/benchmarks/products.py`, whose first lines say how.",
            machine(),
            table(header, rows),
        ],
        args.output,
    )


if __name__ == "__main__":
    main()
