"""What every public function does around its own work.

Arguments are checked, the module is put into eval mode and back, rows are taken in batches and
added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from .hooks import evaluating, hooked
from .problem import Batch, Method, Problem

#: X, y or weights as a user gives them.
Rows = Tensor | ArrayLike

#: Bytes a layer's output takes in a batch of a dense chain, so that it stays in the cache.
CHAIN_BYTES = 1 << 20
#: Bytes all columns take in a batch of any other module.
COLUMNS_BYTES = 1 << 26
#: Columns counted in that, at most. It is a rough estimate: of a block's columns a backward pass
#: holds those of a few layers at a time.
COLUMNS_COUNTED = 32
#: Fewest and most rows in a batch of a dense chain: small batches spend their time between matrix
#: products, and larger ones only take more memory.
FEWEST, MOST = 64, 4096
#: Most rows in a batch of any other module.
MOST_OF_ANY = 1024


def checked_batch_size(batch_size: int | None) -> int | None:
    """The batch size as an int; ValueError if it is not a positive integer or None."""
    if batch_size is None:
        return None
    if not (isinstance(batch_size, (int, np.integer)) and batch_size > 0):
        raise ValueError(f"batch_size={batch_size!r}; expected a positive integer or None.")
    return int(batch_size)


def check_rows(
    module: nn.Module, X: Rows, y: Rows, sample_weight: Rows | None
) -> tuple[Tensor, Tensor, Tensor]:
    """X, y and the weights (n,) as tensors on X's device, or the module's if X is not a tensor.

    Raises
    ------
    ValueError
        If they are not numeric, not of one length or empty, or if a weight is negative or not
        finite.
    """
    first = next(module.parameters(), None)
    device = X.device if isinstance(X, Tensor) else (first.device if first is not None else None)
    X, y = as_tensor(X, "X", device), as_tensor(y, "y", device)
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
            f"sample_weight has shape {tuple(w.shape)}; expected ({len(X)},), a weight for each "
            "row of X."
        )
    if not (w.isfinite() & (w >= 0)).all():
        raise ValueError(
            f"sample_weight must be finite and >= 0, found {w.min().item()} .. {w.max().item()}."
        )
    return X, y, w


def as_tensor(value: Rows, name: str, device: torch.device | None) -> Tensor:
    """The value as a detached tensor on the device; ValueError if it is not numeric."""
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} must be numeric, found an array of dtype {array.dtype}.")
        value = torch.as_tensor(np.ascontiguousarray(array), device=device)
    return value.detach().to(device)


#: Rows on which a module is tried before all rows go through it.
PROBED = 3


def drawn_rows(w: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices of rows drawn from all that have a positive weight (from all, if none has), sorted.

    They are at most ``count``, and none is drawn twice.
    """
    counted = (w > 0).nonzero().flatten().cpu()
    counted = counted if len(counted) else torch.arange(len(w))
    if len(counted) > 100 * count:  # a permutation of all would take longer than the rest
        places = torch.randint(len(counted), (count,), generator=generator).unique()
    else:
        places = torch.randperm(len(counted), generator=generator)[:count]
    return counted[places].sort().values.to(w.device)


