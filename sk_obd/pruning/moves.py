"""Steps of the parameters: what a deletion sets to zero, and where the survivors go."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: Tensors by the names of parameters.
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """The step of a deletion, with what is known of it before it is taken."""

    #: What is added to each parameter: -u where deleted.
    step: Tensors
    #: The increase of E that is expected of it.
    predicted: float
    #: The diagonal second derivatives that it is seen by; None where they are not known.
    curvature: Tensors | None = None
    #: The share by which the survivors' curvatures were raised; NaN where they do not move.
    damping: float = math.nan
    #: Products with the Gauss-Newton matrix; NaN where survivors do not move.
    n_products: float = math.nan


class Survivors:
    """What a deletion leaves alive, as one vector in float64, and the steps that moves of it are.

    Parameters
    ----------
    parameters : dict of nn.Parameter
        The trainable ones, before the deletion.
    masks : dict of bool tensors
        What is alive before the deletion.
    gone : dict of bool tensors
        True where it deletes; may name only some parameters.
    """

    def __init__(self, parameters: Tensors, masks: Tensors, gone: Tensors):
        self.before = {name: p.detach().clone() for name, p in parameters.items()}
        self.gone = {
            name: gone[name].to(p.device) if name in gone else torch.zeros_like(p, dtype=torch.bool)
            for name, p in self.before.items()
        }
        self.alive = {
            name: masks[name].to(p.device) & ~self.gone[name] for name, p in self.before.items()
        }

    def flat(self, tensors: Tensors) -> np.ndarray:
        """The entries of tensors where parameters survive."""
        return torch.cat([tensors[n][a].double().cpu() for n, a in self.alive.items()]).numpy()

    def apart(self, vector: np.ndarray) -> Tensors:
        """The vector as tensors, 0 where parameters do not survive."""
        parts = torch.from_numpy(vector).split([int(a.sum()) for a in self.alive.values()])
        found = {name: torch.zeros_like(p) for name, p in self.before.items()}
        for part, (name, alive) in zip(parts, self.alive.items(), strict=True):
            found[name][alive] = part.to(found[name])
        return found

    def step(self, move: np.ndarray | None) -> Tensors:
        """The whole step: -u where deleted, the move (None: no move) where alive."""
        step = {name: torch.where(gone, -self.before[name], 0) for name, gone in self.gone.items()}
        return step if move is None else added(step, self.apart(move))


@contextmanager
def taken(parameters: Tensors, step: Tensors) -> Iterator[None]:
    """Take a step, and take it back on leaving."""
    before = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        take(parameters, step)
        yield
    finally:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(before[name])


@torch.no_grad()
def take(parameters: Tensors, step: Tensors) -> None:
    """Add a step to the parameters, in place."""
    for name, change in step.items():
        parameters[name].add_(change)


def added(a: Tensors, b: Tensors) -> Tensors:
    """The sums by name."""
    return {name: value + b[name] for name, value in a.items()}
