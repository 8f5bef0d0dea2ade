r"""What a net trains with besides its criterion: a penalty P of the parameters.

Training goes to a minimum of E + P, where the gradient of E is not 0 but that of -P. Two things
are seen here: the weight decay of the net's optimisers, and what a ``get_loss`` of the net's own
adds to its criterion (skorch's recipe for a penalty).

**Decoupled decay.** AdamW and its kind shrink parameters past the gradient: a step is
:math:`-\eta (m / \sqrt v + \lambda u)`, with a scale v of the gradient's noise. Where that comes to
rest, :math:`g = -\lambda \sqrt v \, u`: an L2 penalty whose strength is not :math:`\lambda` but
depends on the noise. What is observable of it is the gradient itself, so the strength is the one
that explains it best, :math:`\max(0, -g^T u / u^T u)` over the parameters of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor, nn

from ..curvature.boundary import as_it_was
from ..curvature.hooks import first_output, trainable
from .rounds import optimizers_of

#: Optimisers that add their weight decay to the gradient, unless their groups say otherwise.
COUPLED = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.RMSprop,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.ASGD,
)

#: How far what ``get_loss`` adds may be apart for different rows, relative to the loss, in units of
#: what rounding does to a number.
SAME_ULPS = 1000


class Penalty:
    r"""The penalty per row of the mean loss, at a module's present parameters.

    .. math:: P(u) = \tfrac12 \sum_k \lambda_k u_k^2 + \text{own}(u)

    Parameters
    ----------
    parameters : dict of str to nn.Parameter
        The trainable ones.
    decay : dict of str to float
        :math:`\lambda` of each.
    own : callable, optional
        Gives the rest as a scalar tensor with a graph.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        decay: Mapping[str, float],
        own: Callable[[], Tensor] | None = None,
    ):
        self.parameters, self.decay, self.own = parameters, decay, own

    def value(self) -> float:
        """P."""
        total = sum(
            self.decay[name] / 2 * float(p.detach().double().square().sum())
            for name, p in self.parameters.items()
        )
        return total + (0.0 if self.own is None else float(self.own().detach()))

    def gradient(self) -> dict[str, Tensor]:
        """dP/du by name."""
        found = {name: self.decay[name] * p.detach() for name, p in self.parameters.items()}
        if self.own is not None:
            for name, slope in self._slopes(create_graph=False).items():
                found[name] = found[name] + slope
        return found

    def product(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Product of P's Hessian and a vector, which has an entry for every parameter.

        Parameters at zero where P has no second derivatives, as a norm there, do without.
        """
        found = {name: self.decay[name] * vectors[name] for name in self.parameters}
        if self.own is not None:
            slopes = self._slopes(create_graph=True)
            terms = [(s * vectors[n]).sum() for n, s in slopes.items() if s.requires_grad]
            if terms:
                seconds = torch.autograd.grad(
                    torch.stack(terms).sum(), list(self.parameters.values()), allow_unused=True
                )
                for name, second in zip(self.parameters, seconds, strict=True):
                    if second is not None:
                        kink = ~second.isfinite() & (self.parameters[name].detach() == 0)
                        found[name] = found[name] + second.masked_fill(kink, 0.0)
        return found

    def _slopes(self, create_graph: bool) -> dict[str, Tensor]:
        assert self.own is not None
        with torch.enable_grad():
            value = self.own()
            if not value.requires_grad:
                return {}
            slopes = torch.autograd.grad(
                value, list(self.parameters.values()), create_graph=create_graph, allow_unused=True
            )
        return {n: s for n, s in zip(self.parameters, slopes, strict=True) if s is not None}


def penalty_of(
    net: NeuralNet,
    X: Tensor,
    y: Tensor,
    *,
    decays: list[Decay],
    n_terms: float,
    gradient: Mapping[str, Tensor],
) -> Penalty:
    """The penalty of an initialised skorch net, per row.

    Parameters
    ----------
    net : skorch.NeuralNet
    X, y : Tensor
        A few rows, as the module and the criterion take them.
    decays : list of Decay
        Of its optimisers.
    n_terms : float
        What the sum over a training batch is divided by in the mean loss, weights, outputs and
        positions counted: a criterion that sums weighs so much more than P.
    gradient : dict of str to Tensor
        Of the mean loss, at the present parameters: says how strong a decoupled decay is.

    Raises
    ------
    ValueError
        If what ``get_loss`` adds to the criterion depends on the rows.
    """
    parameters = trainable(net.module_)
    scale = 1 / n_terms if getattr(net.criterion_, "reduction", "mean") == "sum" else 1.0
    added = added_by_get_loss(net, X, y)

    def own() -> Tensor:
        assert added is not None
        return scale * added()

    return Penalty(
        parameters, decay_of(decays, parameters, scale, gradient), None if added is None else own
    )


@dataclass(frozen=True)
class Decay:
    """The weight decay of one group of an optimiser."""

    names: tuple[str, ...]
    strength: float
    #: Whether it goes past the gradient.
    decoupled: bool


def decays_of(net: NeuralNet) -> list[Decay]:
    """The weight decays of a net's optimisers, as they are now."""
    names = {parameter: name for name, parameter in net.module_.named_parameters()}
    found = []
    for optimizer in optimizers_of(net):
        coupled = isinstance(optimizer, COUPLED) and not isinstance(optimizer, torch.optim.AdamW)
        for group in optimizer.param_groups:
            own = tuple(names[p] for p in group["params"] if p in names)
            decoupled = not coupled or group.get("decoupled_weight_decay", False)
            found.append(Decay(own, float(group.get("weight_decay", 0.0)), decoupled))
    return found


def decay_of(
    decays: list[Decay],
    parameters: Mapping[str, nn.Parameter],
    scale: float,
    gradient: Mapping[str, Tensor],
) -> dict[str, float]:
    """The strength of each parameter's L2 penalty."""
    found = dict.fromkeys(parameters, 0.0)
    for decay in decays:
        own = [name for name in decay.names if name in parameters]
        if not decay.strength:
            continue
        if decay.decoupled:
            strength = observed_decay(parameters, gradient, own)
        else:
            strength = scale * decay.strength
        found |= dict.fromkeys(own, strength)
    return found


def observed_decay(
    parameters: Mapping[str, nn.Parameter], gradient: Mapping[str, Tensor], names: list[str]
) -> float:
    """The L2 penalty that explains the gradient best: ``max(0, -g.u / u.u)``."""
    slope = sum(
        float((gradient[n].double() * parameters[n].detach().double()).sum()) for n in names
    )
    size = sum(float(parameters[n].detach().double().square().sum()) for n in names)
    return max(0.0, -slope / size) if size > 0 else 0.0


def added_by_get_loss(net: NeuralNet, X: Tensor, y: Tensor) -> Callable[[], Tensor] | None:
    """What a net's own ``get_loss`` adds to its criterion, as a function of the parameters.

    None where it has none, or where that adds nothing. Raises ValueError where it depends on rows.
    """
    owners = [c for c in type(net).__mro__ if "get_loss" in vars(c)]
    owner = owners[0]
    if owner.__module__.startswith("skorch."):
        return None
    skorchs: Any = next(c for c in owners if c.__module__.startswith("skorch."))

    def difference(rows: slice) -> tuple[Tensor, float]:
        with as_it_was(net.module_):
            output = net.infer(X[rows].clone())  # a module may change it in place
            trained = net.get_loss(output, y[rows], X=X[rows], training=True)
            plain = skorchs.get_loss(net, first_output(output), y[rows], X=X[rows], training=True)
            # Where rows are not reduced by the criterion, the net's own get_loss does it.
            plain = plain.mean()
            return trained - plain, float(plain.detach().abs())

    all_rows = slice(None)
    (one, size), (other, size_of_other) = difference(all_rows), difference(slice(0, 1))
    number = torch.finfo(one.dtype)
    atol = SAME_ULPS * number.eps * (1 + size + size_of_other + float(one.detach().abs()))
    gap = float((one - other).detach().abs())
    if math.isnan(gap) or gap > atol:
        raise ValueError(
            f"What {owner.__name__}.get_loss adds to the criterion is {float(one.detach()):.6g} "
            f"for {len(X)} rows and {float(other.detach()):.6g} for one of them: it depends on the "
            "rows, or changes from call to call, so it is not a penalty of the parameters. Put it "
            'into the criterion, or fit without compensation and with saliency="obd".'
        )
    if not one.requires_grad or float(one.detach().abs()) <= number.eps * size:
        return None
    return lambda: difference(all_rows)[0]
