"""Which rule a layer has."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, cast

from torch import nn

from .layer_rule import FunctionRule, Pull, Rule
from .torch_layers import (
    ChannelNormRule,
    ConvRule,
    ConvTransposeRule,
    EmbeddingRule,
    LayerNormRule,
    LinearRule,
    batch_norm,
    group_norm,
    instance_norm,
    prelu,
)

#: The rule of each layer type, and of its subclasses that keep its forward.
RULES: dict[type[nn.Module], Rule[Any]] = {
    nn.Linear: LinearRule(),
    nn.Embedding: EmbeddingRule(),
    nn.Conv1d: ConvRule(),
    nn.Conv2d: ConvRule(),
    nn.Conv3d: ConvRule(),
    nn.ConvTranspose1d: ConvTransposeRule(),
    nn.ConvTranspose2d: ConvTransposeRule(),
    nn.ConvTranspose3d: ConvTransposeRule(),
    nn.BatchNorm1d: ChannelNormRule(batch_norm),
    nn.BatchNorm2d: ChannelNormRule(batch_norm),
    nn.BatchNorm3d: ChannelNormRule(batch_norm),
    nn.InstanceNorm1d: ChannelNormRule(instance_norm),
    nn.InstanceNorm2d: ChannelNormRule(instance_norm),
    nn.InstanceNorm3d: ChannelNormRule(instance_norm),
    nn.GroupNorm: ChannelNormRule(group_norm),
    nn.LayerNorm: LayerNormRule(),
    nn.PReLU: FunctionRule(prelu),
}

#: Methods that a subclass may replace, since calling a layer does not use them.
NOT_IN_A_CALL = frozenset(
    {"extra_repr", "reset_parameters", "train", "eval", "to", "state_dict", "load_state_dict"}
)
#: Methods with two underscores that calling a layer does use.
IN_A_CALL = frozenset({"__call__", "__getattr__", "__getattribute__"})


def register_rule(kind: type[nn.Module], rule: Rule[Any] | Pull) -> None:
    """Teach the fast routes a layer type; a rule that it has already is replaced.

    Parameters
    ----------
    kind : type
        A subclass of nn.Module; its own subclasses are covered unless they override ``forward``.
    rule : Rule or callable(layer, x, G) -> dict
        The pull: from the layer, its input ``x`` (n, ...) and columns ``G`` (k, n, ...) at its
        output to ``{local parameter name: (k, n, *parameter.shape)}``. The output must be affine
        in each parameter.

    Raises
    ------
    ValueError
        If ``kind`` is not a subclass of nn.Module, or ``rule`` is neither a Rule nor callable.

    Examples
    --------
    >>> import torch
    >>> class Scale(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.by = torch.nn.Parameter(torch.ones(3))
    ...     def forward(self, x):
    ...         return x * self.by
    >>> register_rule(Scale, lambda layer, x, G: {"by": G * x})
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"kind={kind!r}; expected a subclass of nn.Module.")
    if not (isinstance(rule, Rule) or callable(rule)):
        raise ValueError(f"rule={rule!r}; expected a Rule or callable(layer, x, G).")
    RULES[kind] = rule if isinstance(rule, Rule) else FunctionRule(rule)


def rule_for(layer: nn.Module) -> Rule[Any] | None:
    """The rule of the layer's type, where it holds for the layer's methods and settings."""
    for kind in type(layer).__mro__:
        if kind in RULES:
            same = computes_as(layer, kind) and RULES[kind].accepts(layer)
            return RULES[kind] if same else None
    return None


def computes_as(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the layer does what calling a ``kind`` does, apart from its own hooks.

    Neither a subclass nor the instance may replace a method that a call may use, and no hook of all
    modules may step in.
    """
    if not isinstance(layer, kind) or hooks_of_all_modules():
        return False
    used = used_in_a_call(cast(Hashable, kind))
    between = [c for c in type(layer).__mro__ if c not in kind.__mro__]
    for replaced in (vars(layer), *map(vars, between)):
        for name in replaced.keys() & used:
            if replaced[name] is not getattr(kind, name):
                return False
    return True


@lru_cache
def used_in_a_call(kind: Any) -> frozenset[str]:
    """Names of the attributes of a layer type that calling it may use."""
    return frozenset(
        name
        for name in dir(kind)
        if name in IN_A_CALL or not (name.startswith("__") or name in NOT_IN_A_CALL)
    )


def hooks_of_all_modules() -> bool:
    """Whether there are hooks that torch calls around the forward of every module."""
    return any(
        getattr(nn.modules.module, f"_global_forward_{name}", None)
        for name in ("hooks", "pre_hooks")
    )


def layers_with_rules(module: nn.Module) -> list[nn.Module] | None:
    """The layers that own trainable parameters; None if one lacks a rule or shares a parameter."""
    layers: list[nn.Module] = []
    seen: set[nn.Parameter] = set()
    for layer in module.modules():
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        if rule_for(layer) is None or not seen.isdisjoint(own):
            return None
        seen.update(own)
        layers.append(layer)
    return layers
