r"""Optimal Brain Surgeon's correction: the survivors move to the minimum of the quadratic model.

The model of the trained loss, E with the penalty P, around the network before a deletion is

.. math:: m(\delta) = (\nabla E + \nabla P)^T \delta + \tfrac12 \delta^T A \delta,
    \qquad A = G + \nabla^2 P

with the Gauss-Newton matrix G of all rows. :math:`\delta_k = -u_k` where deleted is given, and
the rest goes to the model's minimum. Hassibi and Stork (1992, Second order derivatives for network
pruning: Optimal Brain Surgeon) do so for one parameter at a time, at a minimum of E, with the
inverse of the whole matrix. Here conjugate gradients need only products with it, and the gradient
counts, so that the move also trains.

The model holds near the network before the deletion only. As Levenberg and Marquardt do, the
survivors' curvatures are raised by a share of them, the damping, where the loss falls by much less
than the model says (Martens 2010, Deep learning via Hessian-free optimization, also for the choice
among the iterates of one solve). What raises the loss is not taken. Where a move lowers the loss by
much, another follows from where it led, with a model of its own: a Gauss-Newton step.
"""

from __future__ import annotations

import math
import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from ..curvature.losses.base import name_of
from ..training.objective import Objective
from ..training.penalty import Penalty
from .moves import Step, Survivors, Tensors, added, taken
from .taylor import quadratic

#: How survivors may be moved.
COMPENSATIONS = ("obs", "layer")

#: Products with G in one solve, at most: many inexact ones at new points make more of the same time
#: than a few exact ones. Where the model is exact, as for a linear network with squared error, a
#: single solve goes to its end.
N_PRODUCTS, N_PRODUCTS_EXACT = 10, 300
#: Iterates of a solve whose loss is measured, apart from the last one.
MEASURED = (1, 2, 4, 7)
#: Points at which the model is made anew for one deletion, at most, and the share by which a move
#: has to lower the trained loss for another one to follow.
N_POINTS, GAIN = 4, 0.02
#: Solves at one point, at most; each is damped more than the one before, or goes on longer.
N_SOLVES = 2
#: The model is trusted where the loss falls by at least this share of what it says, and exact where
#: it falls by just that, up to rounding.
TRUSTED, EXACT = 0.25, 1e-6
#: The damping where it is raised from 0, what it is multiplied by where it is raised further and,
#: FALL, from one deletion to the next; below LEAST it is 0.
FIRST, RISE, FALL, LEAST = 1e-1, 10.0, 0.25, 1e-3
#: An earlier iterate is better where its loss is lower by more than this share.
ROUNDING = 1e-9
#: A curvature counts for at least this share of the mean one, in damping and preconditioner.
FLOOR = 1e-3


def compensate(
    objective: Objective,
    penalty: Penalty,
    survivors: Survivors,
    *,
    gradient: Tensors,
    curvature: Tensors,
    damping: float = 0.0,
) -> Step:
    """Find the move of the survivors of a deletion. The module comes back as it was.

    After it the loss is at most what it is after the bare deletion, E as well as E + P.

    Parameters
    ----------
    objective : Objective
    penalty : Penalty
    survivors : Survivors
    gradient, curvature : dict of tensors
        Of E before the deletion: its gradient and its Gauss-Newton diagonal.
    damping : float, default=0.0
        What the first solve is damped by.

    Warns
    -----
    UserWarning
        If a product is not finite: the solve ends with its last good point.
    """
    model = Model(objective, penalty, gradient)
    move = move_at(model, survivors, curvature, damping)
    n_products, step, expected = model.n_products, move.step, move.expected
    for _ in range(N_POINTS - 1):
        if not move.before - move.after > GAIN * abs(move.before):
            break
        with taken(objective.parameters(), step):
            there = Model(objective, penalty, objective.gradient())
            rest = Survivors(objective.parameters(), survivors.alive, {})
            # The diagonal only damps and preconditions, for which that of before is good enough.
            move = move_at(there, rest, curvature, relaxed(move.damping))
        step, expected = added(step, move.step), expected + move.expected
        n_products += there.n_products
    return Step(step, expected, curvature, move.damping, n_products)


@dataclass(frozen=True)
class Move:
    """What was found at one point."""

    #: What is deleted there, and the move of the survivors.
    step: Tensors
    #: The increase of E that the model there expects of it.
    expected: float
    #: The trained loss E + P without the move of the survivors, and with it.
    before: float
    after: float
    #: That the move was found with.
    damping: float


def move_at(model: Model, survivors: Survivors, curvature: Tensors, damping: float) -> Move:
    """The move of the survivors by the model at the present point; none where none is better."""
    bare = survivors.step(None)
    pushed = model.matrix.product(bare)
    right = -survivors.flat(added(added(model.slope, pushed), model.penalty.product(bare)))
    diagonal = survivors.flat({n: h + model.penalty.decay[n] for n, h in curvature.items()})
    mean = float(np.mean(diagonal)) if len(diagonal) else 0.0
    start = best = Trial(None, *measure(model, bare))
    of_bare = of_best = model.changes(bare, pushed)
    best_damping, budget = 0.0, N_PRODUCTS
    # Without a diagonal, damping by shares of it means nothing, but a penalty may have curvature.
    diagonal = np.maximum(diagonal, FLOOR * mean) if mean > 0 else np.ones_like(diagonal)
    n_solves = N_SOLVES if mean > 0 else 1
    for _ in range(n_solves if len(right) and np.isfinite(right).all() else 0):
        system = System(model, survivors, right, diagonal, damping if mean > 0 else 0.0)
        found = choose(model, survivors, solve(system, budget), start)
        if found.move is None:
            damping = raised(damping)
            continue
        changes = model.changes(survivors.step(found.move))
        if found.trained < best.trained:
            best, of_best, best_damping = found, changes, damping
        fall, expected = start.trained - found.trained, of_bare[1] - changes[1]
        if fall < TRUSTED * expected:
            damping = raised(damping)
        elif abs(fall - expected) < EXACT * abs(expected) and budget < N_PRODUCTS_EXACT:
            damping, budget = 0.0, N_PRODUCTS_EXACT
        else:
            break
    if right.any() and mean <= 0 and best.move is None:
        warn_of_no_curvature(model.objective)
    step = survivors.step(best.move)
    return Move(step, of_best[0], start.trained, best.trained, best_damping)


