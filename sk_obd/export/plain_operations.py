"""Torch's arithmetic, activations and changes of shape in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import math

import numpy as np

from .aten import aten

# -- elementwise -------------------------------------------------------------------------------


@aten("relu", "relu_")
def relu(x):
    return np.maximum(x, 0)


@aten("relu6")
def relu6(x):
    return np.clip(x, 0, 6)


@aten("hardtanh", "hardtanh_")
def hardtanh(x, min_val=-1, max_val=1):
    return np.clip(x, min_val, max_val)


@aten("tanh")
def tanh(x):
    return np.tanh(x)


@aten("sigmoid")
def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


@aten("log_sigmoid")
def log_sigmoid(x):
    return -np.logaddexp(0, -x)


@aten("gelu")
def gelu(x, approximate="none"):
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    erf = np.frompyfunc(math.erf, 1, 1)
    return x / 2 * (1 + erf(x / math.sqrt(2)).astype(x.dtype))


@aten("silu", "silu_")
def silu(x):
    return x * sigmoid(x)


@aten("mish")
def mish(x):
    return x * np.tanh(np.logaddexp(0, x))


@aten("softplus")
def softplus(x, beta=1, threshold=20):
    return np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta).astype(x.dtype)


@aten("leaky_relu", "leaky_relu_")
def leaky_relu(x, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x)


@aten("prelu")
def prelu(x, weight):
    shape = (1, -1) + (1,) * (x.ndim - 2) if weight.size > 1 else (1,) * x.ndim
    return np.where(x > 0, x, weight.reshape(shape) * x)


@aten("elu", "elu_")
def elu(x, alpha=1, scale=1, input_scale=1):
    low = alpha * np.expm1(np.minimum(x, 0) * input_scale)
    return np.where(x > 0, scale * x, scale * low)


@aten("selu")
def selu(x):
    return elu(x, 1.6732632423543772, 1.0507009873554805)


@aten("celu")
def celu(x, alpha=1.0):
    return elu(x, alpha, 1.0, 1 / alpha)


@aten("hardsigmoid", "hardsigmoid_")
def hardsigmoid(x):
    return np.clip(x + 3, 0, 6) / 6


@aten("hardswish", "hardswish_")
def hardswish(x):
    return x * np.clip(x + 3, 0, 6) / 6


@aten("exp")
def exp(x):
    return np.exp(x)


@aten("log")
def log(x):
    return np.log(x)


@aten("sqrt")
def sqrt(x):
    return np.sqrt(x)


@aten("abs")
def abs_(x):
    return np.abs(x)


@aten("neg")
def neg(x):
    return -x


@aten("square")
def square(x):
    return x * x


@aten("pow")
def pow_(x, exponent):
    return x**exponent


@aten("clamp")
def clamp(x, min=None, max=None):
    return np.clip(x, min, max)


@aten("add")
def add(x, y, alpha=1):
    return x + y if alpha == 1 else x + alpha * y


@aten("sub")
def sub(x, y, alpha=1):
    return x - y if alpha == 1 else x - alpha * y


@aten("rsub")
def rsub(x, y, alpha=1):
    return y - x if alpha == 1 else y - alpha * x


@aten("mul")
def mul(x, y):
    return x * y


@aten("div")
def div(x, y):
    return x / y


@aten("gt")
def gt(x, y):
    return x > y


@aten("softmax")
def softmax(x, dim, dtype=None):
    e = np.exp(x - x.max(axis=dim, keepdims=True))
    return e / e.sum(axis=dim, keepdims=True)


@aten("log_softmax")
def log_softmax(x, dim, dtype=None):
    x = x - x.max(axis=dim, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=dim, keepdims=True))


# -- shape and choice --------------------------------------------------------------------------


@aten(
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "contiguous",
    "clone",
    "alias",
    "detach",
    "detach_",
    "lift_fresh_copy",
    "_assert_tensor_metadata",
)
def same(x, *_, **__):
    return x


@aten("to", "_to_copy")
def to(x, dtype=None, *_):
    return x if dtype is None else x.astype(dtype, copy=False)


@aten("flatten")
def flatten(x, start_dim=0, end_dim=-1):
    first, last = start_dim % x.ndim, end_dim % x.ndim
    shape = x.shape
    return x.reshape(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


@aten("unflatten")
def unflatten(x, dim, sizes):
    dim = dim % x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


@aten("reshape", "view", "_unsafe_view")
def reshape(x, shape):
    return x.reshape(shape)


@aten("squeeze")
def squeeze(x, dim=None):
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return x.squeeze(axis=tuple(d for d in dims if x.shape[d] == 1))


@aten("unsqueeze")
def unsqueeze(x, dim):
    return np.expand_dims(x, dim)


@aten("permute")
def permute(x, dims):
    return x.transpose(dims)


@aten("transpose")
def transpose(x, dim0, dim1):
    return x.swapaxes(dim0, dim1)


@aten("numpy_T", "t")
def matrix_transpose(x):
    return x.T


@aten("mT")
def mT(x):
    return x.swapaxes(-1, -2)


@aten("cat")
def cat(tensors, dim=0):
    return np.concatenate(tensors, axis=dim)


@aten("stack")
def stack(tensors, dim=0):
    return np.stack(tensors, axis=dim)


@aten("mean")
def mean(x, dim=None, keepdim=False, dtype=None):
    return x.mean(axis=None if dim is None else tuple(dim), keepdims=keepdim)


@aten("sum")
def sum_(x, dim=None, keepdim=False, dtype=None):
    return x.sum(axis=None if dim is None else tuple(dim), keepdims=keepdim)


@aten("matmul", "mm")
def matmul(x, y):
    return x @ y


@aten("select")
def select(x, dim, index):
    return x.take(index, axis=dim)


@aten("slice")
def slice_(x, dim=0, start=None, end=None, step=1):
    cut = [slice(None)] * x.ndim
    cut[dim] = slice(start, end, step)
    return x[tuple(cut)]


@aten("index_select")
def index_select(x, dim, index):
    return x.take(index, axis=dim)


@aten("index")
def index(x, indices):
    return x[tuple(slice(None) if i is None else i for i in indices)]


@aten("getitem")
def getitem(x, index):
    return x[index]


@aten("sym_size")
def sym_size(x, dim):
    return x.shape[dim]


@aten("argmax")
def argmax(x, dim=None, keepdim=False):
    return x.argmax(axis=dim, keepdims=keepdim)
