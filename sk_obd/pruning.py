"""The recipe: train, take the curvature, rank by saliency, delete, retrain, record.

LeCun, Denker and Solla, Optimal Brain Damage, NIPS 1989, section 2.
"""

import math
import time
from dataclasses import dataclass

import torch

from .isolation import seed_generators
from .masks import count_alive, zero_deleted
from .saliency import LOSSES, NEEDS, lowest, saliencies
from .training import train_round

#: Kinds of curvature that can be negative.
SIGNED = ("hessian", "recursion")


@dataclass(frozen=True)
class Recipe:
    """What an estimator's parameters say about pruning; names and meanings are the same."""

    prune_rate: float | int
    step: float | int | None
    saliency: object
    curvature: str
    dense_epochs: int
    retrain_epochs: int
    max_loss_increase: float | None
    early_stopping: bool
    n_iter_no_change: int
    tol: float
    seed: int


def schedule(n_prunable, prune_rate, step):
    """Totals deleted after each iteration.

    They depend on counts alone, so all folds of a cross-validation visit the same sizes, and a
    run to 0.5 those of a run to 0.9 up to its own last.

    Parameters
    ----------
    n_prunable : int
    prune_rate : float in [0, 1) or int
        Share (or number) of the prunable parameters deleted in the end.
    step : float in (0, 1), int or None
        Share of what is left (at least one parameter), or number, deleted in an iteration; None:
        all at once.

    Raises
    ------
    ValueError
        If more is to be deleted than there is.

    Examples
    --------
    >>> schedule(1000, 0.5, 0.2)
    [200, 360, 488, 500]
    >>> schedule(1000, 3, 1)
    [1, 2, 3]
    """
    share = isinstance(prune_rate, float)
    target = round(prune_rate * n_prunable) if share else int(prune_rate)
    if target > n_prunable:
        raise ValueError(
            f"prune_rate={prune_rate} asks to delete {target} parameters; the network has "
            f"{n_prunable} that may be deleted. Give a smaller number, or a share in [0, 1)."
        )
    totals, deleted = [], 0
    while deleted < target:
        if step is None:
            deleted = target
        elif isinstance(step, float):
            deleted += max(1, round(step * (n_prunable - deleted)))
        else:
            deleted += int(step)
        deleted = min(deleted, target)
        totals.append(deleted)
    return totals


def prune(net, objective, path, recipe, *, evaluate, report):
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
    report : callable
        ``report(path)`` after each row.
    """
    totals = schedule(path.n_prunable, recipe.prune_rate, recipe.step)
    done = path.n_deleted
    # Grid points passed by an earlier call are not visited again, but keep their numbers.
    todo = [(i, total) for i, total in enumerate(totals, start=1) if total > done]
    if len(path) == 0:
        todo.insert(0, (0, 0))
    elif not todo:
        todo = [(len(path), done)]
    loss, saliency = None, None
    if len(path):
        # Going on, perhaps with other data: both belong to the data.
        loss, saliency = objective.loss(), assess(objective, path, recipe, todo[0][0] - 1)[0]
    for iteration, total in todo:
        started = time.perf_counter()
        seed_generators(recipe.seed, iteration)
        row = {"predicted_increase": math.nan, "actual_increase": math.nan, "n_deleted": 0}
        if len(path) and total > done:
            row = delete(net.module_, objective, path, recipe, saliency, total - done, loss)
        epochs = recipe.retrain_epochs if len(path) else recipe.dense_epochs
        epochs = train_round(
            net,
            objective.X,
            objective.targets,
            epochs=epochs,
            sample_weight=objective.sample_weight,
            masks=path.masks(),
        )
        loss = objective.loss()
        if not math.isfinite(loss):
            raise ValueError(
                f"The training loss is {loss} after iteration {iteration}. Scale the input "
                "(StandardScaler), or lower the learning rate."
            )
        saliency, norm, negative = assess(objective, path, recipe, iteration)
        train_score, validation_score = evaluate()
        row |= {
            "n_params": count_alive(path.masks()),
            "prune_rate": total / path.n_prunable,
            "loss": loss,
            "train_score": train_score,
            "validation_score": validation_score,
            "n_epochs": len(epochs),
            "gradient_norm": norm,
            "negative_curvature": negative,
            "fit_time": time.perf_counter() - started,
        }
        kept = acceptable(path, row, recipe)
        path.append(row, net.module_, epochs, saliency, kept=kept)
        done = total
        report(path)
        if not kept and stops(path, recipe):
            break


def delete(module, objective, path, recipe, saliency, n_delete, loss):
    """Delete the `n_delete` parameters of lowest saliency; say what was predicted and came."""
    gone = lowest(saliency, path.masks(), path.prunable, n_delete)
    path.mark_deleted(gone)
    zero_deleted(module, path.masks())
    predicted = math.nan
    if recipe.saliency in LOSSES:
        predicted = sum(
            float(saliency[name][chosen].double().sum()) for name, chosen in gone.items()
        )
    return {
        "n_deleted": n_delete,
        "predicted_increase": predicted,
        "actual_increase": objective.loss() - loss,
    }


def assess(objective, path, recipe, iteration):
    """Saliencies (0 where deleted), gradient norm and share of negative curvature."""
    # What is drawn for them depends on the iteration alone, not on what training drew.
    seed_generators(recipe.seed, iteration, 1)
    parameters = {name: p.detach() for name, p in objective.parameters().items()}
    masks = path.masks()
    masks = {name: masks[name].to(p.device) for name, p in parameters.items()}
    needs = {"curvature"} if callable(recipe.saliency) else NEEDS[recipe.saliency]
    h = objective.curvature(recipe.curvature) if "curvature" in needs else None
    gradient = objective.gradient()
    norm = math.sqrt(sum(float(g[masks[k]].double().square().sum()) for k, g in gradient.items()))
    negative = math.nan
    if h is not None and recipe.curvature in SIGNED:
        alive = torch.cat([h[name][masks[name]] for name in path.prunable])
        negative = float((alive < 0).double().mean()) if len(alive) else math.nan
    found = saliencies(
        recipe.saliency,
        parameters,
        curvature=h,
        gradient=gradient,
        increase=lambda name: objective.increases(name, masks[name]),
    )
    return {k: torch.where(masks[k], s, 0) for k, s in found.items()}, norm, negative


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
