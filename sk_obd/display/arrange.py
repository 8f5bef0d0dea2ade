"""Arrays of weights laid out as pictures of a size that a screen can show."""

from __future__ import annotations

import math

import numpy as np

#: Rows and columns that a panel can show.
LIMIT = 200


def block_size(shape: tuple[int, ...], limit: int = LIMIT) -> tuple[int, ...]:
    """Numbers of rows and columns to draw as one in order that a matrix fits.

    Examples
    --------
    >>> block_size((100, 64)), block_size((512, 1000))
    ((1, 1), (3, 5))
    """
    return tuple(max(1, math.ceil(n / limit)) for n in shape)


def block_sums(matrix: np.ndarray, blocks: tuple[int, ...]) -> np.ndarray:
    """Sums over blocks of so many rows and columns; blocks at the edges may be smaller.

    Examples
    --------
    >>> block_sums(np.ones((3, 4)), (2, 2))
    array([[4., 4.],
           [2., 2.]])
    """
    starts = [range(0, n, size) for n, size in zip(matrix.shape, blocks, strict=True)]
    return np.add.reduceat(np.add.reduceat(matrix, starts[0], axis=0), starts[1], axis=1)


def block_means(matrix: np.ndarray, blocks: tuple[int, ...]) -> np.ndarray:
    """Means over the blocks of :func:`block_sums`."""
    return block_sums(matrix.astype(float), blocks) / block_sums(np.ones(matrix.shape), blocks)


def side_by_side(weight: np.ndarray) -> np.ndarray:
    """The kernels of a convolution as one picture, NaN between them.

    With one input channel: units from left to right, line by line. With several: one row of
    kernels per unit, one column per input channel.

    Parameters
    ----------
    weight : array of shape (n_units, n_inputs, ..., width)

    Returns
    -------
    float array of two axes

    Examples
    --------
    >>> side_by_side(np.ones((2, 1, 1, 2)))
    array([[ 1.,  1., nan,  1.,  1.]])
    """
    units, inputs, *middle, width = weight.shape
    height = math.prod(middle)
    kernels = weight.reshape(units * inputs, height, width).astype(float)
    columns = math.ceil(math.sqrt(units)) if inputs == 1 else inputs
    lines = math.ceil(len(kernels) / columns)
    page = np.full((lines * columns, height + 1, width + 1), np.nan)
    page[: len(kernels), :height, :width] = kernels
    page = page.reshape(lines, columns, height + 1, width + 1).swapaxes(1, 2)
    return page.reshape(lines * (height + 1), columns * (width + 1))[:-1, :-1]


def side_by_side_fits(shape: tuple[int, ...], limit: int = LIMIT) -> bool:
    """Whether the kernels of a convolution are few enough to be shown one by one."""
    units, inputs, *middle, width = shape
    if inputs == 1:
        units = inputs = math.ceil(math.sqrt(units))
    return units * (math.prod(middle) + 1) <= limit and inputs * (width + 1) <= limit
