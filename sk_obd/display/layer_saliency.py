"""The saliencies of one weight, by unit and input."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrange import block_size, block_sums
from .style import BLUE, known_saliencies, named, panels


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

    def __init__(self, *, saliencies: np.ndarray, mask: np.ndarray, layer: str):
        self.saliencies = saliencies
        self.mask = mask
        self.layer = layer

    @classmethod
    def from_estimator(
        cls, estimator: Any, layer: str | None = None, *, ax: Any = None, **kwargs: Any
    ) -> LayerSaliencyDisplay:
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
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is not one of these estimators.
        AttributeError
            If the estimator does not have ``saliencies_``: a copy made by ``at(...)``.
        ValueError
            If there is no such parameter; it lists the ones there are.
        """
        saliencies, path = known_saliencies(estimator, cls.__name__)
        if layer is None:
            layer = next((n for n in path.prunable if saliencies[n].ndim > 1), path.prunable[0])
        (layer,) = named([layer], path.prunable)
        display = cls(saliencies=saliencies[layer], mask=estimator.mask_[layer], layer=layer)
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax: Any = None, im_kw: dict[str, Any] | None = None) -> LayerSaliencyDisplay:
        """Draw the four panels.

        Parameters
        ----------
        ax : Axes or sequence of four Axes, optional
            One: its place is shared out. None: a new figure.
        im_kw : dict, optional
            For the heat map, as ``Axes.imshow`` takes them; a ``cmap`` for instance.

        Returns
        -------
        LayerSaliencyDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib cannot be imported.
        ValueError
            If `ax` has neither four axes nor a single one in a grid of subplots.
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
            # Neither end vanishes: the dark one is seen on black, the light one on white.
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
        """Draw the sums over units above the heat map, and those over inputs beside it."""
        n_units, n_inputs = alive.shape
        style = {"fill": True, "color": BLUE, "baseline": 0}
        self.input_sums_ = above.stairs(alive.sum(axis=0), np.arange(n_inputs + 1) - 0.5, **style)
        self.unit_sums_ = right.stairs(
            alive.sum(axis=1), np.arange(n_units + 1) - 0.5, orientation="horizontal", **style
        )
        above.set(xlim=(-0.5, n_inputs - 0.5), ylabel="sum")
        right.set(ylim=(n_units - 0.5, -0.5), xlabel="sum")
        # The power of ten of the axis' numbers is below it.
        right.xaxis.set_label_position("top")
        right.tick_params(axis="x", labelrotation=90)
        above.tick_params(labelbottom=False)
        right.tick_params(labelleft=False)
        for axes, axis in ((above, "y"), (right, "x")):
            axes.spines[["top", "right"]].set_visible(False)
            axes.ticklabel_format(axis=axis, style="sci", scilimits=(-2, 3), useMathText=True)
            axes.locator_params(axis=axis, nbins=2)
