"""Modules of any shape: which parameters have a rule, and a run that keeps what rules need."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers.layer_rule import rule_for
from ..losses.registry import NLL, Loss
from .graph import leaves, piecewise_linear


@dataclass
class Plan:
    layers: dict[nn.Module, dict[str, str]]  # by rule: local name -> name
    rest: list[str]  # by exact per-row derivatives
    linear: bool  # the logits are piecewise linear in every parameter


@dataclass
class Run:
    """One batch gone through the module; ``calls``: (input, output) of each layer with a rule."""

    output: Tensor
    logits: Tensor
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]]


@contextmanager
def watching(layers, calls):
    """Record (input, output) of the layers; what goes on is a copy, so that nothing changes it in
    place.
    """

    def keep(layer, args, kwargs, z):
        x = args[0] if args else next(iter(kwargs.values()))
        calls.setdefault(layer, []).append((x.detach(), z))
        return z.clone() if isinstance(z, Tensor) else z

    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(module: nn.Module, loss: Loss, X: Tensor, layers) -> Run:
    calls: dict = {}
    with watching(layers, calls):
        output = module(X)
    if isinstance(loss, NLL):
        loss.check(output.detach())
    return Run(output.detach(), loss.logits(output), calls)


def make_plan(
    module: nn.Module, loss: Loss, parameters: dict[str, nn.Parameter], X: Tensor
) -> Plan:
    """Try the module on a few rows and sort its parameters into those with a rule and the rest."""
    known = {parameter: name for name, parameter in parameters.items()}
    candidates = [
        m
        for m in module.modules()
        if any(p in known for p in m.parameters(recurse=False)) and rule_for(m)
    ]
    probe = run(module, loss, X[:2], candidates)
    edges = leaves(probe.logits)
    layers, covered = {}, set()
    for layer in candidates:
        calls = probe.calls.get(layer, [])
        own = {local: p for local, p in layer.named_parameters(recurse=False) if p in known}
        if (
            len(calls) == 1
            and all(edges.get(p) == 1 for p in own.values())
            and by_rows(probe, *calls[0])
        ):
            layers[layer] = {local: known[p] for local, p in own.items()}
            covered.update(own.values())
    rest = [name for name, p in parameters.items() if p not in covered and p in edges]
    once = all(edges[p] == 1 for p in parameters.values() if p in edges)
    return Plan(layers, rest, once and piecewise_linear(probe.logits, loss.top))


def by_rows(probe: Run, x: Tensor, z: Tensor) -> bool:
    """Whether row i of the layer's output reaches row i of the logits alone."""
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


def backward(logits: Tensor, inputs: list[Tensor], S: Tensor) -> list[Tensor | None]:
    """Gradients for all columns together, or one by one where torch cannot batch them."""
    try:
        return torch.autograd.grad(
            logits, inputs, S, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
    except RuntimeError:
        each = [
            torch.autograd.grad(logits, inputs, s, retain_graph=True, allow_unused=True) for s in S
        ]
        return [
            None if column[0] is None else torch.stack(column) for column in zip(*each, strict=True)
        ]


def refuse_dependent_rows(module: nn.Module, X: Tensor) -> None:
    """ValueError where the output of a row depends on the other rows, or weights on the rows."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None:
            raise ValueError(
                f"layer {name!r} ({layer}) normalises with the statistics of the batch, also in "
                "eval mode, so rows depend on each other and there is no loss of a single row. "
                "Use track_running_stats=True, GroupNorm or LayerNorm."
            )
        if getattr(layer, "max_norm", None) is not None:
            raise ValueError(
                f"layer {name!r} ({layer}) changes its weights in every forward pass, so they "
                "have no fixed second derivative; set max_norm=None."
            )
    with torch.no_grad():
        both, alone = (checked_output(module, X[:rows]) for rows in (2, 1))
    gap = (both[:1] - alone).abs().max() if alone.numel() else 0.0
    if gap > 1e-3 * alone.abs().max() + 1e-6 and len(both) > 1:
        raise ValueError(
            f"{type(module).__name__} gives another output for the first row of X when the second "
            "is with it: rows depend on each other, so there is no loss of a single row. Is some "
            "layer reading the rows as time steps (batch_first=False)?"
        )


def checked_output(module: nn.Module, X: Tensor) -> Tensor:
    output = module(X)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the module returned {type(output).__name__}; expected one tensor with a row for "
            "every row of X. Wrap it in a module that returns the predictions only."
        )
    if output.ndim < 1 or len(output) != len(X):
        raise ValueError(
            f"the module returned shape {tuple(output.shape)} for {len(X)} rows; expected the "
            "rows first."
        )
    return output
