"""What each deletion was predicted to cost, what it cost, and which approximation failed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .style import BLUE, ORANGE, PLUM, SKY, fitted_path, fitting_scale, legend_above, panels

#: The terms that add up to the increase, in the order in which OBD leaves them out.
TERMS = {
    "diagonal": ("diagonal (OBD)", BLUE),
    "first_order": ("first order", ORANGE),
    "off_diagonal": ("off-diagonal", PLUM),
    "higher_order": ("higher order", SKY),
}


class IncreaseDisplay:
    r"""Predicted and actual increase of the training loss, and the terms of its expansion.

    Above, for each iteration, what the deleted saliencies add up to and what deleting them cost,
    before retraining (Fig. 1b of the paper). The scale is logarithmic where all are positive, and
    on both sides of zero where some deletions lowered the loss. Below, the four terms that add up
    to the actual increase, each divided by the sum of their sizes, :math:`t / \sum |t|`, and
    stacked from zero to either side; a dot is at their sum. They are shares because sizes differ
    by magnitudes from row to row, and heights on a logarithmic scale do not add up. OBD is right
    where the bar is all "diagonal". Otherwise a large first order says that the network was not at
    a minimum (the *extremal* approximation failed), a large off-diagonal term that the deleted
    parameters interact (*diagonal*), a large higher order that the loss is not *quadratic*.

    Parameters
    ----------
    iteration : array-like of shape (n_iterations,)
    predicted_increase, actual_increase : array-like of shape (n_iterations,)
        NaN where the criterion predicts nothing.
    terms : dict of array-like of shape (n_iterations,)
        ``first_order``, ``diagonal``, ``off_diagonal`` and ``higher_order``, NaN where they are
        not known.

    Attributes
    ----------
    axes_ : ndarray of two Axes
        One for the increases, one for the terms.
    ax_ : Axes
        The one for the increases.
    figure_ : Figure
    lines_ : dict of Line2D
        ``"predicted"`` (where there is a prediction) and ``"actual"``.
    bars_ : dict of BarContainer
        The bars of each term that is known.
    sum_ : Line2D or None
        The dots; None where no term is known.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_obd import OBDClassifier
    >>> from sk_obd.display import IncreaseDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = OBDClassifier(prune_rate=0.5, random_state=0).fit(X, y)
    >>> display = IncreaseDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        iteration: Any,
        predicted_increase: Any,
        actual_increase: Any,
        terms: dict[str, Any],
    ):
        self.iteration = iteration
        self.predicted_increase = predicted_increase
        self.actual_increase = actual_increase
        self.terms = terms

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> IncreaseDisplay:
        """Draw the increases along the path of a fitted estimator.

        Parameters
        ----------
        estimator : OBDClassifier, OBDRegressor or one of the CV classes
        ax : Axes or sequence of two Axes, optional
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        IncreaseDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is not one of these estimators.
        ValueError
            If nothing was deleted.
        """
        return cls.from_path(fitted_path(estimator, cls.__name__), ax=ax, **kwargs)

    @classmethod
    def from_path(cls, path: Any, *, ax: Any = None, **kwargs: Any) -> IncreaseDisplay:
        """Draw the increases along a path.

        Parameters
        ----------
        path : PruningPath
        ax, **kwargs
            As for :meth:`from_estimator`.

        Returns
        -------
        IncreaseDisplay

        Raises
        ------
        ValueError
            If nothing was deleted.
        """
        rows = [i for i, row in enumerate(path) if row["n_deleted"]]
        if not rows:
            raise ValueError(
                f"{cls.__name__} shows what deletions cost, and nothing was deleted on this path "
                f"({path!r}). Fit with prune_rate > 0."
            )

        def column(name):
            return np.array([path[i][name] for i in rows], dtype=float)

        display = cls(
            iteration=np.array(rows),
            predicted_increase=column("predicted_increase"),
            actual_increase=column("actual_increase"),
            terms={name: column(name) for name in TERMS},
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Any = None,
        line_kw: dict[str, Any] | None = None,
        bar_kw: dict[str, Any] | None = None,
    ) -> IncreaseDisplay:
        """Draw the two panels.

        Parameters
        ----------
        ax : Axes or sequence of two Axes, optional
            Two: one for the increases, one for the terms. One: its place is shared out. None: a
            new figure.
        line_kw : dict, optional
            For the lines, as ``Axes.plot`` takes them.
        bar_kw : dict, optional
            For the bars, as ``Axes.bar`` takes them.

        Returns
        -------
        IncreaseDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib cannot be imported.
        ValueError
            If `ax` has neither two axes nor a single one in a grid of subplots.
        """
        self.axes_ = panels("IncreaseDisplay", ax, shape=(2, 1), height_ratios=(1, 1))
        self.ax_, below = self.axes_
        self.figure_ = self.ax_.figure
        from matplotlib.ticker import MaxNLocator

        self._draw_increases(line_kw or {})
        self._draw_terms(below, bar_kw or {})
        ends = self.iteration[0] - 0.6, self.iteration[-1] + 0.6
        for axes in self.axes_:
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlim(ends)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        self.ax_.tick_params(labelbottom=False)
        self.figure_.align_ylabels(self.axes_)
        return self

    def _draw_increases(self, line_kw):
        """Draw the predicted and the actual increases on ``ax_``."""
        self.lines_ = {}
        for key, y, marker, color, ls in (
            ("predicted", self.predicted_increase, "o", BLUE, "-"),
            ("actual", self.actual_increase, "s", ORANGE, "--"),
        ):
            if np.isfinite(y).any():
                marker = marker if len(y) <= 40 else ""
                style = {"marker": marker, "color": color, "ls": ls, "ms": 4, "lw": 1.6}
                (self.lines_[key],) = self.ax_.plot(
                    self.iteration, y, **({"label": key} | style | line_kw)
                )
        values = np.concatenate([line.get_ydata() for line in self.lines_.values()])
        fitting_scale(self.ax_, values)
        if np.nanmin(values) <= 0:
            self.ax_.axhline(0, color="0.5", lw=0.8, zorder=0)
        self.ax_.set_ylabel("increase of loss")
        legend_above(self.ax_)

    def _draw_terms(self, ax, bar_kw):
        """Draw the shares of the terms as stacked bars, and their sums as dots."""
        known = {name: y for name, y in self.terms.items() if np.isfinite(y).any()}
        sizes = sum((np.abs(np.nan_to_num(y)) for y in known.values()), np.zeros(1))
        # Terms that are rounding, compared with the largest increase, have no shares.
        sizes = np.where(sizes > 1e-12 * sizes.max(), sizes, np.nan)
        self.bars_, self.sum_ = {}, None
        tops = {sign: np.zeros(len(self.iteration)) for sign in (-1, 1)}
        for name, (label, color) in TERMS.items():
            if name not in known:
                continue
            share = np.nan_to_num(known[name] / sizes)
            bottom = np.where(share < 0, tops[-1], tops[1])
            style = {"width": 0.8 if len(share) <= 40 else 1.0, "color": color, "lw": 0}
            self.bars_[name] = ax.bar(
                self.iteration, share, bottom=bottom, **({"label": label} | style | bar_kw)
            )
            tops[-1] += np.minimum(share, 0)
            tops[1] += np.maximum(share, 0)
        if known:
            total = sum(np.nan_to_num(y) for y in known.values()) / sizes
            size = 8 if len(total) <= 40 else 3
            dots = {"marker": ".", "ls": "", "color": "black", "mec": "white", "mew": 0.6}
            (self.sum_,) = ax.plot(self.iteration, total, **dots, ms=size, label="sum")
            legend_above(ax, ncols=5, handlelength=1.1, columnspacing=0.8)
        else:
            ax.text(0.5, 0.5, "the terms are not known", ha="center", transform=ax.transAxes)
        ax.axhline(0, color="0.5", lw=0.8)
        ax.set(xlabel="iteration", ylabel="share of terms")
        if known:
            ax.set_ylim(tops[-1].min() * 1.1, max(tops[1].max(), 0.05) * 1.05)
