"""Torch's operations in NumPy, argument for argument.

Each function has the name and the arguments of torch's own (``aten``) operation and nothing but
NumPy and the standard library in its body, since its source is copied into exported files. A
function that calls another one here names it in its code, and it is copied too.
"""

import math

import numpy as np

# -- layers ------------------------------------------------------------------------------------


def linear(x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + bias


def embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return weight[indices]


def batch_norm(x, weight, bias, mean, var, training, momentum, eps, cudnn_enabled):
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = 1 / np.sqrt(var + eps)
    scale = scale if weight is None else scale * weight
    y = (x - mean.reshape(shape)) * scale.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    x = x - x.mean(axis=axes, keepdims=True)
    y = x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


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
        cut = cut[(..., *(slice(None, None, s) for s in stride), *([slice(None)] * d))]
        cut = cut[(..., *(slice(None, None, s) for s in dilation))]
        axes = range(1, d + 1)
        y = np.tensordot(
            cut, weight, ([1, *(a + d + 1 for a in axes)], [1, *(a + 1 for a in axes)])
        )
        y = np.moveaxis(y, -1, 1)
    return y if bias is None else y + bias.reshape((-1,) + (1,) * d)


def conv1d(x, weight, bias=None, stride=(1,), padding=(0,), dilation=(1,), groups=1):
    return convolution(x, weight, bias, stride, padding, dilation, groups)


def conv2d(x, weight, bias=None, stride=(1,), padding=(0,), dilation=(1,), groups=1):
    return convolution(x, weight, bias, stride, padding, dilation, groups)


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
    cut = cut[(..., *(slice(None, None, s) for s in stride), *([slice(None)] * d))]
    return cut[(..., *(slice(None, None, step) for step in dilation))]


def max_pool(x, kernel, stride, padding, dilation, ceil_mode, d):
    cut = windows(x, kernel, stride, padding, dilation, ceil_mode, -np.inf, d)
    return cut.max(axis=tuple(range(-d, 0)))


def max_pool1d(x, kernel, stride=(), padding=(0,), dilation=(1,), ceil_mode=False):
    return max_pool(x, kernel, stride, padding, dilation, ceil_mode, 1)


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


def avg_pool1d(x, kernel, stride=(), padding=(0,), ceil_mode=False, count_include_pad=True):
    return avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, None, 1)


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


def adaptive_avg_pool1d(x, output_size):
    return adaptive_pool(x, output_size, np.mean)


def adaptive_avg_pool2d(x, output_size):
    return adaptive_pool(x, output_size, np.mean)


def adaptive_max_pool1d(x, output_size):
    return (adaptive_pool(x, output_size, np.max),)


def adaptive_max_pool2d(x, output_size):
    return (adaptive_pool(x, output_size, np.max),)


# -- elementwise -------------------------------------------------------------------------------


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def hardtanh(x, min_val=-1, max_val=1):
    return np.clip(x, min_val, max_val)


def tanh(x):
    return np.tanh(x)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def gelu(x, approximate="none"):
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    erf = np.frompyfunc(math.erf, 1, 1)
    return x / 2 * (1 + erf(x / math.sqrt(2)).astype(x.dtype))


def silu(x):
    return x * sigmoid(x)


def mish(x):
    return x * np.tanh(np.logaddexp(0, x))


def softplus(x, beta=1, threshold=20):
    return np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta).astype(x.dtype)


def softsign(x):
    return x / (1 + np.abs(x))


def leaky_relu(x, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x)


def prelu(x, weight):
    shape = (1, -1) + (1,) * (x.ndim - 2) if weight.size > 1 else (1,) * x.ndim
    return np.where(x > 0, x, weight.reshape(shape) * x)


def elu(x, alpha=1, scale=1, input_scale=1):
    low = alpha * np.expm1(np.minimum(x, 0) * input_scale)
    return np.where(x > 0, scale * x, scale * low)


def selu(x):
    return elu(x, 1.6732632423543772, 1.0507009873554805)


def celu(x, alpha=1.0):
    return elu(x, alpha, 1.0, 1 / alpha)


def hardsigmoid(x):
    return np.clip(x + 3, 0, 6) / 6


def hardswish(x):
    return x * np.clip(x + 3, 0, 6) / 6


