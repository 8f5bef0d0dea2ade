"""How much is deleted in each iteration."""

import math
from itertools import pairwise

#: Most that a trust region deletes in one iteration, as a share of what is left.
LARGEST_SHARE = 0.5


def target_total(n_prunable, prune_rate):
    """Number of parameters deleted in the end.

    Raises
    ------
    ValueError
        If that is more than there are.
    """
    target = round(prune_rate * n_prunable) if isinstance(prune_rate, float) else int(prune_rate)
    if target > n_prunable:
        raise ValueError(
            f"prune_rate={prune_rate} asks to delete {target} parameters; the network has "
            f"{n_prunable} that may be deleted. Give a smaller number, or a share in [0, 1)."
        )
    return target


def advance(n_prunable, deleted, step):
    """Total deleted after one more step: a share of what is left, a number, or (None) all."""
    if step is None:
        return n_prunable
    if isinstance(step, float):
        return deleted + max(1, round(step * (n_prunable - deleted)))
    return deleted + int(step)


def schedule(n_prunable, prune_rate, step):
    """Totals deleted after each iteration, where no trust region changes the step.

    They depend only on counts: all folds of a cross-validation visit the same sizes, and a
    run to 0.5 those of a run to 0.9 up to its own last.

    Parameters
    ----------
    n_prunable : int
    prune_rate : float in [0, 1) or int
        Share (or number) of the prunable parameters deleted in the end.
    step : float in (0, 1), int or None
        Share of what is left (at least one parameter), or number, deleted in an iteration; None:
        all at once.

    Raises
    ------
    ValueError
        If more is to be deleted than there is.

    Examples
    --------
    >>> schedule(1000, 0.5, 0.2)
    [200, 360, 488, 500]
    >>> schedule(1000, 3, 1)
    [1, 2, 3]
    """
    target = target_total(n_prunable, prune_rate)
    totals, deleted = [], 0
    while deleted < target:
        deleted = min(target, advance(n_prunable, deleted, step))
        totals.append(deleted)
    return totals


def trusted_step(step, rows, tolerance):
    r"""The next step of a trust region, from the rows of the path so far.

    After each deletion the step is multiplied by

    .. math:: \sqrt{t / e} \text{ within } [1/2, 2], \qquad
        e = \frac{|\text{actual} - \text{predicted}|}{|E| + |\text{predicted}|}

    with the tolerance t and the training loss E before the deletion. The error of a quadratic
    prediction grows with the square of the step, hence the root (as in step-size control of
    differential equations). An error that is small beside the loss is harmless, even where the
    prediction is off by a large factor.

    Parameters
    ----------
    step : float in (0, 1) or int >= 1
        The first: share of what is left, or number.
    rows : sequence of dict
    tolerance : float > 0

    Returns
    -------
    float or int
        At most half of what is left, at least one parameter.

    Examples
    --------
    >>> dense = {"loss": 1.0}
    >>> surprising = {"n_deleted": 9, "predicted_increase": 0.0, "actual_increase": 0.4}
    >>> trusted_step(0.2, [dense, surprising], 0.1)
    0.1
    >>> trusted_step(40, [dense, surprising], 0.1)
    20
    """
    size = float(step)
    for before, row in pairwise(rows):
        if not row["n_deleted"]:
            continue
        predicted = row["predicted_increase"]
        error = abs(row["actual_increase"] - predicted)
        size *= growth(error, tolerance * (abs(before["loss"]) + abs(predicted)))
        if isinstance(step, float):
            size = min(size, LARGEST_SHARE)
    return size if isinstance(step, float) else max(1, round(size))


def growth(error, allowed):
    """Factor on the step: 1 where the error is as large as allowed."""
    return min(2.0, max(0.5, math.sqrt(allowed / error))) if error else 2.0


def parts(n_delete, n_recomputations):
    """Numbers deleted between recomputations of the saliencies: equal, none empty.

    Examples
    --------
    >>> parts(10, 2)
    [3, 4, 3]
    >>> parts(2, 5)
    [1, 1]
    """
    n_parts = min(n_recomputations + 1, n_delete)
    ends = [round(n_delete * i / n_parts) for i in range(n_parts + 1)]
    return [end - start for start, end in pairwise(ends)]
