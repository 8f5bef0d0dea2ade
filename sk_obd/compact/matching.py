"""Which rule a node of a network's graph follows.

A node that no rule is written for gets `Whole`: it reads all of its inputs, and nothing is known
of its output.
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
    Part,
    Scaled,
    Selected,
    Weights,
    Whole,
    double,
)
from .known_operations import (
    AVERAGE_POOL_FUNCTIONS,
    AVERAGE_POOLS,
    CONSTANT_POOL_FUNCTIONS,
    CONSTANT_POOLS,
    DROPOUTS,
    ELEMENTWISE_FUNCTIONS,
    ELEMENTWISE_METHODS,
    ELEMENTWISE_MODULES,
    NORMS,
)
from .select import SelectColumns

#: The arguments of the functions that average, after the input.
AVERAGE_POOL_OPTIONS = (
    "kernel_size",
    "stride",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "divisor_override",
)


def match_rule(node, module, masks, shared, axes):
    """The rule for a node.

    Parameters
    ----------
    node : torch.fx.Node
        Its ``meta["shape"]`` is the shape of what it gave for the rows tried; there is no such
        entry where it did not give a tensor.
    module : torch.nn.Module
    masks : dict of name to bool tensor
    shared : set of str
        Modules that are left as they are: used more than once, or sharing a parameter.
    axes : dict of node to int or None
        The channel axes of the nodes before.

    Returns
    -------
    Whole
        Or one of the classes derived from it.
    """
    if node.op == "placeholder":
        flat = len(node.meta["shape"]) == 2 and node.meta["floating"]
        return Input(node) if flat else Whole(node)
    if node.op in ("output", "get_attr"):
        return Whole(node)
    if "shape" not in node.meta:
        return (
            Nothing(node)
            if looks_at_rows(node)
            else Whole(node, "it does not return a single tensor")
        )
    if node.op == "call_module":
        return _module_rule(node, module, masks, shared, axes)
    return _function_rule(node, axes) or Whole(node, f"{_name(node)} is not understood")


def _module_rule(node, module, masks, shared, axes):
    """The rule for a call of a submodule."""
    layer = module.get_submodule(node.target)
    if node.target in shared:
        return Whole(node, "it, or a parameter of it, is used more than once")
    # Hooks may do anything to what passes. torch has no public name for a module's own hooks.
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
    if kind in DROPOUTS:
        rule = _elementwise(node, axes, _passed)
    elif kind in ELEMENTWISE_MODULES:
        rule = _elementwise(node, axes, layer)
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
        rule = Selected(node, 1, [Part(source, 1, layer.index.cpu(), 0)], _passed)
    return rule or Whole(node, f"{kind.__name__} is not understood here")


def _function_rule(node, axes):
    """The rule for a call of a function or a method; None where there is none."""
    target = node.target
    if target is F.dropout and not (node.kwargs.get("training", True) or node.args[2:3] == (True,)):
        return _elementwise(node, axes, _passed)
    if node.op == "call_method" and target in ELEMENTWISE_METHODS:
        return _elementwise(node, axes, _method(target))
    if node.op == "call_function" and target in ELEMENTWISE_FUNCTIONS:
        return _elementwise(node, axes, target)
    if not node.args:
        # Called with keywords only.
        return None
    if target in CONSTANT_POOL_FUNCTIONS:
        return _pooled(node, axes, _passed)
    if target in AVERAGE_POOL_FUNCTIONS:
        options = dict(zip(AVERAGE_POOL_OPTIONS, node.args[1:], strict=False)) | node.kwargs
        if options.get("divisor_override") is not None:
            return None
        return _pooled(
            node, axes, _average(options.get("padding", 0), options.get("count_include_pad", True))
        )
    if target in (torch.mean, "mean"):
        return _averaged_out(node, axes)
    if target is torch.flatten:
        # Views that flatten are written as flatten(x, 1) by now.
        starts = node.args[1:] == (1,) and not node.kwargs
        return _flattened(node, axes) if starts else None
    if target in (torch.cat, torch.concat):
        return _concatenated(node, axes)
    return None


def _elementwise(node, axes, function):
    """The rule for a function of each number, applied to constants as to tensors.

    None unless all operands have the shape of the result and their channels the same axis.
    """
    sources = node.all_input_nodes
    axis = axes.get(sources[0]) if sources else None
    operands = [a for a in [*node.args, *node.kwargs.values()] if isinstance(a, fx.Node)]
    nested = len(set(operands)) != len(sources)
    shapes = {source.meta.get("shape") for source in sources} | {node.meta["shape"]}
    if axis is None or nested or len(shapes) > 1 or {axes.get(s) for s in sources} != {axis}:
        return None

    def evaluate(*values):
        varies = torch.stack(values).isnan().any(0)
        of_node = {s: v.nan_to_num(0.0) for s, v in zip(sources, values, strict=True)}
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: of_node[n])
        # Copies, since the function may work in place.
        args = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        result = function(*args, **kwargs)
        # A constant that is not finite cannot be calculated with.
        return torch.where(varies | ~result.isfinite(), VARIES, result)

    every = torch.arange(node.meta["shape"][axis])
    return Carry(node, axis, [Part(source, axis, every, 0) for source in sources], evaluate)


def _pooled(node, axes, function):
    """The rule for what works on each map by itself; None where channels are not axis 1."""
    source = node.args[0]
    if axes.get(source) != 1:
        return None
    shapes = source.meta["shape"], node.meta["shape"]
    if shapes[0][:2] != shapes[1][:2] or len(node.all_input_nodes) > 1:
        return None
    return Carry(node, 1, [Part(source, 1, torch.arange(shapes[0][1]), 0)], function)


def _averaged_out(node, axes):
    """The rule for a mean over positions; None for one over rows or channels."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    n_dims = len(node.args[0].meta.get("shape", ()))
    if not dims or any(not isinstance(d, int) or d % n_dims < 2 for d in dims):
        return None
    return _pooled(node, axes, _passed)


