"""Any loss seen row by row, with its second derivative at the logits by autograd.

The loss of a batch is ``sum_i num_i / sum_i den_i``: :meth:`Loss.rows` gives the numerators (the
loss of each row, summed over its elements or positions), :meth:`Loss.normalisers` the denominators,
such that the quotient is what torch's ``reduction="mean"`` returns.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .hessians import Dense, Form, Separable

#: A criterion: an nn.Module or function of (output, target).
Criterion = Callable[..., Any]

#: How far the criterion's own mean may be from the mean over rows, relative to the rows' mean size,
#: in units of what rounding does to a number. Leaving out one row of thousands differs by more.
MEAN_ULPS = 200

#: Names of the node by which torch marks the derivative of a once-differentiable function.
ONCE = ("torch::autograd::Error", "Error")


class WrongOutputs(ValueError):
    """A module does not return what ``outputs`` says."""


class Loss:
    """Any criterion: its rows by ``reduction="none"`` or one for one, its derivatives by autograd.

    Parameters
    ----------
    criterion : callable(output, target)
    outputs : {"logits", "log_proba", "proba", None}
        What the module gives.

    Attributes
    ----------
    criterion : callable
        A copy of what was given: without hooks, with ``reduction="none"`` where it has one.
    outputs : str or None
        As given.
    name : str
        The criterion's name, for messages.
    reduction : str or None
        The reduction of the criterion that was given.
    eps : float or None
        Added to probabilities before the logarithm of NLLLoss in :meth:`rows` (as skorch does),
        never in second derivatives. None: the machine epsilon of the output.

    Raises
    ------
    ValueError
        If ``outputs`` does not fit the criterion.
    """

    #: What ``outputs`` may be.
    allowed: tuple[str | None, ...] = (None,)
    #: Operations, the last one first, that may stand between the real logits and :meth:`logits`
    #: and change no derivative; softmaxes go over :meth:`dimension`.
    tops: tuple[tuple[str, ...], ...] = ()

    def __init__(self, criterion: Criterion, outputs: str | None = None):
        if outputs not in self.allowed:
            raise ValueError(
                f"outputs={outputs!r} does not fit {name_of(criterion)}; expected one of "
                f"{', '.join(map(repr, self.allowed))}."
            )
        self.name = name_of(criterion)
        self.reduction: str | None = getattr(criterion, "reduction", None)
        self.criterion = detached_copy(criterion)
        self.outputs = outputs
        self.eps: float | None = None
        self._cast: dict[tuple[torch.dtype, torch.device], Any] = {}
        # Whether rows that come one by one can be computed together, as far as is known.
        self._vectorised = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, outputs={self.outputs!r})"

    def for_output(self, output: Tensor) -> Any:
        """The criterion with its weights in the output's dtype and on its device."""
        key = output.dtype, output.device
        if key not in self._cast:
            made = self.criterion
            if isinstance(made, nn.Module) and any(True for _ in tensors_of(made)):
                made = copy.deepcopy(made).to(device=output.device)
                if output.dtype.is_floating_point:
                    made = made.to(dtype=output.dtype)
            self._cast[key] = made
        return self._cast[key]

    # -- the loss ----------------------------------------------------------------------------------

    def unreduced(self, output: Tensor, target: Tensor) -> Tensor:
        """What the criterion gives with ``reduction="none"``: (n, ...)."""
        criterion = self.for_output(output)
        value = criterion(output, target) if hasattr(criterion, "reduction") else None
        if value is not None and value.ndim and len(value) == len(output):
            return value

        def one(i: int) -> Tensor:
            return self._single_number(criterion(output[i : i + 1], target[i : i + 1]))

        if not len(output):
            return output.flatten().new_zeros(0)
        if self._vectorised and len(output) > 2:
            together = self._rows_together(criterion, output, target)
            ends = torch.stack([one(0), one(len(output) - 1)])
            if together is not None and torch.allclose(together[[0, -1]], ends, equal_nan=True):
                return together
            self._vectorised = False
        return torch.stack([one(i) for i in range(len(output))])

    def _rows_together(self, criterion: Any, output: Tensor, target: Tensor) -> Tensor | None:
        """The loss of each row in one call; None where torch.func does not cope."""

        def row(output: Tensor, target: Tensor) -> Tensor:
            return self._single_number(criterion(output.unsqueeze(0), target.unsqueeze(0)))

        try:
            return torch.func.vmap(row)(output, target)
        except Exception:  # whatever a criterion of someone else's may raise there
            return None

    def _single_number(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else "no shape"
            raise ValueError(
                f"{self.name} gave {type(value).__name__} of {found} for one row; expected a "
                "single number. Give a criterion that returns the mean over rows, or one with "
                'reduction="none".'
            )
        return value.reshape(())

    def rows(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each row, summed over its elements: (n,), differentiable."""
        return summed(self.unreduced(output, target))

    def normalisers(self, output: Tensor, target: Tensor) -> Tensor:
        """The share of each row in the mean's denominator: (n,)."""
        with torch.no_grad():
            value = self.unreduced(output, target)
        share = 1 if self.reduction == "batchmean" else value[:1].numel()
        if self.reduction in ("mean", None) and len(output) > 1:
            self._refuse_another_mean(output, target, value)
        return value.new_full((len(output),), float(share))

    def _refuse_another_mean(self, output: Tensor, target: Tensor, value: Tensor) -> None:
        """Raise ValueError where the criterion's mean is not the mean over its rows."""
        criterion = self.for_output(output)
        if hasattr(criterion, "reduction"):
            criterion = copy.copy(criterion)
            criterion.reduction = "mean"
        with torch.no_grad():
            mean = self._single_number(criterion(output, target))
        number = torch.finfo(value.dtype)
        tolerance = max(MEAN_ULPS * number.eps, 1e-9) * value.abs().mean() + number.tiny
        # Not "more than": rows that a mean leaves out may be NaN on their own.
        if mean.isfinite() and not (mean - value.mean()).abs() <= tolerance:
            raise ValueError(
                f"{self.name} gives {mean.item():.6g} for {len(output)} rows, but the mean over "
                f"single rows is {value.mean().item():.6g}. Its derivatives can only be computed "
                "for a mean over rows: return that, or give it a `reduction` attribute with "
                '"none" that returns one value for each row.'
            )

    # -- the split at the logits -------------------------------------------------------------------

    def logits(self, output: Tensor) -> Tensor:
        """Where the Gauss-Newton split is made, computed from the module's output."""
        return output

    def sees_through(self, operation: str, dimension: int | None) -> bool:
        """Whether the input of the module's last operation may stand for the logits.

        ``operation`` is its name in autograd's graph, ``dimension`` the one it goes over, if any.
        """
        return False

    def dimension(self, logits: Tensor) -> int:
        """The dimension of the classes, for losses that have them."""
        return 1

    def refuse_outputs(self, output: Tensor) -> None:
        """Raise WrongOutputs for outputs that cannot be what ``outputs`` says; here all can."""

    def rows_at(self, logits: Tensor, target: Tensor) -> Tensor:
        """The exact loss of each row as a function of the logits: (n,)."""
        return self.rows(logits, target)

    def exact_rows(self, output: Tensor, target: Tensor) -> Tensor:
        """:meth:`rows` without ``eps``: what second derivatives are taken of."""
        return self.exact_at(self.logits(output), target)

    def exact_at(self, logits: Tensor, target: Tensor) -> Tensor:
        """:meth:`exact_rows` from the logits that belong to the output."""
        return self.rows_at(logits, target)

    def refuse_once_differentiable(self, logits: Tensor, target: Tensor) -> None:
        """Raise ValueError where the criterion holds a function without a second derivative."""
        self.slope(logits, target)

    def slope(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """A leaf of the logits, and each row's derivative by it with a graph.

        Raises ValueError where the criterion holds a function that can be differentiated once:
        torch would leave its part out of second derivatives without a word. It marks such a
        function only where the incoming gradient requires grad, hence the leaf of ones.
        """
        with torch.enable_grad():
            at = logits.detach().requires_grad_()
            value = self.rows_at(at, target)
            marked = torch.ones_like(value, requires_grad=True)
            with self._differentiable():
                (slope,) = torch.autograd.grad(value, at, marked, create_graph=True)
        if holds_once_differentiable(slope):
            raise ValueError(
                f"{self.name} holds a function marked once_differentiable, which has no second "
                "derivative: there is no curvature of this loss. Write it with torch's own "
                "operations, or with a backward that can be differentiated."
            )
        return at, slope

    @contextmanager
    def _differentiable(self) -> Iterator[None]:
        """Raise ValueError where torch has no derivative for an operation of the criterion."""
        try:
            yield
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            raise ValueError(
                f"{self.name} has no second derivative in torch ({error}), so there is no "
                "curvature of this loss. Write it with torch's own elementary operations, or use "
                "another criterion."
            ) from error

    def gradient(self, logits: Tensor, target: Tensor) -> Tensor:
        """Derivative of each row's loss by its logits, shaped like them."""
        with torch.enable_grad():
            at = logits.detach().requires_grad_()
            return torch.autograd.grad(self.rows_at(at, target).sum(), at)[0]

    def form(self, logits: Tensor, target: Tensor) -> Form:
        """Second derivative of each row's loss by its logits."""
        with torch.enable_grad():
            at, slope = self.slope(logits, target)
            flat = slope.reshape(len(logits), -1)
            with self._differentiable():
                blocks = [
                    torch.zeros_like(flat) if block is None else block.reshape(flat.shape)
                    for j in range(flat.shape[1])
                    for block in torch.autograd.grad(
                        flat[:, j].sum(), at, retain_graph=True, allow_unused=True
                    )
                ]
        H = torch.stack(blocks, 1)
        if torch.equal(H, torch.diag_embed(H.diagonal(dim1=1, dim2=2))):
            return Separable(H.diagonal(dim1=1, dim2=2).reshape(logits.shape))
        return Dense((H + H.mT) / 2, logits.shape)


def summed(values: Tensor) -> Tensor:
    """Values (n, ...) summed over all but the rows: (n,)."""
    return values.reshape(len(values), -1).sum(1)


def is_torchs(criterion: nn.Module) -> bool:
    """Whether the criterion is one of torch's own, which hold nothing but numbers and tensors."""
    return type(criterion).__module__ == nn.CrossEntropyLoss.__module__


def holds_once_differentiable(tensor: Tensor) -> bool:
    """Whether a derivative came from a function that can be differentiated only once."""
    stack = [tensor.grad_fn]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node is None:
            continue
        if node.name() in ONCE:
            return True
        fresh = {after for after, _ in node.next_functions} - seen
        seen |= fresh
        stack.extend(fresh)
    return False


def tensors_of(criterion: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    yield from criterion.parameters()
    yield from criterion.buffers()


def name_of(criterion: Any) -> str:
    """The criterion's name for messages: its class, or a function's own name."""
    if isinstance(criterion, nn.Module):
        return type(criterion).__name__
    return getattr(criterion, "__name__", type(criterion).__name__)


def detached_copy(criterion: Any) -> Any:
    """A deep copy without hooks, with ``reduction="none"``; a function is returned as it is."""
    if not isinstance(criterion, nn.Module):
        return criterion
    made: Any = copy.copy(criterion)
    made.__dict__ = dict(criterion.__dict__)
    # Hooks go before the deep copy, which would call for a copy of all that they hold.
    for key, value in criterion.__dict__.items():
        if key.endswith("_hooks") or "_hooks_" in key:
            made.__dict__[key] = OrderedDict() if isinstance(value, dict) else value
    if any(True for _ in tensors_of(made)) or not is_torchs(made):
        made = copy.deepcopy(made)
    if hasattr(made, "reduction"):
        made.reduction = "none"
    return made
