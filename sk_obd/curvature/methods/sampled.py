"""The Gauss-Newton diagonal from one random column per row: unbiased, cheap for many outputs.

For cross-entropy the column is ``p - e_c`` with the class ``c`` drawn from the network's own
``p``; for losses with a term for each output, the root of each second derivative with a random
sign. Draws come from a generator of their own, row after row, so they depend on ``random_state``
only and not on the batch size.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from ..losses.hessians import RankOne
from ..problem import Batch, Problem
from .ggn import pull_back

RandomState = int | np.random.RandomState | torch.Generator | None


def generator_from(random_state: RandomState) -> torch.Generator:
    """A generator from None (seeded anew), an int, a RandomState, or a torch.Generator."""
    if isinstance(random_state, torch.Generator):
        return random_state
    generator = torch.Generator()
    if random_state is None:
        generator.seed()
    else:
        generator.manual_seed(int(check_random_state(random_state).randint(2**31 - 1)))
    return generator


def sums(problem: Problem, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over a batch, and the batch's part of the denominator."""
    generator = problem.generator
    assert generator is not None

    def drawn(logits: Tensor) -> RankOne:
        return RankOne(batch.form(logits).sample(generator).squeeze(0))

    return pull_back(problem, batch, drawn)
