"""``diagonal``: arguments checked, rows batched, the module restored."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .boundary import as_it_was, check_rows, checked_batch_size, default_batch_size
from .losses.registry import resolve
from .methods import fisher, ggn, hessian, recursion, sampled
from .problem import Method, Problem
from .routes.any_module import refuse_dependent_rows
from .routes.dense_chain import linear_chain

TABLE: dict[str, Method] = {
    "ggn": ggn.batch,
    "hessian": hessian.batch,
    "recursion": recursion.batch,
    "recursion-lm": recursion.batch_lm,
    "ggn-mc": sampled.batch,
    "fisher": fisher.batch,
}
METHODS = tuple(TABLE)


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
        convex loss. ``"hessian"``: the exact Hessian diagonal. ``"recursion"`` and
        ``"recursion-lm"``: the paper's one-pass approximation, with and without its f'' term.
        ``"ggn-mc"``:
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
    size = checked_batch_size(batch_size)
    X, y, w = check_rows(module, X, y, sample_weight)
    if not parameters:
        return {}
    generator = sampled.generator_from(random_state) if method == "ggn-mc" else None
    problem = Problem(module, loss, parameters, X[:2], generator, chain=linear_chain(module))
    with as_it_was(module):
        if not problem.chain or size == 1:  # a chain is seen to keep its rows apart as it is traced
            refuse_dependent_rows(module, X)
        size = size or default_batch_size(problem, X)
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
            f"the weights of all rows sum to {denominator}: there is no mean loss. Give some row "
            "a positive weight (and a target that is not ignore_index)."
        )
    return total, denominator
