"""The recipe: train, compute the curvature, rank by saliency, delete, retrain, record.

LeCun, Denker and Solla, Optimal Brain Damage, NIPS 1989, section 2.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol

import torch
from skorch import NeuralNet

from ..compact import check_traceable, sweep
from ..compact.flow import NotTraced
from ..training.isolation import Purpose, generator_for, seed_generators
from ..training.masks import count_alive, trainable_flags, without, zero_deleted
from ..training.nets import batch_size_of
from ..training.objective import Objective
from ..training.penalty import Decay, Penalty, decays_of, penalty_of
from ..training.rounds import train_round
from .cache import IterationCache
from .compensation import compensate, relaxed
from .extent import acceptable, iterations, stops
from .groups import lowest_groups
from .layer_compensation import compensate_layers
from .moves import Step, Survivors, take
from .path import PruningPath
from .rows import INCREMENTS, MOVES
from .saliency import LOSSES, NEEDS, lowest, saliencies
from .schedule import parts
from .snapshot import Iteration, alive_of
from .taylor import TaylorTerms, complete, deletion, dot, known_terms, quadratic

#: Kinds of curvature that can be negative.
SIGNED = ("hessian", "recursion")


@dataclass(frozen=True)
class Recipe:
    """What an estimator's parameters say about pruning; names and meanings are the same."""

    prune_rate: float | int
    step: float | int | None
    granularity: str
    sweep: bool
    saliency: str | Callable
    curvature: str
    compensation: str | None
    n_recomputations: int
    trust_region: float | None
    retrain_epochs: int | None
    max_loss_increase: float | None
    early_stopping: bool
    n_iter_no_change: int
    tol: float
    dense_epochs: int
    seed: int

    @property
    def needs(self) -> set[str]:
        """What the saliency needs to know besides the parameters."""
        return {"curvature"} if callable(self.saliency) else NEEDS[self.saliency]

    @property
    def needs_penalty(self) -> bool:
        """Whether what the net trains with besides its criterion has to be known."""
        return self.compensation == "obs" or "penalty" in self.needs

    @property
    def epochs(self) -> int:
        """At most so many epochs of retraining."""
        return self.dense_epochs if self.retrain_epochs is None else self.retrain_epochs


class Observer(Protocol):
    """Who is told of every iteration, scores its network, and may end the path."""

    def begin_iteration(self) -> None:
        """An iteration begins."""

    def scores(self) -> dict[str, float]:
        """``train_score`` and ``validation_score`` of the network as it is."""

    def end_iteration(self, path: PruningPath) -> bool | None:
        """A row was added to the path; whether the iterations shall end."""


@dataclass(frozen=True)
class Assessment:
    """What is known of the parameters of a network: the next deletion follows from it."""

    #: Of the network, on the path.
    row: int
    #: By name; 0 where deleted.
    saliency: dict[str, torch.Tensor]
    gradient: dict[str, torch.Tensor]
    #: None where the saliency does not need it.
    curvature: dict[str, torch.Tensor] | None
    gradient_norm: float
    negative_curvature: float


def prune(run: "Run", observer: Observer) -> None:
    """Follow the recipe; each iteration adds a row to the path.

    Iteration 0 trains the dense network (the paper's steps 1 and 2). Each later one computes the
    curvature (step 3) and the saliencies (step 4), deletes the parameters of lowest saliency
    (step 5), and goes back to training (step 6).
    """
    path, recipe = run.path, run.recipe
    for total in iterations(path, recipe):
        observer.begin_iteration()
        found = run.cache(len(path), total, partial(iterate, run, total))
        found.restore(run.net, path)
        run.loss = found.row["loss"]
        row = found.row | observer.scores()
        kept = acceptable(path, row, recipe)
        path.append(found, row, kept=kept)
        if found.flags:
            # What callbacks have frozen in the dense training is spared from here on.
            path.choose(*run.prunable(run.net.module_), flags=found.flags)
        if observer.end_iteration(path) or (not kept and stops(path, recipe)):
            break


def iterate(run: "Run", total: int) -> Iteration:
    """One iteration: delete until `total` parameters are gone, train, measure."""
    started = time.perf_counter()
    path = run.path
    before = masks = path.masks()
    increments = dict.fromkeys((*INCREMENTS, *MOVES), math.nan)
    if total > path.n_deleted:
        masks, increments = run.delete(before, total - path.n_deleted)
    flags = trainable_flags(run.net.module_)
    epochs = run.retrain(masks)
    after = trainable_flags(run.net.module_)
    measured, assessment = run.measure(masks)
    gone = {name: before[name] & ~masks[name] for name in path.prunable}
    n_deleted = sum(int(chosen.sum()) for chosen in gone.values())
    row = increments | measured
    row |= {
        "prune_rate": (path.n_deleted + n_deleted) / path.n_prunable,
        "n_deleted": n_deleted,
        "n_epochs": len(epochs),
        "fit_time": time.perf_counter() - started,
    }
    return Iteration.of(
        run.net,
        masks,
        row,
        gone,
        epochs=epochs,
        saliency=assessment.saliency,
        flags={name: flag for name, flag in after.items() if flag != flags[name]},
    )


