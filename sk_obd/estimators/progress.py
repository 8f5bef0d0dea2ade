"""Callbacks of scikit-learn (``sklearn.callback``, experimental in 1.9) told of each iteration.

All that depends on that experimental interface is here: ``set_callbacks(ProgressBar())`` on an
estimator, or on a search around it, shows the iterations; a callback whose ``on_fit_task_end``
returns True ends them.
"""

from contextlib import contextmanager

from sklearn.callback import CallbackSupportMixin, with_callbacks

__all__ = ["CallbackSupportMixin", "FitTasks", "SearchTasks", "with_callbacks"]


class FitTasks:
    """The tasks of a fit that callbacks are told of: the fit, and in it each iteration.

    Parameters
    ----------
    estimator : CallbackSupportMixin
        The name of its method that starts all this begins with an underscore, but is the
        documented one for estimators of other packages.
    n_iterations : int or None
        How many are to come; None where that is not known beforehand.
    fitted_attributes : callable
        ``fitted_attributes() -> dict``: what the estimator would have if fit ended now.
    X, y : array-like
    metadata : dict
        Given to callbacks that ask for them.
    """

    def __init__(self, estimator, n_iterations, fitted_attributes, X, y, metadata):
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
    """The tasks of a cross-validated fit: a fold each, and the final fit.

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
