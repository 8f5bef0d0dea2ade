"""Saliencies: what deleting a parameter is expected to cost, and which go first."""

import numpy as np
import torch

#: What a name in the estimators' ``saliency`` needs to know besides the parameters.
NEEDS = {
    "obd": {"curvature"},
    "obd-decay": {"curvature", "penalty"},
    "obs": {"curvature", "penalty", "inverse"},
    "taylor": {"curvature", "gradient"},
    "magnitude": set(),
    "random": set(),
    "deletion": {"loss"},
}

#: Criteria that are an increase of the loss, so that their sum predicts one.
LOSSES = ("obd", "obd-decay", "obs", "taylor", "deletion")


def saliencies(
    kind,
    parameters,
    *,
    curvature=None,
    gradient=None,
    penalty_gradient=None,
    inverse=None,
    generator=None,
    increase=None,
):
    r"""Saliency of every parameter under a criterion.

    ========== ============================================================
    obd        :math:`h_{kk} u_k^2 / 2` (LeCun, Denker and Solla 1989, section 2.2, step 4)
    obd-decay  :math:`u_k \partial P / \partial u_k + h_{kk} u_k^2 / 2` with the penalty P: what a
               deletion costs in E at a minimum of E + P, where :math:`g = -\nabla P` (Svarer,
               Hansen and Larsen 1993, On design and evaluation of tapped-delay neural network
               architectures); with weight decay :math:`(\lambda + h_{kk} / 2) u_k^2`
    obs        :math:`u_k^2 / (2 [H^{-1}]_{kk})` (Hassibi and Stork 1992, eq. 5)
    taylor     :math:`-g_k u_k + h_{kk} u_k^2 / 2`
    magnitude  :math:`|u_k|`
    random     uniform on [0, 1)
    deletion   the change of the loss when the parameter is really set to 0
    callable   ``kind(parameters, curvature)``
    ========== ============================================================

    Parameters
    ----------
    kind : str or callable
    parameters : dict of tensors
    curvature, gradient : dict of tensors, optional
        Of the mean loss; needed where the table names h or g, and curvature by a callable.
    penalty_gradient : dict of tensors, optional
        Of the penalty per row: for "obd-decay".
    inverse : dict of tensors, optional
        The inverse's diagonal, 0 where not alive: for "obs".
    generator : torch.Generator, optional
        Draws for "random"; None: torch's.
    increase : callable, optional
        ``increase(name) -> tensor``: for "deletion".

    Returns
    -------
    dict of tensors
        Each of its parameter's shape. In the units of the loss for all but magnitude and random.

    Raises
    ------
    ValueError
        If a callable does not return a finite tensor of the right shape for a parameter.

    Examples
    --------
    >>> u, h = {"w": torch.tensor([2.0, -1.0])}, {"w": torch.tensor([1.0, 4.0])}
    >>> saliencies("obd", u, curvature=h)
    {'w': tensor([2., 2.])}
    """
    if callable(kind):
        found = kind(parameters, curvature)
    elif kind == "obd":
        found = {k: h * parameters[k].square() / 2 for k, h in curvature.items()}
    elif kind == "obd-decay":
        found = {
            k: h * parameters[k].square() / 2 + penalty_gradient[k] * parameters[k]
            for k, h in curvature.items()
        }
    elif kind == "obs":
        found = {
            k: torch.where(i > 0, parameters[k].double().square() / (2 * i), 0).to(parameters[k])
            for k, i in inverse.items()
        }
    elif kind == "taylor":
        found = {
            k: h * parameters[k].square() / 2 - gradient[k] * parameters[k]
            for k, h in curvature.items()
        }
    elif kind == "magnitude":
        found = {k: u.abs() for k, u in parameters.items()}
    elif kind == "random":
        # Drawn on the CPU, so that a seed means the same on every device.
        found = {
            k: torch.rand(u.shape, generator=generator, dtype=u.dtype).to(u.device)
            for k, u in parameters.items()
        }
    else:
        found = {k: increase(k) for k in parameters}
    return {k: _checked(kind, k, found, u) for k, u in parameters.items()}


def _checked(kind, name, found, parameter):
    who = f"saliency={kind!r}" if isinstance(kind, str) else "the saliency callable"
    if name not in found:
        raise ValueError(f"{who} returned nothing for {name!r}; expected a tensor for each name.")
    value = torch.as_tensor(found[name]).detach()
    if value.shape != parameter.shape or not bool(torch.isfinite(value).all()):
        raise ValueError(
            f"{who} returned for {name!r} a tensor of shape {tuple(value.shape)} with "
            f"{int((~torch.isfinite(value)).sum())} values not finite; expected finite values of "
            f"shape {tuple(parameter.shape)}. If the loss is huge, scale the input."
        )
    return value


def lowest(saliency, masks, names, n_delete):
    """Masks of the `n_delete` alive parameters of lowest saliency, over all `names` together.

    Negative saliencies are the lowest. Ties go by (name, index): saliencies are compared at 20
    bits of mantissa. Two that differ only by rounding are ties, on every machine.

    Parameters
    ----------
    saliency, masks : dict of tensors
    names : iterable of str
        Where to delete.
    n_delete : int

    Returns
    -------
    dict of bool tensors
        True where to delete.

    Examples
    --------
    >>> s, alive = {"w": torch.tensor([3.0, -1.0, 2.0])}, {"w": torch.tensor([True] * 3)}
    >>> lowest(s, alive, ["w"], 2)
    {'w': tensor([False,  True,  True])}
    """
    names = sorted(names)
    sizes = [masks[k].numel() for k in names]
    keys = np.empty(sum(sizes))
    for k, part in zip(names, np.split(keys, np.cumsum(sizes)[:-1]), strict=True):
        alive = masks[k].flatten().cpu().numpy()
        value = saliency[k].detach().flatten().cpu().numpy()
        for at in chunks(len(part)):
            part[at] = np.where(alive[at], rounded(value[at].astype(np.float64)), np.inf)
    chosen = lowest_places(keys, n_delete)
    parts = torch.from_numpy(chosen).split(sizes)
    return {
        k: part.reshape(masks[k].shape).to(masks[k].device)
        for k, part in zip(names, parts, strict=True)
    }


def lowest_places(keys, n):
    """Where the n lowest keys stand, of equal ones the first; never those of infinity.

    The whole order is not needed, which would take several times the memory of the keys.
    """
    n = min(n, int((keys < np.inf).sum()))
    if n == 0:
        return np.zeros(len(keys), dtype=bool)
    last = np.partition(keys, n - 1)[n - 1]
    chosen = keys < last
    equal = np.flatnonzero(keys == last)
    chosen[equal[: n - int(chosen.sum())]] = True
    return chosen


def chunks(n, size=1 << 20):
    """Slices of n places, so many at a time that what is computed of them takes little memory."""
    return [slice(first, first + size) for first in range(0, n, size)]


def rounded(values):
    """Values at 20 bits of mantissa: those that are equal but for rounding become equal.

    A unit with one living input weight and one living output weight has the same saliency for both,
    for instance, and rounding must not decide which goes first.
    """
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2**20), exponent - 20)
