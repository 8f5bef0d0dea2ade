"""Products of the Gauss-Newton matrix and a vector, many of them at one point: ``J^T H J v``.

A product is a tangent carried up to the logits, ``J v``, and a column pulled back from there,
``J^T (H J v)``. What both need of the rows is computed once and kept where it is not too large:
solvers ask for dozens of products at the same parameters.

Chains of Linear layers take four matrix products a layer, against the three of a gradient. Any
other module goes through plain autograd, where ``J v`` is the derivative of ``w -> J^T w`` (double
backward), which every operation of torch has that can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn

from .boundary import (
    as_it_was,
    default_batch_size,
    outputs_of_layers,
    second_derivatives_named,
)
from .losses.base import Loss
from .losses.hessians import Form
from .problem import Batch, Problem
from .routes.dense_chain import DenseChain, may_be_dense_chain
from .routes.dependent_rows import refuse_dependent_rows
from .routes.derivatives import probe_like, refuse_once_differentiable

#: Most bytes that are kept between products, by a rough estimate; what is larger is run anew.
KEPT_BYTES = 1 << 29
#: How many times the outputs of its layers a batch keeps: graphs also hold inputs and slopes.
KEPT_PER_OUTPUT = 4
#: How far the product of two rows by a chain may be from that by plain autograd, relative to the
#: largest number of a parameter, in units of what rounding does to a number.
CONFIRMED_ULPS = 10_000


class LinearisedChain:
    """The rows of a batch at a dense chain: products by matrix products."""

    def __init__(self, problem: Problem, batch: Batch, chain: DenseChain):
        self.chain = chain
        self.names = [problem.names(link.layer) for link in chain.links]
        self.form: Form = batch.form(chain.logits)
        self.denominator = float(batch.denominator(chain.output))

    def product(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch's sum of ``J^T H J v``."""
        links, n = self.chain.links, len(self.chain.output)
        first = next((i for i, names in enumerate(self.names) if names), len(links))
        tangent = None
        for link, names in zip(links, self.names, strict=True):
            moved = None if tangent is None else tangent @ link.weight.detach().T
            if "weight" in names:
                own = link.x @ vectors[names["weight"]].T
                moved = own if moved is None else moved.add_(own)
            if "bias" in names:
                own = vectors[names["bias"]].expand(n, -1)
                moved = own.clone() if moved is None else moved.add_(own)
            tangent = moved if moved is None or link.slope is None else moved.mul_(link.slope)
        if tangent is None:
            return {}
        pulled = self.form.product(tangent.reshape(self.chain.logits.shape)).reshape(n, -1)
        found: dict[str, Tensor] = {}
        for i in range(len(links) - 1, first - 1, -1):
            link, names = links[i], self.names[i]
            if link.slope is not None:
                pulled = pulled * link.slope
            if "weight" in names:
                found[names["weight"]] = pulled.T @ link.x
            if "bias" in names:
                found[names["bias"]] = pulled.sum(0)
            if i > first:
                pulled = pulled @ link.weight.detach()
        return found


