"""``diagonal``: the diagonal second derivatives of a loss, by one of six methods."""

from __future__ import annotations

from torch import Tensor, nn

from .boundary import (
    PROBED,
    Rows,
    as_it_was,
    check_rows,
    checked_batch_size,
    default_batch_size,
    drawn_rows,
    second_derivatives_named,
    sums_over_batches,
)
from .check import ROWS, disagreement, warn_of, worth_comparing
from .hooks import trainable
from .losses.base import Criterion, Loss
from .losses.registry import loss_of
from .methods import fisher, ggn, hessian, recursion, sampled
from .problem import Method, Problem
from .routes.dense_chain import may_be_dense_chain
from .routes.dependent_rows import refuse_dependent_rows

TABLE: dict[str, Method] = {
    "ggn": ggn.sums,
    "hessian": hessian.sums,
    "recursion": recursion.sums,
    "recursion-lm": recursion.sums_lm,
    "ggn-mc": sampled.sums,
    "fisher": fisher.sums,
}
METHODS = tuple(TABLE)


def diagonal(
    module: nn.Module,
    criterion: Criterion | Loss,
    X: Rows,
    y: Rows,
    *,
    sample_weight: Rows | None = None,
    method: str = "ggn",
    outputs: str | None = None,
    batch_size: int | None = None,
    random_state: sampled.RandomState = None,
    check: bool = True,
) -> dict[str, Tensor]:
    """Diagonal second derivative of the loss by every trainable parameter.

    ``h_kk = d2L / du_k^2`` of ``L = sum_i w_i num_i / sum_i w_i den_i``, the loss that the
    criterion returns with ``reduction="mean"`` (whatever its own reduction), in eval mode.

    Parameters
    ----------
    module : nn.Module
        Comes back exactly as it was: mode, hooks, gradients, also after an error.
    criterion : nn.Module or callable(output, target)
        With ``reduction`` "mean", "sum" or "none" (all mean the same here), or any callable that
        returns the mean over rows. It is never changed, and a module is copied, not called.
    X, y : Tensor or ndarray of shape (n, ...)
        All rows, in the dtypes that the module and the criterion take.
    sample_weight : Tensor or ndarray of shape (n,), optional
        Weights of the rows, >= 0; only their ratios matter. By default all are 1.
    method : {"ggn", "hessian", "recursion", "recursion-lm", "ggn-mc", "fisher"}, default="ggn"
        - "ggn": the exact Gauss-Newton diagonal, split at the logits; never negative for a convex
          loss.
        - "hessian": the exact diagonal of the Hessian.
        - "recursion": the paper's approximation in one backward pass, with its term of f''.
        - "recursion-lm": the same without that term; never negative for a convex loss.
        - "ggn-mc": Gauss-Newton from one random column per row, for many outputs.
        - "fisher": the mean of squared per-row gradients, which is not the Hessian.
    outputs : {"logits", "log_proba", "proba"}, optional
        What the module gives, where the criterion leaves it open (NLLLoss: log_proba by default).
    batch_size : int, optional
        Rows at a time. It changes memory and time, not the result. By default chosen from the
        module's size.
    random_state : int, RandomState, torch.Generator or None
        For the draws of "ggn-mc", with any other method for the rows that ``check`` looks at (None:
        the same ones at every call). The global generators are never used.
    check : bool, default=True
        Whether the result of two rows drawn from X is compared with that of plain autograd, in
        float64 where the module can be copied to it. Where they differ, the whole call goes the
        slow, general way, with a UserWarning. It takes 10 to 20 ms for a LeNet, which is 1 to 3 %
        of a call of 2000 rows. A plain chain of Linear layers is compared only where rows times
        parameters are at least 5e9. "recursion" and "recursion-lm" are approximations and are not
        compared.

    Returns
    -------
    dict of str to Tensor
        An entry for every trainable parameter in the order of ``module.named_parameters()``,
        shaped like it; 0 for parameters that the output does not depend on.

    Raises
    ------
    ValueError
        - If an argument does not fit: an unknown ``method``, X and y of different lengths, a
          negative weight, targets or ``outputs`` that do not fit the criterion, a criterion that
          is not a mean over rows.
        - If all weights are 0.
        - If a row's output depends on the other rows, as with batch norm without running
          statistics, or if the module does not return one tensor with the rows first.
        - If the criterion holds a function that can be differentiated only once.
        - With "recursion" and "recursion-lm", if the module is not a chain of Linear and
          convolutional layers with maps between them in which every number feeds at most one.
        - With "ggn-mc", if the loss is not convex in the logits.
    RuntimeError
        With "hessian" and "recursion", if the module holds a function that can be differentiated
        only once, as ``torch.cdist``.

    Warns
    -----
    UserWarning
        If ``check`` finds another result than plain autograd's; the result is the general way's.

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
    loss = loss_of(criterion, outputs)
    parameters = trainable(module)
    size = checked_batch_size(batch_size)
    X, y, w = check_rows(module, X, y, sample_weight)
    if not parameters:
        return {}
    generator = sampled.generator_from(random_state) if method == "ggn-mc" else None

    def drawn(count: int) -> Tensor:
        of = 0 if random_state is None or generator is not None else random_state
        return drawn_rows(w, count, sampled.generator_from(of))

    problem = Problem(
        module,
        loss,
        parameters,
        draw_probe=lambda: X[drawn(PROBED)],
        generator=generator,
        try_dense_chain=may_be_dense_chain(module),
    )
    with as_it_was(module), second_derivatives_named(module, f"method={method!r}"):
        # A dense chain is seen to keep its rows apart as it is traced, unless rows come singly.
        if not problem.try_dense_chain or size == 1:
            refuse_dependent_rows(module, problem.probe)
        size = size or default_batch_size(problem, X)
        if check and worth_comparing(problem, method, len(X)):
            some = drawn(ROWS)
            name = disagreement(problem, method, X[some], y[some])
            if name is not None:
                warn_of(name, module)
                problem.take_general_route()
        total, denominator = sums_over_batches(problem, TABLE[method], (X, y, w), size)
    if method == "fisher":  # squared gradients of rows: the mean's denominator enters once more
        denominator *= denominator / float(w.sum())
    return {name: value / denominator for name, value in total.items()}
