"""The safety net: on a few rows, what a route gives is compared with plain autograd.

Every route rests on what it reads off the graph of each batch. This module asks, once a call,
whether the numbers bear that out, by a way that shares none of the routes: each row goes through
the module on its own, and its derivatives are those of plain ``torch.autograd``. Both run in
float64 where the module can be copied to it, so that rounding is not mistaken for an error.

**What it costs.** The rows of X do not matter, so the more there are, the less it is of a call. A
call of a dense chain is the cheapest there is, a few milliseconds for a small network, and all that
its route rests on is read off the graph of each batch, so that it is compared only where rows
times parameters are many. (To compare once for each module and structure would need a memory
between calls, and then a result would depend on the calls before it.) For any other module
a call takes long enough, or is short in any case.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .hooks import trainable
from .losses.hessians import Columns, Form
from .methods import ggn, hessian
from .problem import Batch, Buffers, Problem

#: Rows that are compared.
ROWS = 2
#: Random mixtures of all columns that are pulled back in their place, where there are more.
MIXTURES = 2
#: Most parameters of a module that is copied to float64.
COPIED = 10_000_000
#: Rows times parameters from which on a dense chain is compared: it takes less than 2 % from there.
WORK = 5_000_000_000
#: How far two results may be apart, relative to the largest number of a parameter: in float64,
#: where rounding is far below it, and in other types.
RTOL, RTOL_OTHER = 1e-6, 3e-2

#: Methods that are compared. The others are approximations, apart from "ggn-mc", whose random
#: columns go the way of those of "ggn".
COMPARED = ("ggn", "hessian", "fisher", "ggn-mc")


@dataclass
class Several(Form):
    """A few columns (k, n, *shape) with their signs (k, n), or None where all are +1."""

    S: Tensor
    signs: Tensor | None = None

    def diagonal(self) -> Tensor:
        squares = self.S.square()
        if self.signs is not None:
            squares = squares * self.signs.reshape(*self.signs.shape, *[1] * (self.S.ndim - 2))
        return squares.sum(0)

    def columns(self, limit: int = MIXTURES) -> Columns:
        # A copy, since whoever asks for columns may change them in place.
        yield self.S.clone(), self.signs

    def product(self, v: Tensor) -> Tensor:
        raise NotImplementedError("columns of a comparison are not multiplied with vectors")

    def sample(self, generator: torch.Generator) -> Tensor:
        raise NotImplementedError("columns of a comparison are not sampled from")

    def scaled(self, weight: Tensor) -> Form:
        raise NotImplementedError("columns of a comparison are not weighted")


def worth_comparing(problem: Problem, method: str, rows: int) -> bool:
    """Whether the method is compared, and the call long enough for it."""
    if method not in COMPARED:
        return False
    size = sum(p.numel() for p in problem.parameters.values())
    return not problem.try_dense_chain or rows * size >= WORK


def disagreement(problem: Problem, method: str, X: Tensor, y: Tensor) -> str | None:
    """The name of a parameter whose result by the chosen route is not that of plain autograd.

    Both are of the rows X, y; None where all agree.
    """
    problem, X, y = in_double(problem, X, y)
    w = torch.ones(len(X), dtype=X.dtype if X.is_floating_point() else torch.float64)
    batch = Batch(problem.loss, X, y, w.to(X.device))
    if method == "hessian":
        pairs = second_derivatives(problem, batch)
    else:
        pairs = pulled_squares(problem, batch, method)
    sizes = {
        name: max(found.abs().max().item(), expected.abs().max().item())
        for name, (found, expected) in pairs.items()
    }
    for name, (found, expected) in pairs.items():
        rtol = RTOL if expected.dtype == torch.float64 else RTOL_OTHER
        # Beside those of others, curvatures as small as rounding makes them are 0.
        bound = rtol * (sizes[name] + rtol * max(sizes.values()))
        if (found - expected).abs().max().item() > bound:
            return name
    return None


def warn_of(name: str, module: nn.Module) -> None:
    """One UserWarning, for the caller of ``diagonal``."""
    warnings.warn(
        f"the quick way to the second derivatives of {type(module).__name__} gives another result "
        f"for {name!r} than plain autograd, on rows drawn to check it; the slow, general way is "
        "taken for all of them. Is the module's output random, or does it depend on earlier calls?",
        UserWarning,
        stacklevel=3,
    )


def in_double(problem: Problem, X: Tensor, y: Tensor) -> tuple[Problem, Tensor, Tensor]:
    """The problem with a copy of the module in float64, and the rows X, y in it.

    All are as they were where the module is in float64 already, is large, or cannot be copied or
    run in it.
    """
    module, parameters = problem.module, problem.parameters
    types = {t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()}
    double = X
    if types != {torch.float64} and sum(p.numel() for p in module.parameters()) <= COPIED:
        try:
            module = copy.deepcopy(module).double()
            parameters = trainable(module)
            double = X.double() if X.is_floating_point() else X
            with torch.no_grad():
                module(double)
        except Exception:  # whatever a module of someone else's may raise
            module, parameters, double = problem.module, problem.parameters, X
    if double is not X:
        y = y.double() if y.is_floating_point() else y
    fresh = replace(
        problem,
        module=module,
        parameters=parameters,
        draw_probe=lambda: double,
        buffers=Buffers(),
        names_by_layer={},
        plans={},
        _per_row={},
        _layers_seen_apart=None,
    )
    return fresh, double, y


def pulled_squares(problem: Problem, batch: Batch, method: str) -> dict[str, tuple[Tensor, Tensor]]:
    """For every parameter, the sum of ``sign (J^T s)**2`` over a few columns s, found twice.

    First by the route, then by a backward pass for each row and column.
    """
    given: list[Several] = []

    def form_at(logits: Tensor) -> Form:
        if method == "fisher":
            few = Several(batch.loss.gradient(logits, batch.y).unsqueeze(0))
        else:
            few = few_columns(batch.form(logits))
        given.append(few)
        return few

    found, _ = ggn.pull_back(problem, batch, form_at)
    expected = {n: torch.zeros_like(p, requires_grad=False) for n, p in problem.parameters.items()}
    parameters = list(problem.parameters.values())
    S, signs = given[-1].S, given[-1].signs
    for i in range(len(batch.X)):
        logits = batch.loss.logits(problem.module(batch.X[i : i + 1]))
        if not logits.requires_grad:
            continue
        for k, s in enumerate(S[:, i : i + 1]):
            sign = 1.0 if signs is None else signs[k, i]
            slopes = torch.autograd.grad(
                logits, parameters, s.reshape(logits.shape), retain_graph=True, allow_unused=True
            )
            for value, slope in zip(expected.values(), slopes, strict=True):
                if slope is not None:
                    value += sign * slope.square()
    return {n: (found.get(n, torch.zeros_like(e)), e) for n, e in expected.items() if e.numel()}


def few_columns(form: Form) -> Several:
    """The columns of a form with their signs, or random mixtures of the first block of them."""
    S, signs = next(form.columns())
    if len(S) <= MIXTURES:
        return Several(S, signs)
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(MIXTURES, len(S), generator=generator, dtype=torch.float64).to(S)
    return Several(torch.tensordot(mix, S, 1))


def second_derivatives(problem: Problem, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """For every parameter, the second derivatives by a few of its numbers, found twice.

    First by the route, then by plain double backward of the rows' losses, where each row has gone
    through the module on its own. The numbers are that with the largest first derivative and that
    with the largest result.
    """
    found, _ = hessian.sums(problem, batch)
    value = batch.w.new_zeros(())
    for i in range(len(batch.X)):
        output = problem.module(batch.X[i : i + 1])
        value = value + batch.loss.exact_rows(output, batch.y[i : i + 1]).sum()
    parameters = {name: p for name, p in problem.parameters.items() if p.numel()}
    if not value.requires_grad:
        return {n: (v, torch.zeros_like(v)) for n, v in found.items() if v.numel()}
    slopes = torch.autograd.grad(
        value, list(parameters.values()), create_graph=True, allow_unused=True
    )
    pairs = {}
    for (name, p), slope in zip(parameters.items(), slopes, strict=True):
        got = found.get(name, torch.zeros_like(p, requires_grad=False)).flatten()
        if slope is None:
            pairs[name] = (got, torch.zeros_like(got))
            continue
        flat = slope.flatten()
        picked = sorted({int(flat.detach().abs().argmax()), int(got.abs().argmax())})
        seconds = [second(flat[k], p).flatten()[k] for k in picked]
        pairs[name] = got[picked], torch.stack(seconds)
    return pairs


def second(slope: Tensor, p: nn.Parameter) -> Tensor:
    """The derivative of one number of a first derivative, shaped like the parameter."""
    if not slope.requires_grad:
        return torch.zeros_like(p, requires_grad=False)
    (found,) = torch.autograd.grad(slope, p, retain_graph=True, allow_unused=True)
    return torch.zeros_like(p, requires_grad=False) if found is None else found.detach()
