"""Which channels of a network are constants, which are read, and which must stay.

The network is traced once into a graph (`torch.fx`). Constants are carried from X to the outputs,
and what is read is carried from the outputs back to X; one pass over the graph is enough for each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import fx, nn

from ..curvature.hooks import evaluating
from .channel_rules import VARIES, Whole
from .known_operations import FLATTENS, IN_PLACE
from .matching import looks_at_rows, match_rule
from .select import SelectColumns


class NotTraced(Exception):
    """The network cannot be turned into a graph; the message says why."""


class Channels:
    """What is known of the channels of each tensor in a network, in eval mode.

    Parameters
    ----------
    module : torch.nn.Module
    masks : dict of name to bool tensor
        True = alive; a parameter without an entry is alive.
    X : tensor
        A few rows; only their shape and type matter.
    prunable : collection of str, default=None
        Names of the parameters that may be deleted. With it, a constant is folded only where its
        weight may go and a living, trainable bias takes it over; without, everywhere.

    Attributes
    ----------
    graph : torch.fx.Graph
        Views that flatten are written as ``torch.flatten(x, 1)`` there.
    reshaped : bool
        Whether the graph has such views.
    rules : dict of node to rule
        A rule of `channel_rules` for each node of the graph.
    used, kept : dict of node to bool tensor
        For each channel, whether what it holds matters, and whether it has to be there.

    Raises
    ------
    NotTraced
        If torch.fx cannot trace the module, or values are changed in place under a reader.
    """

    def __init__(
        self,
        module: nn.Module,
        masks: dict[str, torch.Tensor],
        X: torch.Tensor,
        *,
        prunable: Collection[str] | None = None,
    ):
        self.module, self.prunable = module, prunable
        self.graph = _trace(module, X)
        self.reshaped = _plain_flattening(self.graph)
        _refuse_shared_changes(module, self.graph)
        self.masks = {
            name: masks[name].detach().cpu() if name in masks else torch.ones(p.shape).bool()
            for name, p in module.named_parameters()
        }
        self.rules: dict[fx.Node, Whole] = {}
        self._values: dict[fx.Node, torch.Tensor] = {}
        self._carry_constants()
        self.used = self._read()
        self.kept = self._stay()

    def value(self, node, axis):
        """The constant in each channel along an axis of what a node gives, or `VARIES`."""
        if self.rules[node].axis == axis:
            return self._values[node]
        return torch.full((node.meta["shape"][axis],), VARIES, dtype=torch.float64)

    def kept_along(self, node, axis):
        """Indices of the channels that stay along an axis of what a node gives."""
        if self.rules[node].axis == axis:
            return self.kept[node].nonzero().squeeze(1)
        return torch.arange(node.meta["shape"][axis])

    def left(self) -> dict[str, str]:
        """Why modules were not understood, by name."""
        return {
            str(node.target): rule.why
            for node, rule in self.rules.items()
            if node.op == "call_module" and rule.why
        }

    def _carry_constants(self):
        """Find a rule for each node, and by it the constants among the node's channels."""
        shared = _shared(self.module, self.graph)
        axes: dict[fx.Node, int | None] = {}
        for node in self.graph.nodes:
            rule = match_rule(node, self.module, self.masks, shared, axes)
            self.rules[node], axes[node] = rule, rule.axis
            if rule.axis is not None:
                self._values[node] = rule.value(self)

    def _read(self):
        """For each channel of each node, whether what it holds matters."""
        used = {node: torch.zeros(len(v), dtype=torch.bool) for node, v in self._values.items()}
        for node in reversed(self.graph.nodes):
            for source, axis, channels in self.rules[node].reads(self, used.get(node)):
                if source not in used:
                    continue
                if channels is not None and self.rules[source].axis == axis:
                    used[source] |= channels
                else:
                    used[source][:] = True
        return used

    def _stay(self):
        """The fewest channels that hold all that is used and agree wherever tensors meet."""
        kept = {node: used.clone() for node, used in self.used.items()}
        while True:
            before = sum(int(k.sum()) for k in kept.values())
            for node, rule in self.rules.items():
                for part in rule.parts:
                    # A view: what is set here is set in `kept`.
                    here = kept[node][part.start : part.start + len(part.channels)]
                    kept[part.source][part.channels[here]] = True
                    if rule.both_ways:
                        here |= kept[part.source][part.channels]
            if sum(int(k.sum()) for k in kept.values()) > before:
                continue
            empty = [k for k in kept.values() if not k.any()]
            if not empty:
                return kept
            # A tensor without channels is an error in many layers: one stays, dead.
            empty[0][0] = True


