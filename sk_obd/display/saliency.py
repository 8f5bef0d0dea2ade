"""Saliencies: of all layers side by side, and of one weight by unit and input."""

import numpy as np

from .arrange import block_size, block_sums
from .style import BLUE, GREY, fitted_path, named, panels


def known_saliencies(estimator, display):
    """``saliencies_`` of a fitted estimator, and its path.

    Raises
    ------
    AttributeError
        If the estimator has none.
    """
    path = fitted_path(estimator, display)
    if not hasattr(estimator, "saliencies_"):
        raise AttributeError(
            f"{display}.from_estimator needs saliencies_, which this {type(estimator).__name__} "
            "has not: at(...) gives them for the row kept by fit alone. Give the estimator that "
            "was fitted."
        )
    return estimator.saliencies_, path


class SaliencyDisplay:
    """Saliencies by layer: how those alive are spread, and how many were deleted.

    Left, a histogram of each prunable parameter's saliencies over a logarithmic axis, every one
    scaled to its own highest bin; the bin "≤ 0", where there is one, holds what has no
    logarithm (the weights of a dead unit). Right, the share of it that is kept.

    Parameters
    ----------
    saliencies : dict of arrays
    masks : dict of bool arrays
        True where alive; of the same names and shapes.
    bins : int, default=40

    Attributes
    ----------
    axes_ : ndarray of two Axes
        Of the histograms and of the shares.
    ax_ : Axes
        That of the histograms.
    figure_ : Figure
    histograms_ : dict of StepPatch
        By name; those with a parameter alive.
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

    def __init__(self, *, saliencies, masks, bins=40):
        self.saliencies = saliencies
        self.masks = masks
        self.bins = bins

    @classmethod
    def from_estimator(cls, estimator, *, bins=40, ax=None, **kwargs):
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
        AttributeError
            If the estimator has no ``saliencies_``: a copy made by ``at(...)``.
        """
        saliencies, path = known_saliencies(estimator, cls.__name__)
        display = cls(
            saliencies={name: saliencies[name] for name in path.prunable},
            masks={name: estimator.mask_[name] for name in path.prunable},
            bins=bins,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, hist_kw=None, bar_kw=None):
        """Draw.

        Parameters
        ----------
        ax : Axes or sequence of two Axes, optional
            Two: for the histograms and for the shares. One: its place is shared out. None: a new
            figure.
        hist_kw : dict, optional
            For the histograms, as ``Axes.stairs`` takes them.
        bar_kw : dict, optional
            For the shares, as ``Axes.barh`` takes them.

        Returns
        -------
        SaliencyDisplay
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


class LayerSaliencyDisplay:
    """The saliencies of one weight: a heat map by unit and input, and their sums.

    Deleted weights are blank. The colours are logarithmic; above are the sums over units (how
    much each input matters here), at the right those over inputs (how much each unit matters).
    The kernels of a convolution are laid out in a row, one after another. A matrix of more than
    about 200 rows or columns is drawn in blocks, each coloured by its sum.

    Parameters
    ----------
    saliencies : array of shape (n_units, ...)
    mask : bool array of the same shape
        True where alive.
    layer : str
        Name of the weight.

    Attributes
    ----------
    axes_ : ndarray of four Axes
        Sums over units, an empty corner, the heat map, sums over inputs.
    ax_ : Axes
        That of the heat map.
    figure_ : Figure
    image_ : AxesImage
    colorbar_ : Colorbar
    input_sums_, unit_sums_ : StepPatch

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_obd import OBDClassifier
    >>> from sk_obd.display import LayerSaliencyDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = OBDClassifier(prune_rate=0.5, random_state=0).fit(X, y)
    >>> display = LayerSaliencyDisplay.from_estimator(clf, "output.weight")  # doctest: +SKIP
    """

    def __init__(self, *, saliencies, mask, layer):
        self.saliencies = saliencies
        self.mask = mask
        self.layer = layer

    @classmethod
    def from_estimator(cls, estimator, layer=None, *, ax=None, **kwargs):
        """Draw the saliencies of one weight of a fitted estimator.

        Parameters
        ----------
        estimator : OBDClassifier, OBDRegressor or one of the CV classes
        layer : str, default=None
            Name of a prunable parameter, as in ``mask_``; None: the first weight.
        ax : Axes or sequence of four Axes, optional
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        LayerSaliencyDisplay

        Raises
        ------
        ValueError
            If there is no such parameter; it lists those there are.
        AttributeError
            If the estimator has no ``saliencies_``: a copy made by ``at(...)``.
        """
        saliencies, path = known_saliencies(estimator, cls.__name__)
        if layer is None:
            layer = next((n for n in path.prunable if saliencies[n].ndim > 1), path.prunable[0])
        (layer,) = named([layer], path.prunable)
        display = cls(saliencies=saliencies[layer], mask=estimator.mask_[layer], layer=layer)
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, im_kw=None):
        """Draw.

        Parameters
        ----------
        ax : Axes or sequence of four Axes, optional
            One: its place is shared out. None: a new figure.
        im_kw : dict, optional
            For the heat map, as ``Axes.imshow`` takes them; a ``cmap`` for instance.

        Returns
        -------
        LayerSaliencyDisplay
        """
        self.axes_ = panels(
            "LayerSaliencyDisplay", ax, shape=(2, 2), height_ratios=(1, 4), width_ratios=(6, 1)
        )
        from matplotlib import colormaps
        from matplotlib.colors import ListedColormap, LogNorm

        above, corner, self.ax_, right = self.axes_
        corner.set_axis_off()
        self.figure_ = self.ax_.figure
        alive = np.where(self.mask, self.saliencies, 0.0).reshape(len(self.mask), -1)
        n_units, n_inputs = alive.shape
        blocks = block_size(alive.shape)
        values = block_sums(alive, blocks)
        shown = values[values > 0]
        low, high = (shown.min(), shown.max()) if len(shown) else (0.1, 1.0)
        norm = LogNorm(max(low, high * 1e-8), high if high > low else low * 10)
        style = {
            "norm": norm,
            # Neither end vanishes: not the dark one on black, nor the light one on white.
            "cmap": ListedColormap(colormaps["viridis"](np.linspace(0.2, 0.92, 256))),
            "aspect": "auto",
            "interpolation": "nearest",
            "extent": (-0.5, n_inputs - 0.5, n_units - 0.5, -0.5),
        }
        values = np.ma.masked_where(values <= 0, values)
        self.image_ = self.ax_.imshow(values, **(style | (im_kw or {})))
        self.ax_.locator_params(integer=True, min_n_ticks=1)
        kernel = self.mask.ndim > 2
        self.ax_.set(ylabel="unit", xlabel="input × place in the kernel" if kernel else "input")
        self._draw_sums(above, right, alive)
        self.colorbar_ = self.figure_.colorbar(self.image_, ax=list(self.axes_), aspect=30)
        above.set_title(f"Saliencies of {self.layer}", loc="left", fontsize="medium")
        return self

    def _draw_sums(self, above, right, alive):
        n_units, n_inputs = alive.shape
        style = {"fill": True, "color": BLUE, "baseline": 0}
        self.input_sums_ = above.stairs(alive.sum(axis=0), np.arange(n_inputs + 1) - 0.5, **style)
        self.unit_sums_ = right.stairs(
            alive.sum(axis=1), np.arange(n_units + 1) - 0.5, orientation="horizontal", **style
        )
        above.set(xlim=(-0.5, n_inputs - 0.5), ylabel="sum")
        right.set(ylim=(n_units - 0.5, -0.5), xlabel="sum")
        # Under the axis is the power of ten of its numbers.
        right.xaxis.set_label_position("top")
        right.tick_params(axis="x", labelrotation=90)
        above.tick_params(labelbottom=False)
        right.tick_params(labelleft=False)
        for axes, axis in ((above, "y"), (right, "x")):
            axes.spines[["top", "right"]].set_visible(False)
            axes.ticklabel_format(axis=axis, style="sci", scilimits=(-2, 3), useMathText=True)
            axes.locator_params(axis=axis, nbins=2)
