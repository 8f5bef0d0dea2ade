"""Losses over classes: ``scale * (diag(p) - p p^T)`` at the logits, one block a position."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Loss
from .hessians import Categorical


def softmax(logits: Tensor) -> Tensor:
    """Over dimension 1. Over a last dimension of few classes torch's takes five times as long."""
    if logits.ndim == 2:
        return logits.T.contiguous().softmax(0).T.contiguous()
    return logits.softmax(1)


class CrossEntropy(Loss):
    """Cross-entropy over dimension 1 of the logits, for class indices or probability targets."""

    allowed = (None, "logits")

    def shares(self, logits: Tensor, target: Tensor):
        """(total weight of each position, its part in the mean's denominator)."""
        criterion = self.for_output(logits)
        smooth = getattr(criterion, "label_smoothing", 0.0)
        if criterion.weight is None and not target.is_floating_point():
            counted = (target != criterion.ignore_index).to(logits.dtype)
            return counted, counted
        weight = (
            criterion.weight if criterion.weight is not None else logits.new_ones(logits.shape[1])
        )
        if target.is_floating_point():
            along = weight.reshape(-1, *[1] * (logits.ndim - 2))
            total = (
                (target.to(logits.dtype) * (1 - smooth) + smooth / logits.shape[1]) * along
            ).sum(1)
            return total, torch.ones_like(total)
        counted = target != criterion.ignore_index
        own = weight[target.where(counted, 0)] * counted
        return (1 - smooth) * own + smooth * weight.mean() * counted, own

    def none(self, output, target):
        if output.ndim < 2:
            raise ValueError(
                f"{self.name} needs outputs of shape (n, classes, ...), found "
                f"{tuple(output.shape)}. For two classes with one output use BCEWithLogitsLoss."
            )
        target = target.to(output.dtype) if target.is_floating_point() else target
        return self.for_output(output)(output, target)

    def normalisers(self, output, target):
        self.check_classes(output, target)
        return self.shares(output, target)[1].reshape(len(output), -1).sum(1)

    def check_classes(self, output, target):
        if target.is_floating_point() or not target.numel():
            return
        least, most = target.where(target != self.criterion.ignore_index, 0).aminmax()
        if least < 0 or most >= output.shape[1]:
            raise ValueError(
                f"{self.name}: the targets run from {int(least)} to {int(most)}, but the module "
                f"gives {output.shape[1]} classes; expected 0 to {output.shape[1] - 1}."
            )

    def form(self, logits, target):
        return Categorical(softmax(logits), self.shares(logits, target)[0])

    def gradient(self, logits, target):
        criterion = self.for_output(logits)
        if target.is_floating_point() or getattr(criterion, "label_smoothing", 0.0):
            return super().gradient(logits, target)
        form = self.form(logits, target)
        index = target.where(target != criterion.ignore_index, 0).unsqueeze(1).long()
        hot = torch.zeros_like(form.p).scatter_(1, index, 1.0)
        return torch.where(hot > 0, -form.others(), form.p) * form.scale.unsqueeze(1)


class KLDivergence(CrossEntropy):
    """On log-probabilities, which are the logits; the targets are probabilities or their logs."""

    allowed = (None, "log_proba")
    top = frozenset({"LogSoftmax"})

    def shares(self, logits, target):
        target = target.to(logits.dtype)
        total = (target.exp() if self.criterion.log_target else target).sum(1)
        return total, total

    def normalisers(self, output, target):
        share = 1 if self.reduction == "batchmean" else output[:1].numel()
        return output.new_full((len(output),), float(share))

    def rows_at(self, logits, target):
        return self.rows(logits.log_softmax(1), target)

    def gradient(self, logits, target):
        return Loss.gradient(self, logits, target)


class NLL(CrossEntropy):
    """On log-probabilities, or (skorch) on probabilities: the split is at log p."""

    allowed = (None, "log_proba", "proba")
    top = frozenset({"Log", "Clamp", "Softmax", "LogSoftmax"})

    def rows(self, output, target):
        if self.outputs == "proba":
            eps = torch.finfo(output.dtype).eps if self.eps is None else self.eps
            output = torch.log(output + eps)
        return super().rows(output, target)

    def logits(self, output):
        if self.outputs == "proba":
            return output.clamp(min=torch.finfo(output.dtype).tiny).log()
        return output

    def rows_at(self, logits, target):
        return self.none(logits.log_softmax(1), target).reshape(len(logits), -1).sum(1)

    def exact_rows(self, output, target):
        return self.none(self.logits(output), target).reshape(len(output), -1).sum(1)

    def check(self, output: Tensor) -> None:
        """Refuse outputs that are no probabilities, where the split would be of another loss."""
        total = (output if self.outputs == "proba" else output.exp()).sum(1)
        off = (total - 1).abs().max().item() if total.numel() else 0.0
        if not off < 1e-2:
            kind = "probabilities" if self.outputs == "proba" else "exponentials"
            raise ValueError(
                f'NLLLoss with outputs="{self.outputs or "log_proba"}": the {kind} of a row sum to '
                f"1 +- {off:.3g}, not to 1. "
                + 'Say outputs="proba" for a Softmax output, "log_proba" for '
                "LogSoftmax, or use CrossEntropyLoss for logits."
            )
