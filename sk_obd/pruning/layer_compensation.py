r"""Least squares for each unit: its survivors are refitted to what it received before a deletion.

With the inputs :math:`x_n` of a layer whose lower layers are refitted already, and what a unit
received in the network before the deletion, :math:`z_n`, its surviving weights and bias become

.. math:: \arg\min_w \sum_n w_n (x_n^T w - z_n)^2 / \sum_n w_n + \rho |w - w_0|^2

with their present values :math:`w_0` (Dong, Chen and Pan 2017, Learning to prune deep neural
networks via layer-wise Optimal Brain Surgeon; Frantar and Alistarh 2022, Optimal Brain
Compression). All units of a layer share one Gram matrix. The loss is not looked at, so this is
cheaper than the quadratic model of it, and never far from the network before the deletion.

The dense network in the place of the one before the deletion was tried (digits, 64-64-32-10, steps
of 10 %, three seeds): no better without retraining, and .764 beside .827 at 99 % with 5 epochs.
"""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..curvature.hooks import evaluating, first_input, hooked
from ..curvature.layers.registry import computes_as
from ..curvature.layers.torch_layers import windows
from ..training.objective import Objective
from .moves import Step, Survivors, taken

#: The ridge as a share of the mean square of a layer's inputs, and by how much it is raised where
#: the loss is larger than after the bare deletion; it is tried so often.
RIDGE, RISE, N_TRIALS = 1e-3, 30.0, 3
#: Most bytes of the units' matrices that are held at a time.
BYTES = 1 << 26

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def compensate_layers(objective: Objective, survivors: Survivors) -> Step:
    """Find the refit of the survivors of a deletion. The module comes back as it was.

    The loss after it is at most what it is after the bare deletion.

    Parameters
    ----------
    objective : Objective
    survivors : Survivors

    Returns
    -------
    Step
        Its `predicted` is for the caller to fill in; `damping` is the ridge, 0 for no refit.
    """
    parameters, bare = objective.parameters(), survivors.step(None)
    layers = refitted_layers(objective)
    with taken(parameters, bare):
        loss = objective.loss()
    teacher = copy.deepcopy(objective.whole)
    ridge = RIDGE
    for _ in range(N_TRIALS):
        with taken(parameters, bare):
            for layer in layers:
                refit(objective, teacher, layer, survivors, ridge)
            # Survivors only, so that the step is -u where deleted, to the last bit.
            moved = {
                name: torch.where(alive, parameters[name].detach() - survivors.before[name], 0)
                for name, alive in survivors.alive.items()
            }
        step = {name: bare[name] + moved[name] for name in bare}
        with taken(parameters, step):
            if objective.loss() <= loss:
                return Step(step, float("nan"), damping=ridge)
        ridge *= RISE
    return Step(bare, float("nan"), damping=0.0)


def refitted_layers(objective: Objective) -> list[str]:
    """Names of the layers that are refitted, in the order in which they are called.

    They are Linear and convolutional ones with a weight of their own, called once, with rows.
    """
    module = objective.whole
    names = {layer: name for name, layer in module.named_modules()}
    wanted = set(objective.parameters().values())
    owners = Counter(p for m in module.modules() for p in m._parameters.values() if p is not None)
    called: list[tuple[nn.Module, torch.Size]] = []
    candidates = [
        m
        for m in module.modules()
        if any(computes_as(m, kind) for kind in LAYERS)
        and m.weight in wanted
        and all(owners[p] == 1 for p in m.parameters(recurse=False))
    ]

    def note(layer: nn.Module, args: Any, kwargs: Any, z: Any) -> None:
        called.append((layer, first_input(args, kwargs).shape))

    row = objective.some_rows(1)
    with hooked(candidates, note), evaluating(module), torch.no_grad():
        module(torch.cat([row] * 2))  # of a single row a BatchNorm may refuse the statistics
        before = dict(called)
        called.clear()
        module(torch.cat([row] * 4))
    times = Counter(layer for layer, _ in called)
    anywhere = objective.sample_weight is None
    return [
        names[layer]
        for layer, shape in called
        if times[layer] == 1
        and layer in before
        and grows_with_rows(before[layer], shape, anywhere and isinstance(layer, nn.Linear))
    ]


def grows_with_rows(some: torch.Size, twice: torch.Size, anywhere: bool) -> bool:
    """Whether what a layer reads has rows at its beginning: its shapes for some and twice as many.

    `anywhere`: rows may also be in another dimension, as where time comes first. Which row is
    where then is not known, so that weights cannot be told.
    """
    if anywhere:
        return twice[:-1].numel() == 2 * some[:-1].numel()
    return twice == torch.Size((2 * some[0], *some[1:]))


def left_as_they_are(objective: Objective, prunable: list[str]) -> list[str]:
    """Names of the prunable parameters whose survivors no refit reaches.

    Raises
    ------
    ValueError
        If none is reached.
    """
    layers = dict(objective.whole.named_modules())
    refitted = {p for name in refitted_layers(objective) for p in layers[name].parameters()}
    left = [name for name in prunable if objective.parameters()[name] not in refitted]
    if len(left) == len(prunable):
        raise ValueError(
            'compensation="layer" refits Linear and convolutional layers that have weights of '
            f"their own and are called once, with rows; {type(objective.whole).__name__} has none "
            'with prunable parameters. Use compensation="obs", which takes any module.'
        )
    return left


