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
from .routes.any_module import (
    TRIED,
    Plan,
    Recorded,
    candidates_for_rules,
    make_plan,
    run_and_record,
    signature,
)
from .routes.dense_chain import DenseChain, trace_dense_chain
from .routes.dependent_rows import refuse_dependent_rows
from .routes.layer_chain import (
    LayerChain,
    NotALayerChain,
    keeps_rows_apart,
    rows_are_rows,
    trace_layer_chain,
)
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
    draw_probe : callable
        Gives a few rows drawn from all of X, (a few, ...).
    generator : torch.Generator or None
        For methods that draw.
    try_dense_chain : bool
        Whether the module may be a DenseChain; False once it turned out not to be one.
    try_layer_chain : bool
        Whether the module may be a LayerChain; False once it turned out not to be one.
    use_rules : bool
        Whether layers may go by their rules; False sends every parameter the general way.
    buffers : Buffers
    names_by_layer : dict of nn.Module to dict of str to str
        What :meth:`names` has found.
    plans : dict of hashable to Plan
        By the signature of the batches that they are for.
    """

    module: nn.Module
    loss: Loss
    parameters: dict[str, nn.Parameter]
    draw_probe: Callable[[], Tensor]
    generator: torch.Generator | None = None
    try_dense_chain: bool = False
    try_layer_chain: bool = True
    use_rules: bool = True
    buffers: Buffers = field(default_factory=Buffers)
    names_by_layer: dict[nn.Module, dict[str, str]] = field(default_factory=dict)
    plans: dict[Hashable, Plan] = field(default_factory=dict)
    _per_row: dict[tuple[str, ...], PerRow] = field(default_factory=dict)
    _rows_seen_apart: bool = False
    _layers_seen_apart: bool | None = None

    @cached_property
    def probe(self) -> Tensor:
        """A few rows of X to try the module on."""
        return self.draw_probe()

    @cached_property
    def layers_with_rules(self) -> list[nn.Module] | None:
        """The layers that a LayerChain would have; None where some parameter has no rule."""
        return layers_with_rules(self.module)

    @cached_property
    def candidates(self) -> list[nn.Module]:
        """The layers that may go by a rule where the module is not a chain."""
        return candidates_for_rules(self.module, self.parameters) if self.use_rules else []

    def per_row(self, plan: Plan) -> PerRow:
        """Derivatives by the parameters that the plan has no rule for."""
        names = tuple(plan.rest)
        if names not in self._per_row:
            rest = {name: self.parameters[name] for name in names}
            self._per_row[names] = PerRow(self.module, self.loss, rest)
        return self._per_row[names]

    @property
    def item_size(self) -> int:
        """Bytes of a number."""
        return max(p.element_size() for p in self.parameters.values())

    def take_general_route(self) -> None:
        """From now on, reach every parameter by exact derivatives per row."""
        self.try_dense_chain = self.try_layer_chain = self.use_rules = False
        self.plans.clear()
        self.__dict__.pop("candidates", None)

    def dense_chain(self, batch: Batch, second_slopes: bool = False) -> DenseChain | None:
        """The batch gone through a dense chain; None where the module is not one.

        Such chains keep rows apart by construction, as long as their first layer reads X itself;
        any other module is tried here.
        """
        if not self.try_dense_chain:
            return None
        chain = trace_dense_chain(self.module, self.loss, batch.X, second_slopes)
        if chain is None:
            self.try_dense_chain = False
        if chain is None or not (chain.reads_rows or self._rows_seen_apart):
            refuse_dependent_rows(self.module, self.probe)
            self._rows_seen_apart = True
        return chain

    def layer_chain(self, batch: Batch) -> LayerChain | None:
        """The batch gone through a chain of layers with rules, whose rows are those of X.

        None where the module is not such a chain.
        """
        layers = self.layers_with_rules
        if not (self.try_layer_chain and layers):
            return None
        try:
            if self.rows_of_layers_apart(layers):
                chain = trace_layer_chain(self.module, self.loss, batch.X, layers)
                if rows_are_rows(chain, len(batch.X)):
                    return chain
        except NotALayerChain:
            pass
        self.try_layer_chain = False
        return None

    def rows_of_layers_apart(self, layers: list[nn.Module]) -> bool:
        """Whether a chain of layers is seen to keep a few rows apart; tried once."""
        if self._layers_seen_apart is None:
            chain = trace_layer_chain(self.module, self.loss, self.probe, layers)
            fits = rows_are_rows(chain, len(self.probe))
            self._layers_seen_apart = fits and keeps_rows_apart(chain)
        return self._layers_seen_apart

    def record(self, batch: Batch) -> tuple[Recorded, Plan]:
        """The batch gone through the module, and the plan for batches that go as this one does.

        A plan is made on a few rows, where they go through the module as the batch does.
        """
        recorded = run_and_record(self.module, self.loss, batch.X, self.candidates)
        key = signature(recorded)
        if key not in self.plans:
            tried = recorded
            if len(batch.X) > TRIED:
                some = torch.linspace(0, len(batch.X) - 1, TRIED).long()
                few = run_and_record(
                    self.module, self.loss, batch.X[some.to(batch.X.device)], self.candidates
                )
                tried = few if signature(few) == key else recorded
            self.plans[key] = make_plan(self.loss, self.parameters, tried)
        return recorded, self.plans[key]

    def names(self, layer: nn.Module) -> dict[str, str]:
        """Names in the module of the layer's trainable parameters, by local name."""
        if layer not in self.names_by_layer:
            names = {parameter: name for name, parameter in self.parameters.items()}
            own = layer.named_parameters(recurse=False)
            self.names_by_layer[layer] = {local: names[p] for local, p in own if p in names}
        return self.names_by_layer[layer]


#: A method: sums over a batch for the parameters it reaches, and :meth:`Batch.denominator`.
Method = Callable[[Problem, Batch], tuple[dict[str, Tensor], Tensor]]
