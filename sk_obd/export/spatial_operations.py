"""Torch's layers and pools in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import numpy as np

from .aten import aten

# -- layers ------------------------------------------------------------------------------------


@aten("linear")
def linear(x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + bias


@aten("embedding")
def embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return weight[indices]


@aten("batch_norm")
def batch_norm(x, weight, bias, mean, var, training, momentum, eps, cudnn_enabled):
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = 1 / np.sqrt(var + eps)
    scale = scale if weight is None else scale * weight
    y = (x - mean.reshape(shape)) * scale.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


@aten("layer_norm")
def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    x = x - x.mean(axis=axes, keepdims=True)
    y = x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


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


@aten("conv1d")
def conv1d(x, weight, bias=None, stride=(1,), padding=(0,), dilation=(1,), groups=1):
    return convolution(x, weight, bias, stride, padding, dilation, groups)


@aten("conv2d")
def conv2d(x, weight, bias=None, stride=(1,), padding=(0,), dilation=(1,), groups=1):
    return convolution(x, weight, bias, stride, padding, dilation, groups)


@aten("conv3d")
def conv3d(x, weight, bias=None, stride=(1,), padding=(0,), dilation=(1,), groups=1):
    return convolution(x, weight, bias, stride, padding, dilation, groups)


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


@aten("adaptive_avg_pool2d")
def adaptive_avg_pool2d(x, output_size):
    return adaptive_pool(x, output_size, np.mean)


@aten("adaptive_max_pool1d")
def adaptive_max_pool1d(x, output_size):
    return (adaptive_pool(x, output_size, np.max),)


@aten("adaptive_max_pool2d")
def adaptive_max_pool2d(x, output_size):
    return (adaptive_pool(x, output_size, np.max),)
