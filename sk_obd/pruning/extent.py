"""How far a pruning path goes: its sizes, which networks may be kept, and when it ends."""

from ..training.rounds import may_freeze
from .schedule import advance, schedule, target_total, trusted_step


def iterations(path, recipe):
    """Yield the total deleted after each iteration to come, as the path grows."""
    fresh = len(path) == 0
    if fresh:
        yield 0
    target, done = target_total(path.n_prunable, recipe.prune_rate), path.n_deleted
    if not fresh and done >= target:
        yield done
    elif recipe.trust_region is None:
        for total in schedule(path.n_prunable, recipe.prune_rate, recipe.step):
            # An earlier fit, whole groups or the sweep may have passed this total.
            if total > max(done, path.n_deleted):
                yield total
    else:
        while path.n_deleted < target:
            step = trusted_step(recipe.step, path.rows, recipe.trust_region)
            yield min(target, advance(path.n_prunable, path.n_deleted, step))


def count_iterations(run) -> int | None:
    """How many iterations are to come; None where that depends on what one of them finds."""
    path, recipe = run.path, run.recipe
    if recipe.trust_region is not None or recipe.sweep or may_freeze(run.net):
        return None
    return len(list(iterations(path, recipe)))


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
