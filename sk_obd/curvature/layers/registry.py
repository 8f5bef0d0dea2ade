"""Which rule a layer has."""

from __future__ import annotations

from typing import Any

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
    """The rule of the layer's type, where it holds for the layer's forward and settings."""
    for kind in type(layer).__mro__:
        if kind in RULES:
            same = type(layer).forward is kind.forward
            return RULES[kind] if same and RULES[kind].accepts(layer) else None
    return None


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
