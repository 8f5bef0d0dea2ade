"""The saliencies of all layers, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from .style import BLUE, GREY, known_saliencies, panels


class SaliencyDisplay:
    """Saliencies by layer: how those alive are spread, and how many were deleted.

    Left, a histogram of the saliencies of each prunable parameter over a logarithmic axis, each
    scaled to its own highest bin; the bin "≤ 0", where there is one, holds saliencies that do not
    have a logarithm (those of a dead unit's weights). Right, the share of the parameter that is
    kept.

    Parameters
    ----------
    saliencies : dict of arrays
    masks : dict of bool arrays
        True where alive; of the same names and shapes.
    bins : int, default=40
        Number of bins of each histogram.

    Attributes
    ----------
    axes_ : ndarray of two Axes
        One for the histograms, one for the shares.
    ax_ : Axes
        The one for the histograms.
    figure_ : Figure
    histograms_ : dict of StepPatch
        By name of the parameter, where anything of it is alive.
    bars_ : BarContainer
        Shares kept, in the order of ``masks``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_obd import OBDClassifier
    >>> from sk_obd.display import SaliencyDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = OBDClassifier(prune_rate=0.5, random_state=0).fit(X, y)
    >>> display = SaliencyDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    def __init__(
        self, *, saliencies: dict[str, np.ndarray], masks: dict[str, np.ndarray], bins: int = 40
    ):
        self.saliencies = saliencies
        self.masks = masks
        self.bins = bins

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, bins: int = 40, ax: Any = None, **kwargs: Any
    ) -> SaliencyDisplay:
        """Draw the saliencies of a fitted estimator's prunable parameters.

        Parameters
        ----------
        estimator : OBDClassifier, OBDRegressor or one of the CV classes
        bins : int, default=40
        ax : Axes or sequence of two Axes, optional
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        SaliencyDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is not one of these estimators.
        AttributeError
            If the estimator does not have ``saliencies_``: a copy made by ``at(...)``.
        """
        saliencies, path = known_saliencies(estimator, cls.__name__)
        display = cls(
            saliencies={name: saliencies[name] for name in path.prunable},
            masks={name: estimator.mask_[name] for name in path.prunable},
            bins=bins,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Any = None,
        hist_kw: dict[str, Any] | None = None,
        bar_kw: dict[str, Any] | None = None,
    ) -> SaliencyDisplay:
        """Draw the two panels.

        Parameters
        ----------
        ax : Axes or sequence of two Axes, optional
            Two: one for the histograms, one for the shares. One: its place is shared out. None: a
            new figure.
        hist_kw : dict, optional
            For the histograms, as ``Axes.stairs`` takes them.
        bar_kw : dict, optional
            For the shares, as ``Axes.barh`` takes them.

        Returns
        -------
        SaliencyDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib cannot be imported.
        ValueError
            If `ax` has neither two axes nor a single one in a grid of subplots.
        """
        n = len(self.masks)
        height = max(4.0, 0.42 * n + 1.0)
        self.axes_ = panels(
            "SaliencyDisplay", ax, shape=(1, 2), figsize=(6.4, height), width_ratios=(3, 1)
        )
        self.ax_, right = self.axes_
        self.figure_ = self.ax_.figure
        self._draw_histograms(hist_kw or {})
        alive = np.array([int(mask.sum()) for mask in self.masks.values()])
        total = np.array([mask.size for mask in self.masks.values()])
        rows = np.arange(n)
        right.barh(rows, 1, height=0.6, color=GREY, alpha=0.25)
        style = {"height": 0.6, "color": BLUE}
        self.bars_ = right.barh(rows, alive / total, **(style | (bar_kw or {})))
        for row, kept, of in zip(rows, alive, total, strict=True):
            right.text(
                1.06, row, f"{kept:,} of {of:,}", va="center", fontsize="small", clip_on=False
            )
        right.set(xlim=(0, 1), xticks=(0, 1), xlabel="kept", yticks=[])
        right.set_xticks((0, 1), ("0", "100 %"))
        for axes in self.axes_:
            axes.set_ylim(n - 0.4, -0.75)
            axes.spines[["top", "right", "left"]].set_visible(False)
        return self

    def _draw_histograms(self, hist_kw):
        """Draw a histogram for each parameter on ``ax_``, from top to bottom."""
        ax = self.ax_
        alive = {name: self.saliencies[name][mask] for name, mask in self.masks.items()}
        logs = {name: np.log10(values[values > 0]) for name, values in alive.items()}
        every = np.concatenate([*logs.values(), np.zeros(0)])
        lowest, highest = (every.min(), every.max()) if len(every) else (-1.0, 0.0)
        if highest - lowest < 1e-6:
            lowest, highest = lowest - 0.5, highest + 0.5
        edges = np.linspace(lowest, highest, self.bins + 1)
        aside = any((values <= 0).any() for values in alive.values())
        gap = (highest - lowest) / 20
        self.histograms_ = {}
        for row, (name, values) in enumerate(alive.items()):
            counts = np.histogram(logs[name], edges)[0]
            where = edges
            if aside:
                # Two gaps wide: a bin for what has no logarithm, and nothing beside it.
                counts = np.r_[(values <= 0).sum(), 0, counts]
                where = np.r_[lowest - 2 * gap, lowest - gap, edges]
            ax.axhline(row + 0.3, color=GREY, lw=0.6, alpha=0.5, zorder=0)
            if counts.sum():
                # Downwards is up: rows are read from the top.
                style = {"baseline": row + 0.3, "fill": True, "color": BLUE}
                self.histograms_[name] = ax.stairs(
                    row + 0.3 - 0.9 * counts / counts.max(), where, **(style | hist_kw)
                )
        ticks, labels = decades(lowest, highest)
        if aside:
            far = [i for i, tick in enumerate(ticks) if tick >= lowest + 2 * gap]
            ticks = [lowest - 1.5 * gap, *(ticks[i] for i in far)]
            labels = ["≤ 0", *(labels[i] for i in far)]
        ax.set_xticks(ticks, labels)
        ax.set_yticks(range(len(alive)), alive)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("saliency of those kept")


def decades(lowest, highest, most=5):
    """Ticks between two exponents, and their labels: powers of ten, at most so many.

    Examples
    --------
    >>> decades(-2.5, 0.1)
    ([-2, -1, 0], ['$10^{-2}$', '$10^{-1}$', '$10^{0}$'])
    """
    first, last = int(np.ceil(lowest)), int(np.floor(highest))
    if last - first >= 1:
        ticks = list(range(first, last + 1, max(1, -(-(last - first + 1) // most))))
        return ticks, [f"$10^{{{tick}}}$" for tick in ticks]
    # Within two powers of ten: round numbers between them too.
    found = [(k + np.log10(m), m, k) for k in range(first - 1, last + 1) for m in (1, 2, 5)]
    found = [(tick, m, k) for tick, m, k in found if lowest <= tick <= highest]
    return [tick for tick, _, _ in found], [f"{m * 10.0**k:.0e}" for _, m, k in found]
