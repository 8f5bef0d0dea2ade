"""The boundary: arguments checked, batches sized, the module put into eval mode and back."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .problem import Problem

#: Bytes a layer's output takes in a batch of a chain, so that it stays in the cache.
BUDGET = 1 << 20
#: Bytes all columns take in a batch of any other module.
GENERAL = 1 << 26


def checked_batch_size(batch_size) -> int | None:
    if batch_size is not None and not (
        isinstance(batch_size, (int, np.integer)) and batch_size > 0
    ):
        raise ValueError(f"batch_size={batch_size!r}; expected a positive integer or None.")
    return batch_size


def check_rows(module: nn.Module, X, y, sample_weight) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors on the module's device, as many rows each, none empty."""
    first = next(module.parameters(), None)
    device = X.device if isinstance(X, Tensor) else (first.device if first is not None else None)
    X, y = (as_tensor(value, name, device) for value, name in ((X, "X"), (y, "y")))
    if X.ndim < 1 or y.ndim < 1 or len(X) != len(y) or len(X) == 0:
        raise ValueError(
            f"X has shape {tuple(X.shape)}, y {tuple(y.shape)}; expected as many rows each, and "
            "at least one."
        )
    dtype = first.dtype if first is not None else torch.get_default_dtype()
    if sample_weight is None:
        return X, y, torch.ones(len(X), dtype=dtype, device=X.device)
    w = as_tensor(sample_weight, "sample_weight", X.device).to(dtype)
    if w.shape != (len(X),):
        raise ValueError(
            f"sample_weight has shape {tuple(w.shape)}; expected ({len(X)},), a weight a row of X."
        )
    if not (w.isfinite() & (w >= 0)).all():
        raise ValueError(
            f"sample_weight must be finite and >= 0, found {w.min().item()} .. {w.max().item()}."
        )
    return X, y, w


def as_tensor(value, name: str, device) -> Tensor:
    if not isinstance(value, Tensor):
        value = np.asarray(value)
        if value.dtype.kind not in "biuf":
            raise ValueError(f"{name} must be numeric, found an array of dtype {value.dtype}.")
        value = torch.as_tensor(np.ascontiguousarray(value), device=device)
    return value.detach().to(device)


def default_batch_size(problem: Problem, X: Tensor) -> int:
    """So many rows that what a batch holds stays bounded, whatever the number of rows."""
    if problem.chain:
        linears = [m for m in problem.module.modules() if isinstance(m, nn.Linear)]
        widest = max(layer.out_features for layer in linears)
        return max(64, min(4096, BUDGET // (widest * problem.item_size)))
    held = [0]

    def measure(layer, args, z):
        held[0] += z.numel() if isinstance(z, Tensor) else 0

    handles = [m.register_forward_hook(measure) for m in problem.module.modules()]
    try:
        with torch.no_grad():
            output = problem.module(X[:1])
    finally:
        for handle in handles:
            handle.remove()
    per_row = max(1, held[0]) * min(output.numel(), 32) * problem.item_size
    return max(1, min(1024, GENERAL // per_row))


@contextmanager
def without_mkldnn():
    """Not torch's own context manager, which warns about flags it does not change."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def as_it_was(module: nn.Module):
    """Eval mode with gradients on; afterwards every submodule has its mode back."""
    modes = [(m, m.training) for m in module.modules()]
    buffers = [(b, b._version, b.clone()) for b in module.buffers()]
    recurrent = any(isinstance(m, nn.RNNBase) for m in module.modules())
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:  # cuDNN's have no backward in eval mode, oneDNN's no batching rule
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(without_mkldnn())
        try:
            module.eval()
            yield
        finally:
            for m, mode in modes:
                m.training = mode
            for buffer, version, before in buffers:
                if buffer._version != version:
                    with torch.no_grad():
                        buffer.copy_(before)
