"""The training loss as it is measured: all rows, eval mode, no penalty, summed in float64."""

import math
from functools import partial

import torch
from torch import nn

from .. import curvature
from ..curvature.gauss_newton import GaussNewton
from ..curvature.hooks import evaluating, first_output, trainable
from ..curvature.inverse import ggn_inverse_diagonal
from ..curvature.losses.registry import loss_of
from .batches import take_rows
from .convergence import constant_loss
from .nets import PREDICTION_ROWS, outputs_of
from .probes import Trial, probe

#: What numpy and torch raise where memory is short: on the CPU torch has no class for it.
MEMORY_ERRORS = (MemoryError, RuntimeError)


def is_of_memory(error):
    """Whether an error says that memory is short."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        type(error) is RuntimeError and "DefaultCPUAllocator" in str(error)
    )


def fewer(n_rows, error):
    """A quarter of that many rows; raises the error if it is another one, or rows are single."""
    if not is_of_memory(error) or n_rows <= 1:
        raise error
    return max(1, n_rows // 4)


class Objective:
    r"""The mean loss of a module over all rows, and its derivatives.

    .. math:: E = \sum_i w_i l_i / \sum_i w_i

    Parameters
    ----------
    module : nn.Module
        Its current parameters count; they may change between calls.
    criterion : nn.Module or callable(output, target)
    X : tensor or CSR matrix of shape (n_rows, ...)
    y : tensor
        As the criterion takes it; floating targets in any shape that fits the module's output.
    sample_weight : tensor of shape (n_rows,), optional
    outputs : {"logits", "log_proba", "proba"}, optional
        What the module gives, where the criterion leaves it open.
    device : str or torch.device, default="cpu"
        Where the module is.
    batch_size : int, default=1024
        Bounds memory; results do not depend on it.
    trial : Trial, optional
        What a pass of the first rows through the module has shown; None: one is made.

    Attributes
    ----------
    whole, module : nn.Module
        As given, and as the function that is differentiated: the first of several outputs, of
        rows that stay as they are.
    targets, y : tensor
        As given, for training, and in the shape of the module's output, for the loss measured here.
    twice_differentiable : bool
        Whether :meth:`product` can be used, as far as :meth:`try_product` found out.
    has_gauss_newton : bool
        Whether :meth:`gauss_newton` can be used, as far as :meth:`try_gauss_newton` found out.
    """

    def __init__(
        self,
        module,
        criterion,
        X,
        y,
        sample_weight=None,
        *,
        outputs=None,
        device="cpu",
        batch_size=PREDICTION_ROWS,
        trial: Trial | None = None,
    ):
        self.whole = module
        self.criterion = criterion
        self.X = X
        self.targets = y
        self.sample_weight = sample_weight
        self.weights = (
            torch.ones(X.shape[0], dtype=torch.float64) if sample_weight is None else sample_weight
        )
        self.outputs = outputs
        self.device = device
        self.batch_size = batch_size
        trial = trial or probe(module, self.some_rows(2))
        wrapped = trial.in_tuple or trial.changes_input
        self.module = FunctionOfRows(module) if wrapped else module
        self.prefix = "module." if wrapped else ""
        # A skorch net may flatten its module's (n, 1); derivatives are taken of the module.
        self.shape = trial.module_shape[1:]
        self.y = y.reshape(-1, *self.shape) if y.is_floating_point() else y
        self.twice_differentiable = self.has_gauss_newton = True

    @classmethod
    def of_net(cls, net, X, y, sample_weight=None, **options):
        """The objective of an initialised skorch net, with y as its criterion takes it."""
        return cls(
            net.module_,
            net.criterion_,
            X,
            y,
            sample_weight,
            outputs=outputs_of(net),
            device=net.device,
            **options,
        )

    def some_rows(self, n_rows):
        """The first rows of X, dense, where the module is."""
        return take_rows(self.X, slice(0, n_rows)).to(self.device)

    def some_targets(self, n_rows):
        """The targets of the first rows, as the net trains on them."""
        return self.targets[:n_rows].to(self.device)

    def _rows(self, rows):
        device = self.device
        return (
            take_rows(self.X, rows).to(device),
            self.y[rows].to(device),
            self.weights[rows].to(device),
        )

    def batches(self, size=None):
        """X, y and weights of all rows, dense, `size` at a time, by default `batch_size`."""
        size = size or self.batch_size
        for first in range(0, self.X.shape[0], size):
            yield self._rows(slice(first, first + size))

    def _sums(self, X, y, weights):
        """Weighted sum of the rows' losses and of their normalisers, in float64."""
        output = self.module(X)
        # Anew each time: a criterion may learn parameters, and the loss holds a copy of it.
        loss = loss_of(self.criterion, self.outputs)
        loss.eps = torch.finfo(output.dtype).eps
        target = y.double() if y.is_floating_point() else y
        exact = output.double()
        return (
            (weights * loss.rows(exact, target)).sum(),
            (weights * loss.normalisers(exact, target)).sum(),
        )

    def loss(self):
        """E, a float."""
        with evaluating(self.whole), torch.no_grad():
            sums = [self._sums(*batch) for batch in self.batches()]
        return float(sum(s for s, _ in sums) / sum(n for _, n in sums))

    def normaliser(self):
        """What a row adds to E's denominator, on average: weights, outputs and positions."""
        with evaluating(self.whole), torch.no_grad():
            total = sum(float(self._sums(*batch)[1]) for batch in self.batches())
        return total / self.X.shape[0]

    def constant_loss(self):
        """The least E of an output that is the same for every row; NaN where it is not known."""
        loss = loss_of(self.criterion, self.outputs)
        try:
            return constant_loss(loss, self.shape, self.y, self.weights)
        except (RuntimeError, ValueError, TypeError):
            # A criterion of someone else's that is not meant for such outputs.
            return math.nan

    def gradient(self):
        """dE/du for every trainable parameter, in its own dtype."""
        parameters = self.parameters()
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        norm = 0.0
        with evaluating(self.whole), torch.enable_grad():
            for batch in self.batches():
                value, normaliser = self._sums(*batch)
                norm += float(normaliser)
                found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        total[name] += gradient
        return {name: gradient / norm for name, gradient in total.items()}

    def curvature(self, method, *, generator=None, n_rows=None):
        """Diagonal of E's second derivatives, by name; with `n_rows`, over the first rows only.

        What a sampled kind of curvature draws comes from `generator`, a ``torch.Generator``.
        """

        def diagonal(*rows, **options):
            return curvature.diagonal(*rows, method=method, random_state=generator, **options)

        return self._mean_of(diagonal, n_rows)

    def product(self, vectors, n_rows=None):
        """H v for the exact Hessian of E, by name; `vectors` are tensors by name."""
        vectors = {self.prefix + name: v for name, v in vectors.items()}

        def product(*rows, **options):
            return curvature.hessian_vector_product(*rows, vectors, **options)

        return self._mean_of(product, n_rows)

    def gauss_newton(self, n_rows=None):
        """The exact Gauss-Newton matrix of E over the trainable parameters, by its products.

        With `n_rows`, of the first rows only.
        """
        loss = loss_of(self.criterion, self.outputs)
        return GaussNewton(self.module, loss, self.parameters(), self._parts(n_rows))

    def inverse_curvature(self, masks, damping):
        """Diagonal of the inverse of the Gauss-Newton matrix, or of its blocks, by name.

        Of what is alive by `masks`; `damping`, a number for each name, is added to the diagonal.
        """
        return ggn_inverse_diagonal(
            self.module,
            loss_of(self.criterion, self.outputs),
            self.parameters(),
            self._parts(None),
            alive=masks,
            damping=damping,
        )

    def _parts(self, n_rows):
        """A function that gives all rows, or the first ones, dense: CSR ones part by part."""
        if n_rows is None and not isinstance(self.X, torch.Tensor):
            return self.batches
        return partial(iter, [self._rows(slice(0, n_rows))])

    def try_gauss_newton(self):
        """Find out on two rows whether the loss has a Gauss-Newton matrix.

        `has_gauss_newton` says so from then on.

        Returns
        -------
        Exception or None
            Why it has none: as :func:`sk_obd.curvature.ggn_vector_product`.
        """
        vectors = {name: torch.ones_like(p) for name, p in self.parameters().items()}
        try:
            self.gauss_newton(n_rows=2).product(vectors)
        except (ValueError, RuntimeError) as error:
            self.has_gauss_newton = False
            return error
        return None

    def try_product(self):
        """Find out on two rows whether the loss can be differentiated twice.

        `twice_differentiable` says so from then on.

        Returns
        -------
        Exception or None
            Why it cannot.
        """
        vectors = {name: torch.ones_like(p) for name, p in self.parameters().items()}
        try:
            self.product(vectors, n_rows=2)
        except (RuntimeError, NotImplementedError) as error:
            self.twice_differentiable = False
            return error
        return None

    def _mean_of(self, function, n_rows):
        """What a function of (module, criterion, X, y), a mean over rows, gives for all rows."""

        def call(X, y, weights):
            found = function(
                self.module,
                self.criterion,
                X,
                y,
                sample_weight=None if self.sample_weight is None else weights,
                outputs=self.outputs,
            )
            return {name.removeprefix(self.prefix): value for name, value in found.items()}

        if n_rows is not None:
            return call(*self._rows(slice(0, n_rows)))
        size = self.batch_size
        if isinstance(self.X, torch.Tensor):
            try:
                return call(*self._rows(slice(None)))
            except MEMORY_ERRORS as error:
                size = fewer(self.X.shape[0], error)
        while True:
            try:
                return self._mean_over_parts(call, size)
            except MEMORY_ERRORS as error:
                size = fewer(size, error)

    def _mean_over_parts(self, call, size):
        """The mean of what a function gives for `size` rows at a time.

        For a CSR matrix, since the functions take dense rows; and where memory is short.
        """
        total, norm = {}, 0.0
        for batch in self.batches(size):
            with evaluating(self.whole), torch.no_grad():
                share = float(self._sums(*batch)[1])
            norm += share
            for name, value in call(*batch).items():
                total[name] = total.get(name, 0.0) + share * value
        return {name: value / norm for name, value in total.items()}

    @torch.no_grad()
    def increases(self, name, mask):
        """Change of E in float64 when an alive entry of a parameter is set to 0, for each entry."""
        parameter = self.parameters()[name]
        found = torch.zeros(parameter.shape, dtype=torch.float64, device=parameter.device)
        before = self.loss()
        for index in mask.nonzero().tolist():
            index = tuple(index)
            kept = parameter[index].clone()
            parameter[index] = 0.0
            try:
                found[index] = self.loss() - before
            finally:
                parameter[index] = kept
        return found

    def parameters(self):
        """The trainable parameters by name, tied ones once."""
        return trainable(self.whole)


class FunctionOfRows(nn.Module):
    """A module that returns a tuple or changes its input, as a function of rows.

    It returns the first entry of the tuple, and works on a copy of the rows.
    """

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, X):
        return first_output(self.module(X.clone()))
