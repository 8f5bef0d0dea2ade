"""The paper's own back-propagation of second derivatives (LeCun, Denker and Solla 1989, eq. 5-8).

``h_l = f'(z_l)^2 (h_{l+1} @ W_{l+1}**2) + f''(z_l) dL/dx_{l+1}``: one number a unit, carried down
as gradients are. It keeps only the diagonal at each layer, so it is exact for the last two layers
of weights and an approximation before them. The paper's eq. 7 prints "- f'' dE/dx"; with the true
derivative the sign is +. "recursion-lm" drops that term (the paper's Levenberg-Marquardt form) and
is never negative.
"""

from __future__ import annotations

from torch import Tensor

from ..losses.hessians import Form, scaled
from ..problem import Problem
from ..routes import dense_chain as chains
from ..routes.layer_chain import NoLine
from . import recursion_shared as shared
from .ggn import collect, lowest
from .hessian import residuals


def batch(problem: Problem, X: Tensor, y: Tensor, w: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    return _batch(problem, X, y, w, bends=True)


def batch_lm(problem: Problem, X: Tensor, y: Tensor, w: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    return _batch(problem, X, y, w, bends=False)


def _batch(problem, X, y, w, bends):
    loss = problem.loss

    def form(logits: Tensor) -> Form:
        return scaled(loss.form(logits, y), w)

    def slopes(logits: Tensor) -> Tensor:
        return loss.gradient(logits, y) * w.reshape(-1, *[1] * (logits.ndim - 1))

    chain = chains.trace(problem.module, loss, X, bends) if problem.chain else None
    if chain is None:
        problem.give_up_chain()
        try:
            refuse_parameters(problem)
            return shared.batch(problem, X, y, w, bends, form, slopes)
        except NoLine as reason:
            raise ValueError(
                "the recursion passes one number a unit through a chain of Linear and "
                "convolutional layers with "
                f"activations and pooling between them; it cannot pass {reason}. Use "
                f'method="ggn" (exact, never '
                'negative) or "hessian".'
            ) from None
    smooth = bends and any(link.bend is not None for link in chain.links)
    left_out = residuals(chain, slopes(chain.logits)) if smooth else [None] * len(chain.links)
    diagonals = diagonals_of(problem, chain, form(chain.logits).diagonal(), left_out)
    return collect(problem, chain, diagonals), (w * loss.normalisers(chain.output, y)).sum()


def diagonals_of(
    problem: Problem, chain: chains.Chain, h: Tensor, left_out: list
) -> list[Tensor | None]:
    """The recursion itself, from the logits down to the first layer wanted."""
    links, first = chain.links, lowest(problem, chain)
    diagonals: list[Tensor | None] = [None] * len(links)
    h = h.reshape(links[-1].z.shape)
    for i in range(len(links) - 1, first - 1, -1):
        if links[i].slope is not None:
            h = (h * links[i].slope).mul_(links[i].slope)
        if left_out[i] is not None:
            h = h + left_out[i]
        diagonals[i] = h
        if i > first:
            h = h @ links[i].layer.weight.detach().square()
    return diagonals


def refuse_parameters(problem: Problem) -> None:
    """NoChain for trainable parameters outside plain Linear and convolutional layers, or tied
    ones.
    """
    owners = {}
    for name, layer in problem.module.named_modules():
        for local, parameter in layer.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            plain = any(
                type(layer).forward is kind.forward
                for kind in shared.LINEAR
                if isinstance(layer, kind)
            )
            if not plain:
                where = (
                    f"layer {name!r} ({layer})"
                    if name
                    else f"the parameter {local!r} of {type(layer).__name__}"
                )
                raise NoLine(where)
            if parameter in owners:
                raise NoLine(f"the parameter that layers {owners[parameter]!r} and {name!r} share")
            owners[parameter] = name
