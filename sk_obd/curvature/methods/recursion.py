"""The paper's own back-propagation of second derivatives (LeCun, Denker and Solla 1989, eq. 5-8).

``h_l = f'(z_l)^2 (h_{l+1} @ W_{l+1}**2) + f''(z_l) dL/dx_{l+1}``: one number per unit, carried down
as gradients are. It keeps only the diagonal at each layer, so it is exact for the last two layers
of weights and an approximation before them. The paper's eq. 7 prints "- f'' dE/dx"; with the true
derivative the sign is +. "recursion-lm" drops that term (the paper's Levenberg-Marquardt form) and
is never negative.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..problem import Batch, Problem
from ..routes.dense_chain import DenseChain
from ..routes.layer_chain import NotALayerChain
from . import recursion_shared
from .ggn_dense import first_wanted, of_parameters
from .hessian import residuals_of


def sums(problem: Problem, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over a batch, and the batch's part of the denominator."""
    return _sums(problem, batch, second_slopes=True)


def sums_lm(problem: Problem, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """As :func:`sums`, without the term of f''."""
    return _sums(problem, batch, second_slopes=False)


def _sums(problem: Problem, batch: Batch, second_slopes: bool) -> tuple[dict[str, Tensor], Tensor]:
    chain = problem.dense_chain(batch, second_slopes)
    if chain is None:
        try:
            refuse_parameters(problem.module)
            return recursion_shared.sums(problem, batch, second_slopes)
        except NotALayerChain as broken_by:
            raise ValueError(
                "the recursion passes one number per unit through a chain of Linear and "
                "convolutional layers with activations and pooling between them; it cannot pass "
                f'{broken_by}. Use method="ggn" (exact, never negative) or "hessian".'
            ) from None
    residuals: Sequence[Tensor | None] = [None] * len(chain.links)
    if any(link.second_slope is not None for link in chain.links):
        residuals = residuals_of(chain, batch.gradient(chain.logits))
    h = batch.form(chain.logits).diagonal()
    diagonals = recursion_diagonals(problem, chain, h, residuals)
    return of_parameters(problem, chain, diagonals), batch.denominator(chain.output)


def recursion_diagonals(
    problem: Problem, chain: DenseChain, h: Tensor, residuals: Sequence[Tensor | None]
) -> dict[int, Tensor]:
    """The recursion itself, from h at the logits down to the first wanted layer.

    The result holds h (n, units) at the output of layer i; ``residuals[i]`` is the term of f''.
    """
    links, diagonals = chain.links, {}
    first = first_wanted(problem, [link.layer for link in links])
    h = h.reshape(links[-1].z.shape)
    for i in range(len(links) - 1, first - 1, -1):
        slope, residual = links[i].slope, residuals[i]
        if slope is not None:
            h = (h * slope).mul_(slope)
        if residual is not None:
            h = h + residual
        diagonals[i] = h
        if i > first:
            h = h @ links[i].weight.detach().square()
    return diagonals


def refuse_parameters(module: nn.Module) -> None:
    """Raise NotALayerChain for a trainable parameter that is tied or of another kind of layer.

    Plain Linear and convolutional layers are allowed.
    """
    owners: dict[nn.Parameter, str] = {}
    for name, layer in module.named_modules():
        for local, parameter in layer.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            plain = recursion_shared.passes(layer)
            if plain and local not in ("weight", "bias"):
                raise NotALayerChain(f"the parameter {local!r} of layer {name!r} ({layer})")
            if not plain:
                raise NotALayerChain(
                    f"layer {name!r} ({layer})"
                    if name
                    else f"the parameter {local!r} of {type(layer).__name__}"
                )
            if parameter in owners:
                raise NotALayerChain(
                    f"the parameter that layers {owners[parameter]!r} and {name!r} share"
                )
            owners[parameter] = name
