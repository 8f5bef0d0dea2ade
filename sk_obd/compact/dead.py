"""Dead parameters: found, and swept away without changing what the network returns."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from ..training.masks import all_alive
from .changes import changes
from .channel_rules import CONVOLUTIONS, double
from .flow import Channels, NotTraced, unmarked

WITH_BIAS = (nn.Linear, *CONVOLUTIONS)


def dead_parameters(
    module: nn.Module,
    masks: dict[str, torch.Tensor],
    X: torch.Tensor,
    prunable: Collection[str] | None = None,
) -> dict[str, torch.Tensor]:
    """Masks of the parameters that are alive to no effect.

    They belong to a unit (or feature map) from which nothing living leads to the output, or they
    pass on a constant: the output of a unit that no living weight connects to X. All of them can
    be deleted at once; :func:`sweep` does it without changing what the network returns.

    Parameters
    ----------
    module : torch.nn.Module
        Looked at in eval mode, and left as it is. Its deleted parameters are 0.
    masks : dict of name to bool tensor
        True = alive. Parameters without an entry are alive.
    X : tensor of shape (n_rows, ...)
        A few rows as the module takes them. Only their shape and type matter.
    prunable : list of str, default=None
        Names of the parameters that may be deleted; None: all.

    Returns
    -------
    dict of name to bool tensor
        True for dead parameters that are alive by `masks`; an entry for each parameter. All False
        where torch.fx cannot trace the module. A constant that no living, trainable bias could
        take over is not counted, so that sweeping revives nothing.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> masks = {"0.weight": torch.tensor([[True], [False]])}
    >>> dead_parameters(net, masks, torch.zeros(1, 1))["2.weight"]
    tensor([[False,  True]])
    """
    gone = {name: torch.zeros_like(mask) for name, mask in all_alive(module).items()}
    for name, _, mask in _dead(module, masks, X, prunable)[1]:
        gone[name] = mask.to(gone[name].device)
    return gone


@torch.no_grad()
def sweep(
    module: nn.Module,
    masks: dict[str, torch.Tensor],
    X: torch.Tensor,
    prunable: Collection[str] | None = None,
) -> dict[str, torch.Tensor]:
    """Set dead parameters to 0, in place, and fold the constants they passed on into biases.

    What the network returns does not change (in eval mode, to rounding).

    Parameters
    ----------
    module, masks, X, prunable
        As for :func:`dead_parameters`.

    Returns
    -------
    dict of name to bool tensor
        The new masks: `masks` without the dead parameters.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> masks = {"0.weight": torch.tensor([[True], [False]])}
    >>> with torch.no_grad():
    ...     net[0].weight[1] = 0
    >>> sweep(net, masks, torch.zeros(1, 1))["2.weight"]
    tensor([[ True, False]])
    >>> net[2].weight[0, 1].item()
    0.0
    """
    after = all_alive(module) | dict(masks)
    folded, gone = _dead(module, masks, X, prunable)
    for bias, value in folded:
        bias.copy_(value)
    for name, parameter, mask in gone:
        parameter.masked_fill_(mask.to(parameter.device), 0.0)
        after[name] = after[name] & ~mask.to(after[name].device)
    return after


def _dead(module, masks, X, prunable):
    """[(bias, what it becomes)] and [(name, parameter, which of it is dead)]."""
    prunable = {name for name, _ in module.named_parameters()} if prunable is None else prunable
    try:
        with unmarked(module):
            channels = Channels(module, masks, X, prunable=prunable)
    except NotTraced:
        return [], []
    folded, gone = [], []
    for change in changes(channels):
        layer = change.layer
        for part, alive in change.alive.items():
            name = f"{change.name}.{part}"
            if name in prunable:
                gone.append((name, getattr(layer, part), channels.masks[name] & ~alive))
        if isinstance(layer, WITH_BIAS) and "bias" in change.values:
            bias: Any = layer.bias
            value = torch.where(change.alive["bias"], change.values["bias"], double(bias))
            folded.append((bias, value))
    return folded, gone
