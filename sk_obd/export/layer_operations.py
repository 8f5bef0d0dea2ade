"""Torch's Linear, norm, attention and recurrent layers in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import math

import numpy as np

from .aten import aten
from .elementwise_operations import sigmoid

# -- linear ------------------------------------------------------------------------------------


@aten("linear")
def linear(x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + bias


@aten("bilinear")
def bilinear(x, y, weight, bias=None):
    z = np.einsum("...i,oij,...j->...o", x, weight, y, optimize=True)
    return z if bias is None else z + bias


@aten("embedding")
def embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return weight[indices]


# -- norms -------------------------------------------------------------------------------------


def scaled(x, weight, bias):
    """Each channel (axis 1) times its weight, plus its bias."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def standardised(x, axes, eps):
    """Mean 0 and variance 1 along the axes."""
    x = x - x.mean(axis=axes, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)


@aten("_native_batch_norm_legit_no_training")
def batch_norm(x, weight, bias, mean, var, momentum, eps):
    scale = 1 / np.sqrt(var + eps)
    scale = scale if weight is None else scale * weight
    return (scaled(x - mean.reshape((-1,) + (1,) * (x.ndim - 2)), scale, bias),)


@aten("_native_batch_norm_legit.no_stats")
def batch_norm_of_rows(x, weight, bias, training, momentum, eps):
    return (scaled(standardised(x, (0, *range(2, x.ndim)), eps), weight, bias),)


@aten("group_norm")
def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    parts = x.reshape(len(x), num_groups, -1)
    return scaled(standardised(parts, 2, eps).reshape(x.shape), weight, bias)


@aten("instance_norm")
def instance_norm(x, weight, bias, mean, var, use_input_stats, momentum, eps, cudnn_enabled):
    if use_input_stats:
        return scaled(standardised(x, tuple(range(2, x.ndim)), eps), weight, bias)
    return batch_norm(x, weight, bias, mean, var, momentum, eps)[0]


@aten("layer_norm")
def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    y = standardised(x, tuple(range(x.ndim - len(normalized_shape), x.ndim)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@aten("rms_norm")
def rms_norm(x, normalized_shape, weight=None, eps=None):
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    eps = np.finfo(x.dtype).eps if eps is None else eps
    y = x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)
    return y if weight is None else y * weight


# -- attention ---------------------------------------------------------------------------------


@aten("scaled_dot_product_attention")
def scaled_dot_product_attention(
    query, key, value, mask=None, dropout_p=0, is_causal=False, scale=None, enable_gqa=False
):
    if enable_gqa:
        n = query.shape[-3] // key.shape[-3]
        key, value = key.repeat(n, axis=-3), value.repeat(n, axis=-3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = scale * (query @ key.swapaxes(-1, -2))
    if is_causal:
        mask = np.tril(np.ones(scores.shape[-2:], dtype=bool))
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    # A query that attends to nothing gets zeros.
    top = np.maximum(scores.max(axis=-1, keepdims=True), np.finfo(query.dtype).min)
    e = np.exp(scores - top)
    total = e.sum(axis=-1, keepdims=True)
    return (e / np.where(total == 0, 1, total)).astype(query.dtype) @ value


# -- recurrent layers --------------------------------------------------------------------------


def recurrent(x, states, params, num_layers, bidirectional, batch_first, step):
    """Layer after layer, in one or both directions: all outputs, and the last states."""
    x = x.swapaxes(0, 1) if batch_first else x
    directions = [1, -1] if bidirectional else [1]
    n = len(params) // (num_layers * len(directions))
    last = []
    for _ in range(num_layers):
        outputs = []
        for direction in directions:
            k = len(last)
            state, found = [s[k] for s in states], []
            for row in x[::direction]:
                state = step(row, state, params[k * n : (k + 1) * n])
                found.append(state[0])
            outputs.append(np.stack(found[::direction]))
            last.append(state)
        x = np.concatenate(outputs, axis=-1)
    return [x.swapaxes(0, 1) if batch_first else x, *map(np.stack, zip(*last, strict=True))]


def recurrent_sums(x, h, params, has_biases):
    """What a step adds up from its input, and from the state before."""
    from_x, from_h = x @ params[0].T, h @ params[1].T
    return (from_x + params[2], from_h + params[3]) if has_biases else (from_x, from_h)


@aten("lstm")
def lstm(x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    def step(row, state, params):
        h, c = state
        i, f, g, o = np.split(sum(recurrent_sums(row, h, params, has_biases)), 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        # An odd number of weights: the last one projects.
        return (h @ params[-1].T if len(params) % 2 else h), c

    return recurrent(x, hx, params, num_layers, bidirectional, batch_first, step)


@aten("gru")
def gru(x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    def step(row, state, params):
        (h,) = state
        a, b = recurrent_sums(row, h, params, has_biases)
        (r, z, n), (r_h, z_h, n_h) = np.split(a, 3, axis=-1), np.split(b, 3, axis=-1)
        n, z = np.tanh(n + sigmoid(r + r_h) * n_h), sigmoid(z + z_h)
        return (n + z * (h - n),)

    return recurrent(x, [hx], params, num_layers, bidirectional, batch_first, step)


@aten("rnn_tanh")
def rnn_tanh(x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    def step(row, state, params):
        return (np.tanh(sum(recurrent_sums(row, state[0], params, has_biases))),)

    return recurrent(x, [hx], params, num_layers, bidirectional, batch_first, step)


@aten("rnn_relu")
def rnn_relu(x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    def step(row, state, params):
        return (np.maximum(sum(recurrent_sums(row, state[0], params, has_biases)), 0),)

    return recurrent(x, [hx], params, num_layers, bidirectional, batch_first, step)
