"""The training loss as it is measured: all rows, eval mode, no penalty, summed in float64."""

import torch
from torch import nn

from . import curvature
from .batches import take_rows
from .curvature.losses import resolve
from .networks import PREDICTION_ROWS, evaluating, outputs_of


class Objective:
    r"""The mean loss of a skorch net over all training rows, and its derivatives.

    .. math:: E = \sum_i w_i l_i / \sum_i w_i

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised. Its current parameters count; they may change between calls.
    X : tensor or CSR matrix of shape (n_rows, ...)
    y : tensor
        Shaped as the criterion takes it beside what ``net.infer`` returns.
    sample_weight : tensor of shape (n_rows,), optional
    batch_size : int, default=1024
        Bounds memory; results do not depend on it.
    """

    def __init__(self, net, X, y, sample_weight=None, batch_size=PREDICTION_ROWS):
        self.net = net
        self.X = X
        self.targets = y
        self.sample_weight = sample_weight
        self.weights = (
            torch.ones(X.shape[0], dtype=torch.float64) if sample_weight is None else sample_weight
        )
        self.batch_size = batch_size
        with evaluating(net.module_), torch.no_grad():
            output = net.module_(self.some_rows(2))
        several = isinstance(output, tuple)
        self.module = FirstOutput(net.module_) if several else net.module_
        self.prefix = "module." if several else ""
        # A skorch net may flatten its module's (n, 1); derivatives are taken of the module.
        output = output[0] if several else output
        self.y = y.reshape(-1, *output.shape[1:]) if y.is_floating_point() else y

    def some_rows(self, n_rows):
        """The first rows of X, dense, where the module is."""
        return take_rows(self.X, slice(0, n_rows)).to(self.net.device)

    def _rows(self, rows):
        device = self.net.device
        return (
            take_rows(self.X, rows).to(device),
            self.y[rows].to(device),
            self.weights[rows].to(device),
        )

    def _batches(self):
        for first in range(0, self.X.shape[0], self.batch_size):
            yield self._rows(slice(first, first + self.batch_size))

    def _sums(self, X, y, weights):
        """Weighted sum of the rows' losses and of their normalisers, in float64."""
        output = self.module(X)
        loss = resolve(self.net.criterion_, outputs_of(self.net))
        loss.eps = torch.finfo(output.dtype).eps
        target = y.double() if y.is_floating_point() else y
        exact = output.double()
        return (
            (weights * loss.rows(exact, target)).sum(),
            (weights * loss.normalisers(exact, target)).sum(),
        )

    def loss(self):
        """E, a float."""
        with evaluating(self.net.module_), torch.no_grad():
            sums = [self._sums(*batch) for batch in self._batches()]
        return float(sum(s for s, _ in sums) / sum(n for _, n in sums))

    def gradient(self):
        """dE/du for every trainable parameter, in its own dtype."""
        parameters = self.parameters()
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        norm = 0.0
        with evaluating(self.net.module_), torch.enable_grad():
            for batch in self._batches():
                value, normaliser = self._sums(*batch)
                norm += float(normaliser)
                found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        total[name] += gradient
        return {name: gradient / norm for name, gradient in total.items()}

    def curvature(self, method, n_rows=None):
        """Diagonal of E's second derivatives, by name; with `n_rows`, over the first rows only."""
        if n_rows is not None or isinstance(self.X, torch.Tensor):
            return self._diagonal(method, *self._rows(slice(0, n_rows)))
        total, norm = {}, 0.0
        for batch in self._batches():
            with evaluating(self.net.module_), torch.no_grad():
                share = float(self._sums(*batch)[1])
            norm += share
            for name, h in self._diagonal(method, *batch).items():
                total[name] = total.get(name, 0.0) + share * h
        return {name: h / norm for name, h in total.items()}

    def _diagonal(self, method, X, y, weights):
        found = curvature.diagonal(
            self.module,
            self.net.criterion_,
            X,
            y,
            sample_weight=None if self.sample_weight is None else weights,
            method=method,
            outputs=outputs_of(self.net),
            # Drawn from the fit's own generator, so that a sampled curvature is reproducible.
            random_state=int(torch.randint(2**31, ())),
        )
        return {name.removeprefix(self.prefix): h for name, h in found.items()}

    @torch.no_grad()
    def increases(self, name, mask):
        """Change of E when each alive entry of parameter `name` alone is set to 0, in float64."""
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
        return {n: p for n, p in self.net.module_.named_parameters() if p.requires_grad}


class FirstOutput(nn.Module):
    """A module that returns a tuple, as the function that returns its first entry."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, X):
        return self.module(X)[0]
