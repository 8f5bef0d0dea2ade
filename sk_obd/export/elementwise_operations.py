"""Torch's arithmetic and activations in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import math

import numpy as np

from .aten import COUNTERPARTS, aten

#: NumPy's own functions that do the same.
COUNTERPARTS.update(
    abs=np.abs,
    acos=np.arccos,
    acosh=np.arccosh,
    asin=np.arcsin,
    asinh=np.arcsinh,
    atan=np.arctan,
    atan2=np.arctan2,
    atanh=np.arctanh,
    bitwise_and=np.bitwise_and,
    bitwise_not=np.bitwise_not,
    bitwise_or=np.bitwise_or,
    bitwise_xor=np.bitwise_xor,
    ceil=np.ceil,
    copysign=np.copysign,
    cos=np.cos,
    cosh=np.cosh,
    eq=np.equal,
    exp=np.exp,
    exp2=np.exp2,
    expm1=np.expm1,
    floor=np.floor,
    fmod=np.fmod,
    ge=np.greater_equal,
    gt=np.greater,
    hypot=np.hypot,
    isfinite=np.isfinite,
    isinf=np.isinf,
    isnan=np.isnan,
    le=np.less_equal,
    log=np.log,
    log10=np.log10,
    log1p=np.log1p,
    log2=np.log2,
    logaddexp=np.logaddexp,
    logical_and=np.logical_and,
    logical_not=np.logical_not,
    logical_or=np.logical_or,
    logical_xor=np.logical_xor,
    lt=np.less,
    maximum=np.maximum,
    minimum=np.minimum,
    mul=np.multiply,
    ne=np.not_equal,
    neg=np.negative,
    remainder=np.remainder,
    sign=np.sign,
    sin=np.sin,
    sinh=np.sinh,
    sqrt=np.sqrt,
    square=np.square,
    tan=np.tan,
    tanh=np.tanh,
    trunc=np.trunc,
)


# -- arithmetic --------------------------------------------------------------------------------


@aten("add")
def add(x, y, alpha=1):
    return x + y if alpha == 1 else x + alpha * y


@aten("sub")
def sub(x, y, alpha=1):
    return x - y if alpha == 1 else x - alpha * y


@aten("rsub")
def rsub(x, y, alpha=1):
    return y - x if alpha == 1 else y - alpha * x


@aten("div")
def div(x, y, rounding_mode=None):
    if rounding_mode == "floor":
        return x // y
    return x / y if rounding_mode is None else np.trunc(x / y).astype(np.result_type(x, y))


@aten("floor_divide")
def floor_divide(x, y):
    return x // y


@aten("reciprocal")
def reciprocal(x):
    return 1 / x


@aten("rsqrt")
def rsqrt(x):
    return 1 / np.sqrt(x)


@aten("pow")
def pow_(x, exponent):
    return x**exponent


@aten("round")
def round_(x, decimals=0):
    return np.round(x, decimals)


@aten("erf")
def erf(x):
    return np.frompyfunc(math.erf, 1, 1)(x).astype(x.dtype)


@aten("erfc")
def erfc(x):
    return np.frompyfunc(math.erfc, 1, 1)(x).astype(x.dtype)


@aten("lgamma")
def lgamma(x):
    return np.frompyfunc(math.lgamma, 1, 1)(x).astype(x.dtype)


@aten("clamp")
def clamp(x, min=None, max=None):
    return np.clip(x, min, max)


@aten("clamp_min")
def clamp_min(x, min):
    return np.maximum(x, min)


@aten("clamp_max")
def clamp_max(x, max):
    return np.minimum(x, max)


@aten("where.self", "where.ScalarOther", "where.ScalarSelf")
def where(condition, x, y):
    return np.where(condition, x, y)


@aten("masked_fill")
def masked_fill(x, mask, value):
    return np.where(mask, np.asarray(value, x.dtype), x)


# -- activations -------------------------------------------------------------------------------


@aten("relu")
def relu(x):
    return np.maximum(x, 0)


@aten("relu6")
def relu6(x):
    return np.clip(x, 0, 6)


@aten("hardtanh")
def hardtanh(x, min_val=-1, max_val=1):
    return np.clip(x, min_val, max_val)


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
    return x / 2 * (1 + erf(x / math.sqrt(2)))


@aten("silu")
def silu(x):
    return x * sigmoid(x)


@aten("mish")
def mish(x):
    return x * np.tanh(np.logaddexp(0, x))


@aten("softplus")
def softplus(x, beta=1, threshold=20):
    return np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta)


@aten("leaky_relu")
def leaky_relu(x, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x)


@aten("rrelu")
def rrelu(x, lower=1 / 8, upper=1 / 3, training=False, generator=None):
    return leaky_relu(x, (lower + upper) / 2)


@aten("prelu")
def prelu(x, weight):
    shape = (1, -1) + (1,) * (x.ndim - 2) if weight.size > 1 else (1,) * x.ndim
    return np.where(x > 0, x, weight.reshape(shape) * x)


@aten("elu")
def elu(x, alpha=1, scale=1, input_scale=1):
    low = alpha * np.expm1(np.minimum(x, 0) * input_scale)
    return np.where(x > 0, scale * x, scale * low)


@aten("selu")
def selu(x):
    return elu(x, 1.6732632423543772, 1.0507009873554805)


@aten("celu")
def celu(x, alpha=1.0):
    return elu(x, alpha, 1.0, 1 / alpha)


@aten("hardsigmoid")
def hardsigmoid(x):
    return np.clip(x + 3, 0, 6) / 6


@aten("hardswish")
def hardswish(x):
    return x * np.clip(x + 3, 0, 6) / 6


@aten("threshold")
def threshold(x, threshold, value):
    return np.where(x <= threshold, np.asarray(value, x.dtype), x)


@aten("hardshrink")
def hardshrink(x, lambd=0.5):
    return x * ~(np.abs(x) <= lambd)


@aten("softshrink")
def softshrink(x, lambd=0.5):
    return x - np.clip(x, -lambd, lambd)


@aten("softmax", "_softmax")
def softmax(x, dim, dtype=None):
    e = np.exp(x - x.max(axis=dim, keepdims=True))
    return e / e.sum(axis=dim, keepdims=True)


@aten("log_softmax", "_log_softmax")
def log_softmax(x, dim, dtype=None):
    x = x - x.max(axis=dim, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=dim, keepdims=True))
