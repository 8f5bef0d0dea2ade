r"""What a deletion does to the loss, term by term: which of the three approximations fails.

.. math::
    \delta E = \sum_k g_k \delta u_k + \tfrac12 \sum_k h_{kk} \delta u_k^2
    + \tfrac12 \sum_{k \ne l} h_{kl} \delta u_k \delta u_l + O(\|\delta u\|^3)

(LeCun, Denker and Solla 1989, eq. 1). OBD keeps only the second term: it takes the network to be
at a minimum (*extremal*), the Hessian to be *diagonal*, and the loss to be *quadratic*.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

import torch
from torch import nn

from ..curvature.boundary import check_rows
from ..curvature.hooks import trainable
from ..training.masks import zero_deleted
from ..training.objective import Objective

#: Numbers turned into float64 at a time.
CHUNK = 1 << 20


@dataclass(frozen=True)
class TaylorTerms:
    """The change of the mean loss by a deletion, and the terms that add up to it.

    Attributes
    ----------
    actual_increase : float
        Measured: the loss after minus the loss before.
    first_order : float
        ``g . du``: not 0 where the network is not at a minimum.
    diagonal : float
        ``sum(h_kk du_k^2) / 2``, what OBD predicts, with the kind of curvature in use.
    off_diagonal : float
        ``du . H du / 2`` with the exact Hessian, minus `diagonal`.
    higher_order : float
        The rest.
    """

    actual_increase: float = 0.0
    first_order: float = 0.0
    diagonal: float = 0.0
    off_diagonal: float = 0.0
    higher_order: float = 0.0

    def __add__(self, other: "TaylorTerms") -> "TaylorTerms":
        sums = (a + b for a, b in zip(astuple(self), astuple(other), strict=True))
        return TaylorTerms(*sums)


def taylor_terms(
    module: nn.Module,
    criterion: Callable,
    X,
    y,
    masks: Mapping,
    *,
    sample_weight=None,
    curvature: str = "ggn",
    outputs: str | None = None,
) -> TaylorTerms:
    r"""What deleting parameters does to the loss, measured and expanded.

    With :math:`\delta u_k = -u_k` where deleted, 0 elsewhere, and the mean loss
    :math:`E = \sum_i w_i l_i / \sum_i w_i` in eval mode,

    .. math::
        E(u + \delta u) - E(u) = g^T \delta u + \tfrac12 \sum_k h_{kk} \delta u_k^2
        + \Bigl(\tfrac12 \delta u^T H \delta u - \tfrac12 \sum_k h_{kk} \delta u_k^2\Bigr)
        + \text{higher order}.

    Parameters
    ----------
    module : nn.Module
        Comes back as it was.
    criterion : nn.Module or callable(output, target)
    X, y : Tensor or ndarray
        All rows, in the dtypes the module and the criterion take.
    masks : dict of str to bool Tensor or ndarray
        False where a trainable parameter is to be deleted; what is not named stays.
    sample_weight : Tensor or ndarray of shape (n,), optional
    curvature : str, default="ggn"
        The kind of :math:`h_{kk}`, as for :func:`sk_obd.curvature.diagonal`. With "hessian",
        `off_diagonal` holds exactly the mixed second derivatives; with another it holds, besides,
        what that kind leaves out.
    outputs : {"logits", "log_proba", "proba"}, optional
        What the module gives, where the criterion leaves it open.

    Returns
    -------
    TaylorTerms

    Raises
    ------
    ValueError
        If a mask names something that is not a trainable parameter, or has another shape.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.ones_(module.weight)
    >>> X, y = torch.tensor([[1., 0.], [0., 2.]]), torch.tensor([[1.], [2.]])
    >>> masks = {"weight": torch.tensor([[True, False]])}
    >>> terms = taylor_terms(module, torch.nn.MSELoss(), X, y, masks)
    >>> terms.actual_increase, terms.diagonal
    (2.0, 2.0)
    >>> terms.first_order, terms.off_diagonal, terms.higher_order
    (0.0, 0.0, 0.0)
    """
    X, y, weights = check_rows(module, X, y, sample_weight)
    gone = deleted_by(module, masks)
    objective = Objective(
        module,
        criterion,
        X,
        y,
        None if sample_weight is None else weights,
        outputs=outputs,
        device=X.device,
    )
    h = objective.curvature(curvature)
    before = objective.loss()
    known = known_terms(objective, deletion(objective, gone), objective.gradient(), h)
    parameters = dict(module.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in gone}
    try:
        zero_deleted(module, {name: ~chosen for name, chosen in gone.items()})
        after = objective.loss()
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)
    return complete(known, after - before)


def deleted_by(module, masks):
    """Where masks delete, on the parameters' devices; ValueError for masks that do not fit."""
    parameters = trainable(module)
    gone = {}
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(
                f"masks has {name!r}, which is not a trainable parameter of "
                f"{type(module).__name__}. Its trainable parameters are "
                f"{', '.join(parameters) or '(none)'}."
            )
        mask = torch.as_tensor(mask)
        if mask.shape != parameters[name].shape or mask.dtype != torch.bool:
            raise ValueError(
                f"masks[{name!r}] has shape {tuple(mask.shape)} and dtype {mask.dtype}; expected "
                f"{tuple(parameters[name].shape)} and torch.bool."
            )
        gone[name] = ~mask.to(parameters[name].device)
    return gone


def deletion(objective, gone):
    """The step of a bare deletion: -u where `gone` is True, by name."""
    parameters = objective.parameters()
    return {name: -(parameters[name].detach() * chosen) for name, chosen in gone.items()}


def known_terms(objective, step, gradient, curvature):
    """First order, diagonal and off-diagonal: what derivatives say of a step before it is taken.

    Parameters
    ----------
    objective : Objective
    step : dict of tensors
        What is added to the parameters.
    gradient : dict of tensors
    curvature : dict of tensors or None
        None (a saliency that knows none): the terms of second order are NaN. Where the loss
        cannot be differentiated twice, the off-diagonal one is.

    Returns
    -------
    tuple of three floats
    """
    first_order = inner(gradient, step)
    if curvature is None:
        return first_order, math.nan, math.nan
    diagonal = sum(dot(curvature[name], du.square()) for name, du in step.items()) / 2
    if not objective.twice_differentiable:
        return first_order, diagonal, math.nan
    quadratic = inner(objective.product(step), step) / 2
    return first_order, diagonal, quadratic - diagonal


def quadratic(gradient, product, step):
    """``g . du + du . H du / 2``, where `product` is ``H du``."""
    return inner(gradient, step) + inner(product, step) / 2


def complete(known, actual_increase):
    """The terms with their rest."""
    return TaylorTerms(actual_increase, *known, actual_increase - sum(known))


def inner(a, b):
    """Inner product over the names of b, summed in float64."""
    return sum(dot(a[name], value) for name, value in b.items())


def dot(a, b):
    """Inner product of two tensors in float64, a part at a time, so that it takes little memory."""
    pairs = zip(a.flatten().split(CHUNK), b.flatten().split(CHUNK), strict=True)
    return sum(float(x.double() @ y.double()) for x, y in pairs)
