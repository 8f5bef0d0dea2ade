"""The Gauss-Newton diagonal from one random column a row: unbiased, cheap for many outputs.

For cross-entropy the column is ``p - e_c`` with the class ``c`` drawn from the network's own
``p``; for losses with a term an output, the root of each second derivative with a random sign.
Draws come from a generator of its own, row after row, so they depend on ``random_state`` alone and
not on the batch size.
"""

from __future__ import annotations

import torch
from sklearn.utils import check_random_state
from torch import Tensor

from ..losses.hessians import One, scaled
from ..problem import Problem
from .ggn import pull_back


def generator_from(random_state) -> torch.Generator:
    """A generator from None (seeded anew), an int, a RandomState, or a torch.Generator."""
    if isinstance(random_state, torch.Generator):
        return random_state
    generator = torch.Generator()
    if random_state is None:
        generator.seed()
    else:
        generator.manual_seed(int(check_random_state(random_state).randint(2**31 - 1)))
    return generator


def batch(problem: Problem, X: Tensor, y: Tensor, w: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    def drawn(logits: Tensor) -> One:
        form = scaled(problem.loss.form(logits, y), w)
        return One(form.sample(problem.generator).squeeze(0))

    return pull_back(problem, X, y, w, drawn)
