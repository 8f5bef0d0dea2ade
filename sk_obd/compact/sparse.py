"""Linear layers whose weights are a scipy CSR matrix, where that is faster."""

import copy
import time
from functools import partial
from statistics import median

import torch
from scipy import sparse
from torch import nn


class SparseLinear(nn.Module):
    """A Linear layer for prediction: only weights that are not 0 are stored and multiplied.

    Rows lie side by side in memory (what it returns is the transpose of an array), so that each
    weight works on all of them at once; layers and activations after it keep that order.

    Parameters
    ----------
    linear : torch.nn.Linear
        On the CPU.
    """

    def __init__(self, linear):
        super().__init__()
        self.weight = sparse.csr_array(linear.weight.detach().numpy())
        self.bias = None if linear.bias is None else linear.bias.detach().numpy()[:, None].copy()

    def forward(self, X):
        out = self.weight @ X.T.contiguous().numpy()
        if self.bias is not None:
            out += self.bias
        return torch.from_numpy(out).T

    def extra_repr(self):
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, nnz={self.weight.nnz}"


class InOrder(nn.Module):
    """A dense layer behind sparse ones: torch is several times slower on what they return."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, X):
        return self.layer(X.contiguous())


def with_sparse(module, names):
    """A copy of `module` in which the Linear layers of these names are `SparseLinear`."""
    changed = copy.deepcopy(module)
    for name, layer in list(changed.named_modules()):
        if name in names:
            changed.set_submodule(name, SparseLinear(layer))
        elif name and type(layer) is nn.Linear:
            changed.set_submodule(name, InOrder(layer))
    return changed


@torch.inference_mode()
def linear_inputs(module, X):
    """What each Linear layer of `module` gets for X, by name, where that is a matrix."""
    found, handles = {}, []
    for name, layer in module.named_modules():
        if name and type(layer) is nn.Linear:

            def note(layer, args, output, name=name):
                if args[0].ndim == 2:
                    found[name] = args[0].clone()

            handles.append(layer.register_forward_hook(note))
    try:
        module(X)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.inference_mode()
def faster_sparse(module, X, threads):
    """Names of the Linear layers that are faster as CSR for the rows X, by measurement.

    Rows are predicted in blocks. CSR works on a block with one thread, so that several blocks
    are under way at a time; dense layers use all threads for each.
    """
    faster = []
    for name, rows in linear_inputs(module, X).items():
        dense = module.get_submodule(name)
        csr = SparseLinear(dense)
        if seconds(partial(csr, rows)) / threads < seconds(partial(dense, rows)):
            faster.append(name)
    return faster


def seconds(function, repeats=11):
    """Median time of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return median(times[1:])
