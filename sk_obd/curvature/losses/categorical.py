"""Losses over classes: ``scale * (diag(p) - p p^T)`` at the logits, one block for each position."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Loss, WrongOutputs, summed
from .hessians import Categorical, Form, Moved

#: How far the sum of a row's probabilities may be from 1: more than rounding makes it, and far less
#: than it is for logits that are taken for probabilities.
SUM_ATOL = 1e-2


def softmax(logits: Tensor) -> Tensor:
    """Over dimension 1. Over a last dimension of few classes torch's takes five times as long."""
    if logits.ndim == 2:
        return logits.T.contiguous().softmax(0).T.contiguous()
    return logits.softmax(1)


class CrossEntropy(Loss):
    """Cross-entropy over dimension 1 of the logits, for class indices or probability targets."""

    allowed: tuple[str | None, ...] = (None, "logits")

    def sees_through(self, operation: str, dimension: int | None) -> bool:
        # Logarithms of probabilities are logits of the same probabilities.
        return operation == "LogSoftmax" and dimension == 1

    def shares(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Total weight of each position and its part in the mean's denominator: (n, *positions)."""
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

    def unreduced(self, output: Tensor, target: Tensor) -> Tensor:
        if output.ndim < 2:
            raise ValueError(
                f"{self.name} needs outputs of shape (n, classes, ...), found "
                f"{tuple(output.shape)}. For two classes with one output use BCEWithLogitsLoss."
            )
        target = target.to(output.dtype) if target.is_floating_point() else target
        return self.for_output(output)(output, target)

    def normalisers(self, output: Tensor, target: Tensor) -> Tensor:
        self.refuse_classes(output, target)
        return self.shares(output, target)[1].reshape(len(output), -1).sum(1)

    def refuse_classes(self, output: Tensor, target: Tensor) -> None:
        """Raise ValueError for class indices that the module has no output for."""
        if target.is_floating_point() or not target.numel():
            return
        least, most = target.where(target != self.criterion.ignore_index, 0).aminmax()
        if least < 0 or most >= output.shape[1]:
            raise ValueError(
                f"{self.name}: the targets run from {int(least)} to {int(most)}, but the module "
                f"gives {output.shape[1]} classes; expected 0 to {output.shape[1] - 1}."
            )

    def form(self, logits: Tensor, target: Tensor) -> Form:
        return self.categorical(logits, target)

    def categorical(self, logits: Tensor, target: Tensor) -> Categorical:
        """:meth:`form`, by its own type."""
        return Categorical(softmax(logits), self.shares(logits, target)[0])

    def gradient(self, logits: Tensor, target: Tensor) -> Tensor:
        criterion = self.for_output(logits)
        if target.is_floating_point() or getattr(criterion, "label_smoothing", None):
            return super().gradient(logits, target)
        form = self.categorical(logits, target)
        index = target.where(target != criterion.ignore_index, 0).unsqueeze(1).long()
        hot = torch.zeros_like(form.p).scatter_(1, index, 1.0)
        # p - 1 as minus the sum of the others: near probability 1 the difference would be rounded.
        return torch.where(hot > 0, -form.others(), form.p) * form.scale.unsqueeze(1)


class KLDivergence(CrossEntropy):
    """On log-probabilities, which are the logits; the targets are probabilities or their logs.

    The criterion does not say over which dimension the distributions are: it is the one over which
    the probabilities sum to 1.
    """

    allowed = (None, "log_proba")
    tops = (("LogSoftmax",),)

    def sees_through(self, operation: str, dimension: int | None) -> bool:
        return False

    def dimension(self, logits: Tensor) -> int:
        off = {
            d: (logits.detach().exp().sum(d) - 1).abs().max().item() if logits.numel() else 0.0
            for d in range(1, logits.ndim)
        }
        d = min(off, key=off.__getitem__, default=None)
        if d is None or not off[d] < SUM_ATOL:
            raise ValueError(
                f"{self.name}: the exponentials of the outputs, of shape {tuple(logits.shape)}, do "
                "not sum to 1 over any dimension, so they are not the log-probabilities that it is "
                "meant for. End the module with LogSoftmax."
            )
        return d

    def refuse_outputs(self, output: Tensor) -> None:
        """Raise ValueError for other than log-probabilities."""
        self.dimension(output)

    def totals(self, logits: Tensor, target: Tensor) -> Tensor:
        """What the targets of each distribution sum to, classes left out: (n, *positions)."""
        target = target.to(logits.dtype)
        target = target.exp() if self.criterion.log_target else target
        return target.sum(self.dimension(logits))

    def unreduced(self, output: Tensor, target: Tensor) -> Tensor:
        if output.shape != target.shape:
            raise ValueError(
                f"{self.name}: the module gives shape {tuple(output.shape)} but the targets have "
                f"shape {tuple(target.shape)}. Reshape the targets to {tuple(output.shape)}."
            )
        return self.for_output(output)(output, target.to(output.dtype))

    def normalisers(self, output: Tensor, target: Tensor) -> Tensor:
        share = 1 if self.reduction == "batchmean" else output[:1].numel()
        return output.new_full((len(output),), float(share))

    def rows_at(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.rows(logits.log_softmax(self.dimension(logits)), target)

    def exact_at(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.rows(logits, target)

    def form(self, logits: Tensor, target: Tensor) -> Form:
        d = self.dimension(logits)
        p = logits.movedim(d, 1).softmax(1)
        form = Categorical(p, self.totals(logits, target))
        return form if d == 1 else Moved(form, d)

    def gradient(self, logits: Tensor, target: Tensor) -> Tensor:
        return Loss.gradient(self, logits, target)


class NLL(CrossEntropy):
    """On log-probabilities, or (skorch) on probabilities: the split is at log p."""

    allowed = (None, "log_proba", "proba")
    #: The second is that of probabilities, whose logarithm :meth:`logits` takes.
    tops = (("LogSoftmax",), ("Log", "Clamp", "Softmax"), ("Log", "Softmax"))

    def sees_through(self, operation: str, dimension: int | None) -> bool:
        of_probabilities = operation == "Softmax" and self.outputs == "proba" and dimension == 1
        return of_probabilities or super().sees_through(operation, dimension)

    def rows(self, output: Tensor, target: Tensor) -> Tensor:
        if self.outputs == "proba":
            eps = torch.finfo(output.dtype).eps if self.eps is None else self.eps
            output = torch.log(output + eps)
        return super().rows(output, target)

    def logits(self, output: Tensor) -> Tensor:
        if self.outputs == "proba":
            return output.clamp(min=torch.finfo(output.dtype).tiny).log()
        return output

    def rows_at(self, logits: Tensor, target: Tensor) -> Tensor:
        return summed(self.unreduced(logits.log_softmax(1), target))

    def exact_at(self, logits: Tensor, target: Tensor) -> Tensor:
        return summed(self.unreduced(logits, target))

    def refuse_outputs(self, output: Tensor) -> None:
        """Raise WrongOutputs for other than probabilities: the split would be of another loss."""
        total = (output if self.outputs == "proba" else output.exp()).sum(1)
        off = (total - 1).abs().max().item() if total.numel() else 0.0
        if not off < SUM_ATOL:
            kind = "probabilities" if self.outputs == "proba" else "exponentials"
            raise WrongOutputs(
                f'NLLLoss with outputs="{self.outputs or "log_proba"}": the {kind} of a row sum to '
                f'1 +- {off:.3g}, not to 1. Say outputs="proba" for a Softmax output, "log_proba" '
                "for LogSoftmax, or use CrossEntropyLoss for logits."
            )
