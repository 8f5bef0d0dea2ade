"""The empirical Fisher: the mean of squared per-row gradients. It is not the Hessian.

``sum_i w_i g_i^2 / sum_i w_i`` with ``g_i`` the gradient of row i's part of the loss, in units
where the loss is the weighted mean of these parts. It vanishes with the gradients of a network
that fits, where curvature does not; it is here to be compared with.
"""

from __future__ import annotations

from torch import Tensor

from ..losses.hessians import One
from ..problem import Problem
from .ggn import pull_back


def batch(problem: Problem, X: Tensor, y: Tensor, w: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    def gradient(logits: Tensor) -> One:
        root = w.sqrt().reshape(-1, *[1] * (logits.ndim - 1))
        return One(problem.loss.gradient(logits, y) * root)

    return pull_back(problem, X, y, w, gradient)
