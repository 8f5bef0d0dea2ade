"""What one call of :func:`diagonal` works on: the module, the loss, the parameters, the batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn

from .layers.registry import layers_with_rules
from .losses.base import Loss
from .losses.hessians import Form, times
from .routes.any_module import Plan, make_plan
from .routes.dependent_rows import refuse_dependent_rows
from .routes.per_row import PerRow


class Buffers:
    """Large tensors lent again and again, since fresh memory costs as much as the arithmetic."""

    def __init__(self) -> None:
        self.held: dict[Hashable, Tensor] = {}

    def lend(self, key: Hashable, like: Tensor, *shape: int) -> Tensor:
        """A tensor of this shape, of the dtype and on the device of ``like``, with any content.

        It is the borrower's until the same key is lent again.
        """
        size = prod(shape)
        flat = self.held.get(key)
        if (
            flat is None
            or flat.numel() < size
            or flat.dtype != like.dtype
            or flat.device != like.device
        ):
            flat = self.held[key] = like.new_empty(size)
        return flat[:size].view(shape)


@dataclass
class Batch:
    """Some of the rows, and the loss' derivatives at their logits, each row times its weight.

    Attributes
    ----------
    loss : Loss
    X, y : Tensor of shape (n, ...)
    w : Tensor of shape (n,)
        Weights of the rows.
    """

    loss: Loss
    X: Tensor
    y: Tensor
    w: Tensor

    def form(self, logits: Tensor) -> Form:
        """Weighted second derivatives by the logits."""
        return self.loss.form(logits, self.y).scaled(self.w)

    def gradient(self, logits: Tensor) -> Tensor:
        """Weighted first derivatives by the logits, shaped like them."""
        return times(self.loss.gradient(logits, self.y), self.w)

    def denominator(self, output: Tensor) -> Tensor:
        """The batch's part of the mean's denominator, a scalar."""
        return (self.w * self.loss.normalisers(output, self.y)).sum()


@dataclass
class Problem:
    """What the methods are asked, and what has been found out about the module on the way.

    Attributes
    ----------
    module : nn.Module
        In eval mode, with gradients on.
    loss : Loss
    parameters : dict of str to nn.Parameter
        Those that the diagonal is wanted of, in the order of the result.
    probe : Tensor of shape (at most 2, ...)
        The first rows of X, to try the module on.
    generator : torch.Generator or None
        For methods that draw.
    try_dense_chain : bool
        Whether the module may be a DenseChain; False once it turned out not to be one.
    try_layer_chain : bool
        Whether the module may be a LayerChain; False once it turned out not to be one.
    buffers : Buffers
    names_by_layer : dict of nn.Module to dict of str to str
        What :meth:`names` has found.
    """

    module: nn.Module
    loss: Loss
    parameters: dict[str, nn.Parameter]
    probe: Tensor
    generator: torch.Generator | None = None
    try_dense_chain: bool = False
    try_layer_chain: bool = True
    buffers: Buffers = field(default_factory=Buffers)
    names_by_layer: dict[nn.Module, dict[str, str]] = field(default_factory=dict)

    @cached_property
    def layers_with_rules(self) -> list[nn.Module] | None:
        """The layers that a LayerChain would have; None where some parameter has no rule."""
        return layers_with_rules(self.module)

    @cached_property
    def plan(self) -> Plan:
        """How the parameters are reached where the module is not a chain."""
        return make_plan(self.module, self.loss, self.parameters, self.probe)

    @cached_property
    def per_row(self) -> PerRow:
        """Derivatives by the parameters that the plan has no rule for."""
        rest = {name: self.parameters[name] for name in self.plan.rest}
        return PerRow(self.module, self.loss, rest)

    @property
    def item_size(self) -> int:
        """Bytes of a number."""
        return max(p.element_size() for p in self.parameters.values())

    def give_up_dense_chain(self) -> None:
        """Stop treating the module as a dense chain.

        Such chains keep rows apart by construction; any other module is checked here.
        """
        if self.try_dense_chain:
            self.try_dense_chain = False
            refuse_dependent_rows(self.module, self.probe)

    def names(self, layer: nn.Module) -> dict[str, str]:
        """Names in the module of the layer's trainable parameters, by local name."""
        if layer not in self.names_by_layer:
            names = {parameter: name for name, parameter in self.parameters.items()}
            own = layer.named_parameters(recurse=False)
            self.names_by_layer[layer] = {local: names[p] for local, p in own if p in names}
        return self.names_by_layer[layer]


#: A method: sums over a batch for the parameters it reaches, and :meth:`Batch.denominator`.
Method = Callable[[Problem, Batch], tuple[dict[str, Tensor], Tensor]]
