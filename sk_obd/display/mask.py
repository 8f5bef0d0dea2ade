"""The masks as images."""

import numpy as np
from torch import nn

from .arrange import block_means, block_size, side_by_side, side_by_side_fits
from .style import BLUE, GREY, ORANGE, fitted_path, named, panels

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Layers that pass every unit on by itself.
UNITWISE = (
    *(nn.Identity, nn.Flatten, nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU),
    *(nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus),
    *(
        getattr(nn, f"{kind}{d}d")
        for kind in ("Dropout", "BatchNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool")
        for d in (1, 2, 3)
    ),
)


class MaskDisplay:
    """The masks as images: what is alive, and which units and inputs are dead.

    A panel for each weight, units from top to bottom and inputs from left to right. Alive is
    blue. Orange are the rows of dead units (no input alive, or in an ``nn.Sequential`` no output
    alive: the next layer reads them nowhere) and the columns of dead inputs (which no unit
    reads). The kernels of a convolution are drawn one by one, or, where there are too many, as
    one square each, the bluer the more of it is alive; so are the blocks of a matrix of more than
    about 200 rows or columns.

    Parameters
    ----------
    masks : dict of bool arrays of shape (n_units, n_inputs, ...)
        True where alive.
    unread : dict of bool arrays of shape (n_units,), default=None
        By name of the weight: units which the next layer reads nowhere. What is not named is
        not known.
    inputs : bool array, default=None
        The inputs still read, shaped as an image; drawn in a panel of its own.

    Attributes
    ----------
    axes_ : ndarray of Axes
        That of the inputs first, where drawn, then one a weight.
    ax_ : Axes
        The first.
    figure_ : Figure
    images_ : dict of AxesImage
        Alive, by the name of the weight.
    dead_images_ : dict of AxesImage
        Rows of dead units and columns of dead inputs.
    dead_units_, dead_inputs_ : dict of bool arrays
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

    def __init__(self, *, masks, unread=None, inputs=None):
        self.masks = masks
        self.unread = unread
        self.inputs = inputs

    @classmethod
    def from_estimator(cls, estimator, *, layers=None, input_shape=None, ax=None, **kwargs):
        """Draw the masks of a fitted estimator.

        Parameters
        ----------
        estimator : OBDClassifier, OBDRegressor or one of the CV classes
        layers : list of str, default=None
            Names of weights, as in ``mask_``; None: all that are prunable.
        input_shape : tuple of int, default=None
            (height, width) or (channels, height, width) of X, where its columns are pixels: the
            inputs still read, ``support_``, are then drawn too.
        ax : Axes or sequence of Axes, optional
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        MaskDisplay

        Raises
        ------
        ValueError
            If there is no such weight (it lists those there are), or if ``support_`` has not the
            size of `input_shape`.
        """
        path = fitted_path(estimator, cls.__name__)
        module, masks = estimator.net_.module_, dict(estimator.mask_)
        for name, layer in module.named_modules():
            # Theirs are of shape (n_inputs, n_units, ...); a tied weight has another's name.
            if isinstance(layer, TRANSPOSED) and f"{name}.weight" in masks:
                masks[f"{name}.weight"] = masks[f"{name}.weight"].swapaxes(0, 1)
        weights = [name for name in path.prunable if masks[name].ndim > 1]
        layers = weights if layers is None else named(layers, weights)
        display = cls(
            masks={name: masks[name] for name in layers},
            unread=unread_units(module, masks),
            inputs=None if input_shape is None else as_image(estimator.support_, input_shape),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, im_kw=None):
        """Draw.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            As many as there are panels. One: its place is shared out. None: a new figure.
        im_kw : dict, optional
            For the images, as ``Axes.imshow`` takes them.

        Returns
        -------
        MaskDisplay
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
        self.images_, self.dead_images_, self.input_image_ = {}, {}, None
        self.dead_units_, self.dead_inputs_ = {}, {}
        im_kw = {"interpolation": "nearest"} | (im_kw or {})
        rest = list(self.axes_)
        if self.inputs is not None:
            axes = rest.pop(0)
            self.input_image_ = axes.imshow(
                self.inputs, **({"cmap": colours((GREY, 0.15), (BLUE, 1)), "vmin": 0} | im_kw)
            )
            axes.set(xticks=[], yticks=[])
            read = f"{np.count_nonzero(self.inputs):,} of {self.inputs.size:,} pixels read"
            axes.set_title(f"inputs\n{read}", loc="left", fontsize="small")
        for axes, (name, mask) in zip(rest, self.masks.items(), strict=True):
            self._draw(axes, name, mask, im_kw)
        return self

    def _draw(self, ax, name, mask, im_kw):
        units = ~mask.reshape(len(mask), -1).any(axis=1)
        units |= (self.unread or {}).get(name, False)
        inputs = ~mask.any(axis=tuple(i for i in range(mask.ndim) if i != 1))
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


def arranged(weight):
    """A weight as a picture, and where ``imshow`` is to put it."""
    units, inputs = weight.shape[:2]
    place = {"aspect": "auto", "extent": (-0.5, inputs - 0.5, units - 0.5, -0.5)}
    if weight.ndim == 2 or not side_by_side_fits(weight.shape):
        matrix = weight.reshape(units, inputs, -1).mean(axis=2)
        return block_means(matrix, block_size(matrix.shape)), place
    page = side_by_side(weight)
    *middle, width = weight.shape[2:]
    # In kernels rather than pixels, so that the ticks are those of units and inputs.
    height = int(np.prod(middle))
    right = (page.shape[1] - width / 2) / (width + 1)
    bottom = (page.shape[0] - height / 2) / (height + 1)
    extent = (-width / 2 / (width + 1), right, bottom, -height / 2 / (height + 1))
    square = 1 / 4 <= page.shape[0] / page.shape[1] <= 4
    return page, {
        "aspect": (height + 1) / (width + 1) if square else "auto",
        "extent": extent,
    }


def unread_units(module, masks):
    """By name of the weight, the units which the next layer of an ``nn.Sequential`` never reads.

    Only where the layers between pass every unit on by itself; of other modules, nothing.
    """
    found, last = {}, None
    for name, layer in sequence(module):
        if isinstance(layer, WEIGHTED) and f"{name}.weight" in masks:
            weight = masks[f"{name}.weight"]
            read = weight.any(axis=tuple(i for i in range(weight.ndim) if i != 1))
            # A flattened channel has a column for each of its places.
            if last is not None and len(read) % len(masks[last]) == 0:
                found[last] = ~read.reshape(len(masks[last]), -1).any(axis=1)
            last = f"{name}.weight"
        elif not isinstance(layer, UNITWISE):
            last = None
    return found


def sequence(module, prefix=""):
    """Names and layers of an ``nn.Sequential`` and those within, in order; of others, none."""
    if type(module).forward is not nn.Sequential.forward:
        return
    for name, layer in module.named_children():
        if isinstance(layer, nn.Sequential):
            yield from sequence(layer, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", layer


def as_image(support, shape):
    """Inputs as an image; of several channels, how many of a pixel's are read."""
    if np.prod(shape) != support.size or len(shape) not in (2, 3):
        raise ValueError(
            f"input_shape={shape!r} does not fit the {support.size} columns of X; expected "
            "(height, width) or (channels, height, width) with that product."
        )
    image = support.reshape(shape)
    return image if len(shape) == 2 else image.sum(axis=0)


def colours(*ends):
    """A colour map between two colours, each with an opacity."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    return LinearSegmentedColormap.from_list("", [to_rgba(*end) for end in ends])