@dataclass
class Run:
    """One fit under way: the steps of the recipe, on one net, one set of rows and one path.

    A row is the number of a network on the path; the network in the making is number
    ``len(path)``. All that is drawn for it depends on the seed and this number only.
    """

    #: Initialised; trained and pruned in place.
    net: NeuralNet
    #: The training rows, and the loss as it is measured.
    objective: Objective
    #: Empty, or that of an earlier fit that this one continues.
    path: PruningPath
    recipe: Recipe
    #: ``prunable(module)``: names of the parameters that may be deleted, and their groups.
    prunable: Callable[[torch.nn.Module], tuple]
    cache: IterationCache = field(default_factory=IterationCache)
    #: Of the net as it is; None before the dense training.
    loss: float | None = None
    #: The assessment made last after training.
    assessment: Assessment | None = None
    #: Of the net's optimisers at the beginning of every round. What callbacks make of them while it
    #: lasts is not known of a network that comes from a cache, from a file or from an earlier fit.
    decays: list[Decay] = field(init=False)

    def __post_init__(self):
        self.decays = decays_of(self.net)
        if len(self.path) and self.loss is None:
            # Continued, perhaps with other data: the loss belongs to the data.
            self.loss = self.objective.loss()

    def assess(self, masks: dict, row: int, part: int = 0) -> Assessment:
        """Saliencies, and what they rest on, of the network as it is.

        `part` tells assessments within one deletion apart, so that each has random numbers of its
        own; they do not depend on what training drew.
        """
        objective, recipe = self.objective, self.recipe
        seed_generators(recipe.seed, Purpose.ASSESSMENT, row, part)
        generator = generator_for(recipe.seed, Purpose.ASSESSMENT, row, part)
        parameters = {name: p.detach() for name, p in objective.parameters().items()}
        masks = {name: masks[name].to(p.device) for name, p in parameters.items()}
        h = None
        if "curvature" in recipe.needs:
            h = objective.curvature(recipe.curvature, generator=generator)
        gradient = objective.gradient()
        penalty = self.penalty(gradient) if "penalty" in recipe.needs else None
        inverse = None
        if penalty is not None and "inverse" in recipe.needs:
            inverse = objective.inverse_curvature(masks, penalty.decay)
        squares = (dot(alive, alive) for alive in (alive_of(gradient[n], masks[n]) for n in masks))
        negative = math.nan
        if h is not None and recipe.curvature in SIGNED:
            curvatures = torch.cat([h[name][mask] for name, mask in masks.items()])
            negative = float((curvatures < 0).double().mean()) if len(curvatures) else math.nan
        found = saliencies(
            recipe.saliency,
            parameters,
            curvature=h,
            gradient=gradient,
            penalty_gradient=None if penalty is None else penalty.gradient(),
            inverse=inverse,
            generator=generator,
            increase=lambda name: objective.increases(name, masks[name]),
        )
        saliency = {k: torch.where(masks[k], s, 0) for k, s in found.items()}
        return Assessment(row, saliency, gradient, h, math.sqrt(sum(squares)), negative)

    def delete(self, masks: dict, n_delete: int) -> tuple[dict, dict]:
        """Delete the `n_delete` parameters of lowest saliency (about as many in groups), in place.

        Returns
        -------
        masks : dict of bool tensors
            What is left, with ``sweep`` without the dead parameters.
        increments : dict
            The increase of the loss by the deletion (and the move of the survivors), predicted,
            measured and term by term; sums over the parts where saliencies are recomputed on the
            way. What is swept costs nothing.
        """
        objective, path, recipe = self.objective, self.path, self.recipe
        row = len(path)
        assessment = self.assessment
        if assessment is None or assessment.row != row - 1:
            # The network comes from a cache or from an earlier fit.
            assessment = self.assess(masks, row - 1)
        self.assessment = None  # it holds several numbers for each parameter, and is used up here
        terms, loss, steps = TaylorTerms(), self.loss, []
        damping = relaxed(path[-1]["damping"])
        for part, n in enumerate(parts(n_delete, recipe.n_recomputations)):
            if part:
                assessment = self.assess(masks, row, part)
            saliency = assessment.saliency
            if path.groups is None:
                gone = lowest(saliency, masks, path.prunable, n)
            else:
                gone = lowest_groups(saliency, masks, path.groups, n)
            found = self.step(masks, gone, assessment, damping)
            known = known_terms(objective, found.step, assessment.gradient, found.curvature)
            masks = without(masks, gone)
            take(objective.parameters(), found.step)
            zero_deleted(objective.whole, masks)
            after = objective.loss()
            if math.isnan(after):
                raise ValueError(
                    f"The training loss is NaN with {path.n_deleted + n_delete} parameters "
                    f"deleted (iteration {row}): {type(objective.whole).__name__} is not defined "
                    "there, as where it divides by the norm of weights that are all zero. Spare "
                    "these by prunable, or delete fewer."
                )
            terms += complete(known, after - loss)
            loss, damping = after, relaxed(found.damping)
            steps.append(found)
        if recipe.sweep:
            masks = sweep(objective.whole, masks, objective.some_rows(2), path.prunable)
        return masks, asdict(terms) | {
            "predicted_increase": sum(found.predicted for found in steps),
            "n_products": sum(found.n_products for found in steps),
            "damping": steps[-1].damping,
        }

    def step(self, masks: dict, gone: dict, assessment: Assessment, damping: float) -> Step:
        """The step of a deletion: -u where it deletes, and where survivors go, if they move."""
        objective, recipe = self.objective, self.recipe
        gradient, curvature = assessment.gradient, assessment.curvature
        if recipe.compensation is None:
            predicted = math.nan
            if recipe.saliency in LOSSES:
                saliency = assessment.saliency
                predicted = sum(float(saliency[k][m].double().sum()) for k, m in gone.items())
            return Step(deletion(objective, gone), predicted, curvature)
        survivors = Survivors(objective.parameters(), masks, gone)
        if recipe.compensation == "layer":
            found = replace(compensate_layers(objective, survivors), curvature=curvature)
            if not objective.has_gauss_newton:
                return replace(found, n_products=0)
            matrix = objective.gauss_newton()
            predicted = quadratic(gradient, matrix.product(found.step), found.step)
            return replace(found, predicted=predicted, n_products=1)
        ggn = curvature if recipe.curvature == "ggn" and curvature is not None else None
        ggn = objective.curvature("ggn") if ggn is None else ggn
        found = compensate(
            objective,
            self.penalty(gradient),
            survivors,
            gradient=gradient,
            curvature=ggn,
            damping=damping,
        )
        return replace(found, curvature=ggn if curvature is None else curvature)

    def penalty(self, gradient: dict) -> Penalty:
        """What the net trains with besides its criterion, where its mean loss has this gradient."""
        objective = self.objective
        return penalty_of(
            self.net,
            objective.some_rows(2),
            objective.some_targets(2),
            decays=self.decays,
            n_terms=self.n_terms,
            gradient=gradient,
        )

    @cached_property
    def n_terms(self) -> float:
        """What a sum over a training batch is divided by in the mean loss."""
        return batch_size_of(self.net, self.objective.X) * self.objective.normaliser()

    def retrain(self, masks: dict) -> list[dict]:
        """Train what is alive, the dense network too; return skorch's record of each epoch."""
        where = self.recipe.seed, Purpose.TRAINING, len(self.path)
        seed_generators(*where)
        return train_round(
            self.net,
            self.objective.X,
            self.objective.targets,
            epochs=self.recipe.epochs if len(self.path) else self.recipe.dense_epochs,
            sample_weight=self.objective.sample_weight,
            masks=masks,
            first=len(self.path) == 0,
            generator=generator_for(*where),
        )

    def measure(self, masks: dict) -> tuple[dict, Assessment]:
        """Loss and assessment of the trained network; what they say, as columns of its row, first.

        Raises
        ------
        ValueError
            If the training loss is not finite.
        """
        loss, row = self.objective.loss(), len(self.path)
        if not math.isfinite(loss):
            raise ValueError(
                f"The training loss is {loss} after iteration {row}. Scale the input "
                "(StandardScaler), or lower the learning rate."
            )
        self.assessment = self.assess(masks, row)
        columns = {
            "n_params": count_alive(masks),
            "loss": loss,
            "gradient_norm": self.assessment.gradient_norm,
            "negative_curvature": self.assessment.negative_curvature,
        }
        return columns, self.assessment


def check_sweepable(module, X):
    """Raise for a module whose units cannot be followed from X to the output.

    Parameters
    ----------
    module : torch.nn.Module
    X : tensor of shape (n_rows, ...)
        A few rows as the module takes them.

    Raises
    ------
    ValueError
        With the reason, and what to do.
    """
    try:
        check_traceable(module, X)
    except NotTraced as error:
        raise ValueError(
            f"sweep=True cannot follow the units of {type(module).__name__} from X to the output: "
            f"{error}. Write its forward as torch.fx can trace it (one input, no branches on "
            "values), or set sweep=False."
        ) from error
