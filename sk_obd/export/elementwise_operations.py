"""Torch's arithmetic and activations in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import math

import numpy as np

from .aten import aten


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


@aten("softmax", "_softmax")
def softmax(x, dim, dtype=None):
    e = np.exp(x - x.max(axis=dim, keepdims=True))
    return e / e.sum(axis=dim, keepdims=True)


@aten("log_softmax", "_log_softmax")
def log_softmax(x, dim, dtype=None):
    x = x - x.max(axis=dim, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=dim, keepdims=True))


@aten("sin")
def sin(x):
    return np.sin(x)


@aten("cos")
def cos(x):
    return np.cos(x)


@aten("log1p")
def log1p(x):
    return np.log1p(x)


@aten("expm1")
def expm1(x):
    return np.expm1(x)


@aten("rsqrt")
def rsqrt(x):
    return 1 / np.sqrt(x)


@aten("reciprocal")
def reciprocal(x):
    return 1 / x


@aten("sign")
def sign(x):
    return np.sign(x)


@aten("floor")
def floor(x):
    return np.floor(x)


@aten("erf")
def erf(x):
    return np.frompyfunc(math.erf, 1, 1)(x).astype(x.dtype)


@aten("maximum")
def maximum(x, y):
    return np.maximum(x, y)


@aten("minimum")
def minimum(x, y):
    return np.minimum(x, y)


@aten("clamp_min", "clamp_min_")
def clamp_min(x, least):
    return np.maximum(x, least)


@aten("clamp_max", "clamp_max_")
def clamp_max(x, most):
    return np.minimum(x, most)


@aten("hardshrink")
def hardshrink(x, lambd=0.5):
    return np.where(abs(x) > lambd, x, 0).astype(x.dtype)


@aten("softshrink")
def softshrink(x, lambd=0.5):
    return np.sign(x) * np.maximum(abs(x) - lambd, 0)


@aten("threshold", "threshold_")
def threshold_(x, threshold, value):
    return np.where(x > threshold, x, value).astype(x.dtype)


@aten("glu")
def glu(x, dim=-1):
    a, b = np.split(x, 2, axis=dim)
    return a * sigmoid(b)


@aten("where")
def where(condition, x, y):
    return np.where(condition, x, y)


@aten("masked_fill", "masked_fill_")
def masked_fill(x, mask, value):
    return np.where(mask, value, x).astype(x.dtype)


@aten("logical_not", "bitwise_not")
def logical_not(x):
    return np.logical_not(x)


@aten("logical_and", "bitwise_and")
def logical_and(x, y):
    return np.logical_and(x, y)


@aten("ge")
def ge(x, y):
    return x >= y


@aten("lt")
def lt(x, y):
    return x < y


@aten("le")
def le(x, y):
    return x <= y


@aten("eq")
def eq(x, y):
    return x == y


@aten("ne")
def ne(x, y):
    return x != y


@aten("round")
def round_(x, decimals=0):
    return np.round(x, decimals)


@aten("ceil")
def ceil(x):
    return np.ceil(x)


@aten("trunc")
def trunc(x):
    return np.trunc(x)


@aten("remainder")
def remainder(x, y):
    return x % y


@aten("floor_divide")
def floor_divide(x, y):
    return x // y


@aten("tan")
def tan(x):
    return np.tan(x)


@aten("atan")
def atan(x):
    return np.arctan(x)


@aten("sinh")
def sinh(x):
    return np.sinh(x)


@aten("cosh")
def cosh(x):
    return np.cosh(x)


@aten("rrelu", "rrelu_")
def rrelu(x, lower=1 / 8, upper=1 / 3, training=False, generator=None):
    return np.where(x >= 0, x, (lower + upper) / 2 * x)
