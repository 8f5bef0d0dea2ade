"""Losses seen row by row, with their second derivatives at the logits.

The loss of a batch is ``sum_i num_i / sum_i den_i``: :meth:`Loss.rows` gives the numerators (each
row's loss, summed over its elements or positions), :meth:`Loss.normalisers` the denominators, such
that the quotient is what torch's ``reduction="mean"`` returns.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .outputs import Categorical, Dense, Form, Separable

FUNCTIONS = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
}


class Loss:
    """Any criterion: its rows by ``reduction="none"`` or one by one, its derivatives by autograd.

    Attributes
    ----------
    criterion : callable
        A copy of what was given: without hooks, with ``reduction="none"`` where it has one.
    outputs : {"logits", "log_proba", "proba", None}
        What the module gives.
    eps : float or None
        Added to probabilities before the logarithm of NLLLoss in :meth:`rows` (as skorch does),
        never in second derivatives. None: the machine epsilon of the output.
    """

    allowed = (None,)
    #: Autograd nodes between the real logits and :meth:`logits` that change no derivative.
    top = frozenset()

    def __init__(self, criterion, outputs=None):
        if outputs not in self.allowed:
            raise ValueError(
                f"outputs={outputs!r} does not fit {name_of(criterion)}; expected one of "
                f"{', '.join(map(repr, self.allowed))}."
            )
        self.name = name_of(criterion)
        self.reduction = getattr(criterion, "reduction", None)
        self.criterion = detached_copy(criterion)
        self.outputs = outputs
        self.eps = None
        self._cast = {}

    def __repr__(self):
        return f"{type(self).__name__}({self.name}, outputs={self.outputs!r})"

    def for_output(self, output: Tensor):
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

    def none(self, output: Tensor, target: Tensor) -> Tensor:
        """What the criterion gives with ``reduction="none"``, the rows first."""
        criterion = self.for_output(output)
        value = criterion(output, target) if hasattr(criterion, "reduction") else None
        if value is not None and value.ndim and len(value) == len(output):
            return value
        ones = [
            self._scalar(criterion(output[i : i + 1], target[i : i + 1]))
            for i in range(len(output))
        ]
        return torch.stack(ones) if ones else output.flatten().new_zeros(0)

    def _scalar(self, value):
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else "no shape"
            raise ValueError(
                f"{self.name} gave {type(value).__name__} of {found} for one row; expected a "
                "single number. Give a criterion that returns the mean over rows, or one with "
                'reduction="none".'
            )
        return value.reshape(())

    def rows(self, output: Tensor, target: Tensor) -> Tensor:
        """Each row's loss, summed over its elements: shape (n,), differentiable."""
        return self.none(output, target).reshape(len(output), -1).sum(1)

    def normalisers(self, output: Tensor, target: Tensor) -> Tensor:
        """Each row's share of the mean's denominator: shape (n,)."""
        with torch.no_grad():
            value = self.none(output, target)
        share = 1 if self.reduction == "batchmean" else value[:1].numel()
        if self.reduction in ("mean", None) and len(output) > 1:
            self._check_mean(output, target, value)
        return value.new_full((len(output),), float(share))

    def _check_mean(self, output, target, value):
        criterion = self.for_output(output)
        if hasattr(criterion, "reduction"):
            criterion = copy.copy(criterion)
            criterion.reduction = "mean"
        with torch.no_grad():
            mean = self._scalar(criterion(output, target))
        tolerance = 1e-3 * value.abs().mean() + torch.finfo(value.dtype).tiny
        if mean.isfinite() and (mean - value.mean()).abs() > tolerance:
            raise ValueError(
                f"{self.name} gives {mean.item():.6g} for {len(output)} rows, but the mean over "
                f"single rows is {value.mean().item():.6g}. Its derivatives can only be computed "
                "for a mean over rows: return that, or give it a `reduction` attribute with "
                '"none" that returns one value a row.'
            )

    def logits(self, output: Tensor) -> Tensor:
        """Where the Gauss-Newton split is made."""
        return output

    def rows_at(self, logits: Tensor, target: Tensor) -> Tensor:
        """Each row's exact loss as a function of the logits."""
        return self.rows(logits, target)

    def exact_rows(self, output: Tensor, target: Tensor) -> Tensor:
        """:meth:`rows` without ``eps``: what second derivatives are taken of."""
        return self.rows_at(self.logits(output), target)

    def gradient(self, logits: Tensor, target: Tensor) -> Tensor:
        """Derivative of each row's loss by its logits."""
        with torch.enable_grad():
            at = logits.detach().requires_grad_()
            return torch.autograd.grad(self.rows_at(at, target).sum(), at)[0]

    def form(self, logits: Tensor, target: Tensor) -> Form:
        """Second derivative of each row's loss by its logits."""
        with torch.enable_grad():
            at = logits.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.rows_at(at, target).sum(), at, create_graph=True)
            if not slope.requires_grad:
                return Separable(torch.zeros_like(logits))
            flat = slope.reshape(len(logits), -1)
            blocks = [
                torch.autograd.grad(flat[:, j].sum(), at, retain_graph=True)[0].reshape(
                    len(logits), -1
                )
                for j in range(flat.shape[1])
            ]
        H = torch.stack(blocks, 1)
        if torch.equal(H, torch.diag_embed(H.diagonal(dim1=1, dim2=2))):
            return Separable(H.diagonal(dim1=1, dim2=2).reshape(logits.shape))
        return Dense((H + H.mT) / 2, logits.shape)


