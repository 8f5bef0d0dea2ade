"""Which loss a criterion is."""

from __future__ import annotations

import inspect

import torch.nn.functional as F
from torch import nn

from .base import Loss, name_of
from .categorical import NLL, CrossEntropy, KLDivergence
from .elementwise import BCE, MSE, BCEWithLogits, Huber, PoissonNLL, SmoothL1

ENTRIES = {
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

FUNCTIONS = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
}


def resolve(criterion, outputs=None) -> Loss:
    """The loss object of a criterion.

    Parameters
    ----------
    criterion : nn.Module or callable(output, target)
        With ``reduction`` "mean", "sum" or "none" (all mean the same here), or any callable that
        returns the mean over rows. It is copied, never called or changed.
    outputs : {"logits", "log_proba", "proba"}, optional
        What the module gives, where the criterion leaves it open.

    Returns
    -------
    loss : Loss

    Examples
    --------
    >>> import torch
    >>> loss = resolve(torch.nn.MSELoss())
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
    criterion = FUNCTIONS.get(criterion, lambda: criterion)()
    if not callable(criterion):
        raise ValueError(
            f"criterion must be callable as criterion(output, target), found {criterion!r}."
        )
    check_callable(criterion)
    for kind, entry in ENTRIES.items():
        if isinstance(criterion, kind) and type(criterion).forward is kind.forward:
            return entry(criterion, outputs)
    return Loss(criterion, None if outputs == "logits" else outputs)


def check_callable(criterion) -> None:
    """ValueError for a criterion that takes anything but (output, target)."""
    called = criterion.forward if isinstance(criterion, nn.Module) else criterion
    try:
        inspect.signature(called).bind(None, None)
    except TypeError:
        raise ValueError(
            f"{name_of(criterion)} cannot be called as criterion(output, target): its signature is "
            f"{inspect.signature(called)}. Wrap it in an nn.Module whose forward(output, target) "
            "supplies the rest (a fixed variance, for example) and give that a `reduction` "
            'attribute that may be "none".'
        ) from None
    except ValueError:
        return