@contextmanager
def unmarked(module: nn.Module) -> Iterator[None]:
    """Remove the attributes that torch.fx leaves on a module: constants made in its forward."""
    before = set(vars(module))
    try:
        yield
    finally:
        for name in set(vars(module)) - before:
            delattr(module, name)


class _Tracer(fx.Tracer):
    """Does not look into a SelectColumns module, as it does not look into those of torch."""

    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, SelectColumns) or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Notes the shape of each tensor that the graph computes.

    torch.fx.passes.shape_prop does so too, but prints a traceback where a module cannot be run.
    """

    def run_node(self, n):
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            n.meta["shape"] = tuple(result.shape)
            n.meta["floating"] = result.is_floating_point()
        return result


def _trace(module: nn.Module, X: torch.Tensor) -> fx.Graph:
    """The module's graph, with the shapes that X has on its way through."""
    with evaluating(module), torch.no_grad():
        try:
            graph = _Tracer().trace(module)
            _Shapes(module, graph=graph).run(X.clone())
        except Exception as error:
            # A user's forward may do anything that a tracer cannot follow.
            why = str(error) or type(error).__name__
            raise NotTraced(f"torch.fx cannot trace it: {why.splitlines()[0]}") from error
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise NotTraced(f"its forward takes {len(inputs)} inputs")
    return graph


def _plain_flattening(graph):
    """Write views that flatten, whose sizes may be numbers, as ``torch.flatten(x, 1)``.

    Returns whether there were any.
    """
    changed = False
    for node in list(graph.nodes):
        if node.op not in ("call_method", "call_function") or node.target not in FLATTENS:
            continue
        if not node.args:
            # Called with keywords only.
            continue
        source = node.args[0]
        shape = source.meta["shape"]
        if len(shape) < 2 or node.meta["shape"] != (shape[0], prod(shape[1:])):
            continue
        with graph.inserting_before(node):
            plain = graph.call_function(torch.flatten, (source, 1))
        plain.meta = dict(node.meta)
        node.replace_all_uses_with(plain)
        graph.erase_node(node)
        changed = True
    for node in reversed(list(graph.nodes)):
        if changed and "shape" not in node.meta and not node.users and looks_at_rows(node):
            graph.erase_node(node)
    return changed


def _refuse_shared_changes(module, graph):
    """Raise NotTraced for a tensor that is changed in place and read elsewhere too."""
    for node in graph.nodes:
        if node.op == "call_module":
            in_place = getattr(module.get_submodule(node.target), "inplace", False)
        elif node.op == "call_method":
            in_place = node.target.endswith("_") and not node.target.endswith("__")
        else:
            in_place = node.target in IN_PLACE or node.kwargs.get("inplace", False)
        while in_place and node.all_input_nodes:
            # What is changed may be a view of what came before it.
            node = node.all_input_nodes[0]
            if len(node.users) > 1:
                raise NotTraced(f"{node.name} is changed in place, and read elsewhere too")
            in_place = node.op != "call_module" or not list(
                module.get_submodule(node.target).parameters()
            )


def _shared(module, graph):
    """Names of modules that are called twice, or share a parameter with anything else."""
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    read = {node.target for node in graph.nodes if node.op == "get_attr"}
    tied = {
        name for same in names.values() if len(same) > 1 or read.intersection(same) for name in same
    }
    return {
        call
        for call in calls
        if calls.count(call) > 1
        or any(f"{call}.{n}" in tied for n, _ in module.get_submodule(call).named_parameters())
    }
