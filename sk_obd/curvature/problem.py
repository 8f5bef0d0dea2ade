"""What one call of :func:`diagonal` works on: the module, the loss, the parameters wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from .layers.layer_rule import layers_with_rules
from .losses.base import Loss
from .routes.any_module import Plan, make_plan, refuse_dependent_rows


class Buffers:
    """Large tensors lent again and again, since fresh memory costs as much as the arithmetic."""

    def __init__(self):
        self.held: dict = {}

    def lend(self, key, like: Tensor, *shape: int) -> Tensor:
        size = 1
        for extent in shape:
            size *= extent
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
class Problem:
    module: nn.Module
    loss: Loss
    parameters: dict[str, nn.Parameter]
    probe: Tensor  # a few rows to try the module on
    generator: torch.Generator | None = None
    chain: bool = False  # whether it may be a chain
    plan: Plan | None = None  # how the general routes go about it
    vectorised: bool = True  # whether torch.func copes with the module
    buffers: Buffers = field(default_factory=Buffers)
    known: dict = field(default_factory=dict)

    @cached_property
    def line(self) -> list[nn.Module] | None:
        """The layers that it may be a line of; None once it is seen to be none."""
        return layers_with_rules(self.module)

    @property
    def item_size(self) -> int:
        return max(p.element_size() for p in self.parameters.values())

    def give_up_chain(self) -> None:
        """Go the general way, where rows that mix have not been noticed yet."""
        if self.chain:
            self.chain = False
            refuse_dependent_rows(self.module, self.probe)

    def get_plan(self) -> Plan:
        if self.plan is None:
            self.plan = make_plan(self.module, self.loss, self.parameters, self.probe)
        return self.plan

    def names(self, layer: nn.Module) -> dict[str, str]:
        """Local parameter name -> its name in the module, for a layer's trainable parameters."""
        if layer not in self.known:
            names = {parameter: name for name, parameter in self.parameters.items()}
            own = layer.named_parameters(recurse=False)
            self.known[layer] = {local: names[p] for local, p in own if p in names}
        return self.known[layer]


Method = Callable[[Problem, Tensor, Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]