def warn_of_no_curvature(objective: Objective) -> None:
    """Say that a model without curvature has no minimum."""
    warnings.warn(
        f"Neither {name_of(objective.criterion)} nor a penalty has any curvature at this "
        "network, so the quadratic model has no minimum and the survivors of the deletion stay "
        'where they are. Use a criterion with second derivatives, or compensation="layer".',
        UserWarning,
        stacklevel=2,
    )


class Model:
    """The quadratic model of E and of the trained loss E + P around the present parameters."""

    def __init__(self, objective: Objective, penalty: Penalty, gradient: Tensors):
        self.objective, self.penalty, self.gradient = objective, penalty, gradient
        self.matrix = objective.gauss_newton()
        self.slope = added(gradient, penalty.gradient())

    @property
    def n_products(self) -> int:
        """Products with the Gauss-Newton matrix so far."""
        return self.matrix.n_products

    def product(self, vectors: Tensors) -> Tensors:
        """A v."""
        return added(self.matrix.product(vectors), self.penalty.product(vectors))

    def changes(self, step: Tensors, pushed: Tensors | None = None) -> tuple[float, float]:
        """What a step adds to E and to E + P; `pushed` is ``G step`` where it is known."""
        pushed = self.matrix.product(step) if pushed is None else pushed
        of_loss = quadratic(self.gradient, pushed, step)
        of_penalty = quadratic(self.penalty.gradient(), self.penalty.product(step), step)
        return of_loss, of_loss + of_penalty


@dataclass(frozen=True)
class Trial:
    """A move that was tried: E and the trained loss E + P after it; None is no move."""

    move: np.ndarray | None
    loss: float
    trained: float


@dataclass(frozen=True)
class System:
    """The linear equations of the survivors' move: ``(A + damping * diagonal) x = right``."""

    model: Model
    survivors: Survivors
    right: np.ndarray
    #: Of A, none of it too small.
    diagonal: np.ndarray
    damping: float

    def product(self, v: np.ndarray) -> np.ndarray:
        """The left side."""
        survivors = self.survivors
        found = survivors.flat(self.model.product(survivors.apart(v)))
        return found + self.damping * self.diagonal * v


def solve(system: System, n_products: int) -> list[np.ndarray]:
    """Iterates of conjugate gradients towards the solution, the last one last."""
    latest, kept, count = np.zeros(0), [], 0

    def product(v: np.ndarray) -> np.ndarray:
        found = system.product(v)
        if not np.isfinite(found).all():
            warnings.warn(
                "A product with the Gauss-Newton matrix is not finite; the survivors of this "
                "deletion go to the last good point that was found. Scale the input "
                "(StandardScaler), or fit in float64.",
                UserWarning,
                stacklevel=2,
            )
            raise Ended
        if v @ found <= 0:  # the loss is not convex in the outputs, or rounding is all that is left
            raise Ended
        return found

    def keep(x: np.ndarray) -> None:
        nonlocal latest, count
        latest, count = x.copy(), count + 1
        if count in MEASURED:
            kept.append(latest)

    size = len(system.right)
    scale = 1 / ((1 + system.damping) * system.diagonal)
    with suppress(Ended):
        cg(
            LinearOperator((size, size), matvec=product, dtype=np.float64),
            system.right,
            rtol=1e-12,
            maxiter=n_products,
            M=LinearOperator((size, size), matvec=lambda v: scale * v, dtype=np.float64),
            callback=keep,
        )
    if count and count not in MEASURED:
        kept.append(latest)
    return kept


class Ended(Exception):
    """A solve that cannot go on; what it has found so far stays."""


def choose(model: Model, survivors: Survivors, iterates: list[np.ndarray], start: Trial) -> Trial:
    """The best of the iterates from the last one backwards, as long as they get better.

    What raises E or E + P above that of the start counts as the start.
    """
    best = start
    for move in reversed(iterates):
        found = Trial(move, *measure(model, survivors.step(move)))
        if not (found.loss <= start.loss and found.trained < start.trained):
            found = start
        if best is start or found.trained < best.trained - ROUNDING * abs(best.trained):
            best = found
        else:
            break
    return best


def measure(model: Model, step: Tensors) -> tuple[float, float]:
    """E and E + P after a step, infinite where they are not numbers."""
    with taken(model.objective.parameters(), step):
        loss = model.objective.loss()
        trained = loss + model.penalty.value()
    return (loss, trained) if math.isfinite(trained) else (math.inf, math.inf)


def raised(damping: float) -> float:
    """The damping of the next solve for the same deletion."""
    return max(FIRST, RISE * damping)


def relaxed(damping: float) -> float:
    """The damping that the next deletion begins with; none where it is not known."""
    return FALL * damping if FALL * damping >= LEAST else 0.0
