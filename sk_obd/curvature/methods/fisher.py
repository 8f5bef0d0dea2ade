"""The empirical Fisher: the mean of squared per-row gradients. It is not the Hessian.

``sum_i w_i g_i^2 / sum_i w_i`` with ``g_i`` the gradient of row i's part of the loss, in units
where the loss is the weighted mean of these parts. It vanishes with the gradients of a network
that fits, where curvature does not; it is here to be compared with.
"""

from __future__ import annotations

from torch import Tensor

from ..losses.hessians import RankOne
from ..problem import Batch, Problem
from .ggn import pull_back


def sums(problem: Problem, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over a batch, and the batch's part of the denominator."""

    def of_gradient(logits: Tensor) -> RankOne:
        return RankOne(batch.loss.gradient(logits, batch.y)).scaled(batch.w)

    return pull_back(problem, batch, of_gradient)
