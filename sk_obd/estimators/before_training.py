"""What is refused, or hinted at, before the first epoch of training."""

import math
import warnings

from ..pruning.layer_compensation import left_as_they_are
from ..training.nets import batch_size_of
from ..training.schedules import unfinished_schedules
from .base import USERS_FRAME


def hint_at_schedules(net, X, retrain_epochs, *, stacklevel):
    """Warn of learning-rate schedules that are longer than a round of retraining."""
    n_batches = math.ceil(X.shape[0] / batch_size_of(net, X))
    for sentence in unfinished_schedules(net, retrain_epochs, n_batches):
        warnings.warn(sentence, UserWarning, stacklevel=stacklevel + 1)


def check_derivatives(objective, curvature):
    """Refuse what cannot be differentiated now, and not after hours of training.

    Raises
    ------
    ValueError, RuntimeError, NotImplementedError
        As :func:`sk_obd.curvature.diagonal`.
    """
    objective.curvature(curvature, n_rows=2)
    if (error := objective.try_product()) is not None:
        warnings.warn(
            f"The loss cannot be differentiated twice ({error}); off_diagonal and "
            "higher_order of the path are NaN.",
            stacklevel=USERS_FRAME,
        )


def check_compensation(run):
    """Refuse now what the moves of survivors, or a saliency, would be refused for later.

    Raises
    ------
    ValueError, RuntimeError
        For a module or loss without a Gauss-Newton matrix, a penalty that depends on rows, or a
        module none of whose layers can be refitted.
    """
    objective, recipe = run.objective, run.recipe
    if recipe.compensation is not None or "inverse" in recipe.needs:
        error = objective.try_gauss_newton()
        if error is not None and needs_gauss_newton(recipe):
            raise error
        if error is not None:
            warnings.warn(
                f"What a refit costs cannot be predicted ({error}); predicted_increase of the path "
                "is NaN.",
                stacklevel=USERS_FRAME,
            )
    if recipe.compensation == "layer":
        run.path.uncompensated = left_as_they_are(objective, run.path.prunable)
    if recipe.needs_penalty:
        # Any gradient: only whether there is a penalty of the parameters matters here.
        run.penalty({name: p.detach() for name, p in objective.parameters().items()})


def needs_gauss_newton(recipe):
    """Whether a recipe cannot be followed without products with the Gauss-Newton matrix.

    A refit of layers does without: they only predict what it costs.
    """
    predicts = recipe.trust_region is not None
    return recipe.compensation == "obs" or "inverse" in recipe.needs or predicts
