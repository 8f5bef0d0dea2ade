"""Whether training has arrived anywhere: two signs that it has not."""

import math
from collections.abc import Sequence

import torch

#: Epochs whose mean losses are compared, at most.
WINDOW = 5
#: A fall of the loss, as a share of all that it has fallen, from which on it still falls.
STILL_FALLS = 0.01
#: How far above the best constant's a loss has to be, relative to it: more than rounding makes it.
RTOL = 1e-6


def still_falls(losses: Sequence[float]) -> tuple[float, float] | None:
    """Mean training losses before and at the end, where the loss still fell; None where it did not.

    The last epochs (a quarter of them, at most 5) are compared with as many before them: the loss
    still fell if it went down by more than 1 % of all that it has fallen since the first epoch.

    Examples
    --------
    >>> still_falls([1.0, 0.5, 0.25])
    (0.5, 0.25)
    >>> still_falls([1.0, 0.5, 0.4, 0.4, 0.4, 0.4]) is None
    True
    """
    n = min(WINDOW, max(1, len(losses) // 4))
    if len(losses) < 2 or not all(map(math.isfinite, losses)):
        return None
    before, after = sum(losses[-2 * n : -n]) / n, sum(losses[-n:]) / n
    fell = losses[0] - min(losses)
    return (before, after) if before - after > STILL_FALLS * fell else None


def constant_loss(loss, shape, y, weights) -> float:
    r"""The least loss of an output that is the same for every row, without looking at X.

    .. math:: \min_c \sum_i w_i l(c, y_i) / \sum_i w_i

    Parameters
    ----------
    loss : sk_obd.curvature.losses.base.Loss
    shape : tuple of int
        Of one row's logits.
    y : tensor of shape (n_rows, ...)
    weights : tensor of shape (n_rows,)

    Returns
    -------
    float
        Found by L-BFGS, up to its tolerance; NaN where it finds no finite one.
    """
    y = y.double() if y.is_floating_point() else y
    constant = torch.zeros(1, *shape, dtype=torch.float64, device=y.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([constant], max_iter=50, line_search_fn="strong_wolfe")

    def value():
        logits = constant.expand(len(y), *shape)
        norm = (weights * loss.normalisers(logits.detach(), y)).sum()
        return (weights * loss.rows_at(logits, y)).sum() / norm

    def step():
        optimiser.zero_grad()
        found = value()
        found.backward()
        return found

    with torch.enable_grad():
        optimiser.step(step)
    with torch.no_grad():
        found = float(value())
    return found if math.isfinite(found) else math.nan


def why_not_converged(epochs, max_epochs, loss, constant) -> list[str]:
    """Sentences for a warning: what says that a dense training has not arrived; mostly none.

    Parameters
    ----------
    epochs : list of dict
        skorch's records.
    max_epochs : int
    loss : float
        Of the trained network.
    constant : callable() -> float
        The loss of the best constant output.
    """
    if not epochs:
        return []
    found = []
    losses = [epoch["train_loss"] for epoch in epochs if "train_loss" in epoch]
    fall = still_falls(losses) if len(epochs) >= max_epochs else None
    if fall is not None:
        found.append(
            f"Dense training ended by max_epochs={max_epochs} while the training loss still fell, "
            f"from {fall[0]:.4g} to {fall[1]:.4g} at the end. Raise max_epochs (net__max_epochs of "
            "a net of your own), or the learning rate."
        )
    best = constant()
    if loss > best + RTOL * abs(best):
        found.append(
            f"The training loss of the dense network, {loss:.4g}, is above {best:.4g}, that of "
            "the best output that ignores X: the network has learned nothing that could be kept. "
            "Scale X and y, change the learning rate, or train longer."
        )
    return found
