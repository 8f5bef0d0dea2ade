"""Torch's pools and stretching in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import numpy as np

from .aten import aten
from .layer_operations import every


def windows(x, kernel, stride, padding, dilation, ceil_mode, fill, d):
    """The windows of the last d axes of x, one after the other along d new axes at the end."""
    wide = [tuple(v) * d if len(v) == 1 else tuple(v) for v in (kernel, padding, dilation)]
    kernel, padding, dilation = wide
    stride = kernel if not len(stride) else tuple(stride) * d if len(stride) == 1 else stride
    around = []
    for size, k, s, p, step in zip(x.shape[-d:], kernel, stride, padding, dilation, strict=True):
        after = p
        if ceil_mode:
            left = size + 2 * p - step * (k - 1) - 1
            count = -(-left // s)
            # A last window has to begin within the input or its padding on the left.
            count -= count * s >= size + p
            after += max(0, count * s - left)
        around.append((p, after))
    x = np.pad(x, [(0, 0)] * (x.ndim - d) + around, constant_values=fill)
    reach = tuple(step * (k - 1) + 1 for k, step in zip(kernel, dilation, strict=True))
    axes = tuple(range(x.ndim - d, x.ndim))
    cut = np.lib.stride_tricks.sliding_window_view(x, reach, axis=axes)
    return every(every(cut, stride, d), dilation, 0)


def max_pool(x, kernel, stride, padding, dilation, ceil_mode, d):
    cut = windows(x, kernel, stride, padding, dilation, ceil_mode, -np.inf, d)
    return cut.max(axis=tuple(range(-d, 0)))


@aten("max_pool1d")
def max_pool1d(x, kernel, stride=(), padding=(0,), dilation=(1,), ceil_mode=False):
    return max_pool(x, kernel, stride, padding, dilation, ceil_mode, 1)


@aten("max_pool2d")
def max_pool2d(x, kernel, stride=(), padding=(0,), dilation=(1,), ceil_mode=False):
    return max_pool(x, kernel, stride, padding, dilation, ceil_mode, 2)


def avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor, d):
    axes = tuple(range(-d, 0))
    total = windows(x, kernel, stride, padding, (1,), ceil_mode, 0, d).sum(axis=axes)
    if divisor:
        return total / divisor
    inside = np.ones(x.shape[-d:], dtype=x.dtype)
    if count_include_pad:
        sides = [(p, p) for p in (tuple(padding) * d if len(padding) == 1 else padding)]
        inside, around = np.pad(inside, sides, constant_values=1), (0,)
        if not len(stride):
            stride = kernel
        n = windows(inside, kernel, stride, around, (1,), ceil_mode, 0, d).sum(axis=axes)
        n = n[tuple(slice(size) for size in total.shape[-d:])]
    else:
        n = windows(inside, kernel, stride, padding, (1,), ceil_mode, 0, d).sum(axis=axes)
    return total / n


@aten("avg_pool1d")
def avg_pool1d(x, kernel, stride=(), padding=(0,), ceil_mode=False, count_include_pad=True):
    return avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, None, 1)


@aten("avg_pool2d")
def avg_pool2d(
    x,
    kernel,
    stride=(),
    padding=(0,),
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    return avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override, 2)


def adaptive_pool(x, sizes, reduce):
    """Reduce each of `sizes` nearly equal parts of the last axes."""
    for axis, size in zip(range(x.ndim - len(sizes), x.ndim), sizes, strict=True):
        n = x.shape[axis]
        parts = [range(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        x = np.stack([reduce(x.take(part, axis=axis), axis=axis) for part in parts], axis=axis)
    return x


@aten("adaptive_avg_pool1d")
def adaptive_avg_pool1d(x, output_size):
    return adaptive_pool(x, output_size, np.mean)


@aten("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def adaptive_avg_pool2d(x, output_size):
    return adaptive_pool(x, output_size, np.mean)


@aten("adaptive_max_pool1d")
def adaptive_max_pool1d(x, output_size):
    return (adaptive_pool(x, output_size, np.max),)


@aten("adaptive_max_pool2d")
def adaptive_max_pool2d(x, output_size):
    return (adaptive_pool(x, output_size, np.max),)


@aten("max_pool2d_with_indices")
def max_pool2d_with_indices(x, kernel, stride=(), padding=(0,), dilation=(1,), ceil_mode=False):
    return (max_pool2d(x, kernel, stride, padding, dilation, ceil_mode),)


@aten("max_pool3d_with_indices")
def max_pool3d_with_indices(x, kernel, stride=(), padding=(0,), dilation=(1,), ceil_mode=False):
    return (max_pool3d(x, kernel, stride, padding, dilation, ceil_mode),)


@aten("max_pool3d")
def max_pool3d(x, kernel, stride=(), padding=(0,), dilation=(1,), ceil_mode=False):
    return max_pool(x, kernel, stride, padding, dilation, ceil_mode, 3)


@aten("avg_pool3d")
def avg_pool3d(
    x,
    kernel,
    stride=(),
    padding=(0,),
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    return avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override, 3)


@aten("adaptive_avg_pool3d", "_adaptive_avg_pool3d")
def adaptive_avg_pool3d(x, output_size):
    return adaptive_pool(x, output_size, np.mean)


@aten("adaptive_max_pool3d")
def adaptive_max_pool3d(x, output_size):
    return (adaptive_pool(x, output_size, np.max),)


def nearest(x, output_size, scales):
    """The last axes stretched by repeating entries."""
    d = x.ndim - 2
    sizes = x.shape[2:]
    if output_size is None:
        output_size = [int(n * s) for n, s in zip(sizes, scales, strict=True)]
    for axis in range(d):
        n, m = sizes[axis], output_size[axis]
        factor = n / m if scales is None else 1 / scales[axis]
        at = np.minimum((np.arange(m) * factor).astype(np.int64), n - 1)
        x = x.take(at, axis=axis + 2)
    return x


@aten("upsample_nearest1d")
def upsample_nearest1d(x, output_size, scales=None):
    return nearest(x, output_size, scales)


@aten("upsample_nearest2d")
def upsample_nearest2d(x, output_size, scales=None):
    return nearest(x, output_size, scales)
