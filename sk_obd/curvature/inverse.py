r"""The diagonal of the inverse Gauss-Newton matrix: what Optimal Brain Surgeon's saliency needs.

:math:`[(G + \Lambda)^{-1}]_{kk}` over the parameters that are alive, since the others are
constants; :math:`\Lambda` is a diagonal damping.

The whole matrix is inverted where it has at most ``FULL_BYTES`` (512 parameters alive). Above that
only blocks of it are: the numbers of one parameter with the same first index (the weights into one
unit), with the unit's bias where the layer has one. For a Linear layer that reads rows
:math:`x_n`, the block of unit i is :math:`\sum_n D_{ni} x_n x_n^T` with the second derivative
:math:`D_{ni}` by the unit's output, so that it takes one backward pass for all units and a matrix
product for each. The blocks of all other parameters are added up from the columns of every row,
where they have together at most ``BLOCKS_BYTES``; beyond that a block is its diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .boundary import as_it_was, default_batch_size
from .gauss_newton import GaussNewton
from .losses.base import Loss
from .problem import Batch, Problem
from .routes.any_module import Recorded
from .routes.dependent_rows import refuse_dependent_rows
from .routes.derivatives import backward
from .routes.per_row import PerRow

#: Most bytes of a matrix over all parameters alive.
FULL_BYTES = 1 << 21
#: Most bytes of the blocks of all parameters that are not of Linear layers reading rows.
BLOCKS_BYTES = 1 << 28
#: Every diagonal is raised by this share of the mean one of its block, so that it can be inverted.
RIDGE = 1e-6

#: X, y and the weights of the rows.
Rows = tuple[Tensor, Tensor, Tensor]


def ggn_inverse_diagonal(
    module: nn.Module,
    loss: Loss,
    parameters: dict[str, nn.Parameter],
    batches: Callable[[], Iterable[Rows]],
    *,
    alive: Mapping[str, Tensor],
    damping: Mapping[str, float],
) -> dict[str, Tensor]:
    """The diagonal of the damped Gauss-Newton matrix' inverse, in float64; 0 where not alive.

    Parameters
    ----------
    module : nn.Module
    loss : Loss
    parameters : dict of str to nn.Parameter
    batches : callable
        Gives X, y and weights of all rows, in one or several parts.
    alive : dict of str to bool Tensor
    damping : dict of str to float
        Added to the diagonal of each parameter's numbers.

    Returns
    -------
    dict of str to Tensor
    """
    count = sum(int(mask.sum()) for mask in alive.values())
    found = {
        name: torch.zeros(p.shape, dtype=torch.float64, device=p.device)
        for name, p in parameters.items()
    }
    if 8 * count**2 <= FULL_BYTES:
        matrix = GaussNewton(module, loss, parameters, batches)
        of_whole(matrix, parameters, alive, damping, found)
    else:
        of_blocks(module, loss, parameters, batches, Places(alive, damping, found))
    return found


def inverse_diagonal(H: Tensor, damping: Tensor) -> Tensor:
    """``diag((H + damping)^-1)`` of symmetric matrices (..., d, d).

    Where one is not positive definite, the inverse of its diagonal.
    """
    diagonal = H.diagonal(dim1=-2, dim2=-1) + damping
    ridge = RIDGE * diagonal.abs().mean(-1, keepdim=True) + torch.finfo(H.dtype).tiny
    factors, failed = torch.linalg.cholesky_ex(H + torch.diag_embed(damping + ridge))
    inverse = torch.cholesky_inverse(factors).diagonal(dim1=-2, dim2=-1)
    floor = (diagonal + ridge).clamp(min=torch.finfo(H.dtype).tiny)
    return torch.where((failed > 0).unsqueeze(-1), 1 / floor, inverse)


def of_whole(
    matrix: GaussNewton,
    parameters: Mapping[str, nn.Parameter],
    alive: Mapping[str, Tensor],
    damping: Mapping[str, float],
    found: dict[str, Tensor],
) -> None:
    """Write the inverse's diagonal into ``found``: a product for every parameter alive."""
    columns = []
    for name in parameters:
        for index in alive[name].nonzero().tolist():
            unit = {n: torch.zeros_like(q, requires_grad=False) for n, q in parameters.items()}
            unit[name][tuple(index)] = 1
            product = matrix.product(unit)
            columns.append(torch.cat([product[n][alive[n]] for n in parameters]).double())
    if not columns:
        return
    H = torch.stack(columns)
    raised = torch.cat([torch.full_like(found[n][alive[n]], damping[n]) for n in parameters])
    diagonal = inverse_diagonal((H + H.T) / 2, raised)
    for name, part in zip(
        parameters, diagonal.split([int(alive[n].sum()) for n in parameters]), strict=True
    ):
        found[name][alive[name]] = part


