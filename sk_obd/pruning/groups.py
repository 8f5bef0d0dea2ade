"""Parameters that go together: those of a unit, or those that read an input."""

import numpy as np
import torch

from ..training.probes import TRANSPOSED
from .saliency import rounded

GRANULARITIES = ("parameter", "unit", "input")


def groups_of(module, names, granularity, trial):
    """Which parameters go together: for each, a tensor of group numbers.

    Parameters
    ----------
    module : nn.Module
    names : list of str
        Parameters that may be deleted.
    granularity : {"unit", "input"}
        "unit": the weights into a unit (a convolution's channel) and its bias, of every Linear and
        convolutional layer that is used once, shares no parameter, and is not the last before the
        output. "input": the weights that read a column of X.
    trial : Trial
        What a pass of a few rows through the module has shown.

    Returns
    -------
    dict of int64 tensors
        For those of `names` that are in groups.

    Raises
    ------
    ValueError
        If there are none.
    """
    parameters = dict(module.named_parameters())
    if granularity == "input":
        found = {
            name: torch.arange(parameters[name].shape[1]).expand(parameters[name].shape)
            for name in trial.readers or ()
        }
    else:
        found = units(module, trial.inner_layers)
    found = {name: ids for name, ids in found.items() if name in names}
    if not found:
        raise ValueError(
            f"granularity={granularity!r} finds nothing to delete: "
            + (
                "X enters something other than Linear layers, or their weights are not prunable."
                if granularity == "input"
                else "no Linear or convolutional layer but the last has parameters of its own that "
                "are prunable."
            )
            + " Use granularity='parameter'."
        )
    return found


def units(module, layers):
    """Numbers of the units of these layers that weights and biases belong to, by name."""
    names = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        names.setdefault(p, []).append(name)
    found, n_groups = {}, 0
    for layer in layers:
        own = dict(layer.named_parameters(recurse=False))
        if any(len(names[p]) > 1 for p in own.values()):
            continue
        for local, p in own.items():
            ids = unit_of(layer) if local == "weight" else torch.arange(p.shape[0])
            found[names[p][0]] = ids + n_groups
        n_groups += len(layer.bias) if layer.bias is not None else int(ids.max()) + 1
    return found


def unit_of(layer):
    """The unit that each weight leads to."""
    shape = layer.weight.shape
    if not isinstance(layer, TRANSPOSED):
        return torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    # weight (in, out / groups, ...): the inputs of group g lead to its outputs.
    first = torch.arange(shape[0]) // (shape[0] // layer.groups) * shape[1]
    ids = first[:, None] + torch.arange(shape[1])
    return ids.reshape(*shape[:2], *[1] * (len(shape) - 2)).expand(shape)


def lowest_groups(saliency, masks, groups, n_delete):
    """Masks of whole groups with about `n_delete` parameters alive, of lowest saliency.

    Groups are ordered by saliency per parameter alive, the cost of one parameter less. As many are
    deleted as bring the number of parameters nearest to `n_delete`, and at least one.

    Parameters
    ----------
    saliency, masks : dict of tensors
    groups : dict of int64 tensors
    n_delete : int

    Returns
    -------
    dict of bool tensors
        True where to delete.

    Examples
    --------
    >>> s = {"w": torch.tensor([[1.0, 2.0], [0.0, 4.0], [9.0, 9.0]])}
    >>> alive, rows = {"w": torch.ones(3, 2).bool()}, {"w": torch.tensor([[0, 0], [1, 1], [2, 2]])}
    >>> lowest_groups(s, alive, rows, 2)["w"].tolist()
    [[True, True], [False, False], [False, False]]
    """
    ids = np.concatenate([groups[name].reshape(-1).numpy() for name in groups])
    values = np.concatenate([saliency[n].double().cpu().reshape(-1).numpy() for n in groups])
    alive = np.concatenate([masks[name].cpu().reshape(-1).numpy() for name in groups])
    sizes = np.bincount(ids, weights=alive)
    costs = np.bincount(ids, weights=values * alive)
    candidates = np.flatnonzero(sizes)
    cost = rounded(costs[candidates] / sizes[candidates])
    order = candidates[np.argsort(cost, kind="stable")]
    totals = np.cumsum(sizes[order])
    n_groups = 1 + int(np.abs(totals - n_delete).argmin()) if len(order) else 0
    chosen = torch.from_numpy(np.isin(ids, order[:n_groups]) & alive)
    parts = chosen.split([groups[name].numel() for name in groups])
    return {
        name: part.reshape(groups[name].shape) for name, part in zip(groups, parts, strict=True)
    }