class Elementwise(Loss):
    """A loss with one term an output; ``second(a, t)`` is each term's second derivative."""

    allowed = (None, "logits")

    def none(self, output, target):
        self.check_shapes(output, target)
        return self.for_output(output)(output, target.to(output.dtype))

    def check_shapes(self, output, target):
        if output.shape != target.shape:
            raise ValueError(
                f"{self.name}: the module gives shape {tuple(output.shape)} but the targets have "
                f"shape {tuple(target.shape)}; torch would pair every row with every other. "
                f"Reshape the targets to {tuple(output.shape)}."
            )

    def normalisers(self, output, target):
        self.check_shapes(output, target)
        return output.new_full((len(output),), float(output[:1].numel()))

    def form(self, logits, target):
        return Separable(self.second(logits, target.to(logits.dtype)).expand_as(logits))


class MSE(Elementwise):
    allowed = (None,)

    def second(self, a, t):
        return torch.full_like(a, 2.0)

    def gradient(self, logits, target):
        return 2 * (logits - target)


class SmoothL1(Elementwise):
    allowed = (None,)

    def second(self, a, t):
        beta = self.criterion.beta
        return ((a - t).abs() < beta).to(a.dtype) / (beta or 1.0)


class Huber(Elementwise):
    allowed = (None,)

    def second(self, a, t):
        return ((a - t).abs() < self.criterion.delta).to(a.dtype)


class PoissonNLL(Elementwise):
    allowed = (None,)

    def second(self, a, t):
        return a.exp() if self.criterion.log_input else t / (a + self.criterion.eps).square()


class BCEWithLogits(Elementwise):
    def weights(self, a, t):
        """Of the terms with target 1 and with target 0."""
        criterion = self.for_output(a)
        weight = 1.0 if criterion.weight is None else criterion.weight
        positive = 1.0 if getattr(criterion, "pos_weight", None) is None else criterion.pos_weight
        return weight * positive * t, weight * (1 - t)

    def second(self, a, t):
        ones, zeros = self.weights(a, t)
        return (ones + zeros) * torch.sigmoid(a) * torch.sigmoid(-a)

    def gradient(self, logits, target):
        ones, zeros = self.weights(logits, target.to(logits.dtype))
        return zeros * torch.sigmoid(logits) - ones * torch.sigmoid(-logits)


class BCE(BCEWithLogits):
    """On probabilities: the split is at log p - log(1 - p)."""

    allowed = (None, "proba")
    top = frozenset({"Logit", "Clamp", "Sigmoid"})

    def logits(self, output):
        low = torch.finfo(output.dtype)
        return output.clamp(low.tiny, 1 - low.eps / 2).logit()

    def rows_at(self, logits, target):
        weight = self.for_output(logits).weight
        terms = F.binary_cross_entropy_with_logits(
            logits, target.to(logits.dtype), weight=weight, reduction="none"
        )
        return terms.reshape(len(logits), -1).sum(1)


