"""Parameters without a rule: the columns of every row, by torch.func where it works, else row by
row.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from ..layers.layer_rule import LIMIT, squares
from .any_module import backward


def pulled_squares(
    problem, X: Tensor, S: Tensor, signs: Tensor | None, names: list[str]
) -> dict[str, Tensor]:
    """Sum over rows and columns of ``signs * (J^T s)**2`` for the parameters named."""
    total = {
        name: torch.zeros_like(problem.parameters[name], requires_grad=False) for name in names
    }
    for rows, pulled in per_row(problem, X, S, names):
        part = None if signs is None else signs[:, rows].T.flatten()
        for name, columns in pulled.items():
            total[name] += squares(columns.flatten(0, 1), None, part)
    return total


def per_row(problem, X: Tensor, S: Tensor, names: list[str]):
    """Yield (slice of rows, {name: (rows, k, *shape)})."""
    size = sum(problem.parameters[name].numel() for name in names) * len(S)
    step = max(1, 4 * LIMIT // max(1, size))
    for start in range(0, len(X), step):
        rows = slice(start, start + step)
        if problem.vectorised:
            try:
                yield rows, vectorised(problem, X[rows], S[:, rows], names)
                continue
            except (RuntimeError, NotImplementedError, ValueError):
                problem.vectorised = False
        for i in range(start, min(len(X), start + step)):
            yield slice(i, i + 1), one_row(problem, X[i : i + 1], S[:, i : i + 1], names)


def first_states(layer: nn.RNNBase, args: tuple, kwargs: dict):
    """The first states of every row: vmap cannot add in place to zeros that belong to no row, as
    those that torch makes do. (x, hx) for the layer; None leaves its call as it is.
    """
    x, *given = args or (kwargs["input"],)
    hx = given[0] if given else kwargs.get("hx")
    if not isinstance(x, Tensor) or x.ndim != 3:
        return None
    if isinstance(hx, Tensor):
        return (x, hx + x.new_zeros(hx.shape)), {}
    if hx is not None:
        return (x, tuple(h + x.new_zeros(h.shape) for h in hx)), {}
    rows = x.shape[0 if layer.batch_first else 1]
    layers = layer.num_layers * (2 if layer.bidirectional else 1)
    h = x.new_zeros(layers, rows, layer.proj_size or layer.hidden_size)
    if layer.mode != "LSTM":
        return (x, h), {}
    return (x, (h, x.new_zeros(layers, rows, layer.hidden_size))), {}


@contextmanager
def states_given(module: nn.Module):
    recurrent = [m for m in module.modules() if isinstance(m, nn.RNNBase)]
    handles = [m.register_forward_pre_hook(first_states, with_kwargs=True) for m in recurrent]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def vectorised(problem, X, S, names) -> dict[str, Tensor]:
    module, loss = problem.module, problem.loss
    constant = {name: p.detach() for name, p in module.named_parameters()}
    wanted = {name: problem.parameters[name].detach() for name in names}

    def row(x, s):
        def logits(parameters):
            return loss.logits(
                functional_call(module, {**constant, **parameters}, (x.unsqueeze(0),))
            )

        _, pull = vjp(logits, wanted)
        return vmap(lambda column: pull(column.unsqueeze(0))[0])(s)

    with states_given(module):
        return {name: value.detach() for name, value in vmap(row, (0, 1))(X, S).items()}


def one_row(problem, x, S, names) -> dict[str, Tensor]:
    logits = problem.loss.logits(problem.module(x))
    inputs = [problem.parameters[name] for name in names]
    pulled = backward(logits, inputs, S)
    return {
        name: torch.zeros(1, len(S), *p.shape, dtype=p.dtype, device=p.device)
        if g is None
        else g.unsqueeze(0)
        for name, p, g in zip(names, inputs, pulled, strict=True)
    }
