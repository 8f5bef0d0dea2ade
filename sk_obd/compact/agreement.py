"""Whether two forms of a network return the same."""

from __future__ import annotations

import torch
from torch import fx, nn

from ..curvature.hooks import evaluating
from .flow import Channels, NotTraced, unmarked


def check_traceable(module: nn.Module, X: torch.Tensor) -> None:
    """Raise for a module that :func:`sweep` would leave as it is.

    Parameters
    ----------
    module : torch.nn.Module
        Looked at in eval mode, and left as it is.
    X : tensor of shape (n_rows, ...)
        A few rows as the module takes them, run through it and through its graph.

    Raises
    ------
    NotTraced
        If torch.fx cannot trace it, values are changed in place under a reader, or the graph does
        not return what the module returns; the message says which.
    """
    with unmarked(module), evaluating(module), torch.no_grad():
        graph = Channels(module, {}, X).graph
        traced = fx.Interpreter(module, graph=graph).run(X.clone())
        if not _same(module(X.clone()), traced):
            raise NotTraced("what torch.fx traces does not return what the network returns")


def agree(module: nn.Module, smaller: nn.Module, X: torch.Tensor) -> bool:
    """Whether two networks return the same for X in eval mode, up to much more than rounding.

    A forward that a tracer misreads (a counter, a branch on a value) is found out here.
    """
    outputs = []
    for network in (module, smaller):
        with evaluating(network):
            outputs.append(network(X.clone()))
    return _same(*outputs)


def _same(expected, found):
    """Whether two outputs agree, up to much more than rounding."""
    expected, found = _tensors(expected), _tensors(found)
    return len(expected) == len(found) and all(map(_close, expected, found))


def _close(expected, found):
    """Whether two tensors agree to 1e-4 of one plus the largest finite number expected."""
    if found.shape != expected.shape:
        return False
    if not expected.numel():
        return True
    expected, found = expected.detach().double(), found.detach().double()
    tolerance = 1e-4 * (1 + expected.nan_to_num(0.0, 0.0, 0.0).abs().max().item())
    return torch.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)


def _tensors(output):
    """All tensors of an output, which may be nested tuples, lists and dicts."""
    if isinstance(output, tuple | list):
        return [tensor for part in output for tensor in _tensors(part)]
    if isinstance(output, dict):
        return _tensors(list(output.values()))
    return [output] if isinstance(output, torch.Tensor) else []
