"""Losses with one term an output: their second derivatives at the logits are diagonal."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import Loss
from .hessians import Separable


class Elementwise(Loss):
    """A loss with one term an output; ``second(a, t)`` is each term's second derivative."""

    allowed = (None, "logits")

    def none(self, output, target):
        self.check_shapes(output, target)
        return self.for_output(output)(output, target.to(output.dtype))

    def check_shapes(self, output, target):
        if output.shape != target.shape:
            raise ValueError(
                f"{self.name}: the module gives shape {tuple(output.shape)} but the targets have "
                f"shape {tuple(target.shape)}; torch would pair every row with every other. "
                f"Reshape the targets to {tuple(output.shape)}."
            )

    def normalisers(self, output, target):
        self.check_shapes(output, target)
        return output.new_full((len(output),), float(output[:1].numel()))

    def form(self, logits, target):
        return Separable(self.second(logits, target.to(logits.dtype)).expand_as(logits))


class MSE(Elementwise):
    allowed = (None,)

    def second(self, a, t):
        return torch.full_like(a, 2.0)

    def gradient(self, logits, target):
        return 2 * (logits - target)


class SmoothL1(Elementwise):
    allowed = (None,)

    def second(self, a, t):
        beta = self.criterion.beta
        return ((a - t).abs() < beta).to(a.dtype) / (beta or 1.0)


class Huber(Elementwise):
    allowed = (None,)

    def second(self, a, t):
        return ((a - t).abs() < self.criterion.delta).to(a.dtype)


class PoissonNLL(Elementwise):
    allowed = (None,)

    def second(self, a, t):
        return a.exp() if self.criterion.log_input else t / (a + self.criterion.eps).square()


class BCEWithLogits(Elementwise):
    def weights(self, a, t):
        """Of the terms with target 1 and with target 0."""
        criterion = self.for_output(a)
        weight = 1.0 if criterion.weight is None else criterion.weight
        positive = 1.0 if getattr(criterion, "pos_weight", None) is None else criterion.pos_weight
        return weight * positive * t, weight * (1 - t)

    def second(self, a, t):
        ones, zeros = self.weights(a, t)
        return (ones + zeros) * torch.sigmoid(a) * torch.sigmoid(-a)

    def gradient(self, logits, target):
        ones, zeros = self.weights(logits, target.to(logits.dtype))
        return zeros * torch.sigmoid(logits) - ones * torch.sigmoid(-logits)


class BCE(BCEWithLogits):
    """On probabilities: the split is at log p - log(1 - p)."""

    allowed = (None, "proba")
    top = frozenset({"Logit", "Clamp", "Sigmoid"})

    def logits(self, output):
        low = torch.finfo(output.dtype)
        return output.clamp(low.tiny, 1 - low.eps / 2).logit()

    def rows_at(self, logits, target):
        weight = self.for_output(logits).weight
        terms = F.binary_cross_entropy_with_logits(
            logits, target.to(logits.dtype), weight=weight, reduction="none"
        )
        return terms.reshape(len(logits), -1).sum(1)
