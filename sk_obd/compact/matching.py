"""Which rule a node of a network's graph follows.

What no rule is written for gets `Whole`: it reads all of its inputs, and nothing is known of its
output.
"""

import operator
from math import prod

import torch
from torch import fx, nn
from torch.nn import functional as F

from .channel_rules import (
    CONVOLUTIONS,
    VARIES,
    Carry,
    Input,
    Nothing,
    Scaled,
    Selected,
    Weights,
    Whole,
    double,
)
from .select import SelectColumns

ELEMENTWISE_MODULES = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Tanhshrink),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Threshold),
)
ELEMENTWISE_FUNCTIONS = {
    *(torch.relu, torch.tanh, torch.sigmoid, torch.exp, torch.sin, torch.cos, torch.abs),
    *(torch.square, torch.clamp, torch.add, torch.sub, torch.mul, torch.div, torch.neg),
    *(torch.maximum, torch.minimum, F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu),
    *(F.silu, F.mish, F.sigmoid, F.logsigmoid, F.tanh, F.softplus, F.softsign, F.tanhshrink),
    *(F.hardtanh, F.hardsigmoid, F.hardswish, F.hardshrink, F.softshrink),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow),
    *(operator.iadd, operator.isub, operator.imul),
}
ELEMENTWISE_METHODS = {
    *("relu", "tanh", "sigmoid", "exp", "sin", "cos", "abs", "square", "clamp", "neg", "pow"),
    *("add", "sub", "mul", "div", "contiguous", "relu_", "add_", "mul_", "sub_"),
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
#: A constant map pools to the same constant: padding never wins a maximum, and adaptive pools
#: have none.
CONSTANT_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
CONSTANT_POOL_FUNCTIONS = {
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
}
AVERAGE_POOL_FUNCTIONS = {F.avg_pool1d, F.avg_pool2d, F.avg_pool3d}


def match_rule(node, module, masks, shared, axes):
    """The rule for a node.

    Parameters
    ----------
    node : torch.fx.Node
        Its ``meta["shape"]`` is what it gave for the probe; no entry where that is no tensor.
    module : torch.nn.Module
    masks : dict of name to bool tensor
    shared : set of str
        Modules that are left: used more than once, or sharing a parameter.
    axes : dict of node to int or None
        The channel axes of the nodes before.
    """
    if node.op == "placeholder":
        flat = len(node.meta["shape"]) == 2 and node.meta["floating"]
        return Input(node) if flat else Whole(node)
    if node.op in ("output", "get_attr"):
        return Whole(node)
    if "shape" not in node.meta:
        return Nothing(node) if looks_at_rows(node) else Whole(node, "it returns no single tensor")
    if node.op == "call_module":
        return _module_rule(node, module, masks, shared, axes)
    return _function_rule(node, axes) or Whole(node, f"{_name(node)} is not understood")


def _module_rule(node, module, masks, shared, axes):
    layer = module.get_submodule(node.target)
    if node.target in shared:
        return Whole(node, "it, or a parameter of it, is used more than once")
    # torch has no public name for a module's own hooks; they may do anything to what passes.
    if layer._forward_hooks or layer._forward_pre_hooks:
        return Whole(node, "it has hooks")
    if len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
        return Whole(node, "it is called with more than one argument")
    source, kind = node.args[0], type(layer)
    alive = {
        name: masks[f"{node.target}.{name}"] for name, _ in layer.named_parameters(recurse=False)
    }
    if kind is nn.Embedding and layer.max_norm is None:
        return Weights(node, layer, alive, len(node.meta["shape"]) - 1, None)
    if kind is nn.Linear and "weight" in alive:
        last = len(node.meta["shape"]) - 1
        return Weights(node, layer, alive, last, last)
    if kind in CONVOLUTIONS and "weight" in alive and layer.groups == 1:
        return Weights(node, layer, alive, 1, 1)
    if kind in NORMS and layer.running_mean is not None and axes.get(source) == 1:
        return Scaled(node, layer, alive)
    if kind is nn.PReLU and layer.num_parameters > 1 and axes.get(source) == 1:
        return Scaled(node, layer, alive)
    rule = None
    if kind in ELEMENTWISE_MODULES:
        # In eval mode dropout passes everything on.
        function = _passed if "Dropout" in kind.__name__ else _out_of_place(layer)
        rule = _elementwise(node, axes, function)
    elif kind is nn.PReLU and layer.num_parameters == 1:
        slope = double(layer.weight)
        rule = _elementwise(node, axes, lambda x: torch.where(x < 0, x * slope, x))
    elif kind in CONSTANT_POOLS:
        rule = _pooled(node, axes, _passed)
    elif kind in AVERAGE_POOLS and getattr(layer, "divisor_override", None) is None:
        rule = _pooled(node, axes, _average(layer.padding, layer.count_include_pad))
    elif kind is nn.Flatten and layer.start_dim == 1 and layer.end_dim == -1:
        rule = _flattened(node, axes)
    elif kind is SelectColumns and axes.get(source) == 1 and len(node.meta["shape"]) == 2:
        rule = Selected(node, 1, [(source, 1, layer.index.cpu(), 0)], _passed)
    return rule or Whole(node, f"{kind.__name__} is not understood here")


def _function_rule(node, axes):
    target = node.target
    if node.op == "call_method":
        function = _method(target) if target in ELEMENTWISE_METHODS else None
    else:
        function = target if target in ELEMENTWISE_FUNCTIONS else None
    if target is F.dropout and not (node.kwargs.get("training", True) or node.args[2:3] == (True,)):
        return _elementwise(node, axes, lambda x, *_, **__: x)
    if function is not None:
        return _elementwise(node, axes, function)
    if target in CONSTANT_POOL_FUNCTIONS:
        return _pooled(node, axes, _passed)
    if target in AVERAGE_POOL_FUNCTIONS:
        options = dict(
            zip(("kernel_size", "stride", "padding", "ceil_mode"), node.args[1:5], strict=False)
        )
        options |= dict(zip(("count_include_pad", "divisor_override"), node.args[5:], strict=False))
        options |= node.kwargs
        if options.get("divisor_override") is not None:
            return None
        return _pooled(
            node, axes, _average(options.get("padding", 0), options.get("count_include_pad", True))
        )
    if target in (torch.mean, "mean"):
        return _averaged_out(node, axes)
    if target is torch.flatten:
        # Views that flatten were made flatten(1) before.
        starts = node.args[1:] == (1,) and not node.kwargs
        return _flattened(node, axes) if starts else None
    if target in (torch.cat, torch.concat):
        return _concatenated(node, axes)
    return None


def _elementwise(node, axes, function):
    """All operands have the shape of the result, and their channels the same axis."""
    sources = node.all_input_nodes
    axis = axes.get(sources[0]) if sources else None
    operands = [a for a in [*node.args, *node.kwargs.values()] if isinstance(a, fx.Node)]
    nested = len(set(operands)) != len(sources)
    shapes = {source.meta.get("shape") for source in sources} | {node.meta["shape"]}
    if axis is None or nested or len(shapes) > 1 or {axes.get(s) for s in sources} != {axis}:
        return None

    def evaluate(*values):
        varies = torch.stack(values).isnan().any(0)
        values = {s: v.nan_to_num(0.0) for s, v in zip(sources, values, strict=True)}
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        # Copies, for functions that work in place.
        args = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        result = function(*args, **kwargs)
        # What is not finite is no constant to calculate with.
        return torch.where(varies | ~result.isfinite(), VARIES, result)

    every = torch.arange(node.meta["shape"][axis])
    return Carry(node, axis, [(source, axis, every, 0) for source in sources], evaluate)


def _pooled(node, axes, function):
    source = node.args[0]
    if axes.get(source) != 1:
        return None
    shapes = source.meta["shape"], node.meta["shape"]
    if shapes[0][:2] != shapes[1][:2] or len(node.all_input_nodes) > 1:
        return None
    return Carry(node, 1, [(source, 1, torch.arange(shapes[0][1]), 0)], function)


def _averaged_out(node, axes):
    """The mean over positions (not over rows or channels)."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    n_dims = len(node.args[0].meta.get("shape", ()))
    if not dims or any(not isinstance(d, int) or d % n_dims < 2 for d in dims):
        return None
    return _pooled(node, axes, _passed)


def _flattened(node, axes):
    source = node.args[0]
    axis, shape = axes.get(source), source.meta.get("shape")
    if axis is None or node.meta["shape"] != (shape[0], prod(shape[1:])):
        return None
    view = [1] * (len(shape) - 1)
    view[axis - 1] = shape[axis]
    index = torch.arange(shape[axis]).view(view).expand(shape[1:]).reshape(-1)
    return Carry(node, 1, [(source, axis, index, 0)], _passed)


def _concatenated(node, axes):
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    sources, n_dims = node.args[0], len(node.meta["shape"])
    if not isinstance(dim, int) or any(axes.get(s) != dim % n_dims for s in sources):
        return None
    axis, start, parts = dim % n_dims, 0, []
    for source in sources:
        n = source.meta["shape"][axis]
        parts.append((source, axis, torch.arange(n), start))
        start += n
    return Carry(node, axis, parts, lambda *values: torch.cat(values))


def looks_at_rows(node):
    """Whether a node asks a tensor for nothing but its number of rows, type or dimension."""
    if node.op == "call_method" and node.target in ("size", "dim"):
        return node.target == "dim" or node.args[1:] == (0,)
    if node.op == "call_function" and node.target is getattr:
        if node.args[1] != "shape":
            return node.args[1] in ("dtype", "device", "ndim")
        return all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    return not any("shape" in source.meta for source in node.all_input_nodes)


def _passed(value):
    return value


def _average(padding, counts_padding):
    padding = (padding,) if isinstance(padding, int) else padding
    if counts_padding and any(padding):
        # The padding's zeros are averaged in at the border.
        return lambda value: torch.where(value == 0, value, VARIES)
    return _passed


def _method(name):
    return lambda value, *args, **kwargs: getattr(value, name)(*args, **kwargs)


def _out_of_place(layer):
    return lambda value: layer(value.clone())


def _name(node):
    return (
        node.target
        if isinstance(node.target, str)
        else getattr(node.target, "__name__", str(node.target))
    )
