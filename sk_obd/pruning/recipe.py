"""The recipe: train, take the curvature, rank by saliency, delete, retrain, record.

LeCun, Denker and Solla, Optimal Brain Damage, NIPS 1989, section 2.
"""

import math
import time
from dataclasses import asdict, dataclass
from functools import partial

import torch

from ..compact import sweep
from ..training.isolation import seed_generators
from ..training.masks import count_alive, zero_deleted
from ..training.rounds import train_round
from .groups import lowest_groups
from .path import INCREMENTS
from .saliency import LOSSES, NEEDS, lowest, saliencies
from .schedule import advance, parts, schedule, target_total, trusted_step
from .snapshot import Iteration
from .taylor import TaylorTerms, complete, known_terms

#: Kinds of curvature that can be negative.
SIGNED = ("hessian", "recursion")


@dataclass(frozen=True)
class Recipe:
    """What an estimator's parameters say about pruning; names and meanings are the same."""

    prune_rate: float | int
    step: float | int | None
    granularity: str
    sweep: bool
    saliency: object
    curvature: str
    n_recomputations: int
    trust_region: float | None
    dense_epochs: int
    retrain_epochs: int
    max_loss_increase: float | None
    early_stopping: bool
    n_iter_no_change: int
    tol: float
    seed: int

    @property
    def needs(self):
        """What the saliency needs to know besides the parameters."""
        return {"curvature"} if callable(self.saliency) else NEEDS[self.saliency]

    def of_networks(self):
        """The settings that a network depends on, once its number of parameters is given."""
        names = ("granularity", "sweep", "saliency", "curvature", "n_recomputations")
        return {n: getattr(self, n) for n in (*names, "dense_epochs", "retrain_epochs", "seed")}


@dataclass(frozen=True)
class Assessment:
    """What is known of the parameters of a network: from it, the next deletion follows."""

    saliency: dict  # 0 where deleted
    gradient: dict
    curvature: dict | None
    gradient_norm: float
    negative_curvature: float


def prune(net, objective, path, recipe, *, evaluate, recall, report):
    """Follow the recipe, adding a row to `path` for each iteration.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised; trained and pruned in place.
    objective : Objective
        The training rows, and the loss as it is measured.
    path : PruningPath
        Empty, or that of an earlier call, which is gone on from.
    recipe : Recipe
    evaluate : callable
        ``evaluate() -> (train_score, validation_score)`` of the net as it is.
    recall : callable
        ``recall(iteration, total, compute)`` is what ``compute()`` returns, now or in an earlier
        run (:class:`sk_obd.pruning.cache.Finished`).
    report : callable
        ``report(path)`` after each row; True ends the iterations.
    """
    # Going on, perhaps with other data: the loss belongs to the data.
    loss = objective.loss() if len(path) else None
    assessments = {}
    for iteration, total in iterations(path, recipe):
        compute = partial(
            iterate, net, objective, path, recipe, iteration, total, loss, assessments
        )
        found = recall(iteration, total, compute)
        found.restore(net, path)
        train_score, validation_score = evaluate()
        row = found.row | {"train_score": train_score, "validation_score": validation_score}
        kept = acceptable(path, row, recipe)
        path.append(found, row, kept=kept)
        loss = row["loss"]
        if report(path) or (not kept and stops(path, recipe)):
            break


def iterations(path, recipe):
    """Yield (number, total deleted then) of every iteration to come, as the path grows."""
    fresh = len(path) == 0
    if fresh:
        yield 0, 0
    target, done = target_total(path.n_prunable, recipe.prune_rate), path.n_deleted
    if not fresh and done >= target:
        yield len(path), done
    elif recipe.trust_region is None:
        totals = schedule(path.n_prunable, recipe.prune_rate, recipe.step)
        for i, total in enumerate(totals, start=1):
            # Grid points passed by an earlier call are not visited again, but keep their numbers.
            # Whole groups and the sweep may have passed one, too.
            if total > max(done, path.n_deleted):
                yield i, total
    else:
        while path.n_deleted < target:
            step = trusted_step(recipe.step, path.rows, recipe.trust_region)
            yield len(path), min(target, advance(path.n_prunable, path.n_deleted, step))


def count_iterations(path, recipe):
    """How many iterations are to come; None where each depends on what the one before found."""
    if recipe.trust_region is not None or recipe.sweep:
        return None
    return len(list(iterations(path, recipe)))


