"""A network looked at by one trial pass: what it returns, what reads X, which layers lie inside."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from skorch import NeuralNet
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ..curvature.boundary import buffers_restored
from ..curvature.hooks import evaluating, first_input, first_output, hooked
from ..curvature.routes.graph import leaves
from .batches import first_rows
from .standardise import Standardise

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: Layers whose weights lead from units to units.
LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)

#: Multiply-adds of a training step up to which a second thread saves at most about a fifth on an
#: idle machine, and costs several times as much on a busy one (docs/benchmarks/threads.md).
SMALL_STEP = 2e7


@dataclass(frozen=True)
class RowsSeen:
    """What fit saw of the rows of X, and found out by passing two of them through the network."""

    #: Shape of one row, as the module takes it.
    shape: tuple[int, ...]
    #: Name of the dtype in which X enters the module.
    dtype: str
    #: Weights of the Linear layers that read X; None where anything else reads it.
    readers: list[str] | None
    #: Whether the network is so small that one thread is the fastest.
    single_thread: bool
    #: A few of the training rows, as the module takes them; None where they are not known, as after
    #: loading from a file.
    examples: Tensor | None = field(default=None, compare=False, repr=False)

    def sample(self, module: nn.Module, n_rows: int) -> Tensor:
        """Rows to try the module on: training rows, repeated, or made-up ones if none are known."""
        if self.examples is None:
            return self.made_up(module, n_rows)
        return repeated(self.examples, n_rows)

    def made_up(self, module: nn.Module, n_rows: int) -> Tensor:
        """Rows of this shape and dtype: normal numbers, or indices that every Embedding has."""
        generator = torch.Generator().manual_seed(0)
        dtype = getattr(torch, self.dtype)
        if dtype.is_floating_point:
            return torch.randn((n_rows, *self.shape), generator=generator, dtype=dtype)
        sizes = [
            layer.num_embeddings
            for layer in module.modules()
            if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
        ]
        least = min(sizes, default=2)
        return torch.randint(least, (n_rows, *self.shape), generator=generator, dtype=dtype)


def repeated(rows: Tensor, n_rows: int) -> Tensor:
    """As many rows, from the first on, again and again."""
    return rows[torch.arange(n_rows) % len(rows)]


@dataclass(frozen=True)
class Trial:
    """What one pass of a few rows through a network showed, in eval mode."""

    rows: Tensor
    #: The first tensor that the network returned for them, as its criterion is given it.
    output: Tensor
    #: Shape of the first tensor that its module returned: skorch may flatten a module's (n, 1).
    module_shape: tuple[int, ...]
    #: Whether the module returned that in a tuple.
    in_tuple: bool
    #: Whether the module changed the rows that it was given in place.
    changes_input: bool
    #: Multiply-adds of a forward pass, per row.
    n_multiplications: float
    #: Names of the weights of the Linear layers that read X, where X has two dimensions and enters
    #: nothing else; else None.
    readers: list[str] | None
    #: Linear and convolutional layers called exactly once, and not last before the output.
    inner_layers: list[nn.Module]

    def rows_seen(self, batch_size: int) -> RowsSeen:
        """The record of these rows, for a network trained on batches of a size."""
        return RowsSeen(
            tuple(self.rows.shape[1:]),
            str(self.rows.dtype).removeprefix("torch."),
            self.readers,
            # Forward and backward together cost about three times the forward pass.
            3 * self.n_multiplications * batch_size <= SMALL_STEP,
        )


def try_net(net: NeuralNet, X) -> Trial:
    """Pass the first two rows of X through an initialised skorch net.

    Raises
    ------
    ValueError
        If the module cannot take X, or what it returns is not a function of each row for itself;
        the message says what was found and what to do.
    """
    rows = first_rows(X).to(net.device)
    module = net.module_
    with buffers_restored(module):
        passes = [call_net(net, rows, X.shape) for _ in range(2)]
        # The curvature says why a module does not take one row, where it does not.
        with suppress(ValueError):
            passes.append(call_net(net, rows[:1], X.shape))
    refuse_shapes(module, [tuple(p.returned.shape) for p in passes[1:]], len(rows))
    name = f"The module {type(module).__name__}"
    once, again = (p.output for p in passes[:2])
    if not torch.allclose(once, again, rtol=SAME_RTOL, atol=SAME_ATOL, equal_nan=True):
        raise ValueError(
            f"{name} gives another output for the same rows of X when it is called again, in eval "
            "mode. Something in its forward is random (torch.rand, or dropout without "
            "training=self.training) or keeps a state between calls (a counter, the last output); "
            "make forward a function of X and the parameters."
        )
    if passes[0].autocast:
        raise ValueError(
            f"{name} computes under torch.autocast, in lower precision, and second derivatives "
            "need the precision of its parameters. Take autocast out of its forward (it may come "
            "back for prediction, around predict)."
        )
    return replace(probe(module, rows, net.infer), output=passes[0].output)


#: How far two outputs for the same rows may be apart: rounding on a GPU may differ by the call.
SAME_RTOL, SAME_ATOL = 1e-3, 1e-6


@torch.no_grad()
def undefined_at_zero(net: NeuralNet, X, names: list[str]) -> list[str]:
    """Which of the parameters of these names make the output NaN when they are zero.

    That of weight_norm is divided by the norm of its rows, for instance.
    """
    rows = first_rows(X).to(net.device)
    parameters = dict(net.module_.named_parameters())

    def is_nan(names):
        before = {name: parameters[name].clone() for name in names}
        try:
            for name in names:
                parameters[name].zero_()
            with buffers_restored(net.module_):
                return bool(call_net(net, rows).output.isnan().any())
        finally:
            for name, value in before.items():
                parameters[name].copy_(value)

    return [name for name in names if is_nan([name])] if is_nan(names) else []


class Pass(TorchFunctionMode):
    """One pass of rows through a module, watched."""

    #: The first tensor that the net returned, and that its module returned.
    output: Tensor
    returned: Tensor

    def __init__(self):
        super().__init__()
        #: Whether any operation ran under autocast.
        self.autocast = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.autocast |= any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
        return func(*args, **(kwargs or {}))


def call_net(net: NeuralNet, rows: Tensor, shape: tuple[int, ...] | None = None) -> Pass:
    """Pass a copy of rows through a net in eval mode.

    Raises
    ------
    ValueError
        If the module cannot take the rows, or does not return a tensor; `shape` is that of X.
    """
    module, returned = net.module_, []

    def note(module, inputs, kwargs, output):
        refuse_kind(module, output)
        returned.append(first_output(output))

    try:
        with evaluating(module), torch.no_grad(), hooked([module], note), Pass() as found:
            found.output = first_output(net.infer(rows.clone()))
    except WrongKind:
        raise
    except Exception as error:
        raise ValueError(
            f"The module {type(module).__name__} could not compute an output for X of shape "
            f"{tuple(shape or rows.shape)} and type {rows.dtype}: {error}. Give X the shape the "
            "module expects, or build the module for this X (skorch's InputShapeSetter does it)."
        ) from error
    found.returned = returned[-1]
    return found


class WrongKind(ValueError):
    """A module does not return a tensor."""


def refuse_kind(module: nn.Module, returned) -> None:
    """Raise WrongKind for what a module returned, if it is not a tensor or a tuple with one."""
    if isinstance(first_output(returned), Tensor):
        return
    found = f"a {type(returned).__name__}"
    if isinstance(returned, dict):
        found += f" with the keys {', '.join(map(repr, returned))}"
    elif isinstance(returned, tuple):
        found += f" that begins with a {type(first_output(returned)).__name__}"
    raise WrongKind(
        f"The module {type(module).__name__} returns {found}; expected one tensor with a row for "
        "each row of X, or a tuple that begins with it. Let its forward return the predictions "
        "only, or wrap it in a module that does."
    )


def refuse_shapes(module: nn.Module, shapes: list[tuple[int, ...]], n_rows: int) -> None:
    """Raise ValueError unless a module returned a row for each row.

    `shapes` are what it returned for `n_rows` rows and, if it took it, for one row.
    """
    some, *one = shapes
    if some[:1] == (n_rows,) and all(shape == (1, *some[1:]) for shape in one):
        return
    and_one = "".join(f", and {shape} for one row" for shape in one)
    raise ValueError(
        f"The module {type(module).__name__} returns shape {some} for {n_rows} row(s) of X"
        f"{and_one}; expected the rows first, however many there are. Does it end in .squeeze(), "
        "which drops every dimension of size 1? Write .squeeze(-1)."
    )


def probe(module: nn.Module, rows: Tensor, call: Callable | None = None) -> Trial:
    """Pass rows through a module once, its layers cut apart to see what reads what.

    Parameters
    ----------
    module : nn.Module
        Comes back as it was.
    rows : tensor of shape (n_rows, ...)
    call : callable, optional
        How the module is called, ``call(rows)``; None: by itself.
    """
    with evaluating(module), torch.no_grad(), buffers_restored(module):
        given = rows.clone()
        (call or module)(given)
    # torch counts how often a tensor was changed in place.
    changes_input = given._version > 0
    table = rows.ndim == 2 and rows.is_floating_point() and not changes_input
    rows = rows.detach().clone().requires_grad_(table)
    calls: dict[nn.Module, list[Tensor]] = {}
    returned = []
    readers, n_uses = [], 0

    def cut(layer, inputs, kwargs, output):
        nonlocal n_uses
        read = first_input(inputs, kwargs)
        # Dropout in eval mode and flattening pass X on as it is.
        same = table and read.data_ptr() == rows.data_ptr() and read.shape == rows.shape
        if same and isinstance(layer, nn.Linear):
            readers.append(layer)
        if table:
            n_uses += leaves(output).get(rows, 0)
        # A leaf of its own in the place of the output: what lies behind the next layers is theirs.
        calls.setdefault(layer, []).append(output.detach().requires_grad_())
        return calls[layer][-1].clone()

    def passed(layer, inputs, kwargs, output):
        # A column that is standardised is still that column.
        return first_input(inputs, kwargs)

    def note(module, inputs, kwargs, output):
        returned.append(output)

    standardised = [layer for layer in module.modules() if isinstance(layer, Standardise)]
    layers = [layer for layer in module.modules() if isinstance(layer, LAYERS)]
    with (
        evaluating(module),
        torch.enable_grad(),
        hooked(standardised, passed),
        hooked(layers, cut),
        hooked([module], note),
        FlopCounterMode(display=False) as counter,
    ):
        # Rows that require gradients are not the module's to change, and it changes none of them.
        output = first_output((call or module)(rows.clone() if changes_input else rows))
    last = leaves(output)
    # Every way by which X enters the graph must be one of the layers seen.
    only_linear = readers and n_uses + last.get(rows, 0) == len(readers)
    names = {parameter: name for name, parameter in module.named_parameters()}
    found = [names[layer.weight] for layer in readers if layer.weight in names]
    return Trial(
        rows.detach(),
        output.detach(),
        tuple(first_output(returned[-1]).shape),
        isinstance(returned[-1], tuple),
        changes_input,
        counter.get_total_flops() / 2 / max(1, len(output)),
        found if only_linear and len(found) == len(readers) else None,
        [layer for layer, outs in calls.items() if len(outs) == 1 and outs[0] not in last],
    )
