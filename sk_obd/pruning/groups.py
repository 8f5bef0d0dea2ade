"""Parameters that go together: those of a unit, or those that read an input."""

import numpy as np
import torch
from torch import nn

from ..curvature.routes.graph import leaves
from ..training.nets import evaluating

GRANULARITIES = ("parameter", "unit", "input")

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def groups_of(module, X, names, granularity, readers):
    """Which parameters go together: for each, a tensor of group numbers.

    Parameters
    ----------
    module : nn.Module
    X : tensor
        A few rows, to see which layers give the output.
    names : list of str
        Parameters that may be deleted.
    granularity : {"unit", "input"}
        "unit": the weights into a unit (a convolution's channel) and its bias, of every Linear and
        convolutional layer that is used once, shares no parameter, and is not the last before the
        output. "input": the weights that read a column of X.
    readers : list of str or None
        Weights of the Linear layers that read X; None where anything else does.

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
            for name in readers or ()
        }
    else:
        found = units(module, X)
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


def units(module, X):
    """Numbers of the units that weights and biases belong to, by name."""
    names = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        names.setdefault(p, []).append(name)
    found, n_groups = {}, 0
    for layer in inner_layers(module, X):
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


def inner_layers(module, X):
    """Linear and convolutional layers called once, with others between them and the output."""
    calls = {}

    def cut(layer, inputs, output):
        calls.setdefault(layer, []).append(output.detach().requires_grad_())
        return calls[layer][-1].clone()

    layers = [m for m in module.modules() if isinstance(m, LAYERS)]
    handles = [layer.register_forward_hook(cut) for layer in layers]
    try:
        with evaluating(module), torch.enable_grad():
            output = module(X)
    finally:
        for handle in handles:
            handle.remove()
    last = leaves(output[0] if isinstance(output, tuple) else output)
    return [layer for layer, outs in calls.items() if len(outs) == 1 and outs[0] not in last]


def lowest_groups(saliency, masks, groups, n_delete):
    """Masks of whole groups with about `n_delete` parameters alive, of lowest saliency.

    Groups go in the order of their summed saliency per parameter alive in them: what a parameter
    less costs. As many go as bring the number nearest to `n_delete`, at least one.

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
    # Compared at 20 bits of mantissa, as single parameters are.
    mantissa, exponent = np.frexp(costs[candidates] / sizes[candidates])
    rounded = np.ldexp(np.round(mantissa * 2**20), exponent - 20)
    order = candidates[np.argsort(rounded, kind="stable")]
    totals = np.cumsum(sizes[order])
    n_groups = 1 + int(np.abs(totals - n_delete).argmin()) if len(order) else 0
    chosen = torch.from_numpy(np.isin(ids, order[:n_groups]) & alive)
    parts = chosen.split([groups[name].numel() for name in groups])
    return {
        name: part.reshape(groups[name].shape) for name, part in zip(groups, parts, strict=True)
    }
