"""What the displays share: where they draw, in which colours, and what they ask of an estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .optional import require

# Every pair is at least 30 apart in CIELAB, also as the colour-blind see it, on white and black.
BLUE, ORANGE, PLUM, SKY, GREY = "#1a6fb5", "#e8963d", "#a83262", "#8fcbe0", "#808080"


def fitted_path(estimator: Any, display: str) -> Any:
    """The path of a fitted OBD estimator.

    Raises
    ------
    NotFittedError
        If `estimator` is not fitted.
    TypeError
        If it is not an OBD estimator.
    """
    check_is_fitted(estimator)
    if not hasattr(estimator, "path_"):
        raise TypeError(
            f"{display}.from_estimator needs a fitted OBDClassifier or OBDRegressor; got "
            f"{type(estimator).__name__}, which does not have a path_. Of a pipeline give the last "
            "step (pipe[-1]), of a search its best_estimator_."
        )
    return estimator.path_


def known_saliencies(estimator: Any, display: str) -> tuple[dict[str, np.ndarray], Any]:
    """``saliencies_`` of a fitted estimator, and its path.

    Raises
    ------
    AttributeError
        If the estimator does not have saliencies.
    """
    path = fitted_path(estimator, display)
    if not hasattr(estimator, "saliencies_"):
        raise AttributeError(
            f"{display}.from_estimator needs saliencies_, which this {type(estimator).__name__} "
            "does not have: copies made by at(...) have saliencies_ only for the row that fit "
            "kept. Pass the fitted estimator itself."
        )
    return estimator.saliencies_, path


def named(layers: Sequence[str], prunable: Sequence[str]) -> list[str]:
    """The names `layers`, checked to be among `prunable`.

    Raises
    ------
    ValueError
        If one is not; it lists the names there are.
    """
    for name in layers:
        if name not in prunable:
            raise ValueError(
                f"{name!r} is not a prunable parameter of this network. There are "
                f"{', '.join(prunable)}."
            )
    return list(layers)


def panels(
    display: str,
    ax: Any,
    *,
    shape: tuple[int, int] = (1, 1),
    figsize: tuple[float, float] | None = None,
    **gridspec: Any,
) -> np.ndarray:
    """Axes to draw on, a flat array of as many as `shape` has.

    Parameters
    ----------
    display : str
        Name of the display, for messages.
    ax : None, Axes or sequence of Axes
        None: a new figure. One, where more are needed: its place is shared out, as scikit-learn's
        PartialDependenceDisplay does. Otherwise the axes themselves.
    shape : tuple (rows, columns), default=(1, 1)
    figsize : tuple, optional
        Of a new figure.
    **gridspec
        Ratios of widths and heights.

    Raises
    ------
    ImportError
        If matplotlib cannot be imported.
    ValueError
        If there are neither as many axes as panels nor a single one of a grid of subplots.
    """
    require("matplotlib", task=display, extra="plot")
    import matplotlib.pyplot as plt

    n = shape[0] * shape[1]
    if ax is None:
        figure = plt.figure(figsize=figsize, layout="constrained")
        return figure.subplots(*shape, squeeze=False, gridspec_kw=gridspec).ravel()
    axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(axes) == n:
        return axes
    if len(axes) != 1 or axes[0].get_subplotspec() is None:
        raise ValueError(
            f"{display} draws {n} panels and was given {len(axes)} axes; expected {n} of them, "
            "or a single one in a grid of subplots, whose place is shared out."
        )
    (whole,) = axes
    whole.set_axis_off()
    grid = whole.get_subplotspec().subgridspec(*shape, **gridspec)
    return grid.subplots(squeeze=False).ravel()


def size_axis(ax: Any, sizes: Sequence[float]) -> None:
    """Make x an axis of parameters left: largest first, logarithmic, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.xaxis.set_inverted(True)
    if min(sizes) == 0:
        ax.set_xscale("symlog", linthresh=1)
        return
    ax.set_xscale("log")
    decades = np.log10(max(sizes) / min(sizes))
    subs = (1, 1.5, 2, 3, 4, 6, 8) if decades < 1 else (1, 2, 5) if decades < 2.5 else (1,)
    ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: short(size)))


def short(number: float) -> str:
    """A count in few characters.

    Examples
    --------
    >>> short(7510), short(20000), short(1.5e6)
    ('7510', '20k', '1.5M')
    """
    for scale, letter in ((1e6, "M"), (1e3, "k")):
        if number >= max(scale, 1e4):
            return f"{number / scale:g}{letter}"
    return f"{number:g}"


def fitting_scale(ax: Any, values: Any) -> None:
    """Make y logarithmic where values are far apart, symmetrically so where signs differ."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    sizes = np.abs(values[values != 0])
    if not len(sizes) or sizes.max() < 5 * sizes.min():
        return
    if values.min() > 0:
        ax.set_yscale("log")
    else:
        # Below a millionth of the largest, the sign is a matter of rounding.
        threshold = max(sizes.min(), sizes.max() * 1e-6)
        ax.set_yscale("symlog", linthresh=10 ** np.floor(np.log10(threshold)))
        ax.yaxis.get_major_locator().set_params(numticks=7)


def legend_above(ax: Any, ncols: int = 4, **kwargs: Any) -> Any:
    """Put a legend above the axes, where there are no data."""
    return ax.legend(
        **{
            "loc": "lower left",
            "bbox_to_anchor": (0, 1),
            "borderaxespad": 0.2,
            "ncols": ncols,
            "frameon": False,
            "fontsize": "small",
            "handlelength": 1.6,
            "columnspacing": 1.2,
        }
        | kwargs
    )
