"""The masks as images."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from .arrange import block_means, block_size, side_by_side, side_by_side_fits
from .style import BLUE, GREY, ORANGE, fitted_path, named, panels

#: Their weights are of shape (n_inputs, n_units, ...).
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class MaskDisplay:
    """The masks as images: what is alive, and which units and inputs are dead.

    One panel per weight, units from top to bottom and inputs from left to right. What is alive is
    blue. The rows of dead units and the columns of dead inputs are orange: nothing in them is
    alive, or all that is alive has no effect (nothing living leads from the unit to the output,
    or the input is a constant that a bias can take over; see
    :func:`sk_obd.compact.dead_parameters`). The kernels of a convolution are drawn one by one. If
    there are too many of them, each is one square, the bluer the more of it is alive, and so is
    each block of a matrix of more than about 200 rows or columns.

    Parameters
    ----------
    masks : dict of bool arrays of shape (n_units, n_inputs, ...)
        True where alive.
    dead : dict of bool arrays, default=None
        True where alive to no effect; of the same names and shapes. A name that is missing: none
        of that weight is known to be dead.
    inputs : bool array, default=None
        The inputs still read, shaped as an image; drawn in a panel of its own.

    Attributes
    ----------
    axes_ : ndarray of Axes
        The one for the inputs, where they are drawn, then one per weight.
    ax_ : Axes
        The first.
    figure_ : Figure
    images_ : dict of AxesImage
        What is alive, by the name of the weight.
    dead_images_ : dict of AxesImage
        The rows of dead units and the columns of dead inputs.
    dead_units_ : dict of bool arrays of shape (n_units,)
    dead_inputs_ : dict of bool arrays of shape (n_inputs,)
    input_image_ : AxesImage or None

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_obd import OBDClassifier
    >>> from sk_obd.display import MaskDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = OBDClassifier(prune_rate=0.5, random_state=0).fit(X, y)
    >>> display = MaskDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        masks: dict[str, np.ndarray],
        dead: dict[str, np.ndarray] | None = None,
        inputs: np.ndarray | None = None,
    ):
        self.masks = masks
        self.dead = dead
        self.inputs = inputs

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        layers: list[str] | None = None,
        input_shape: tuple[int, ...] | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> MaskDisplay:
        """Draw the masks of a fitted estimator.

        Parameters
        ----------
        estimator : OBDClassifier, OBDRegressor or one of the CV classes
        layers : list of str, default=None
            Names of weights, as in ``mask_``; None: all that are prunable.
        input_shape : tuple of int, default=None
            (height, width) or (channels, height, width) of X, where its columns are pixels. The
            inputs still read, ``support_``, are then drawn too.
        ax : Axes or sequence of Axes, optional
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        MaskDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is not one of these estimators.
        ValueError
            If there is no such weight (it lists the ones there are), or if ``support_`` does not
            have the size of `input_shape`.
        """
        path = fitted_path(estimator, cls.__name__)
        # The estimator answers, with what its compact() and sweep=True go by.
        masks, dead = dict(estimator.mask_), estimator.dead_parameters()
        for name, layer in estimator.net_.module_.named_modules():
            weight = f"{name}.weight"
            # A tied weight is listed by the name of another layer's.
            if isinstance(layer, TRANSPOSED) and weight in masks:
                masks[weight] = masks[weight].swapaxes(0, 1)
                dead[weight] = dead[weight].swapaxes(0, 1)
        weights = [name for name in path.prunable if masks[name].ndim > 1]
        layers = weights if layers is None else named(layers, weights)
        display = cls(
            masks={name: masks[name] for name in layers},
            dead={name: dead[name] for name in layers},
            inputs=None if input_shape is None else as_image(estimator.support_, input_shape),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax: Any = None, im_kw: dict[str, Any] | None = None) -> MaskDisplay:
        """Draw one panel per weight, and one for the inputs where they are known.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            As many as there are panels. One: its place is shared out. None: a new figure.
        im_kw : dict, optional
            For the images, as ``Axes.imshow`` takes them.

        Returns
        -------
        MaskDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib cannot be imported.
        ValueError
            If `ax` has neither as many axes as there are panels nor a single one in a grid of
            subplots.
        """
        n = len(self.masks) + (self.inputs is not None)
        columns = min(n, 3) if n != 4 else 2
        lines = -(-n // columns)
        self.axes_ = panels(
            "MaskDisplay", ax, shape=(lines, columns), figsize=(6.4, max(3.6, 2.6 * lines))
        )
        for axes in self.axes_[n:]:
            axes.set_axis_off()
        self.axes_ = self.axes_[:n]
        self.ax_ = self.axes_[0]
        self.figure_ = self.ax_.figure
        if ax is None:  # so that the labels of a panel keep away from the panel on their left
            self.figure_.get_layout_engine().set(wspace=0.06)
        self.images_: dict[str, Any] = {}
        self.dead_images_: dict[str, Any] = {}
        self.input_image_ = None
        self.dead_units_: dict[str, np.ndarray] = {}
        self.dead_inputs_: dict[str, np.ndarray] = {}
        im_kw = {"interpolation": "nearest"} | (im_kw or {})
        rest = list(self.axes_)
        if self.inputs is not None:
            axes = rest.pop(0)
            self.input_image_ = axes.imshow(
                self.inputs, **({"cmap": colours((GREY, 0.15), (BLUE, 1)), "vmin": 0} | im_kw)
            )
            axes.set(xticks=[], yticks=[], anchor="N")
            read = f"{np.count_nonzero(self.inputs):,} of {self.inputs.size:,} pixels read"
            axes.set_title(f"inputs\n{read}", loc="left", fontsize="small")
        for axes, (name, mask) in zip(rest, self.masks.items(), strict=True):
            self._draw(axes, name, mask, im_kw)
        return self

    def _draw(self, ax, name, mask, im_kw):
        """Draw one weight: what is alive, and over it the dead units and inputs."""
        effective = mask & ~(self.dead or {}).get(name, np.zeros_like(mask))
        units = ~effective.any(axis=tuple(range(1, mask.ndim)))
        inputs = ~effective.any(axis=(0, *range(2, mask.ndim)))
        self.dead_units_[name], self.dead_inputs_[name] = units, inputs
        dead = np.zeros(mask.shape, dtype=bool)
        dead[units] = True
        dead[:, inputs] = True
        alive, place = arranged(mask)
        style = {"vmin": 0, "vmax": np.nanmax(alive) or 1.0} | place | im_kw
        self.images_[name] = ax.imshow(
            alive, **({"cmap": colours((GREY, 0.15), (BLUE, 1))} | style)
        )
        self.dead_images_[name] = ax.imshow(
            arranged(dead)[0],
            **(style | {"vmax": 1, "cmap": colours((ORANGE, 0), (ORANGE, 0.5))}),
        )
        if mask.ndim > 2 and mask.shape[1] == 1:
            ax.set(xticks=[], yticks=[], xlabel="units, line by line")
        else:
            ax.set(xlabel="input", ylabel="unit")
            ax.locator_params(nbins=5, integer=True, min_n_ticks=1)
        found = [
            f"{n:,} {kind}{'s' if n > 1 else ''}"
            for n, kind in ((units.sum(), "unit"), (inputs.sum(), "input"))
            if n
        ]
        lines = [
            name,
            f"{mask.sum():,} of {mask.size:,} alive",
            found and "dead: " + ", ".join(found),
        ]
        ax.set_title("\n".join(filter(None, lines)), loc="left", fontsize="small")


def arranged(weight: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """A weight as a picture, and the arguments of ``imshow`` that place it."""
    units, inputs = weight.shape[:2]
    place = {"aspect": "auto", "extent": (-0.5, inputs - 0.5, units - 0.5, -0.5)}
    if weight.ndim == 2 or not side_by_side_fits(weight.shape):
        matrix = weight.reshape(units, inputs, -1).mean(axis=2)
        return block_means(matrix, block_size(matrix.shape)), place
    page = side_by_side(weight)
    *middle, width = weight.shape[2:]
    # The unit of length is a kernel, not a pixel: ticks are then those of units and inputs.
    height = int(np.prod(middle))
    right = (page.shape[1] - width / 2) / (width + 1)
    bottom = (page.shape[0] - height / 2) / (height + 1)
    extent = (-width / 2 / (width + 1), right, bottom, -height / 2 / (height + 1))
    square = 1 / 4 <= page.shape[0] / page.shape[1] <= 4
    return page, {
        "aspect": (height + 1) / (width + 1) if square else "auto",
        "extent": extent,
    }


def as_image(support: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Inputs as an image; with several channels, how many of each pixel's channels are read."""
    if np.prod(shape) != support.size or len(shape) not in (2, 3):
        raise ValueError(
            f"input_shape={shape!r} does not fit the {support.size} columns of X; expected "
            "(height, width) or (channels, height, width) with that product."
        )
    image = support.reshape(shape)
    return image if len(shape) == 2 else image.sum(axis=0)


def colours(*ends: tuple[str, float]) -> Any:
    """A colour map between two colours, each with an opacity."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    return LinearSegmentedColormap.from_list("", [to_rgba(*end) for end in ends])