class LinearisedGraph:
    """The rows of a batch at any module: products by double backward."""

    def __init__(self, problem: Problem, batch: Batch):
        loss, self.parameters = batch.loss, problem.parameters
        output = problem.module(batch.X)
        loss.refuse_outputs(output.detach())
        self.logits = loss.logits(output)
        self.form: Form = batch.form(self.logits.detach())
        self.denominator = float(batch.denominator(output.detach()))
        self.column = torch.ones_like(self.logits, requires_grad=True)
        self.pulled: dict[str, Tensor] = {}
        if self.logits.requires_grad:
            pulled = torch.autograd.grad(
                self.logits,
                list(self.parameters.values()),
                self.column,
                create_graph=True,
                allow_unused=True,
            )
            refuse_once_differentiable(pulled)
            self.pulled = {
                name: p for name, p in zip(self.parameters, pulled, strict=True) if p is not None
            }

    def product(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch's sum of ``J^T H J v``."""
        if not self.pulled:
            return {}
        (tangent,) = torch.autograd.grad(
            list(self.pulled.values()),
            self.column,
            [vectors[name] for name in self.pulled],
            retain_graph=True,
        )
        found = torch.autograd.grad(
            self.logits,
            [self.parameters[name] for name in self.pulled],
            self.form.product(tangent),
            retain_graph=True,
        )
        return dict(zip(self.pulled, found, strict=True))


#: A batch of X, y and the weights of its rows.
Rows = tuple[Tensor, Tensor, Tensor]


class GaussNewton:
    """The Gauss-Newton matrix of a module's mean loss over all rows, known by its products.

    Parameters
    ----------
    module : nn.Module
        Its present parameters count: where they change, the rows go through it anew.
    loss : Loss
    parameters : dict of str to nn.Parameter
        Those that the matrix is over.
    batches : callable
        Gives X, y and the weights of all rows, in one or several parts.
    batch_size : int, optional
        Rows at a time. By default chosen from the module's size.

    Attributes
    ----------
    n_products : int
        Products so far.
    denominator : float
        Of the mean, known after the first product.

    Raises
    ------
    ValueError, RuntimeError
        At the first product: as :func:`sk_obd.curvature.ggn_vector_product`.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        parameters: dict[str, nn.Parameter],
        batches: Callable[[], Iterable[Rows]],
        *,
        batch_size: int | None = None,
    ):
        self.module, self.loss, self.parameters = module, loss, parameters
        self.batches, self.batch_size = batches, batch_size
        self.n_products = 0
        self.denominator = 0.0
        self._problem: Problem | None = None
        self._kept: list[LinearisedChain | LinearisedGraph] | None = None
        self._versions: list[int] = []

    def product(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``G v`` of the mean loss, an entry for every parameter.

        Parameters
        ----------
        vectors : dict of str to Tensor
            v: an entry for every parameter, of its shape and dtype.

        Returns
        -------
        dict of str to Tensor
        """
        total = {n: torch.zeros_like(p, requires_grad=False) for n, p in self.parameters.items()}
        denominator = 0.0
        for rows in self._linearised():
            with self._named():
                found = rows.product(vectors)
            for name, value in found.items():
                total[name] += value
            denominator += rows.denominator
        if not denominator > 0:
            raise ValueError(
                f"the weights of all rows sum to {denominator}: there is no mean loss. Give some "
                "row a positive weight (and a target that is not ignore_index)."
            )
        self.n_products += 1
        self.denominator = denominator
        return {name: value / denominator for name, value in total.items()}

    def _linearised(self) -> Iterable[LinearisedChain | LinearisedGraph]:
        """Every batch at the present parameters: those kept, or run anew one by one."""
        versions = [p._version for p in self.parameters.values()]
        if versions != self._versions:
            self._kept, self._versions = None, versions
        if self._kept is not None:
            return self._kept
        made = self._run()
        if not self._may_keep():
            return made
        self._kept = list(made)
        return self._kept

    def _may_keep(self) -> bool:
        """Whether what all rows need, by a rough estimate, is small enough to be kept."""
        n_rows, per_row = 0, 0
        for X, y, _ in self.batches():
            if not n_rows:
                with as_it_was(self.module), self._named():
                    self._problem_of(X, y)  # refuses what has no products, by name
                with as_it_was(self.module):
                    held, output = outputs_of_layers(self.module, X)
                per_row = held * output.element_size() * KEPT_PER_OUTPUT
            n_rows += len(X)
        return n_rows * per_row <= KEPT_BYTES

    def _run(self) -> Iterable[LinearisedChain | LinearisedGraph]:
        for X, y, w in self.batches():
            with as_it_was(self.module), self._named():
                problem = self._problem_of(X, y)
                size = self.batch_size or default_batch_size(problem, X)
            for parts in zip(X.split(size), y.split(size), w.split(size), strict=True):
                with as_it_was(self.module), self._named():
                    batch = Batch(self.loss, *parts)
                    chain = problem.dense_chain(batch)
                    made = (
                        LinearisedGraph(problem, batch)
                        if chain is None
                        else LinearisedChain(problem, batch, chain)
                    )
                yield made

    def _named(self) -> AbstractContextManager[None]:
        return second_derivatives_named(
            self.module, "A product with the Gauss-Newton matrix", way_out=""
        )

    def _problem_of(self, X: Tensor, y: Tensor) -> Problem:
        """What is known of the module, found out at the first batch."""
        if self._problem is None:
            # Not the first rows only: a few from all over the batch.
            some = torch.linspace(0, len(X) - 1, min(3, len(X))).long().to(X.device)
            self._problem = Problem(
                self.module,
                self.loss,
                self.parameters,
                draw_probe=lambda: X[some],
                try_dense_chain=may_be_dense_chain(self.module),
            )
            if self._problem.try_dense_chain and not confirmed(self._problem, X[some], y[some]):
                self._problem.take_general_route()
            if not self._problem.try_dense_chain:
                refuse_dependent_rows(self.module, X[some])
        return self._problem


def confirmed(problem: Problem, X: Tensor, y: Tensor) -> bool:
    """Whether the module is a dense chain, and the product of a few rows that of autograd."""
    batch = Batch(problem.loss, X, y, torch.ones(len(X), dtype=torch.float64, device=X.device))
    tried = replace(problem, names_by_layer={}, plans={}, _per_row={})
    chain = tried.dense_chain(batch)
    if chain is None:
        return False
    vectors = {name: probe_like(p) for name, p in problem.parameters.items()}
    found = LinearisedChain(tried, batch, chain).product(vectors)
    expected = LinearisedGraph(tried, batch).product(vectors)
    return all(same(found.get(name), expected.get(name)) for name in problem.parameters)


def same(found: Tensor | None, expected: Tensor | None) -> bool:
    """Whether two results differ by rounding only; None is 0."""
    if found is None or expected is None:
        present = found if expected is None else expected
        return present is None or not present.any()
    scale = max(found.abs().max().item(), expected.abs().max().item(), 1e-30)
    gap = (found - expected).abs().max().item()
    return gap <= CONFIRMED_ULPS * torch.finfo(found.dtype).eps * scale
