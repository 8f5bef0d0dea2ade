"""What each operation does to the channels of the tensors that pass through it.

A channel is one entry of the axis that a layer's weights run over: a unit, a feature map, a column
of an embedding. A rule says, for one node of a network's graph, which channels of its output are
constants, which channels of its inputs it reads, and which channels of inputs and output are the
same one and so stay or go together.
"""

import torch
from torch import nn

VARIES = float("nan")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


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


class Selected(Carry):
    """A SelectColumns module: channels of its input may be dropped, and it then selects others."""

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
