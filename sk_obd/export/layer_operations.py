"""Torch's layers in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import numpy as np

from .aten import aten


@aten("linear")
def linear(x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + bias


@aten("bilinear")
def bilinear(x, y, weight, bias=None):
    z = np.einsum("...i,oij,...j->...o", x, weight, y)
    return z if bias is None else z + bias


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


@aten("group_norm")
def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = x.reshape(x.shape[0], num_groups, -1)
    y = y - y.mean(axis=2, keepdims=True)
    y = (y / np.sqrt((y * y).mean(axis=2, keepdims=True) + eps)).reshape(x.shape)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


@aten("instance_norm")
def instance_norm(x, weight, bias, mean, var, use_input_stats, momentum, eps, cudnn_enabled):
    if not use_input_stats:
        return batch_norm(x, weight, bias, mean, var, False, momentum, eps, cudnn_enabled)
    return group_norm(x, x.shape[1], weight, bias, eps)


@aten("rms_norm")
def rms_norm(x, normalized_shape, weight=None, eps=None):
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    eps = np.finfo(x.dtype).eps if eps is None else eps
    y = x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)
    return y if weight is None else y * weight


@aten("scaled_dot_product_attention")
def attention(q, k, v, mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = np.tril(np.ones(scores.shape[-2:], dtype=bool))
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)) @ v


def padded(x, sides, mode, value):
    """Pad the last axes by pairs of numbers, the last axis first; negative numbers cut."""
    pairs = list(zip(sides[::2], sides[1::2], strict=True))[::-1]
    ends = zip(pairs, x.shape[x.ndim - len(pairs) :], strict=True)
    x = x[(..., *(slice(max(0, -a), n - max(0, -b)) for (a, b), n in ends))]
    sides = [(0, 0)] * (x.ndim - len(pairs)) + [(max(0, a), max(0, b)) for a, b in pairs]
    if mode == "constant":
        return np.pad(x, sides, constant_values=value or 0)
    return np.pad(x, sides, {"replicate": "edge", "circular": "wrap"}.get(mode, mode))


@aten("pad")
def pad(x, sides, mode="constant", value=None):
    return padded(x, sides, mode, value)


@aten("constant_pad_nd")
def constant_pad(x, sides, value=0):
    return padded(x, sides, "constant", value)


def transposed(x, weight, bias, stride, padding, output_padding, groups, dilation):
    """Every entry of x spread out by the weights, for any number of spatial axes."""
    d = x.ndim - 2
    options = (stride, padding, output_padding, dilation)
    stride, padding, more, dilation = (tuple(v) * d if len(v) == 1 else tuple(v) for v in options)
    kernel = weight.shape[2:]
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
    spread = np.zeros((*x.shape[:2], *sizes), x.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
    reach = [step * (k - 1) for step, k in zip(dilation, kernel, strict=True)]
    sides = [(r, r + m) for r, m in zip(reach, more, strict=True)]
    spread = np.pad(spread, [(0, 0), (0, 0), *sides])
    parts = np.split(np.flip(weight, axis=tuple(range(2, d + 2))), groups)
    weight = np.concatenate([part.swapaxes(0, 1) for part in parts])
    y = convolution(spread, weight, bias, (1,), (0,), dilation, groups)
    # Padding takes away what a convolution would have padded.
    return y[(..., *(slice(p, n - p) for p, n in zip(padding, y.shape[2:], strict=True)))]


@aten("conv_transpose1d")
def conv_transpose1d(
    x, weight, bias=None, stride=(1,), padding=(0,), output_padding=(0,), groups=1, dilation=(1,)
):
    return transposed(x, weight, bias, stride, padding, output_padding, groups, dilation)


@aten("conv_transpose2d")
def conv_transpose2d(
    x, weight, bias=None, stride=(1,), padding=(0,), output_padding=(0,), groups=1, dilation=(1,)
):
    return transposed(x, weight, bias, stride, padding, output_padding, groups, dilation)


@aten("conv_transpose3d")
def conv_transpose3d(
    x, weight, bias=None, stride=(1,), padding=(0,), output_padding=(0,), groups=1, dilation=(1,)
):
    return transposed(x, weight, bias, stride, padding, output_padding, groups, dilation)


# -- what torch's decompositions consist of ----------------------------------------------------


@aten("convolution")
def any_convolution(x, weight, bias, stride, padding, dilation, transposes, output_padding, groups):
    if transposes:
        return transposed(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(x, weight, bias, stride, padding, dilation, groups)


@aten("native_layer_norm")
def native_layer_norm(x, normalized_shape, weight, bias, eps):
    return (layer_norm(x, normalized_shape, weight, bias, eps),)


@aten("native_group_norm")
def native_group_norm(x, weight, bias, n_rows, n_channels, n_positions, num_groups, eps):
    return (group_norm(x, num_groups, weight, bias, eps),)


@aten("_native_batch_norm_legit_no_training")
def native_batch_norm(x, weight, bias, mean, var, momentum, eps):
    return (batch_norm(x, weight, bias, mean, var, False, momentum, eps, False),)
