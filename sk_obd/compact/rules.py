"""What each operation does to the channels of the tensors that pass through it.

A channel is one entry of the axis that a layer's weights run over: a unit, a feature map, a column
of an embedding. A rule says, for one node of a network's graph, which channels of its output are
constants, which channels of its inputs it reads, and which channels of inputs and output are the
same one and so stay or go together. What no rule is written for gets `Whole`: it reads all of its
inputs, and nothing is known of its output.
"""

import operator
from math import prod

import torch
from torch import fx, nn
from torch.nn import functional as F

from .select import Select

VARIES = float("nan")

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
LINEAR = (nn.Linear,)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
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


class Whole:
    """Reads all of its inputs; its output is never cut."""

    axis = None

    def __init__(self, node, why=None):
        self.node, self.why = node, why

    def reads(self, flows, used):
        """(input, axis, channels read) of every input; axis None: all of it."""
        return [(source, None, None) for source in self.node.all_input_nodes]

    def ties(self):
        """(input, its channels in the order of the output's, where they start there, both ways).

        "Both ways" says that an input's channel cannot be dropped here either.
        """
        return []


class Input(Whole):
    """X itself: columns that nothing reads are not selected."""

    def __init__(self, node):
        super().__init__(node)
        self.axis = 1

    def value(self, flows):
        return torch.full((self.node.meta["shape"][1],), VARIES, dtype=torch.float64)


class Nothing(Whole):
    """Looks at the number of rows, and at no value."""

    def reads(self, flows, used):
        return []


class Carry(Whole):
    """Each channel of the output is a function of one channel of each input."""

    def __init__(self, node, axis, parts, function):
        super().__init__(node)
        #: (input, axis there, its channel for each channel here, where these start here)
        self.axis, self.parts, self.function = axis, parts, function

    def value(self, flows):
        values = [flows.value(source, axis)[index] for source, axis, index, _ in self.parts]
        return self.function(*values)

    def reads(self, flows, used):
        found = []
        for source, axis, index, start in self.parts:
            read = torch.zeros(source.meta["shape"][axis], dtype=torch.bool)
            read[index[used[start : start + len(index)]]] = True
            found.append((source, axis, read))
        return found

    def ties(self):
        return [(source, index, start, True) for source, _, index, start in self.parts]


class Chosen(Carry):
    """A Select module: channels of its input may be dropped, and it then selects others."""

    def ties(self):
        return [(source, index, start, False) for source, _, index, start in self.parts]


class Scaled(Carry):
    """BatchNorm in eval mode, PReLU: parameters for each channel, of which some may be deleted."""

    def __init__(self, node, layer, alive):
        source = node.args[0]
        every = torch.arange(node.meta["shape"][1])
        super().__init__(node, 1, [(source, 1, every, 0)], None)
        self.layer, self.alive = layer, alive

    def value(self, flows):
        x, layer = flows.value(*self.parts[0][:2]), self.layer
        if isinstance(layer, nn.PReLU):
            return torch.where(x < 0, x * double(layer.weight), x)
        x = (x - double(layer.running_mean)) / (double(layer.running_var) + layer.eps).sqrt()
        if not layer.affine:
            return x
        scale = double(layer.weight)
        x = torch.where(self._passes(), x * scale, 0.0)
        return x + double(layer.bias)

    def _passes(self):
        if isinstance(self.layer, nn.PReLU) or not self.layer.affine:
            return torch.ones(self.node.meta["shape"][1], dtype=torch.bool)
        return self.alive["weight"]

    def reads(self, flows, used):
        return super().reads(flows, used & self._passes())


class Weights(Whole):
    """Linear, convolution, Embedding: every channel out is a weighted sum of the channels in."""

    def __init__(self, node, layer, alive, axis, in_axis):
        super().__init__(node)
        self.layer, self.alive, self.axis, self.in_axis = layer, alive, axis, in_axis
        weight = torch.where(alive["weight"], double(layer.weight), 0.0)
        self.reach = alive["weight"]
        if isinstance(layer, nn.Embedding):
            # The rows of an embedding are no channels: which one is read depends on X.
            weight, self.reach = weight.T, self.reach.T
        #: What a constant in each channel in adds to each channel out, and which weights live.
        self.gain = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
        self.reach = self.reach.flatten(2).any(2) if weight.ndim > 2 else self.reach
        bias = getattr(layer, "bias", None)
        self.bias = torch.zeros(len(weight), dtype=torch.float64)
        if bias is not None:
            self.bias = torch.where(alive["bias"], double(bias), 0.0)

    def inputs(self, flows):
        """The constants among the channels in that can be folded; the rest vary."""
        if self.in_axis is None:
            return torch.full((self.gain.shape[1],), VARIES, dtype=torch.float64)
        value = flows.value(self.node.args[0], self.in_axis)
        layer = self.layer
        padded = isinstance(layer, CONVOLUTIONS) and layer.padding_mode == "zeros"
        if padded and any(p != 0 for p in _sides(layer)):
            # At the border the padding's zeros take the place of the constant.
            value = torch.where(value == 0, value, VARIES)
        return value

    def value(self, flows):
        inputs = self.inputs(flows)
        varies = (self.reach & inputs.isnan()).any(1)
        constant = self.bias + self.gain @ inputs.nan_to_num(0.0)
        return torch.where(varies, VARIES, constant)

    def folds(self, flows):
        """Which weights, [out, in], only pass on a constant that the bias can take over."""
        inputs = self.inputs(flows)
        takes = torch.ones(len(self.bias), dtype=torch.bool)
        if flows.prunable is not None:
            # What is frozen takes nothing over.
            bias = getattr(self.layer, "bias", None)
            free = bias is not None and bias.requires_grad
            fixed = not free or f"{self.node.target}.weight" not in flows.prunable
            takes = torch.zeros_like(takes) if fixed else self.alive["bias"]
        return ~inputs.isnan() & (takes[:, None] | (inputs == 0))

    def reads(self, flows, used):
        if self.in_axis is None:
            return [(self.node.args[0], None, None)]
        read = (self.reach & ~self.folds(flows))[used].any(0)
        return [(self.node.args[0], self.in_axis, read)]


def _sides(layer):
    if layer.padding == "same":
        return [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [] if layer.padding == "valid" else layer.padding


def double(tensor):
    """Detached, in float64, on the CPU."""
    return tensor.detach().cpu().double()


def rule_for(node, module, masks, shared, axes):
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
    if kind in LINEAR and "weight" in alive:
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
    elif kind is Select and axes.get(source) == 1 and len(node.meta["shape"]) == 2:
        rule = Chosen(node, 1, [(source, 1, layer.index.cpu(), 0)], _passed)
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
        options = dict(zip(("kernel_size", "stride", "padding", "ceil_mode"), node.args[1:5]))  # noqa: B905
        options |= dict(zip(("count_include_pad", "divisor_override"), node.args[5:]))  # noqa: B905
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
