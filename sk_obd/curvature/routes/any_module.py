"""Modules of any shape: which parameters have a rule, and a run that records what rules need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks import first_input, hooked
from ..layers.registry import rule_for
from ..losses.base import Loss
from .graph import leaves, piecewise_linear


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
class Recorded:
    """One batch gone through the module.

    Attributes
    ----------
    output : Tensor
        What the module returned, detached.
    logits : Tensor
        With their graph.
    calls : dict of nn.Module to list of (x, z)
        Input (detached) and output of each call of the layers that were watched.
    """

    output: Tensor
    logits: Tensor
    calls: dict[nn.Module, list[tuple[Any, Any]]]


def run_and_record(
    module: nn.Module, loss: Loss, X: Tensor, layers: Iterable[nn.Module]
) -> Recorded:
    """Run the rows through the module and record the calls of these layers."""
    calls: dict[nn.Module, list[tuple[Any, Any]]] = {}

    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], z: Any) -> Any:
        calls.setdefault(layer, []).append((first_input(args, kwargs).detach(), z))
        # A copy goes on, so that nothing changes z in place.
        return z.clone() if isinstance(z, Tensor) else z

    with hooked(layers, keep):
        output = module(X)
    loss.refuse_outputs(output.detach())
    return Recorded(output.detach(), loss.logits(output), calls)


def make_plan(
    module: nn.Module, loss: Loss, parameters: dict[str, nn.Parameter], X: Tensor
) -> Plan:
    """Try the module on a few rows and sort its parameters into those with a rule and the rest."""
    names = {parameter: name for name, parameter in parameters.items()}
    candidates = [
        m
        for m in module.modules()
        if any(p in names for p in m.parameters(recurse=False)) and rule_for(m)
    ]
    # Two rows: enough to see that one of them does not reach the other's logits.
    probe = run_and_record(module, loss, X[:2], candidates)
    edges = leaves(probe.logits)
    layers: dict[nn.Module, dict[str, str]] = {}
    covered: set[nn.Parameter] = set()
    for layer in candidates:
        calls = probe.calls.get(layer, [])
        own = {local: p for local, p in layer.named_parameters(recurse=False) if p in names}
        if (
            len(calls) == 1
            and all(edges.get(p) == 1 for p in own.values())
            and keeps_rows_apart(probe, *calls[0])
        ):
            layers[layer] = {local: names[p] for local, p in own.items()}
            covered.update(own.values())
    rest = [name for name, p in parameters.items() if p not in covered and p in edges]
    once = all(edges[p] == 1 for p in parameters.values() if p in edges)
    return Plan(layers, rest, once and piecewise_linear(probe.logits, loss.harmless_top))


def keeps_rows_apart(probe: Recorded, x: Tensor, z: Tensor) -> bool:
    """Whether row i of a layer's output z (n, ...) reaches only row i of the logits."""
    rows = len(probe.logits)
    if z.ndim < 2 or len(z) != rows or len(x) != rows or not z.requires_grad:
        return False
    generator = torch.Generator().manual_seed(0)
    for i in range(rows):
        row = probe.logits[i]
        towards = torch.randn(row.shape, generator=generator, dtype=torch.float64).to(row)
        (reached,) = torch.autograd.grad(row, z, towards, retain_graph=True, allow_unused=True)
        if reached is not None and any(reached[j].any() for j in range(rows) if j != i):
            return False
    return True
