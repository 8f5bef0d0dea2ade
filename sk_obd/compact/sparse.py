"""Linear layers whose weights are a scipy CSR matrix, where that is faster."""

from __future__ import annotations

import copy
import timeit
from collections.abc import Callable, Collection
from functools import partial
from statistics import median
from typing import Any

import torch
from scipy import sparse
from torch import nn

from ..curvature.hooks import first_input, hooked


class SparseLinear(nn.Linear):
    """A Linear layer for prediction that multiplies only with weights that are not 0.

    Rows lie side by side in memory (what it returns is the transpose of an array), so that each
    weight works on all of them at once; layers and activations after it keep that order. Its
    ``weight`` and ``bias`` are still there, the layer's own, for a forward that reads them.

    Parameters
    ----------
    linear : torch.nn.Linear
        On the CPU.
    """

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.csr = sparse.csr_array(linear.weight.detach().numpy())
        self.column = None if linear.bias is None else linear.bias.detach().numpy()[:, None].copy()

    def forward(self, X):
        out = self.csr @ X.T.contiguous().numpy()
        if self.column is not None:
            out += self.column
        return torch.from_numpy(out).T

    def extra_repr(self):
        return f"{self.in_features}, {self.out_features}, nnz={self.csr.nnz}"


def in_order(layer, inputs):
    """A hook before a dense layer: its input put in order.

    What a `SparseLinear` returns is a transpose, on which torch is several times slower.
    """
    return tuple(X.contiguous() if isinstance(X, torch.Tensor) else X for X in inputs)


def with_sparse(module: nn.Module, names: Collection[str]) -> nn.Module:
    """A copy of `module` around the same tensors; the layers of these names are `SparseLinear`."""
    tensors = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    changed = copy.deepcopy(module, tensors)
    for name, layer in list(changed.named_modules()):
        if name in names:
            changed.set_submodule(name, SparseLinear(layer))
        elif name and type(layer) is nn.Linear:
            layer.register_forward_pre_hook(in_order)
    return changed


def is_plain(layer: nn.Module) -> bool:
    """Whether calling a layer is the product of a Linear layer and nothing else."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    return type(layer) is nn.Linear and "forward" not in vars(layer) and not any(hooks)


@torch.inference_mode()
def linear_inputs(module: nn.Module, X: torch.Tensor) -> dict[str, torch.Tensor]:
    """The input of each plain Linear layer of `module` for X, by name, where it is a matrix."""
    layers = [m for name, m in module.named_modules() if name and is_plain(m)]
    names = {layer: name for name, layer in module.named_modules()}
    found = {}

    def note(layer, args, kwargs, output):
        read = first_input(args, kwargs)
        if read.ndim == 2:
            found[names[layer]] = read.clone()

    with hooked(layers, note):
        module(X.clone())
    return found


@torch.inference_mode()
def faster_sparse(module: nn.Module, X: torch.Tensor, threads: int) -> list[str]:
    """Names of the Linear layers that were measured to be faster as CSR for the rows X.

    Rows are predicted in blocks. CSR works on a block with one thread, and several blocks are
    under way at a time; dense layers use all threads for each block.
    """
    faster = []
    for name, rows in linear_inputs(module, X).items():
        dense: Any = module.get_submodule(name)
        csr = SparseLinear(dense)
        if seconds(partial(csr, rows)) / threads < seconds(partial(dense, rows)):
            faster.append(name)
    return faster


def seconds(function: Callable, repeats: int = 11) -> float:
    """Median time of a call, after one to warm up."""
    return median(timeit.repeat(function, number=1, repeat=repeats + 1)[1:])
