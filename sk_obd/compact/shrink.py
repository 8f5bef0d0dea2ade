"""A pruned network made really smaller."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import fx, nn

from ..training.masks import all_alive
from ..training.standardise import folded
from .agreement import agree
from .changes import changes
from .channel_rules import Selected
from .flow import Channels, NotTraced
from .report import CompactReport, count_stored
from .select import SelectColumns


@torch.no_grad()
def shrink(
    module: nn.Module, masks: dict[str, torch.Tensor], X: torch.Tensor
) -> tuple[nn.Module, dict[str, torch.Tensor], CompactReport]:
    """A smaller network with the same outputs in eval mode, and its masks.

    Units that no living weight connects to X are constants and are folded into the biases of
    what reads them; units that nothing living reads are removed; columns of X that nothing reads
    are not selected. No tensor is cut below one channel, no more numbers are stored than before,
    and what is not understood is left as it is.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is. Its deleted parameters are 0.
    masks : dict of name to bool tensor
        True = alive. Parameters without an entry are alive.
    X : tensor of shape (n_rows, ...)
        A few rows as the module takes them. They are also run through both networks: where these
        do not agree, the module is left as it is.

    Returns
    -------
    smaller : torch.nn.Module
        Its layers keep their names. It is of the module's own class, except where columns of X are
        selected (an ``nn.Sequential`` then begins with a `SelectColumns`) or where a view had its
        sizes written as numbers: then it is a ``torch.fx.GraphModule``.
    masks : dict of name to bool tensor
        Of the smaller network: never more alive than before, except for biases that take over the
        means of the default network's first layer.
    report : CompactReport
        The shapes of each layer before and after, and what was left and why.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> masks = {"2.weight": torch.tensor([[True, False]])}
    >>> with torch.no_grad():
    ...     net[2].weight[0, 1] = 0
    >>> smaller, _, _ = shrink(net, masks, torch.zeros(1, 1))
    >>> smaller[0]
    Linear(in_features=1, out_features=1, bias=True)
    """
    masks = all_alive(module) | {name: mask.cpu() for name, mask in masks.items()}
    try:
        plain, plain_masks = folded(module, masks)
        smaller, new_masks, left = _shrink(copy.deepcopy(plain), plain_masks, X)
        if count_stored(smaller) > count_stored(module):
            # Constants were folded into new biases, and their channels have to stay all the same.
            prunable = [name for name, _ in module.named_parameters()]
            smaller, new_masks, left = _shrink(copy.deepcopy(plain), plain_masks, X, prunable)
        if not agree(module, smaller, X):
            raise NotTraced("the smaller network did not agree with it on the rows tried")
    except NotTraced as error:
        return copy.deepcopy(module), masks, CompactReport.unchanged(module, masks, str(error))
    return smaller, new_masks, CompactReport.of(module, masks, smaller, new_masks, left)


def _shrink(smaller, masks, X, prunable=None):
    """Shrink `smaller` in place; return it, its masks and why modules were left as they were.

    With `prunable`, constants are folded only into biases that are there (see `Channels`).
    """
    channels = Channels(smaller, masks, X, prunable=prunable)
    new_masks = dict(masks)
    for name, layer, values, alive, cuts, sizes in changes(channels):
        for part, value in values.items():
            old = getattr(layer, part)
            # A bias that is new is like the weight.
            kind: Any = old if old is not None else layer.weight
            value = value[cuts[part]].to(kind)
            if isinstance(kind, nn.Parameter):
                new_masks[f"{name}.{part}"] = alive[part][cuts[part]]
                value = nn.Parameter(value, requires_grad=kind.requires_grad)
            setattr(layer, part, value)
        for size, number in sizes.items():
            setattr(layer, size, number)
    smaller = _select(smaller, channels)
    new_masks = {name: new_masks[name] for name, _ in smaller.named_parameters()}
    return smaller, new_masks, channels.left()


def _select(smaller, channels):
    """Select the columns of X that are read, in front of all that reads them; the new network."""
    graph = channels.graph
    X = next(node for node in graph.nodes if node.op == "placeholder")
    index = channels.kept_along(X, 1)
    # Where only SelectColumns modules read X, they do it.
    selects = len(index) < X.meta["shape"][1] and not all(
        isinstance(channels.rules[user], Selected) for user in X.users
    )
    _adapt_selections(channels, cut_before=selects)
    cut = any(not kept.all() for kept in channels.kept.values())
    if not selects and not (cut and channels.reshaped):
        return smaller
    if selects:
        name = "select"
        while hasattr(smaller, name):
            name += "_"
        if type(smaller).forward is nn.Sequential.forward and not channels.reshaped:
            parts = OrderedDict([(name, SelectColumns(index)), *smaller.named_children()])
            return nn.Sequential(parts).train(smaller.training)
        smaller.add_module(name, SelectColumns(index))
        users = list(X.users)
        with graph.inserting_after(X):
            node = graph.call_module(name, (X,))
        for user in users:
            user.replace_input_with(X, node)
    for name, _ in [*smaller.named_children(), *smaller.named_parameters(recurse=False)]:
        if hasattr(fx.GraphModule, name):
            raise NotTraced(f"torch.fx has a use of its own for the name {name!r}; rename it")
    return fx.GraphModule(smaller, graph).train(smaller.training)


def _adapt_selections(channels, cut_before):
    """Let the network's own SelectColumns modules select what is read of what they selected.

    `cut_before`: X will be cut before it comes to them.
    """
    for node, rule in channels.rules.items():
        if not isinstance(rule, Selected):
            continue
        source = node.args[0]
        layer = channels.module.get_submodule(node.target)
        layer.index = layer.index[channels.kept_along(node, 1)]
        if cut_before or source.op != "placeholder":
            # The columns are fewer: where those selected lie among them.
            there = channels.kept_along(source, 1).to(layer.index.device)
            layer.index = torch.searchsorted(there, layer.index)