def exp(x):
    return np.exp(x)


def log(x):
    return np.log(x)


def sqrt(x):
    return np.sqrt(x)


def abs_(x):
    return np.abs(x)


def neg(x):
    return -x


def square(x):
    return x * x


def pow_(x, exponent):
    return x**exponent


def clamp(x, min=None, max=None):
    return np.clip(x, min, max)


def add(x, y, alpha=1):
    return x + y if alpha == 1 else x + alpha * y


def sub(x, y, alpha=1):
    return x - y if alpha == 1 else x - alpha * y


def rsub(x, y, alpha=1):
    return y - x if alpha == 1 else y - alpha * x


def mul(x, y):
    return x * y


def div(x, y):
    return x / y


def gt(x, y):
    return x > y


def softmax(x, dim, dtype=None):
    e = np.exp(x - x.max(axis=dim, keepdims=True))
    return e / e.sum(axis=dim, keepdims=True)


def log_softmax(x, dim, dtype=None):
    x = x - x.max(axis=dim, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=dim, keepdims=True))


# -- shape and choice --------------------------------------------------------------------------


def same(x, *_, **__):
    return x


def to(x, dtype=None, *_):
    return x if dtype is None else x.astype(dtype, copy=False)


def flatten(x, start_dim=0, end_dim=-1):
    first, last = start_dim % x.ndim, end_dim % x.ndim
    shape = x.shape
    return x.reshape(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def unflatten(x, dim, sizes):
    dim = dim % x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def reshape(x, shape):
    return x.reshape(shape)


def squeeze(x, dim=None):
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return x.squeeze(axis=tuple(d for d in dims if x.shape[d] == 1))


def unsqueeze(x, dim):
    return np.expand_dims(x, dim)


def permute(x, dims):
    return x.transpose(dims)


def transpose(x, dim0, dim1):
    return x.swapaxes(dim0, dim1)


def matrix_transpose(x):
    return x.T


def mT(x):
    return x.swapaxes(-1, -2)


def cat(tensors, dim=0):
    return np.concatenate(tensors, axis=dim)


def stack(tensors, dim=0):
    return np.stack(tensors, axis=dim)


def mean(x, dim=None, keepdim=False, dtype=None):
    return x.mean(axis=None if dim is None else tuple(dim), keepdims=keepdim)


def sum_(x, dim=None, keepdim=False, dtype=None):
    return x.sum(axis=None if dim is None else tuple(dim), keepdims=keepdim)


def matmul(x, y):
    return x @ y


def select(x, dim, index):
    return x.take(index, axis=dim)


def slice_(x, dim=0, start=None, end=None, step=1):
    cut = [slice(None)] * x.ndim
    cut[dim] = slice(start, end, step)
    return x[tuple(cut)]


def index_select(x, dim, index):
    return x.take(index, axis=dim)


def index(x, indices):
    return x[tuple(slice(None) if i is None else i for i in indices)]


def getitem(x, index):
    return x[index]


def sym_size(x, dim):
    return x.shape[dim]


def argmax(x, dim=None, keepdim=False):
    return x.argmax(axis=dim, keepdims=keepdim)


#: Functions whose names differ from those of torch's operations.
NAMES = {
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "alias"), same
    ),
    **dict.fromkeys(("detach", "detach_", "lift_fresh_copy", "_assert_tensor_metadata"), same),
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), reshape),
    **dict.fromkeys(("numpy_T", "t"), matrix_transpose),
    "_to_copy": to,
    "relu_": relu,
    "hardtanh_": hardtanh,
    "leaky_relu_": leaky_relu,
    "elu_": elu,
    "silu_": silu,
    "abs": abs_,
    "pow": pow_,
    "sum": sum_,
    "slice": slice_,
    "mm": matmul,
    "hardswish_": hardswish,
    "hardsigmoid_": hardsigmoid,
}
HELPERS = (
    convolution,
    windows,
    max_pool,
    avg_pool,
    adaptive_pool,
    same,
    *(abs_, pow_, sum_, slice_),
)
TABLE = {
    name: function
    for name, function in globals().items()
    if callable(function) and getattr(function, "__module__", None) == __name__
    if function not in HELPERS
} | NAMES