class CrossEntropy(Loss):
    """Cross-entropy over dimension 1 of the logits, for class indices or probability targets."""

    allowed = (None, "logits")

    def shares(self, logits: Tensor, target: Tensor):
        """(total weight of each position, its part in the mean's denominator)."""
        criterion = self.for_output(logits)
        smooth = getattr(criterion, "label_smoothing", 0.0)
        if criterion.weight is None and not target.is_floating_point():
            counted = (target != criterion.ignore_index).to(logits.dtype)
            return counted, counted
        weight = (
            criterion.weight if criterion.weight is not None else logits.new_ones(logits.shape[1])
        )
        if target.is_floating_point():
            along = weight.reshape(-1, *[1] * (logits.ndim - 2))
            total = (
                (target.to(logits.dtype) * (1 - smooth) + smooth / logits.shape[1]) * along
            ).sum(1)
            return total, torch.ones_like(total)
        counted = target != criterion.ignore_index
        own = weight[target.where(counted, 0)] * counted
        return (1 - smooth) * own + smooth * weight.mean() * counted, own

    def none(self, output, target):
        if output.ndim < 2:
            raise ValueError(
                f"{self.name} needs outputs of shape (n, classes, ...), found "
                f"{tuple(output.shape)}. For two classes with one output use BCEWithLogitsLoss."
            )
        target = target.to(output.dtype) if target.is_floating_point() else target
        return self.for_output(output)(output, target)

    def normalisers(self, output, target):
        self.check_classes(output, target)
        return self.shares(output, target)[1].reshape(len(output), -1).sum(1)

    def check_classes(self, output, target):
        if target.is_floating_point() or not target.numel():
            return
        least, most = target.where(target != self.criterion.ignore_index, 0).aminmax()
        if least < 0 or most >= output.shape[1]:
            raise ValueError(
                f"{self.name}: the targets run from {int(least)} to {int(most)}, but the module "
                f"gives {output.shape[1]} classes; expected 0 to {output.shape[1] - 1}."
            )

    def form(self, logits, target):
        return Categorical(logits.softmax(1), self.shares(logits, target)[0])

    def gradient(self, logits, target):
        criterion = self.for_output(logits)
        if target.is_floating_point() or getattr(criterion, "label_smoothing", 0.0):
            return super().gradient(logits, target)
        form = self.form(logits, target)
        index = target.where(target != criterion.ignore_index, 0).unsqueeze(1)
        hot = torch.zeros_like(form.p).scatter_(1, index, 1.0)
        return torch.where(hot > 0, -form.others(), form.p) * form.scale.unsqueeze(1)


class KLDivergence(CrossEntropy):
    """On log-probabilities, which are the logits; the targets are probabilities or their logs."""

    allowed = (None, "log_proba")
    top = frozenset({"LogSoftmax"})

    def shares(self, logits, target):
        target = target.to(logits.dtype)
        total = (target.exp() if self.criterion.log_target else target).sum(1)
        return total, total

    def normalisers(self, output, target):
        share = 1 if self.reduction == "batchmean" else output[:1].numel()
        return output.new_full((len(output),), float(share))

    def rows_at(self, logits, target):
        return self.rows(logits.log_softmax(1), target)

    def gradient(self, logits, target):
        return Loss.gradient(self, logits, target)


class NLL(CrossEntropy):
    """On log-probabilities, or (skorch) on probabilities: the split is at log p."""

    allowed = (None, "log_proba", "proba")
    top = frozenset({"Log", "Clamp", "Softmax", "LogSoftmax"})

    def rows(self, output, target):
        if self.outputs == "proba":
            eps = torch.finfo(output.dtype).eps if self.eps is None else self.eps
            output = torch.log(output + eps)
        return super().rows(output, target)

    def logits(self, output):
        if self.outputs == "proba":
            return output.clamp(min=torch.finfo(output.dtype).tiny).log()
        return output

    def rows_at(self, logits, target):
        return self.none(logits.log_softmax(1), target).reshape(len(logits), -1).sum(1)

    def exact_rows(self, output, target):
        return self.none(self.logits(output), target).reshape(len(output), -1).sum(1)

    def check(self, output: Tensor) -> None:
        """Refuse outputs that are no probabilities, where the split would be of another loss."""
        total = (output if self.outputs == "proba" else output.exp()).sum(1)
        off = (total - 1).abs().max().item() if total.numel() else 0.0
        if not off < 1e-2:
            kind = "probabilities" if self.outputs == "proba" else "exponentials"
            raise ValueError(
                f'NLLLoss with outputs="{self.outputs or "log_proba"}": the {kind} of a row sum to '
                f"1 +- {off:.3g}, not to 1. "
                + 'Say outputs="proba" for a Softmax output, "log_proba" for '
                "LogSoftmax, or use CrossEntropyLoss for logits."
            )