@dataclass
class Places:
    """What is alive, what its diagonal is raised by, and where the result is written."""

    alive: Mapping[str, Tensor]
    damping: Mapping[str, float]
    found: dict[str, Tensor]

    def units(self, names: list[str]) -> tuple[Tensor, Tensor]:
        """Masks and dampings (units, d) of parameters, each unit's numbers in a row."""
        masks = [by_unit(self.alive[n]) for n in names]
        raised = [torch.full_like(by_unit(self.found[n]), self.damping[n]) for n in names]
        return torch.cat(masks, 1), torch.cat(raised, 1)

    def write(self, names: list[str], unit: int, values: Tensor) -> None:
        """Write what was found of one unit (d,)."""
        rows = [by_unit(self.found[n])[unit] for n in names]
        for row, part in zip(rows, values.split([len(row) for row in rows]), strict=True):
            row.copy_(part)


@dataclass
class Collected:
    """What all batches have given: of Linear layers rows, of the rest blocks."""

    #: By the names of a layer's weight and bias: its inputs (n, d) and D (n, units), by batch.
    linear: dict[tuple[str, ...], list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    #: By names of parameters with units of their own: (units, d, d), or (units, d) of diagonals.
    blocks: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    denominator: float = 0.0
    #: Names in `linear`, of each batch: where they differ, each lacks what the other has.
    ways: set[frozenset[str]] = field(default_factory=set)


def of_blocks(
    module: nn.Module,
    loss: Loss,
    parameters: dict[str, nn.Parameter],
    batches: Callable[[], Iterable[Rows]],
    places: Places,
) -> None:
    """Write the diagonals of the blocks' inverses."""

    def collected_from(use_rules: bool) -> Collected:
        found = Collected()
        for X, y, w in batches():
            with as_it_was(module):
                refuse_dependent_rows(module, few_of(X))
                probe = partial(few_of, X)
                problem = Problem(module, loss, parameters, draw_probe=probe, use_rules=use_rules)
                size = default_batch_size(problem, X)
                for parts in zip(X.split(size), y.split(size), w.split(size), strict=True):
                    collect(problem, Batch(loss, *parts), found)
        return found

    collected = collected_from(use_rules=True)
    if len(collected.ways) > 1:
        collected = collected_from(use_rules=False)
    for key, rows in collected.linear.items():
        names = list(key)
        x, D = (torch.cat(parts).double() for parts in zip(*rows, strict=True))
        if len(names) > 1:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        masks, raised = places.units(names)
        for unit, (mask, damping) in enumerate(zip(masks, raised, strict=True)):
            read = x[:, mask]
            H = read.T @ (D[:, unit : unit + 1] * read) / collected.denominator
            values = torch.zeros_like(damping)
            if len(H):
                values[mask] = inverse_diagonal(H, damping[mask])
            places.write(names, unit, values)
    for key, H in collected.blocks.items():
        names = list(key)
        masks, raised = places.units(names)
        for unit, (mask, damping) in enumerate(zip(masks, raised, strict=True)):
            own = H[unit] / collected.denominator
            own = torch.diag(own) if own.ndim == 1 else own
            values = torch.zeros_like(damping)
            if mask.any():
                values[mask] = inverse_diagonal(own[mask][:, mask], damping[mask])
            places.write(names, unit, values)


def few_of(X: Tensor) -> Tensor:
    """The first rows."""
    return X[:3]


def collect(problem: Problem, batch: Batch, collected: Collected) -> None:
    """Add what one batch gives."""
    recorded, plan = problem.record(batch)
    # A Linear layer that reads rows goes by its D, all others by the columns of every row.
    layers: list[nn.Module] = [
        layer
        for layer, names in plan.layers.items()
        if isinstance(layer, nn.Linear)
        and "weight" in names
        and recorded.calls[layer][0].x.ndim == 2
    ]
    names_of = {
        layer: tuple(plan.layers[layer][n] for n in ("weight", "bias") if n in plan.layers[layer])
        for layer in layers
    }
    covered = frozenset(name for names in names_of.values() for name in names)
    collected.ways.add(covered)
    rest = {n: p for n, p in problem.parameters.items() if n not in covered}
    per_row = PerRow(problem.module, problem.loss, rest)
    groups = grouped(problem.module, rest)
    whole = sum(8 * n_units(rest[k[0]]) * width(rest, k) ** 2 for k in groups) <= BLOCKS_BYTES
    D: dict[nn.Module, Any] = dict.fromkeys(layers, 0.0)
    for S, signs in batch.form(recorded.logits.detach()).columns():
        if layers:
            for layer, part in pulled_diagonals(recorded, layers, S, signs).items():
                D[layer] = D[layer] + part
        if not rest:
            continue
        for rows, columns in per_row.columns(batch.X, S):
            own = None if signs is None else signs[:, rows].T
            for key in groups:
                add_block(collected, key, columns, own, whole)
    for layer in layers:
        x = recorded.calls[layer][0].x
        collected.linear.setdefault(names_of[layer], []).append((x, D[layer]))
    collected.denominator += float(batch.denominator(recorded.output))


def grouped(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[tuple[str, ...]]:
    """Names of parameters whose numbers belong to the same units: a weight with its bias."""
    names = {p: name for name, p in parameters.items()}
    found, seen = [], set()
    for layer in module.modules():
        own = [names[p] for p in layer.parameters(recurse=False) if p in names]
        pair = [n for n in own if n.rpartition(".")[2] in ("weight", "bias") and n not in seen]
        if len(pair) == 2 and n_units(parameters[pair[0]]) == n_units(parameters[pair[1]]):
            found.append(tuple(pair))
            seen.update(pair)
    return found + [(name,) for name, p in parameters.items() if name not in seen and p.numel()]


def width(parameters: Mapping[str, nn.Parameter], names: tuple[str, ...]) -> int:
    """How many numbers a unit has in these parameters."""
    return sum(parameters[n].numel() // n_units(parameters[n]) for n in names)


def n_units(tensor: Tensor) -> int:
    """How many units a parameter's numbers belong to: its first size, 1 for a single number."""
    return len(tensor) if tensor.ndim else 1


def by_unit(tensor: Tensor) -> Tensor:
    """A tensor's numbers, each unit's in a row."""
    return tensor.reshape(n_units(tensor), -1)


def add_block(
    collected: Collected,
    key: tuple[str, ...],
    columns: Mapping[str, Tensor],
    signs: Tensor | None,
    whole: bool,
) -> None:
    """Add the products of columns (rows, k, *parameter.shape) to the blocks of their units."""
    own = [columns[n] if columns[n].ndim > 2 else columns[n].unsqueeze(2) for n in key]
    V = torch.cat([c.reshape(*c.shape[:3], -1) for c in own], 3).double()
    signed = V if signs is None else V * signs[..., None, None]
    part = torch.einsum("nkua,nkub->uab", signed, V) if whole else (signed * V).sum((0, 1))
    collected.blocks[key] = collected.blocks[key] + part if key in collected.blocks else part


def pulled_diagonals(
    recorded: Recorded, layers: list[nn.Module], S: Tensor, signs: Tensor | None
) -> dict[nn.Module, Tensor]:
    """Second derivatives D (n, units) by the outputs of layers, for some columns S."""
    pulled = backward(recorded.logits, [recorded.calls[layer][0].z for layer in layers], S)
    found = {}
    for layer, G in zip(layers, pulled, strict=True):
        if G is None:
            found[layer] = torch.zeros_like(recorded.calls[layer][0].z)
        else:
            squares = G.square()
            found[layer] = (squares if signs is None else squares * signs[..., None]).sum(0)
    return {layer: value.detach() for layer, value in found.items()}
