"""Modules in which rows depend on each other have no loss of a single row: they are refused."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: How far a row's output may be from what it is without the other rows, relative to the largest
#: output, in units of what rounding does to a number. Other sizes of batch take other kernels,
#: which round differently; rows that mix differ by more.
GAP_ULPS, GAP_ATOL = 2000, 1e-6


def refuse_dependent_rows(module: nn.Module, X: Tensor) -> None:
    """Raise ValueError where a row's output depends on other rows, or the weights on the rows.

    It tries the module on these rows, which should be a few: together and each on its own.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is None:
            raise ValueError(
                f"layer {name!r} ({layer}) normalises with the statistics of the batch, also in "
                "eval mode, so rows depend on each other and there is no loss of a single row. "
                "Use track_running_stats=True, GroupNorm or LayerNorm."
            )
        if getattr(layer, "max_norm", None) is not None:
            raise ValueError(
                f"layer {name!r} ({layer}) changes its weights in every forward pass, so they "
                "do not have a fixed second derivative; set max_norm=None."
            )
    with torch.no_grad():
        together = checked_output(module, X)
        alone = [checked_output(module, X[i : i + 1]) for i in range(len(X))]
    if len(X) < 2 or not together.numel():
        return
    fits = all(one.shape[1:] == together.shape[1:] for one in alone)
    if fits:
        single, number = torch.cat(alone), torch.finfo(together.dtype)
        atol = GAP_ATOL if number.eps > 1e-8 else 0.0
        bound = min(GAP_ULPS * max(number.eps, 1e-12), 0.05) * single.abs().max() + atol
        fits = not ((together - single).abs().max() > bound)
    if not fits:
        raise ValueError(
            f"{type(module).__name__} gives another output for a row of X when other rows are with "
            "it: rows depend on each other, so there is no loss of a single row. Is some layer "
            "reading the rows as time steps (batch_first=False)?"
        )


def checked_output(module: nn.Module, X: Tensor) -> Tensor:
    """What the module gives for X; ValueError if that is not one tensor with a row for each row."""
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
