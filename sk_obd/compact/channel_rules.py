"""What each operation does to the channels of the tensors that pass through it.

A channel is one entry of the axis that a layer's weights run over: a unit, a feature map, a column
of an embedding. For one node of a network's graph, a rule says which channels of its output are
constants, which channels of its inputs it reads, and which channels of inputs and output are the
same and therefore stay or go together.

Every rule has an ``axis``, that of the channels in its output (None: the output is never cut), and
methods that take the `Channels` under way. ``value`` exists only where ``axis`` is not None.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx, nn

#: In a tensor of constants: this channel is not constant.
VARIES = float("nan")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Read(NamedTuple):
    """Which channels of one input a node reads."""

    source: fx.Node
    #: The axis of these channels in what `source` gives; None: all of it is read.
    axis: int | None
    #: True where read; bool tensor of shape (n_channels of the source,).
    channels: torch.Tensor | None


class Part(NamedTuple):
    """Channels of an output of which each is made from one channel of `source`."""

    source: fx.Node
    #: The axis of the channels in what `source` gives.
    axis: int
    #: The source's channel for each of these channels of the output, in order.
    channels: torch.Tensor
    #: The first of these channels in the output.
    start: int


class Whole:
    """Reads all of its inputs; its output is never cut."""

    axis: int | None = None
    parts: tuple[Part, ...] = ()
    #: Whether a channel that stays in an input of `parts` has to stay in the output too.
    both_ways = True

    def __init__(self, node: fx.Node, why: str | None = None):
        self.node, self.why = node, why

    def value(self, flows) -> torch.Tensor:
        """The constant in each channel of the output, `VARIES` where it is not constant."""
        raise NotImplementedError

    def reads(self, flows, used) -> list[Read]:
        """What is read of each input, where the channels `used` of the output matter."""
        return [Read(source, None, None) for source in self.node.all_input_nodes]


class Input(Whole):
    """X itself: columns that nothing reads are not selected."""

    axis = 1

    def value(self, flows):
        return torch.full((self.node.meta["shape"][1],), VARIES, dtype=torch.float64)


class Nothing(Whole):
    """Looks at the number of rows, and at no value."""

    def reads(self, flows, used):
        return []


class Carry(Whole):
    """Each channel of the output is a function of one channel of each input."""

    def __init__(self, node: fx.Node, axis: int, parts: list[Part], function: Callable):
        super().__init__(node)
        self.axis, self.parts, self.function = axis, tuple(parts), function

    def value(self, flows):
        values = [flows.value(part.source, part.axis)[part.channels] for part in self.parts]
        return self.function(*values)

    def reads(self, flows, used):
        found = []
        for source, axis, channels, start in self.parts:
            read = torch.zeros(source.meta["shape"][axis], dtype=torch.bool)
            read[channels[used[start : start + len(channels)]]] = True
            found.append(Read(source, axis, read))
        return found


class Selected(Carry):
    """A SelectColumns module: channels of its input may be dropped; it then selects others."""

    both_ways = False


class Scaled(Carry):
    """BatchNorm in eval mode, PReLU: parameters for each channel, of which some may be deleted."""

    def __init__(self, node: fx.Node, layer: nn.Module, alive: dict[str, torch.Tensor]):
        every = torch.arange(node.meta["shape"][1])
        super().__init__(node, 1, [Part(node.all_input_nodes[0], 1, every, 0)], self._scaled)
        self.layer: Any = layer
        self.alive = alive

    def _scaled(self, x):
        layer = self.layer
        if isinstance(layer, nn.PReLU):
            return torch.where(x < 0, x * double(layer.weight), x)
        x = (x - double(layer.running_mean)) / (double(layer.running_var) + layer.eps).sqrt()
        if not layer.affine:
            return x
        # A scale that is deleted makes a constant even of what varies.
        x = torch.where(self._passes(), x * double(layer.weight), 0.0)
        return x + double(layer.bias)

    def _passes(self):
        """For each channel, whether anything of the input gets through."""
        if isinstance(self.layer, nn.PReLU) or not self.layer.affine:
            return torch.ones(self.node.meta["shape"][1], dtype=torch.bool)
        return self.alive["weight"]

    def reads(self, flows, used):
        return super().reads(flows, used & self._passes())


class Weights(Whole):
    """Linear, convolution, Embedding: every channel out is a weighted sum of the channels in.

    Parameters
    ----------
    node : torch.fx.Node
    layer : torch.nn.Module
    alive : dict of bool tensors
        The masks of the layer's own parameters.
    axis : int
        Of the channels in the output.
    in_axis : int or None
        Of the channels in the input; None for an Embedding, whose input has none.

    Attributes
    ----------
    source : torch.fx.Node
        The node that computes the input.
    gain : float64 tensor of shape (n_out, n_in)
        What a constant 1 in each channel in adds to each channel out.
    reach : bool tensor of shape (n_out, n_in)
        Where a living weight leads from a channel in to a channel out.
    bias : float64 tensor of shape (n_out,)
        0 where there is none.
    """

    def __init__(self, node, layer, alive, axis, in_axis):
        super().__init__(node)
        self.layer, self.alive, self.axis, self.in_axis = layer, alive, axis, in_axis
        (self.source,) = node.all_input_nodes
        weight = torch.where(alive["weight"], double(layer.weight), 0.0)
        reach = alive["weight"]
        if isinstance(layer, nn.Embedding):
            # The rows of an embedding are not channels: which one is read depends on X.
            weight, reach = weight.T, reach.T
        self.gain = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
        self.reach = reach.flatten(2).any(2) if reach.ndim > 2 else reach
        bias = getattr(layer, "bias", None)
        self.bias = torch.zeros(len(weight), dtype=torch.float64)
        if bias is not None:
            self.bias = torch.where(alive["bias"], double(bias), 0.0)

    def inputs(self, flows):
        """The constants among the channels in that can be folded, `VARIES` for the others."""
        if self.in_axis is None:
            return torch.full((self.gain.shape[1],), VARIES, dtype=torch.float64)
        value = flows.value(self.source, self.in_axis)
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
        """Which weights only pass on a constant that the bias can take over, (n_out, n_in)."""
        inputs = self.inputs(flows)
        takes = torch.ones(len(self.bias), dtype=torch.bool)
        if flows.prunable is not None:
            # A bias that is frozen takes nothing over.
            bias = getattr(self.layer, "bias", None)
            free = bias is not None and bias.requires_grad
            fixed = not free or f"{self.node.target}.weight" not in flows.prunable
            takes = torch.zeros_like(takes) if fixed else self.alive["bias"]
        return ~inputs.isnan() & (takes[:, None] | (inputs == 0))

    def reads(self, flows, used):
        if self.in_axis is None:
            return [Read(self.source, None, None)]
        read = (self.reach & ~self.folds(flows))[used].any(0)
        return [Read(self.source, self.in_axis, read)]


def _sides(layer):
    """How much is padded along each axis; what matters is whether any of it is not 0."""
    if layer.padding == "same":
        return [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [] if layer.padding == "valid" else layer.padding


def double(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor detached, in float64, on the CPU."""
    return tensor.detach().cpu().double()
