"""Row weights in the loss that a net trains on, whatever its ``get_loss`` adds to it.

Batches are cut by our own iterators, which note the weights of the batch that they hand out. A hook
on the criterion, set to ``reduction="none"`` for the round, reads that note and returns the
weighted mean. y stays as it is: a tuple of (y, weights) would break what else looks at y.
"""

from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from ..curvature.losses.registry import loss_of
from .batches import NEEDS_ARRAY_BATCHES, RowWeights, array_batches
from .nets import outputs_of


class WeightedMean:
    """A forward hook for a criterion with ``reduction="none"``: the weighted mean of its rows."""

    def __init__(self, weights, loss, reduction):
        self.weights = weights
        self.loss = loss
        self.reduction = reduction
        self.called = False

    def __call__(self, criterion, inputs, output):
        self.called = True
        output_of_net, target = inputs[:2]
        weights = self.weights.batch.to(output.device, output.dtype)
        if output.ndim == 0 or len(output) != len(weights):
            raise ValueError(
                f"{type(criterion).__name__} with reduction='none' returned shape "
                f"{tuple(output.shape)} for {len(weights)} rows; weights need a loss for each "
                "row. Fit without sample_weight and class_weight, or use a criterion that "
                "honours reduction='none'."
            )
        total = (weights * output.reshape(len(output), -1).sum(1)).sum()
        if self.reduction == "sum":
            return total
        return total / (weights * self.loss.normalisers(output_of_net, target)).sum()


@contextmanager
def weighted_rows(net, sample_weight, watch):
    """Let row weights enter the loss that `net` trains on, whatever its ``get_loss`` adds."""
    criterion = net.criterion_
    reduction = getattr(criterion, "reduction", None)
    if not isinstance(criterion, nn.Module) or reduction not in ("mean", "sum"):
        raise ValueError(
            f"Row weights need a criterion with reduction='mean' or 'sum'; "
            f"{type(criterion).__name__} has reduction={reduction!r}. Fit without sample_weight "
            "and class_weight, or use such a criterion."
        )
    if {net.iterator_train, net.iterator_valid} != {array_batches}:
        raise ValueError(NEEDS_ARRAY_BATCHES)
    weights = RowWeights(torch.as_tensor(sample_weight))
    iterators = {name: getattr(net, name) for name in ("iterator_train", "iterator_valid")}
    hook = watch.weighted = WeightedMean(weights, loss_of(criterion, outputs_of(net)), reduction)
    criterion.reduction = "none"
    handle = criterion.register_forward_hook(hook)
    for name in iterators:
        setattr(net, name, partial(array_batches, row_weights=weights))
    try:
        yield
    finally:
        for name, iterator in iterators.items():
            setattr(net, name, iterator)
        handle.remove()
        criterion.reduction = reduction
