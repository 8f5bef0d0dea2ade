"""Which modules, functions and methods of torch the rules understand, by what they do."""

import operator

import torch
from torch import nn
from torch.nn import functional as F


def each_dimension(library, name):
    """What a library has under a name for one, two and three dimensions.

    Examples
    --------
    >>> [kind.__name__ for kind in each_dimension(nn, "MaxPool{}d")]
    ['MaxPool1d', 'MaxPool2d', 'MaxPool3d']
    """
    return [getattr(library, name.format(d)) for d in (1, 2, 3)]


#: Modules that pass everything on in eval mode.
DROPOUTS = {
    nn.Dropout,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    *each_dimension(nn, "Dropout{}d"),
}

#: Modules without parameters that work on each number by itself.
ELEMENTWISE_MODULES = {
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Softsign,
    nn.Tanhshrink,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Threshold,
}

#: Functions that work on each number, or pair of numbers, by itself.
ELEMENTWISE_FUNCTIONS = {
    torch.relu,
    torch.tanh,
    torch.sigmoid,
    torch.exp,
    torch.sin,
    torch.cos,
    torch.abs,
    torch.square,
    torch.clamp,
    torch.add,
    torch.sub,
    torch.mul,
    torch.div,
    torch.neg,
    torch.maximum,
    torch.minimum,
    F.relu,
    F.relu6,
    F.leaky_relu,
    F.elu,
    F.selu,
    F.celu,
    F.gelu,
    F.silu,
    F.mish,
    F.sigmoid,
    F.logsigmoid,
    F.tanh,
    F.softplus,
    F.softsign,
    F.tanhshrink,
    F.hardtanh,
    F.hardsigmoid,
    F.hardswish,
    F.hardshrink,
    F.softshrink,
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.neg,
    operator.pow,
    operator.iadd,
    operator.isub,
    operator.imul,
}

#: The same as methods of a tensor.
ELEMENTWISE_METHODS = {
    "relu",
    "relu_",
    "tanh",
    "sigmoid",
    "exp",
    "sin",
    "cos",
    "abs",
    "square",
    "clamp",
    "neg",
    "pow",
    "add",
    "add_",
    "sub",
    "sub_",
    "mul",
    "mul_",
    "div",
    "contiguous",
}

#: In eval mode these scale and shift each channel by numbers of its own.
NORMS = set(each_dimension(nn, "BatchNorm{}d"))

#: Pools that make of a constant map the same constant: padding never wins a maximum, and adaptive
#: pools have no padding.
CONSTANT_POOLS = {
    *each_dimension(nn, "MaxPool{}d"),
    *each_dimension(nn, "AdaptiveAvgPool{}d"),
    *each_dimension(nn, "AdaptiveMaxPool{}d"),
}
CONSTANT_POOL_FUNCTIONS = {
    torch.max_pool1d,
    torch.max_pool2d,
    *each_dimension(F, "max_pool{}d"),
    *each_dimension(F, "adaptive_avg_pool{}d"),
    *each_dimension(F, "adaptive_max_pool{}d"),
}

#: Pools that average padding in, unless they are told not to.
AVERAGE_POOLS = set(each_dimension(nn, "AvgPool{}d"))
AVERAGE_POOL_FUNCTIONS = set(each_dimension(F, "avg_pool{}d"))

#: Functions and methods that may flatten a tensor to (n_rows, the rest).
FLATTENS = {torch.flatten, torch.reshape, "view", "reshape", "flatten"}

#: Functions that change their first argument.
IN_PLACE = {
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.itruediv,
    operator.setitem,
}
