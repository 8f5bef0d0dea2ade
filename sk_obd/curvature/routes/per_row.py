"""Parameters without a rule: the columns of every row.

They are computed by torch.func where that works, else row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from ..hooks import hooked
from ..layers.layer_rule import LIMIT, squares
from ..losses.base import Loss
from .derivatives import backward


@dataclass
class PerRow:
    """Derivatives of the logits by some parameters, for each row on its own.

    Attributes
    ----------
    module : nn.Module
    loss : Loss
    parameters : dict of str to nn.Parameter
        Those that are wanted.
    vectorised : bool
        Whether torch.func copes with the module, as far as is known; False once it has failed, or
        has given something else than plain autograd.
    """

    module: nn.Module
    loss: Loss
    parameters: dict[str, nn.Parameter]
    vectorised: bool = True

    def pulled_squares(self, X: Tensor, S: Tensor, signs: Tensor | None) -> dict[str, Tensor]:
        """Sum over rows and columns of ``signs * (J^T s)**2``, for columns S (k, n, ...)."""
        total = {
            name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()
        }
        for rows, pulled in self.columns(X, S):
            part = None if signs is None else signs[:, rows].T.flatten()
            for name, columns in pulled.items():
                total[name] += squares(columns.flatten(0, 1), None, part)
        return total

    def columns(self, X: Tensor, S: Tensor) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Yield some rows and the columns (rows, k, *parameter.shape) of their parameters."""
        size = sum(p.numel() for p in self.parameters.values()) * len(S)
        # Larger blocks than rules take: torch.func traces the module anew for each of them.
        step = max(1, 4 * LIMIT // max(1, size))
        for start in range(0, len(X), step):
            rows = slice(start, start + step)
            if self.vectorised:
                try:
                    together = self.rows_together(X[rows], S[:, rows])
                except Exception:  # whatever a module of someone else's raises under torch.func
                    self.vectorised = False
                else:
                    self.vectorised = self.confirmed(together, X[rows], S[:, rows])
                if self.vectorised:
                    yield rows, together
                    continue
            for i in range(start, min(len(X), start + step)):
                yield slice(i, i + 1), self.one_row(X[i : i + 1], S[:, i : i + 1])

    def rows_together(self, X: Tensor, S: Tensor) -> dict[str, Tensor]:
        """The columns (n, k, *parameter.shape) of all rows by torch.func."""
        constant = {name: p.detach() for name, p in self.module.named_parameters()}
        wanted = {name: p.detach() for name, p in self.parameters.items()}

        def row(x: Tensor, s: Tensor) -> dict[str, Tensor]:
            def logits(parameters: dict[str, Tensor]) -> Tensor:
                return self.loss.logits(
                    functional_call(self.module, {**constant, **parameters}, (x.unsqueeze(0),))
                )

            pull = vjp(logits, wanted)[1]
            return vmap(lambda column: pull(column.unsqueeze(0))[0])(s)

        recurrent = [m for m in self.module.modules() if isinstance(m, nn.RNNBase)]
        with hooked(recurrent, first_states, before=True):
            return {name: value.detach() for name, value in vmap(row, (0, 1))(X, S).items()}

    def confirmed(self, together: dict[str, Tensor], X: Tensor, S: Tensor) -> bool:
        """Whether the columns of all rows are those of plain autograd.

        Their sum, each times a number of its own, is one backward pass.
        Some of torch's batching rules are wrong without a word, and some only for some rows, as
        those of the derivatives of ``torch.cdist`` and of PReLU.
        """
        generator = torch.Generator().manual_seed(0)
        r = torch.randn(S.shape[:2], generator=generator, dtype=torch.float64).to(S)
        towards = (S * r.reshape(*r.shape, *[1] * (S.ndim - 2))).sum(0)
        logits = self.loss.logits(self.module(X))
        expected = torch.autograd.grad(
            logits, list(self.parameters.values()), towards, allow_unused=True
        )
        pairs = []
        for name, slope in zip(self.parameters, expected, strict=True):
            found = torch.tensordot(r.T, together[name], 2)
            pairs.append((found, torch.zeros_like(found) if slope is None else slope))
        return all_close(pairs)

    def one_row(self, x: Tensor, S: Tensor) -> dict[str, Tensor]:
        """The columns (1, k, *parameter.shape) of one row by plain autograd."""
        logits = self.loss.logits(self.module(x))
        pulled = backward(logits, list(self.parameters.values()), S)
        return {
            name: torch.zeros(1, len(S), *p.shape, dtype=p.dtype, device=p.device)
            if g is None
            else g.unsqueeze(0)
            for (name, p), g in zip(self.parameters.items(), pulled, strict=True)
        }


def all_close(pairs: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether pairs of results differ as the same arithmetic does that is done in another order."""
    pairs = [(found, expected) for found, expected in pairs if expected.numel()]
    sizes = [expected.abs().max().item() for _, expected in pairs]
    for (found, expected), size in zip(pairs, sizes, strict=True):
        eps = torch.finfo(expected.dtype).eps
        # Derivatives that are 0 come out as what rounding leaves of others.
        if (found - expected).abs().max().item() > eps ** (2 / 3) * size + 1e3 * eps * max(sizes):
            return False
    return True


def first_states(
    layer: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The layer's arguments with first states of every row; None leaves its call as it is.

    The zeros that torch would make belong to no row, and vmap cannot add to such in place.
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
