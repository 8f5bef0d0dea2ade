"""Who is told of a fit while it runs: callbacks of scikit-learn, the user's scorer, the screen.

All that depends on ``sklearn.callback`` (experimental in 1.9) is here:
``set_callbacks(ProgressBar())`` on an estimator, or on a search around it, shows the iterations; a
callback whose ``on_fit_task_end`` returns True ends them.
"""

import warnings
from contextlib import contextmanager

import numpy as np
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring

from ..training.convergence import why_not_converged

__all__ = ["CallbackSupportMixin", "FitObserver", "FitTasks", "SearchTasks", "with_callbacks"]

#: From where a new row is told to the line that called fit.
USERS_FRAME = 7


class FitObserver:
    """What the recipe tells of every iteration (see :class:`sk_obd.pruning.recipe.Observer`).

    Parameters
    ----------
    estimator : estimator
        Whose fit it is: its callbacks are told, and its `verbose` and `scoring` count.
    draft : estimator
        The copy that the fit works on. The scorer looks at it, with the network as it is.
    run : Run
    scored : dict
        ``{"train": (X, y, metadata), "validation": ...}``; the second may be missing.
    n_iterations : int or None
        How many are to come; None where that is not known beforehand.
    """

    def __init__(self, estimator, draft, run, scored, n_iterations):
        self.draft = draft
        self.run = run
        self.scored = scored
        self.name = type(estimator).__name__ if estimator.verbose else None
        self.scorer = check_scoring(draft, scoring=estimator.scoring)
        X, y, metadata = scored["train"]
        self.tasks = FitTasks(estimator, n_iterations, self.learnt, X=X, y=y, metadata=metadata)

    def begin_iteration(self):
        """Tell the callbacks."""
        self.tasks.begin_iteration()

    def scores(self):
        """Scores of the network as it is; NaN where there are no rows for one."""
        found = {"train_score": np.nan, "validation_score": np.nan}
        for part, (X, y, metadata) in self.scored.items():
            found[f"{part}_score"] = float(self.scorer(self.draft, X, y, **metadata))
        return found

    def end_iteration(self, path):
        """Print the row, say where it learned nothing, tell the callbacks.

        Returns whether one of them asks to stop.
        """
        if self.name:
            print(line_of(self.name, path), flush=True)
        if len(path) == 1:
            run = self.run
            for what in why_not_converged(
                path.history, run.recipe.dense_epochs, path[0]["loss"], run.objective.constant_loss
            ):
                warnings.warn(what, ConvergenceWarning, stacklevel=USERS_FRAME)
        return self.tasks.end_iteration()

    def end(self):
        """The fit is over."""
        self.tasks.end()

    def learnt(self):
        """What the estimator would have learnt if fit ended now."""
        path = self.run.path
        return self.draft._at_row(path.kept, path)._learnt()


def line_of(name, path):
    """The last row of a path as a line to print."""
    row, dense = path[-1], path[0]["n_params"]
    validation = row["validation_score"]
    return (
        f"[{name}] iteration {len(path) - 1}: {row['n_params']} of {dense} parameters "
        f"({row['n_params'] / dense:.1%}), loss {row['loss']:.4g}, "
        f"train score {row['train_score']:.4f}"
        + ("" if np.isnan(validation) else f", validation score {validation:.4f}")
        + f", {row['n_epochs']} epochs, {row['fit_time']:.1f} s"
    )


class FitTasks:
    """The tasks of a fit that callbacks are told of: the fit, and in it each iteration.

    Parameters
    ----------
    estimator : CallbackSupportMixin
        Its ``_init_callback_context`` is, despite the underscore, the method documented for
        estimators of other packages.
    n_iterations : int or None
        How many are to come; None where that is not known beforehand.
    fitted_attributes : callable
        ``fitted_attributes() -> dict``: what the estimator would have if fit ended now.
    X, y : array-like
    metadata : dict
        Given to callbacks that ask for them.
    """

    def __init__(self, estimator, n_iterations, fitted_attributes, *, X, y, metadata):
        self.data = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self.fitted_attributes = fitted_attributes
        self.fit = estimator._init_callback_context(max_subtasks=n_iterations)
        self.fit.call_on_fit_task_begin(**self.data)

    def begin_iteration(self):
        self.iteration = self.fit.subcontext(task_name="iteration")
        self.iteration.call_on_fit_task_begin(**self.data)

    def end_iteration(self):
        """Whether a callback asks to stop."""
        return self.iteration.call_on_fit_task_end(
            reconstruction_attributes=self.fitted_attributes, **self.data
        )

    def end(self):
        self.fit.call_on_fit_task_end(reconstruction_attributes=self.fitted_attributes, **self.data)


class SearchTasks:
    """The tasks of a cross-validated fit: one for each fold, and the final fit.

    Parameters
    ----------
    estimator, X, y, metadata
        As for :class:`FitTasks`.
    n_folds : int
    """

    def __init__(self, estimator, n_folds, X, y, metadata):
        self.data = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self.fit = estimator._init_callback_context(max_subtasks=n_folds + 1)
        self.fit.call_on_fit_task_begin(**self.data)

    def fold(self):
        """The task of the next fold, which may be carried out in another process."""
        return Subtask(self.fit.subcontext(task_name="fold"), self.data["estimator"])

    def final(self, fitted):
        return Subtask(self.fit.subcontext(task_name="final fit"), self.data["estimator"])(fitted)

    def end(self):
        self.fit.call_on_fit_task_end(**self.data)


class Subtask:
    """A task that is the fit of another estimator, to which callbacks are passed on."""

    def __init__(self, context, owner):
        self.context = context
        self.owner = owner

    @contextmanager
    def __call__(self, fitted):
        """While `fitted` is fitted."""
        with self.context.propagate_callback_context(fitted):
            self.context.call_on_fit_task_begin(estimator=self.owner)
            yield
            self.context.call_on_fit_task_end(estimator=self.owner)
