"""Losses with a term for each output: their second derivatives at the logits are diagonal."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Loss, summed
from .hessians import Form, Separable


class Elementwise(Loss, ABC):
    """A loss with a term for each output."""

    allowed: tuple[str | None, ...] = (None, "logits")

    @abstractmethod
    def second(self, a: Tensor, t: Tensor) -> Tensor:
        """Second derivative of each term by its logit ``a``, for the target ``t``; of one shape."""

    def unreduced(self, output: Tensor, target: Tensor) -> Tensor:
        self.refuse_broadcasting(output, target)
        return self.for_output(output)(output, target.to(output.dtype))

    def refuse_broadcasting(self, output: Tensor, target: Tensor) -> None:
        """Raise ValueError for targets of another shape than the outputs."""
        if output.shape != target.shape:
            raise ValueError(
                f"{self.name}: the module gives shape {tuple(output.shape)} but the targets have "
                f"shape {tuple(target.shape)}; torch would pair every row with every other. "
                f"Reshape the targets to {tuple(output.shape)}."
            )

    def normalisers(self, output: Tensor, target: Tensor) -> Tensor:
        self.refuse_broadcasting(output, target)
        return output.new_full((len(output),), float(output[:1].numel()))

    def form(self, logits: Tensor, target: Tensor) -> Form:
        return Separable(self.second(logits, target.to(logits.dtype)).expand_as(logits))


class MSE(Elementwise):
    """``(a - t)^2``."""

    allowed = (None,)

    def second(self, a: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(a, 2.0)

    def gradient(self, logits: Tensor, target: Tensor) -> Tensor:
        return 2 * (logits - target)


class SmoothL1(Elementwise):
    """``(a - t)^2 / (2 beta)`` where the distance is below ``beta``, linear beyond."""

    allowed = (None,)

    def second(self, a: Tensor, t: Tensor) -> Tensor:
        beta = self.criterion.beta
        return ((a - t).abs() < beta).to(a.dtype) / (beta or 1.0)


class Huber(Elementwise):
    """``(a - t)^2 / 2`` where the distance is below ``delta``, linear beyond."""

    allowed = (None,)

    def second(self, a: Tensor, t: Tensor) -> Tensor:
        return ((a - t).abs() < self.criterion.delta).to(a.dtype)


class PoissonNLL(Elementwise):
    """``exp(a) - t a`` for the logarithm ``a`` of a rate, ``a - t log(a + eps)`` for the rate."""

    allowed = (None,)

    def second(self, a: Tensor, t: Tensor) -> Tensor:
        return a.exp() if self.criterion.log_input else t / (a + self.criterion.eps).square()


class BCEWithLogits(Elementwise):
    """``-(w1 t log p + w0 (1 - t) log(1 - p))`` with ``p = sigmoid(a)``."""

    def weights(self, a: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the terms with target 1 and with target 0."""
        criterion = self.for_output(a)
        weight = 1.0 if criterion.weight is None else criterion.weight
        positive = 1.0 if getattr(criterion, "pos_weight", None) is None else criterion.pos_weight
        return weight * positive * t, weight * (1 - t)

    def second(self, a: Tensor, t: Tensor) -> Tensor:
        ones, zeros = self.weights(a, t)
        return (ones + zeros) * torch.sigmoid(a) * torch.sigmoid(-a)

    def gradient(self, logits: Tensor, target: Tensor) -> Tensor:
        ones, zeros = self.weights(logits, target.to(logits.dtype))
        return zeros * torch.sigmoid(logits) - ones * torch.sigmoid(-logits)


class BCE(BCEWithLogits):
    """On probabilities: the split is at log p - log(1 - p)."""

    allowed = (None, "proba")
    tops = (("Logit", "Clamp", "Sigmoid"),)

    def sees_through(self, operation: str, dimension: int | None) -> bool:
        return operation == "Sigmoid"

    def logits(self, output: Tensor) -> Tensor:
        low = torch.finfo(output.dtype)
        return output.clamp(low.tiny, 1 - low.eps / 2).logit()

    def rows_at(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = self.for_output(logits).weight
        return summed(
            F.binary_cross_entropy_with_logits(
                logits, target.to(logits.dtype), weight=weight, reduction="none"
            )
        )
