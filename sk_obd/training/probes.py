"""A network looked at by one trial pass: what it returns, what reads X, which layers lie inside."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from skorch import NeuralNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..curvature.hooks import evaluating, first_input, first_output, hooked
from ..curvature.routes.graph import leaves
from .batches import take_rows

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
        If the module cannot take X; the message says what X looked like.
    """
    rows = torch.as_tensor(take_rows(X, slice(0, min(X.shape[0], 2))))
    try:
        return probe(net.module_, rows.to(net.device), net.infer)
    except Exception as error:
        raise ValueError(
            f"The module {type(net.module_).__name__} could not compute an output for X of shape "
            f"{tuple(X.shape)} and type {rows.dtype}: {error}. Give X the shape the module "
            "expects, or build the module for this X (skorch's InputShapeSetter does it)."
        ) from error


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
    table = rows.ndim == 2 and rows.is_floating_point()
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

    def note(module, inputs, kwargs, output):
        returned.append(output)

    layers = [layer for layer in module.modules() if isinstance(layer, LAYERS)]
    with (
        evaluating(module),
        torch.enable_grad(),
        hooked(layers, cut),
        hooked([module], note),
        FlopCounterMode(display=False) as counter,
    ):
        output = first_output((call or module)(rows))
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
        counter.get_total_flops() / 2 / max(1, len(output)),
        found if only_linear and len(found) == len(readers) else None,
        [layer for layer, outs in calls.items() if len(outs) == 1 and outs[0] not in last],
    )
