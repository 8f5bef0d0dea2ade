"""Modules of any shape: which parameters have a rule, and a run that records what rules need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from ..hooks import first_input, hooked
from ..layers.registry import rule_for
from ..losses.base import Loss
from .graph import is_leaf, leaf_of, nodes, piecewise_linear
from .layer_chain import held_by, unchanged

#: Rows on which a plan is tried out, enough to see whether one of them reaches another's logits.
TRIED = 3


@dataclass
class Plan:
    """How the parameters of a module are reached.

    Attributes
    ----------
    layers : dict of nn.Module to dict of str to str
        Layers that go by their rule, each with the names in the module of its trainable
        parameters, by local name.
    rest : list of str
        Names of the parameters that go by exact derivatives per row.
    piecewise_linear : bool
        Whether the logits are piecewise linear in every parameter.
    """

    layers: dict[nn.Module, dict[str, str]]
    rest: list[str]
    piecewise_linear: bool


@dataclass
class Call:
    """A layer's call.

    Attributes
    ----------
    x, z : Tensor
        Its input (detached) and its output.
    held : dict of str to Tensor or None
        The layer's parameters as they were in the call, by local name.
    """

    x: Any
    z: Any
    held: dict[str, Any]


@dataclass
class Recorded:
    """One batch gone through the module.

    Attributes
    ----------
    output : Tensor
        What the module returned, detached.
    logits : Tensor
        With their graph.
    calls : dict of nn.Module to list of Call
        Each call of the layers that were watched.
    """

    output: Tensor
    logits: Tensor
    calls: dict[nn.Module, list[Call]]


def run_and_record(
    module: nn.Module, loss: Loss, X: Tensor, layers: Iterable[nn.Module]
) -> Recorded:
    """Run the rows through the module and record the calls of these layers."""
    calls: dict[nn.Module, list[Call]] = {}

    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], z: Any) -> Any:
        x = first_input(args, kwargs)
        x = x.detach() if isinstance(x, Tensor) else x
        calls.setdefault(layer, []).append(Call(x, z, held_by(layer)))
        # A copy goes on, so that nothing changes z in place.
        return z.clone() if isinstance(z, Tensor) else z

    with hooked(layers, keep, first=True):
        output = module(X)
    loss.refuse_outputs(output.detach())
    return Recorded(output.detach(), loss.logits(output), calls)


def candidates_for_rules(module: nn.Module, parameters: dict[str, nn.Parameter]) -> list[nn.Module]:
    """Layers that have a rule and own a parameter that is wanted."""
    wanted = set(parameters.values())
    return [
        m
        for m in module.modules()
        if not wanted.isdisjoint(m.parameters(recurse=False)) and rule_for(m)
    ]


def signature(recorded: Recorded) -> Hashable:
    """What a plan depends on: the operations, the leaves, and how often each layer was called.

    Two batches of one signature went through the module in the same way.
    """
    names, uses = [], []
    if recorded.logits.grad_fn is not None:
        for node in nodes(recorded.logits.grad_fn):
            names.append(node.name())
            uses.append(leaf_of(node) if is_leaf(node) else None)
    calls = tuple((layer, len(each)) for layer, each in recorded.calls.items())
    return tuple(names), tuple(uses), calls


def make_plan(loss: Loss, parameters: dict[str, nn.Parameter], recorded: Recorded) -> Plan:
    """Sort the parameters into those that a rule reaches and the rest, by what a run has shown."""
    names = {parameter: name for name, parameter in parameters.items()}
    start = recorded.logits.grad_fn
    graph: set[Node] = set(nodes(start)) if start is not None else set()
    edges = Counter(
        leaf_of(after)
        for node in graph
        for after, _ in node.next_functions
        if after is not None and is_leaf(after)
    )
    found: dict[nn.Module, dict[str, nn.Parameter]] = {}
    for layer, calls in recorded.calls.items():
        own = {local: p for local, p in layer.named_parameters(recurse=False) if p in names}
        if (
            len(calls) == 1
            and all(edges[p] == 1 for p in own.values())
            and rule_holds(layer, calls[0], own)
            and calls[0].z.grad_fn in graph
            and len(calls[0].z) == len(recorded.logits)
        ):
            found[layer] = own
    apart = keeping_rows_apart(
        recorded.logits, {layer: recorded.calls[layer][0].z for layer in found}
    )
    layers = {layer: {local: names[p] for local, p in found[layer].items()} for layer in apart}
    covered = {p for layer in layers for p in found[layer].values()}
    rest = [name for name, p in parameters.items() if p not in covered and edges[p]]
    linear = piecewise_linear(recorded.logits, loss.tops, loss.dimension(recorded.logits))
    return Plan(layers, rest, linear)


def rule_holds(layer: nn.Module, call: Call, own: dict[str, nn.Parameter]) -> bool:
    """Whether a call is of the kind that the layer's rule is for.

    Rows come first, in and out, and the layer has its own parameters, all of which the rule knows.
    """
    rule, x, z = rule_for(layer), call.x, call.z
    if rule is None or not isinstance(x, Tensor) or not isinstance(z, Tensor):
        return False
    if not (x.ndim and z.ndim > 1 and len(x) == len(z) and rule.keeps_rows(layer, x)):
        return False
    if not unchanged(layer, call.held) or any(
        call.held[local] is not p for local, p in own.items()
    ):
        return False
    with torch.no_grad():
        known = rule.pull(layer, x[:1], torch.zeros_like(z[:1]).unsqueeze(0))
    return own.keys() <= known.keys()


def keeping_rows_apart(logits: Tensor, outputs: dict[nn.Module, Tensor]) -> dict[nn.Module, Tensor]:
    """Those of the layers' outputs z (n, ...) of which row i reaches only row i of the logits.

    Tried with the first, the last and the middle row.
    """
    n, apart = len(logits), dict(outputs)
    generator = torch.Generator().manual_seed(0)
    for i in sorted({0, n // 2, n - 1}):
        if not apart:
            break
        row = logits[i]
        towards = torch.randn(row.shape, generator=generator, dtype=torch.float64).to(row)
        reached = torch.autograd.grad(
            row, list(apart.values()), towards, retain_graph=True, allow_unused=True
        )
        for layer, slope in zip(list(apart), reached, strict=True):
            if slope is not None and (slope[:i].any() or slope[i + 1 :].any()):
                del apart[layer]
    return apart
