"""A pruned network made really smaller, or its dead parameters found."""

import copy
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import fx, nn

from ..training.masks import all_alive
from ..training.nets import evaluating
from .channel_rules import CONVOLUTIONS, Scaled, Selected, Weights, double
from .flow import Channels, NotTraced, unmarked
from .report import CompactReport
from .select import SelectColumns

WITH_WEIGHTS = (nn.Linear, *CONVOLUTIONS)


def dead_parameters(module, masks, X, prunable=None):
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
def sweep(module, masks, X, prunable=None):
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
    """
    after = all_alive(module) | dict(masks)
    folded, gone = _dead(module, masks, X, prunable)
    for bias, value in folded:
        bias.copy_(value)
    for name, parameter, mask in gone:
        parameter.masked_fill_(mask.to(parameter.device), 0.0)
        after[name] = after[name] & ~mask.to(after[name].device)
    return after


def check_traceable(module, X):
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
        if not _same(module(X.clone()), fx.Interpreter(module, graph=graph).run(X.clone())):
            raise NotTraced("what torch.fx traces does not return what the network returns")


def _dead(module, masks, X, prunable):
    """[(bias, what it becomes)] and [(name, parameter, which of it is dead)]."""
    prunable = {name for name, _ in module.named_parameters()} if prunable is None else prunable
    try:
        with unmarked(module):
            channels = Channels(module, masks, X, prunable=prunable)
    except NotTraced:
        return [], []
    folded, gone = [], []
    for name, layer, new in [*_folded(channels), *_scaled(channels)]:
        for part, alive in new.alive.items():
            if f"{name}.{part}" in prunable:
                mask = channels.masks[f"{name}.{part}"] & ~alive
                gone.append((f"{name}.{part}", getattr(layer, part), mask))
        if isinstance(layer, WITH_WEIGHTS) and "bias" in new.values:
            value = torch.where(new.alive["bias"], new.values["bias"], double(layer.bias))
            folded.append((layer.bias, value))
    return folded, gone


@torch.no_grad()
def shrink(module, masks, X):
    """A smaller network with the same outputs in eval mode, and its masks.

    Units that no living weight connects to X are constants and are folded into the biases of
    what reads them; units that nothing living reads are removed; columns of X that nothing reads
    are not selected. No tensor is cut below one channel, and what is not understood is left.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is. Its deleted parameters are 0.
    masks : dict of name to bool tensor
        True = alive. Parameters without an entry are alive.
    X : tensor of shape (n_rows, ...)
        A few rows as the module takes them. They are also run through both networks: where these
        do not agree, the module is left.

    Returns
    -------
    smaller : torch.nn.Module
        Its layers keep their names. It is of the module's own class, except where columns of X are
        selected (an ``nn.Sequential`` then begins with a `SelectColumns`) or where a view had its
        sizes written as numbers: then it is a ``torch.fx.GraphModule``.
    masks : dict of name to bool tensor
        Of the smaller network: never more alive than before.
    report : CompactReport
        The shapes of each layer before and after, and what was left and why.
    """
    masks = all_alive(module) | {name: mask.cpu() for name, mask in masks.items()}
    try:
        smaller, new_masks, left = _shrink(copy.deepcopy(module), masks, X)
        if not _agree(module, smaller, X):
            raise NotTraced("the smaller network did not agree with it on the rows tried")
    except NotTraced as error:
        return copy.deepcopy(module), masks, CompactReport.unchanged(module, masks, str(error))
    return smaller, new_masks, CompactReport.of(module, masks, smaller, new_masks, left)


def _shrink(smaller, masks, X):
    """`smaller` made so, its masks, and what was left; the argument is changed."""
    channels = Channels(smaller, masks, X)
    new_masks = dict(masks)
    for name, layer, new in [*_folded(channels), *_scaled(channels)]:
        for part, value in new.values.items():
            old = getattr(layer, part)
            kind = old if old is not None else layer.weight
            value = value[new.cuts[part]].to(kind)
            if isinstance(kind, nn.Parameter):
                new_masks[f"{name}.{part}"] = new.alive[part][new.cuts[part]]
                value = nn.Parameter(value, requires_grad=kind.requires_grad)
            setattr(layer, part, value)
        for size, number in new.sizes.items():
            setattr(layer, size, number)
    smaller = _select(smaller, channels)
    new_masks = {name: new_masks[name] for name, _ in smaller.named_parameters()}
    return smaller, new_masks, channels.left()


class _New(NamedTuple):
    """What becomes of a layer: its tensors, their masks, how they are cut, and its sizes."""

    values: dict
    alive: dict
    cuts: dict
    sizes: dict


def _folded(channels):
    """The layers with weights, their constants folded and their dead weights 0, not yet cut."""
    for node, rule in channels.rules.items():
        if not isinstance(rule, Weights):
            continue
        layer, used = rule.layer, channels.used[node]
        constant = rule.inputs(channels).nan_to_num(0.0)
        folds = rule.folds(channels)
        bias = rule.bias + torch.where(folds, rule.gain, 0.0) @ constant
        bias_alive = rule.alive.get("bias", torch.zeros_like(used)) | (bias != rule.bias)
        lives = used[:, None] & ~folds
        source = node.args[0]
        cut = rows = channels.kept_along(node, rule.axis)
        columns = slice(None)
        if rule.in_axis is not None:
            columns = channels.kept_along(source, rule.in_axis)
            cut = (rows[:, None], columns)
        if isinstance(layer, nn.Embedding):
            lives, cut = used, (slice(None), rows)
        while lives.ndim < layer.weight.ndim and not isinstance(layer, nn.Embedding):
            lives = lives[..., None]
        alive = {"weight": rule.alive["weight"] & lives}
        values = {"weight": torch.where(alive["weight"], double(layer.weight), 0.0)}
        cuts = {"weight": cut}
        if getattr(layer, "bias", None) is not None or (bias != 0)[used].any():
            alive["bias"] = bias_alive & used
            values["bias"] = torch.where(used, bias, 0.0)
            cuts["bias"] = rows
        yield node.target, layer, _New(values, alive, cuts, _sizes(layer, rows, columns))


def _sizes(layer, rows, columns):
    if isinstance(layer, nn.Linear):
        return {"out_features": len(rows), "in_features": len(columns)}
    if isinstance(layer, nn.Embedding):
        return {"embedding_dim": len(rows)}
    return {"out_channels": len(rows), "in_channels": len(columns)}


def _scaled(channels):
    """BatchNorm and PReLU: a number or more for each channel."""
    for node, rule in channels.rules.items():
        if not isinstance(rule, Scaled):
            continue
        layer, used, rows = rule.layer, channels.used[node], channels.kept_along(node, 1)
        values = {name: double(p) for name, p in layer.named_parameters()}
        alive = {name: rule.alive[name] & used for name in values}
        values = {name: torch.where(alive[name], value, 0.0) for name, value in values.items()}
        size = "num_parameters"
        if not isinstance(layer, nn.PReLU):
            size = "num_features"
            values |= {name: getattr(layer, name) for name in ("running_mean", "running_var")}
        cuts = dict.fromkeys(values, rows)
        yield node.target, layer, _New(values, alive, cuts, {size: len(rows)})


def _select(smaller, channels):
    """Select the columns of X that are read; adapt the SelectColumns modules that were there."""
    nodes = channels.graph.nodes
    X = next(node for node in nodes if node.op == "placeholder")
    index = channels.kept_along(X, 1)
    # Where only SelectColumns modules read X, they do it.
    chosen = len(index) < X.meta["shape"][1] and not all(
        isinstance(channels.rules[user], Selected) for user in X.users
    )
    for node in nodes:
        if isinstance(channels.rules[node], Selected):
            layer = channels.module.get_submodule(node.target)
            layer.index = layer.index[channels.kept_along(node, 1)]
            if chosen or node.args[0] is not X:
                there = channels.kept_along(node.args[0], 1).to(layer.index.device)
                layer.index = torch.searchsorted(there, layer.index)
    cut = any(not kept.all() for kept in channels.kept.values())
    if not chosen and not (cut and channels.reshaped):
        return smaller
    graph = channels.graph
    if chosen:
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


def _agree(module, smaller, X):
    """Whether two networks return the same, up to much more than rounding.

    A forward that a tracer misreads (a counter, a branch on a value) shows here.
    """
    outputs = []
    for network in (module, smaller):
        with evaluating(network):
            outputs.append(network(X))
    return _same(*outputs)


def _same(expected, found):
    """Whether two outputs agree, up to much more than rounding."""
    expected, found = _tensors(expected), _tensors(found)
    return len(expected) == len(found) and all(
        found.shape == expected.shape
        and torch.allclose(
            found.double(),
            expected.double(),
            rtol=0,
            atol=1e-4 * (1 + expected.detach().abs().double().max().item()),
            equal_nan=True,
        )
        for expected, found in zip(expected, found, strict=True)
        if expected.numel()
    )


def _tensors(output):
    if isinstance(output, tuple | list):
        return [tensor for part in output for tensor in _tensors(part)]
    if isinstance(output, dict):
        return _tensors(list(output.values()))
    return [output] if isinstance(output, torch.Tensor) else []