ENTRIES = {
    nn.CrossEntropyLoss: CrossEntropy,
    nn.NLLLoss: NLL,
    nn.MSELoss: MSE,
    nn.SmoothL1Loss: SmoothL1,
    nn.HuberLoss: Huber,
    nn.PoissonNLLLoss: PoissonNLL,
    nn.BCEWithLogitsLoss: BCEWithLogits,
    nn.BCELoss: BCE,
    nn.KLDivLoss: KLDivergence,
}


def tensors_of(criterion: nn.Module):
    yield from criterion.parameters()
    yield from criterion.buffers()


def name_of(criterion) -> str:
    if isinstance(criterion, nn.Module):
        return type(criterion).__name__
    return getattr(criterion, "__name__", type(criterion).__name__)


def detached_copy(criterion):
    """A deep copy without hooks that returns one loss a row; the original is left alone."""
    made = criterion
    if isinstance(criterion, nn.Module):
        made = copy.copy(criterion)
        made.__dict__ = dict(criterion.__dict__)
        for key, value in criterion.__dict__.items():
            if key.endswith("_hooks") or "_hooks_" in key:
                made.__dict__[key] = OrderedDict() if isinstance(value, dict) else value
        made = copy.deepcopy(made)
        if hasattr(made, "reduction"):
            made.reduction = "none"
    return made


def resolve(criterion, outputs=None) -> Loss:
    """The loss object of a criterion.

    Parameters
    ----------
    criterion : nn.Module or callable(output, target)
        With ``reduction`` "mean", "sum" or "none" (all mean the same here), or any callable that
        returns the mean over rows. It is copied, never called or changed.
    outputs : {"logits", "log_proba", "proba"}, optional
        What the module gives, where the criterion leaves it open.

    Returns
    -------
    loss : Loss

    Examples
    --------
    >>> import torch
    >>> loss = resolve(torch.nn.MSELoss())
    >>> loss.rows(torch.tensor([[1., 2.], [0., 0.]]), torch.zeros(2, 2))
    tensor([5., 0.])
    >>> loss.normalisers(torch.zeros(2, 2), torch.zeros(2, 2))
    tensor([2., 2.])
    """
    if isinstance(criterion, Loss):
        return criterion
    if isinstance(criterion, type):
        raise ValueError(
            f"criterion is the class {criterion.__name__}; give an instance, "
            f"{criterion.__name__}()."
        )
    criterion = FUNCTIONS.get(criterion, lambda: criterion)()
    if not callable(criterion):
        raise ValueError(
            f"criterion must be callable as criterion(output, target), found {criterion!r}."
        )
    check_callable(criterion)
    for kind, entry in ENTRIES.items():
        if isinstance(criterion, kind) and type(criterion).forward is kind.forward:
            return entry(criterion, outputs)
    return Loss(criterion, None if outputs == "logits" else outputs)


def check_callable(criterion) -> None:
    """ValueError for a criterion that takes anything but (output, target)."""
    called = criterion.forward if isinstance(criterion, nn.Module) else criterion
    try:
        inspect.signature(called).bind(None, None)
    except TypeError:
        raise ValueError(
            f"{name_of(criterion)} cannot be called as criterion(output, target): its signature is "
            f"{inspect.signature(called)}. Wrap it in an nn.Module whose forward(output, target) "
            "supplies the rest (a fixed variance, for example) and give that a `reduction` "
            'attribute that may be "none".'
        ) from None
    except ValueError:
        return