def _flattened(node, axes):
    """The rule for flattening to (n_rows, the rest): a channel becomes one for each place."""
    source = node.args[0]
    axis, shape = axes.get(source), source.meta.get("shape")
    if axis is None or node.meta["shape"] != (shape[0], prod(shape[1:])):
        return None
    view = [1] * (len(shape) - 1)
    view[axis - 1] = shape[axis]
    index = torch.arange(shape[axis]).view(view).expand(shape[1:]).reshape(-1)
    return Carry(node, 1, [Part(source, axis, index, 0)], _passed)


def _concatenated(node, axes):
    """The rule for joining tensors along the axis of their channels; None along another."""
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    sources, n_dims = node.args[0], len(node.meta["shape"])
    if isinstance(sources, fx.Node) or not isinstance(dim, int):
        # What another function returned as a whole, as torch.chunk does.
        return None
    if any(axes.get(s) != dim % n_dims for s in sources):
        return None
    axis, start, parts = dim % n_dims, 0, []
    for source in sources:
        n = source.meta["shape"][axis]
        parts.append(Part(source, axis, torch.arange(n), start))
        start += n
    return Carry(node, axis, parts, lambda *values: torch.cat(values))


def looks_at_rows(node):
    """Whether a node asks a tensor only for its number of rows, type or dimension."""
    if node.op == "call_method" and node.target in ("size", "dim"):
        return node.target == "dim" or node.args[1:] == (0,)
    if node.op == "call_function" and node.target is getattr:
        if node.args[1] != "shape":
            return node.args[1] in ("dtype", "device", "ndim")
        return all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    return not any("shape" in source.meta for source in node.all_input_nodes)


def _passed(value, *_, **__):
    """The constants as they are."""
    return value


def _average(padding, counts_padding):
    """What averaging makes of constants."""
    padding = (padding,) if isinstance(padding, int) else padding
    if counts_padding and any(padding):
        # The padding's zeros are averaged in at the border.
        return lambda value: torch.where(value == 0, value, VARIES)
    return _passed


def _method(name):
    """The method of that name as a function."""
    return lambda value, *args, **kwargs: getattr(value, name)(*args, **kwargs)


def _name(node):
    """What a function or method is called."""
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
