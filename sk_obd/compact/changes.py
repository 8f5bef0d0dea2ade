"""What becomes of each layer once constants are folded and dead parameters are gone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from .channel_rules import Scaled, Weights, double
from .flow import Channels


class Change(NamedTuple):
    """What becomes of a layer: its tensors, their masks, how they are cut, and its sizes."""

    #: The layer's name.
    name: str
    layer: nn.Module
    #: By name of a parameter or buffer: its new values, not yet cut.
    values: dict[str, torch.Tensor]
    #: By name of a parameter: what of it is alive, not yet cut.
    alive: dict[str, torch.Tensor]
    #: By name of a parameter or buffer: the index that cuts it.
    cuts: dict[str, Any]
    #: By name of an attribute (``out_features``, ...): its new value.
    sizes: dict[str, int]


def changes(channels: Channels) -> list[Change]:
    """What becomes of each layer that is understood."""
    found = []
    for node, rule in channels.rules.items():
        if isinstance(rule, Weights):
            found.append(_folded(channels, node, rule))
        elif isinstance(rule, Scaled):
            found.append(_scaled(channels, node, rule))
    return found


def _folded(channels, node, rule):
    """A layer with weights: its constants folded and its dead weights 0."""
    layer, used = rule.layer, channels.used[node]
    constant = rule.inputs(channels).nan_to_num(0.0)
    folds = rule.folds(channels)
    bias = rule.bias + torch.where(folds, rule.gain, 0.0) @ constant
    bias_alive = rule.alive.get("bias", torch.zeros_like(used)) | (bias != rule.bias)
    lives = used[:, None] & ~folds
    cut = rows = channels.kept_along(node, rule.axis)
    columns = slice(None)
    if rule.in_axis is not None:
        columns = channels.kept_along(node.args[0], rule.in_axis)
        cut = (rows[:, None], columns)
    if isinstance(layer, nn.Embedding):
        lives, cut = used, (slice(None), rows)
    else:
        # The axes of a kernel.
        lives = lives.reshape(*lives.shape, *[1] * (layer.weight.ndim - 2))
    alive = {"weight": rule.alive["weight"] & lives}
    values = {"weight": torch.where(alive["weight"], double(layer.weight), 0.0)}
    cuts = {"weight": cut}
    if getattr(layer, "bias", None) is not None or (bias != 0)[used].any():
        alive["bias"] = bias_alive & used
        values["bias"] = torch.where(used, bias, 0.0)
        cuts["bias"] = rows
    return Change(node.target, layer, values, alive, cuts, _sizes(layer, rows, columns))


def _sizes(layer, rows, columns):
    """The attributes of a layer that say how many channels it has, with their new values."""
    if isinstance(layer, nn.Linear):
        return {"out_features": len(rows), "in_features": len(columns)}
    if isinstance(layer, nn.Embedding):
        return {"embedding_dim": len(rows)}
    return {"out_channels": len(rows), "in_channels": len(columns)}


def _scaled(channels, node, rule):
    """BatchNorm or PReLU: one or more numbers for each channel."""
    layer, used, rows = rule.layer, channels.used[node], channels.kept_along(node, 1)
    alive = {name: rule.alive[name] & used for name, _ in layer.named_parameters()}
    values = {
        name: torch.where(alive[name], double(parameter), 0.0)
        for name, parameter in layer.named_parameters()
    }
    size = "num_parameters"
    if not isinstance(layer, nn.PReLU):
        size = "num_features"
        values |= {name: getattr(layer, name) for name in ("running_mean", "running_var")}
    return Change(node.target, layer, values, alive, dict.fromkeys(values, rows), {size: len(rows)})