def iterate(net, objective, path, recipe, iteration, total, loss, assessments):
    """One iteration: delete up to `total` parameters, train, measure.

    Parameters
    ----------
    loss : float or None
        Of the net as it is; None before the dense training.
    assessments : dict
        That of the net as it is, by the number of its iteration, if it was made in this run;
        replaced by that of the net as it becomes.

    Returns
    -------
    Iteration
    """
    started = time.perf_counter()
    n_delete, masks = total - path.n_deleted, path.masks()
    row, before = dict.fromkeys(INCREMENTS, math.nan), masks
    if n_delete:
        assessment = assessments.pop(iteration - 1, None) or assess(
            objective, masks, recipe, iteration - 1
        )
        predicted, terms, masks = delete(
            objective, masks, path, recipe, assessment, n_delete, iteration, loss
        )
        row |= {"predicted_increase": predicted} | asdict(terms)
        if recipe.sweep:
            # The terms are the deletion's: what is swept costs nothing.
            masks = sweep(objective.whole, masks, objective.some_rows(2), path.prunable)
    gone = {name: before[name] & ~masks[name] for name in path.prunable}
    n_delete = sum(int(chosen.sum()) for chosen in gone.values())
    # The state at iteration i depends on nothing that was drawn before it.
    seed_generators(recipe.seed, iteration)
    epochs = train_round(
        net,
        objective.X,
        objective.targets,
        epochs=recipe.retrain_epochs if len(path) else recipe.dense_epochs,
        sample_weight=objective.sample_weight,
        masks=masks,
    )
    loss = objective.loss()
    if not math.isfinite(loss):
        raise ValueError(
            f"The training loss is {loss} after iteration {iteration}. Scale the input "
            "(StandardScaler), or lower the learning rate."
        )
    assessment = assessments[iteration] = assess(objective, masks, recipe, iteration)
    row |= {
        "n_params": count_alive(masks),
        "prune_rate": (path.n_deleted + n_delete) / path.n_prunable,
        "n_deleted": n_delete,
        "loss": loss,
        "n_epochs": len(epochs),
        "gradient_norm": assessment.gradient_norm,
        "negative_curvature": assessment.negative_curvature,
        "fit_time": time.perf_counter() - started,
    }
    return Iteration.of(net, masks, row, gone, epochs, assessment.saliency)


def delete(objective, masks, path, recipe, assessment, n_delete, iteration, loss):
    """Delete the `n_delete` parameters of lowest saliency (about as many in groups), in place.

    Returns
    -------
    predicted : float
        The sum of their saliencies; NaN where these are no losses.
    terms : TaylorTerms
        Where saliencies are recomputed on the way, sums over the parts.
    masks : dict of bool tensors
        What is left.
    """
    predicted = 0.0 if recipe.saliency in LOSSES else math.nan
    terms = TaylorTerms()
    for part, n in enumerate(parts(n_delete, recipe.n_recomputations)):
        if part:
            assessment = assess(objective, masks, recipe, iteration, part)
        if path.groups is None:
            gone = lowest(assessment.saliency, masks, path.prunable, n)
        else:
            gone = lowest_groups(assessment.saliency, masks, path.groups, n)
        predicted += sum(float(assessment.saliency[k][m].double().sum()) for k, m in gone.items())
        known = known_terms(objective, gone, assessment.gradient, assessment.curvature)
        masks = without(masks, gone)
        zero_deleted(objective.whole, masks)
        after = objective.loss()
        terms += complete(known, after - loss)
        loss = after
    return predicted, terms, masks


def without(masks, gone):
    """Masks less what is gone."""
    return masks | {name: masks[name] & ~chosen for name, chosen in gone.items()}


def assess(objective, masks, recipe, iteration, part=0):
    """Saliencies, and what they rest on, of the network as it is."""
    # What is drawn for them depends on the position alone, not on what training drew.
    seed_generators(recipe.seed, iteration, 1 + part)
    parameters = {name: p.detach() for name, p in objective.parameters().items()}
    masks = {name: masks[name].to(p.device) for name, p in parameters.items()}
    h = objective.curvature(recipe.curvature) if "curvature" in recipe.needs else None
    gradient = objective.gradient()
    norm = math.sqrt(sum(float(g[masks[k]].double().square().sum()) for k, g in gradient.items()))
    negative = math.nan
    if h is not None and recipe.curvature in SIGNED:
        alive = torch.cat([h[name][mask] for name, mask in masks.items()])
        negative = float((alive < 0).double().mean()) if len(alive) else math.nan
    found = saliencies(
        recipe.saliency,
        parameters,
        curvature=h,
        gradient=gradient,
        increase=lambda name: objective.increases(name, masks[name]),
    )
    saliency = {k: torch.where(masks[k], s, 0) for k, s in found.items()}
    return Assessment(saliency, gradient, h, norm, negative)


def acceptable(path, row, recipe):
    """Whether this network may be the one that is kept: the latest such row is."""
    if len(path) == 0:
        return True
    if too_costly(path, row, recipe):
        return False
    if recipe.early_stopping:
        best = max(r["validation_score"] for r in [*path.rows, row])
        return row["validation_score"] >= best - recipe.tol
    return True


def too_costly(path, row, recipe):
    """Whether the training loss rose by more than the user allows over the dense network's."""
    allowed = recipe.max_loss_increase
    return allowed is not None and row["loss"] > path[0]["loss"] + allowed


def stops(path, recipe):
    """Whether the iterations end after a row that is not acceptable."""
    return (
        too_costly(path, path[-1], recipe) or len(path) - 1 - path.kept >= recipe.n_iter_no_change
    )
