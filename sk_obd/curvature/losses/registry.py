"""Which loss a criterion is."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F
from torch import nn

from .base import Criterion, Loss, name_of
from .categorical import NLL, CrossEntropy, KLDivergence
from .elementwise import BCE, MSE, BCEWithLogits, Huber, PoissonNLL, SmoothL1

#: The loss for each of torch's criteria, and for its subclasses that keep its forward.
ENTRIES: dict[type[nn.Module], type[Loss]] = {
    nn.CrossEntropyLoss: CrossEntropy,
    nn.NLLLoss: NLL,
    nn.MSELoss: MSE,
    nn.SmoothL1Loss: SmoothL1,
    nn.HuberLoss: Huber,
    nn.PoissonNLLLoss: PoissonNLL,
    nn.BCEWithLogitsLoss: BCEWithLogits,
    nn.BCELoss: BCE,
    nn.KLDivLoss: KLDivergence,
}

#: The criterion that each of torch's functions calls with its defaults.
FUNCTIONS: dict[Criterion, type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
}


def loss_of(criterion: Criterion | Loss, outputs: str | None = None) -> Loss:
    """The loss object of a criterion; one that is a Loss already is returned as it is.

    Parameters
    ----------
    criterion : nn.Module or callable(output, target)
        With ``reduction`` "mean", "sum" or "none" (all mean the same here), or any callable that
        returns the mean over rows. A module is copied, never called or changed.
    outputs : {"logits", "log_proba", "proba"}, optional
        What the module gives, where the criterion leaves it open.

    Returns
    -------
    loss : Loss

    Raises
    ------
    ValueError
        If the criterion is a class, is not callable, cannot be called as
        ``criterion(output, target)``, or does not fit ``outputs``.

    Examples
    --------
    >>> import torch
    >>> loss = loss_of(torch.nn.MSELoss())
    >>> loss.rows(torch.tensor([[1., 2.], [0., 0.]]), torch.zeros(2, 2))
    tensor([5., 0.])
    >>> loss.normalisers(torch.zeros(2, 2), torch.zeros(2, 2))
    tensor([2., 2.])
    """
    if isinstance(criterion, Loss):
        return criterion
    if isinstance(criterion, type):
        raise ValueError(
            f"criterion is the class {criterion.__name__}; give an instance, "
            f"{criterion.__name__}()."
        )
    if criterion in FUNCTIONS:
        criterion = FUNCTIONS[criterion]()
    if not callable(criterion):
        raise ValueError(
            f"criterion must be callable as criterion(output, target), found {criterion!r}."
        )
    kind: Any = type(criterion)
    if kind in ENTRIES:
        return ENTRIES[kind](criterion, outputs)
    refuse_signature(criterion)
    for kind, entry in ENTRIES.items():
        if isinstance(criterion, kind) and type(criterion).forward is kind.forward:
            return entry(criterion, outputs)
    return Loss(criterion, None if outputs == "logits" else outputs)


def refuse_signature(criterion: Criterion) -> None:
    """Raise ValueError for a criterion that takes anything but (output, target)."""
    called = criterion.forward if isinstance(criterion, nn.Module) else criterion
    try:
        signature = inspect.signature(called)
    except ValueError:  # a function written in C, which may well take both
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise ValueError(
            f"{name_of(criterion)} cannot be called as criterion(output, target): its signature is "
            f"{signature}. Wrap it in an nn.Module whose forward(output, target) supplies the rest "
            "(a fixed variance, for example) and give that a `reduction` attribute that may be "
            '"none".'
        ) from None
