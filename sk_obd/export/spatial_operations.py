"""Torch's convolutions, pads, pools and resizing in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import numpy as np

from .aten import aten

# -- convolutions ------------------------------------------------------------------------------


def every(x, steps, after):
    """Every s-th entry for each step s, along the axes before the last `after` ones."""
    return x[(..., *[slice(None, None, s) for s in steps], *[slice(None)] * after)]


def convolution(x, weight, bias, stride, padding, dilation, groups):
    """Windows of x times the weights, for any number of spatial axes."""
    d = x.ndim - 2
    kernel = weight.shape[2:]
    stride, dilation = (tuple(v) * d if len(v) == 1 else tuple(v) for v in (stride, dilation))
    reach = [s * (k - 1) for s, k in zip(dilation, kernel, strict=True)]
    if padding == "same":
        around = [(r // 2, r - r // 2) for r in reach]
    elif padding == "valid":
        around = [(0, 0)] * d
    else:
        around = [(p, p) for p in (tuple(padding) * d if len(padding) == 1 else padding)]
    x = np.pad(x, [(0, 0), (0, 0), *around])
    if groups > 1:
        parts = zip(np.split(x, groups, axis=1), np.split(weight, groups), strict=True)
        found = [convolution(a, w, None, stride, [0] * d, dilation, 1) for a, w in parts]
        y = np.concatenate(found, axis=1)
    else:
        window = tuple(r + 1 for r in reach)
        cut = np.lib.stride_tricks.sliding_window_view(x, window, axis=tuple(range(2, d + 2)))
        cut = every(every(cut, stride, d), dilation, 0)
        axes = range(1, d + 1)
        y = np.tensordot(
            cut, weight, ([1, *(a + d + 1 for a in axes)], [1, *(a + 1 for a in axes)])
        )
        y = np.moveaxis(y, -1, 1)
    return y if bias is None else y + bias.reshape((-1,) + (1,) * d)


@aten("conv1d", "conv2d", "conv3d")
def conv(x, weight, bias=None, stride=(1,), padding=(0,), dilation=(1,), groups=1):
    return convolution(x, weight, bias, stride, padding, dilation, groups)


def conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation):
    """The convolution of x, with zeros between its numbers, with the kernels turned round."""
    d = x.ndim - 2
    options = (stride, padding, output_padding, dilation)
    stride, padding, more, dilation = (tuple(v) * d if len(v) == 1 else v for v in options)
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
    spread = np.zeros((*x.shape[:2], *sizes), dtype=x.dtype)
    every(spread, stride, 0)[...] = x
    reach = [s * (k - 1) for s, k in zip(dilation, weight.shape[2:], strict=True)]
    sides = [(r - p, r - p + m) for r, p, m in zip(reach, padding, more, strict=True)]
    spread = pad(spread, [side for pair in reversed(sides) for side in pair])
    kernels = [np.flip(w.swapaxes(0, 1), range(2, d + 2)) for w in np.split(weight, groups)]
    return convolution(spread, np.concatenate(kernels), bias, [1], [0], dilation, groups)


@aten("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose_nd(
    x,
    weight,
    bias=None,
    stride=(1,),
    padding=(0,),
    output_padding=(0,),
    groups=1,
    dilation=(1,),
):
    return conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation)


@aten("constant_pad_nd")
def constant_pad_nd(x, sides, value=0):
    return pad(x, sides, "constant", value)


@aten("pad")
def pad(x, sides, mode="constant", value=None):
    """`sides` begin with those of the last axis; a negative one cuts off."""
    pairs = list(zip(sides[::2], sides[1::2], strict=True))[::-1]
    sides = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    x = x[tuple(slice(max(-a, 0), min(b, 0) or None) for a, b in sides)]
    sides = [(max(a, 0), max(b, 0)) for a, b in sides]
    if mode == "constant":
        return np.pad(x, sides, constant_values=value or 0)
    return np.pad(x, sides, {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


# -- pooling -----------------------------------------------------------------------------------


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


@aten("max_pool3d")
def max_pool3d(x, kernel, stride=(), padding=(0,), dilation=(1,), ceil_mode=False):
    return max_pool(x, kernel, stride, padding, dilation, ceil_mode, 3)


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


def adaptive_pool(x, sizes, reduce):
    """Reduce each of `sizes` nearly equal parts of the last axes."""
    for axis, size in zip(range(x.ndim - len(sizes), x.ndim), sizes, strict=True):
        n = x.shape[axis]
        parts = [range(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        x = np.stack([reduce(x.take(part, axis=axis), axis=axis) for part in parts], axis=axis)
    return x


@aten("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def adaptive_avg_pool(x, output_size):
    return adaptive_pool(x, output_size, np.mean)


@aten("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(x, output_size):
    return (adaptive_pool(x, output_size, np.max),)


# -- resizing ----------------------------------------------------------------------------------


def steps(x, output_size, scales):
    """Of each of the last axes: its number, new size, and how far apart the new places are."""
    d = len(output_size or scales)
    for i in range(d):
        axis = x.ndim - d + i
        n = x.shape[axis]
        size = output_size[i] if output_size else int(n * scales[i])
        yield axis, n, size, 1 / scales[i] if scales else n / size


@aten("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec")
def upsample_nearest(x, output_size, scales, first=0.0):
    for axis, n, size, step in steps(x, output_size, scales):
        places = ((np.arange(size) + np.float32(first)) * np.float32(step)).astype(int)
        x = x.take(np.minimum(places, n - 1), axis=axis)
    return x


@aten(
    "_upsample_nearest_exact1d.vec",
    "_upsample_nearest_exact2d.vec",
    "_upsample_nearest_exact3d.vec",
)
def upsample_nearest_exact(x, output_size, scales):
    return upsample_nearest(x, output_size, scales, 0.5)


@aten("upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_trilinear3d.vec")
def upsample_linear(x, output_size, align_corners, scales):
    for axis, n, size, step in steps(x, output_size, scales):
        places = np.maximum((np.arange(size) + 0.5) * step - 0.5, 0)
        if align_corners:
            places = np.arange(size) * ((n - 1) / max(size - 1, 1))
        low = np.minimum(places.astype(int), n - 1)
        share = (places - low).astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - axis - 1))
        high = x.take(np.minimum(low + 1, n - 1), axis=axis)
        x = (1 - share) * x.take(low, axis=axis) + share * high
    return x