def default_batch_size(problem: Problem, X: Tensor) -> int:
    """As many rows as keep bounded what a batch holds, whatever the number of rows."""
    if problem.try_dense_chain:
        linears = [m for m in problem.module.modules() if isinstance(m, nn.Linear)]
        widest = max(layer.out_features for layer in linears)
        return max(FEWEST, min(MOST, CHAIN_BYTES // (widest * problem.item_size)))
    held, output = outputs_of_layers(problem.module, X)
    per_row = max(1, held) * min(output.numel(), COLUMNS_COUNTED) * problem.item_size
    return max(1, min(MOST_OF_ANY, COLUMNS_BYTES // per_row))


def outputs_of_layers(module: nn.Module, X: Tensor) -> tuple[int, Tensor]:
    """How many numbers all layers together give for the first row, and what the module gives."""
    held = 0

    def measure(layer: nn.Module, args: Any, kwargs: Any, z: Any) -> None:
        nonlocal held
        held += z.numel() if isinstance(z, Tensor) else 0

    with hooked(module.modules(), measure), torch.no_grad():
        output = module(X[:1])
    return held, output


def sums_over_batches(
    problem: Problem, method: Method, rows: tuple[Tensor, Tensor, Tensor], size: int
) -> tuple[dict[str, Tensor], float]:
    """The method's sums over all batches, for every parameter, and the mean's denominator.

    ``rows`` are X, y and the weights, ``size`` the rows of a batch. Raises ValueError if the
    denominator is not positive.
    """
    total = {
        name: torch.zeros_like(p, requires_grad=False) for name, p in problem.parameters.items()
    }
    denominator = 0.0
    for parts in zip(*(tensor.split(size) for tensor in rows), strict=True):
        values, part = method(problem, Batch(problem.loss, *parts))
        for name, value in values.items():
            total[name] += value
        denominator += float(part)
    if not denominator > 0:
        raise ValueError(
            f"the weights of all rows sum to {denominator}: there is no mean loss. Give some row "
            "a positive weight (and a target that is not ignore_index)."
        )
    return total, denominator


@contextmanager
def without_mkldnn() -> Iterator[None]:
    """Not torch's own context manager, which warns about flags it does not change."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class WeightNormOfParts(TorchFunctionMode):
    """Weight norm as a product of operations.

    The derivative of torch's fused one takes the norm for a constant, so that its second
    derivatives are wrong.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:
            v, g, dim = (*args, 0)[:3] if not kwargs else (*args, kwargs.get("dim", 0))[:3]
            return v * (g / torch.norm_except_dim(v, 2, dim))
        return func(*args, **(kwargs or {}))


#: What makes a layer's weight by weight norm: a hook, or a parametrization.
WEIGHT_NORMS = (WeightNorm, nn.utils.parametrizations._WeightNorm)


def has_weight_norm(m: nn.Module) -> bool:
    """Whether torch's weight norm makes the module's weight, or is the module itself."""
    if isinstance(m, WEIGHT_NORMS):
        return True
    return any(isinstance(hook, WEIGHT_NORMS) for hook in m._forward_pre_hooks.values())


@contextmanager
def buffers_restored(module: nn.Module) -> Iterator[None]:
    """Give every buffer its values back on leaving, where something has changed it in place."""
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, version, before in buffers:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(before)


@contextmanager
def plain_embeddings(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let embeddings give dense gradients, not divided by how often a word is there.

    On leaving, they have their settings back.
    """
    changed = [
        (m, name)
        for m in modules
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag))
        for name in ("sparse", "scale_grad_by_freq")
        if getattr(m, name)
    ]
    try:
        for m, name in changed:
            setattr(m, name, False)
        yield
    finally:
        for m, name in changed:
            setattr(m, name, True)


@contextmanager
def second_derivatives_named(
    module: nn.Module, asker: str, way_out: str = 'use method="ggn", or '
) -> Iterator[None]:
    """Say what to do where torch has no second derivative of one of the module's operations.

    Raises
    ------
    RuntimeError
        In the place of torch's NotImplementedError.
    """
    try:
        yield
    except NotImplementedError as error:
        raise RuntimeError(
            f"{type(module).__name__} computes something that torch can differentiate only once: "
            f"{error}. {asker} needs second derivatives; {way_out}write that step with other "
            "operations."
        ) from error


@contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Eval mode with gradients on, by kernels that can be differentiated as often as needed.

    Afterwards every submodule has its mode and every buffer its values back.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        modules = list(module.modules())
        if any(isinstance(m, nn.RNNBase) for m in modules):
            # cuDNN's have no backward in eval mode, oneDNN's no batching rule.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(without_mkldnn())
        stack.enter_context(plain_embeddings(modules))
        if any(map(has_weight_norm, modules)):
            stack.enter_context(WeightNormOfParts())
        stack.enter_context(buffers_restored(module))
        stack.enter_context(evaluating(module))
        yield
