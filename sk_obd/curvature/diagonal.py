"""``diagonal``: the boundary where arguments are checked, rows are batched and the module is
restored.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import fisher, ggn, hessian, recursion, sampled
from .chain import linear_chain
from .losses import resolve
from .problem import Method, Problem

TABLE: dict[str, Method] = {
    "ggn": ggn.batch,
    "hessian": hessian.batch,
    "recursion": recursion.batch,
    "recursion-lm": recursion.batch_lm,
    "ggn-mc": sampled.batch,
    "fisher": fisher.batch,
}
METHODS = tuple(TABLE)
BUDGET = 1 << 22  # bytes of columns a batch of a chain may take, so that they stay in the cache


def diagonal(
    module: nn.Module,
    criterion,
    X,
    y,
    *,
    sample_weight=None,
    method: str = "ggn",
    outputs: str | None = None,
    batch_size: int | None = None,
    random_state=None,
) -> dict[str, Tensor]:
    """Diagonal second derivative of the loss by every trainable parameter.

    ``h_kk = d2L / du_k^2`` of ``L = sum_i w_i num_i / sum_i w_i den_i``, the loss that the
    criterion returns with ``reduction="mean"`` (whatever its own reduction), in eval mode.

    Parameters
    ----------
    module : nn.Module
        Comes back exactly as it was: mode, hooks, gradients, also after an error.
    criterion : nn.Module or callable(output, target)
        Never called or changed; see :func:`sk_obd.curvature.losses.resolve`.
    X, y : Tensor or ndarray
        All rows, in the dtypes the module and the criterion take.
    sample_weight : Tensor or ndarray of shape (n,), optional
        Weights of the rows, >= 0; only their ratios matter.
    method : {"ggn", "hessian", "recursion", "recursion-lm", "ggn-mc", "fisher"}
        ``"ggn"``: the exact Gauss-Newton diagonal, split at the logits; never negative for a
        convex loss. ``"hessian"``: the exact Hessian diagonal. ``"recursion"``, ``"recursion-
        lm"``: the paper's one-pass approximation, with and without its f'' term. ``"ggn-mc"``:
        Gauss-Newton from one random column a row, for many outputs. ``"fisher"``: mean of squared
        per-row gradients, which is not the Hessian.
    outputs : {"logits", "log_proba", "proba"}, optional
        What the module gives, where the criterion leaves it open (NLLLoss: log_proba by default).
    batch_size : int, optional
        Rows at a time. It changes memory and time, not the result. By default chosen from the
        module's size.
    random_state : int, RandomState, torch.Generator or None
        For ``"ggn-mc"`` alone. The global generators are never used.

    Returns
    -------
    dict of str to Tensor
        One entry for every trainable parameter in the order of ``module.named_parameters()``,
        shaped like it.

    Examples
    --------
    >>> import torch
    >>> from sk_obd.curvature import diagonal
    >>> module = torch.nn.Linear(2, 1)
    >>> X, y = torch.tensor([[1., 0.], [3., 1.]]), torch.zeros(2, 1)
    >>> diagonal(module, torch.nn.MSELoss(), X, y)
    {'weight': tensor([[10.,  1.]]), 'bias': tensor([2.])}
    """
    if method not in TABLE:
        raise ValueError(
            f"method={method!r} is not known; expected one of {', '.join(map(repr, TABLE))}."
        )
    loss = resolve(criterion, outputs)
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    X, y, w = check_rows(module, X, y, sample_weight)
    if not parameters:
        return {}
    generator = sampled.generator_from(random_state) if method == "ggn-mc" else None
    problem = Problem(module, loss, parameters, generator, chain=linear_chain(module))
    with as_it_was(module):
        size = batch_size or default_batch_size(problem, X)
        total, denominator = sums(problem, TABLE[method], X, y, w, size)
    if method == "fisher":  # squared gradients of rows: the mean's denominator enters once more
        denominator *= denominator / float(w.sum())
    return {name: value / denominator for name, value in total.items()}


def sums(problem: Problem, method: Method, X, y, w, size: int) -> tuple[dict[str, Tensor], float]:
    """The batches added up: sums for every parameter, and the mean's denominator."""
    total = {
        name: torch.zeros_like(p, requires_grad=False) for name, p in problem.parameters.items()
    }
    denominator = 0.0
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        values, part = method(problem, X[rows], y[rows], w[rows])
        for name, value in values.items():
            total[name] += value
        denominator += float(part)
    if not denominator > 0:
        raise ValueError(
            f"the weights of all rows sum to {denominator}: there is no mean loss. Give some "
            f"row a positive "
            "weight (and a target that is not ignore_index)."
        )
    return total, denominator


def check_rows(module: nn.Module, X, y, sample_weight) -> tuple[Tensor, Tensor, Tensor]:
    """Tensors on the module's device, as many rows each, none empty."""
    first = next(module.parameters(), None)
    device = X.device if isinstance(X, Tensor) else (first.device if first is not None else None)
    X, y = (as_tensor(value, name, device) for value, name in ((X, "X"), (y, "y")))
    if X.ndim < 1 or y.ndim < 1 or len(X) != len(y) or len(X) == 0:
        raise ValueError(
            f"X has shape {tuple(X.shape)}, y {tuple(y.shape)}; expected as many rows each, at "
            f"least 1."
        )
    dtype = first.dtype if first is not None else torch.get_default_dtype()
    if sample_weight is None:
        return X, y, torch.ones(len(X), dtype=dtype, device=X.device)
    w = as_tensor(sample_weight, "sample_weight", X.device).to(dtype)
    if w.shape != (len(X),):
        raise ValueError(
            f"sample_weight has shape {tuple(w.shape)}; expected ({len(X)},), one weight a row "
            f"of X."
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
    """So many rows that the columns of the widest layer fit a fixed budget."""
    widest = max((max(p.shape) for p in problem.parameters.values() if p.ndim == 2), default=1)
    outputs = 1
    if problem.chain:
        last = [m for m in problem.module.modules() if isinstance(m, nn.Linear)][-1]
        outputs = last.out_features
        per_row = widest * outputs * X.element_size()
        return max(16, min(4096, BUDGET // max(1, per_row)))
    with torch.no_grad():
        count = [0]

        def measure(layer, args, z):
            if isinstance(z, Tensor):
                count[0] += z.numel()

        handles = [m.register_forward_hook(measure) for m in problem.module.modules()]
        try:
            output = problem.module(X[:1])
        finally:
            for handle in handles:
                handle.remove()
    outputs = output[0].numel() if isinstance(output, Tensor) and output.ndim else 1
    per_row = max(1, count[0]) * min(outputs, 32) * 4
    return max(1, min(1024, 2**26 // per_row))


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