def refit(
    objective: Objective, teacher: nn.Module, name: str, survivors: Survivors, ridge: float
) -> None:
    """Refit the survivors of one layer, in place."""
    layer: Any = objective.whole.get_submodule(name)
    names = {p: n for n, p in objective.parameters().items()}
    own = [p for p in (layer.weight, layer.bias) if p is not None and p in names]
    A, C = least_squares(objective, teacher, name, with_bias=len(own) > 1)
    alive = torch.cat([survivors.alive[names[p]].reshape(len(p), -1) for p in own], 1)
    alive = alive.reshape(len(A), -1, A.shape[1])
    moves = [
        solve_units(gram, right, wanted, ridge * float(gram.diagonal().mean()))
        for gram, right, wanted in zip(A, C, alive, strict=True)
    ]
    move = torch.cat(moves).split([p[0].numel() for p in own], 1)
    with torch.no_grad():
        for p, change in zip(own, move, strict=True):
            p.add_(change.reshape(p.shape))


def least_squares(
    objective: Objective, teacher: nn.Module, name: str, with_bias: bool
) -> tuple[Tensor, Tensor]:
    """Means over rows and positions, in float64, of what a layer reads and what its units lack.

    Returns
    -------
    A : Tensor of shape (groups, d, d)
        Products of the inputs with each other; the last of them is 1 where there is a bias.
    C : Tensor of shape (groups, units of a group, d)
        Products of the inputs with what the units received in the teacher and now do not.
    """
    module = objective.whole
    layer: Any = module.get_submodule(name)
    A = C = torch.zeros(())
    total = 0.0
    for X, _, w in objective.batches():
        _, wanted = call_of(teacher, name, X)
        x, z = call_of(module, name, X)
        read, lacking = rows_of(layer, x), units_of(layer, wanted - z)
        if with_bias:
            read = torch.cat([read, torch.ones_like(read[..., :1])], 2)
        weights = w.double().repeat_interleave(read.shape[1] // len(w))
        weighted = read.mT * weights
        A, C = A + weighted @ read, C + (weighted @ lacking).mT
        total += float(weights.sum())
    return A / total, C / total


def rows_of(layer: Any, x: Tensor) -> Tensor:
    """What each unit reads at each row and position: (groups, rows and positions, d)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1]).double()
    read = windows(layer, x).double()  # (n, groups, d, positions)
    return read.permute(1, 0, 3, 2).flatten(1, 2)


def units_of(layer: Any, z: Tensor) -> Tensor:
    """The output of a layer by units: (groups, rows and positions, units of a group)."""
    if isinstance(layer, nn.Linear):
        return z.reshape(1, -1, z.shape[-1]).double()
    by_group = z.flatten(2).reshape(len(z), layer.groups, -1, z[0, 0].numel()).double()
    return by_group.permute(1, 0, 3, 2).flatten(1, 2)


class Reached(Exception):
    """The layer is reached, and the rest of the forward pass is not needed."""


def call_of(module: nn.Module, name: str, X: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer reads and gives when the rows go through the module, in eval mode."""
    found: list[Tensor] = []

    def keep(layer: nn.Module, args: Any, kwargs: Any, z: Tensor) -> None:
        found.extend((first_input(args, kwargs), z))
        raise Reached

    layer = module.get_submodule(name)
    with evaluating(module), torch.no_grad(), hooked([layer], keep, first=True), suppress(Reached):
        module(X.clone())
    x, z = found
    return x, z


def solve_units(A: Tensor, C: Tensor, alive: Tensor, ridge: float) -> Tensor:
    """The moves of a layer's units, (units, d), 0 where not alive.

    Each is ``(A + ridge)^-1 c`` of its own survivors, 0 where they read nothing but zeros.
    """
    moves = torch.zeros_like(C)
    counts = alive.sum(1)
    order = counts.argsort()
    start = 0
    while start < len(order):
        # Units of about as many survivors together, since each takes as much as the most.
        most = int(counts[order[start:]][: units_at_once(int(counts[order[start]]))].max())
        some = order[start : start + units_at_once(most)]
        start += len(some)
        if not most:
            continue
        there, places = alive[some].sort(dim=1, descending=True, stable=True)
        there, places = there[:, :most], places[:, :most]
        blocks = A[places.unsqueeze(2), places.unsqueeze(1)]
        blocks = blocks * (there.unsqueeze(2) & there.unsqueeze(1))
        # 1 on the diagonal of what is not alive, so that every block can be factored.
        blocks.diagonal(dim1=1, dim2=2).add_(torch.where(there, ridge, 1.0))
        right = C[some].gather(1, places) * there
        factors, failed = torch.linalg.cholesky_ex(blocks)
        found = torch.cholesky_solve(right.unsqueeze(2), factors).squeeze(2)
        found = found.masked_fill((failed > 0).unsqueeze(1), 0.0)
        moves[some] = torch.zeros_like(C[some]).scatter_(1, places, found * there)
    return moves


def units_at_once(survivors: int) -> int:
    """How many units' matrices are held at a time."""
    return max(1, BYTES // (8 * max(1, survivors) ** 2))
