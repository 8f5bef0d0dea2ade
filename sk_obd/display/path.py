"""How well the network did at every size."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_classifier

from .style import (
    BLUE,
    GREY,
    ORANGE,
    PLUM,
    fitted_path,
    fitting_scale,
    legend_above,
    panels,
    size_axis,
)


class PathDisplay:
    """Score and loss against the number of parameters left.

    Above, the scores on the training rows, on the validation rows where there were any, and, where
    there was a cross-validation, the mean over its folds with a band of one standard deviation. A
    dotted line continues the dense network's score (the mean over the folds, or the validation
    score, or the training score, whichever there is first); a vertical line is at the network
    kept. Below, the training loss after retraining.

    Parameters
    ----------
    n_params : array-like of shape (n_rows,)
        Parameters left.
    train_score, validation_score : array-like of shape (n_rows,)
        NaN where there is none.
    loss : array-like of shape (n_rows,)
    kept : int
        Row of the network kept.
    cv_results : dict, default=None
        ``n_params``, ``mean_test_score`` and ``std_test_score``, as :class:`OBDClassifierCV` has
        them.
    score_name : str, default="score"
        What the axis of the scores is called.

    Attributes
    ----------
    axes_ : ndarray of two Axes
        One for the scores, one for the loss.
    ax_ : Axes
        The one for the scores.
    figure_ : Figure
    lines_ : dict of Line2D
        ``"training"``, ``"validation"``, ``"cross-validation"``, ``"loss"``; those drawn.
    fill_between_ : PolyCollection or None
        The band.
    dense_line_, kept_line_ : Line2D

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_obd import OBDClassifier
    >>> from sk_obd.display import PathDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = OBDClassifier(prune_rate=0.5, step=None, random_state=0).fit(X, y)
    >>> display = PathDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        n_params: Any,
        train_score: Any,
        validation_score: Any,
        loss: Any,
        kept: int,
        cv_results: dict[str, Any] | None = None,
        score_name: str = "score",
    ):
        self.n_params = n_params
        self.train_score = train_score
        self.validation_score = validation_score
        self.loss = loss
        self.kept = kept
        self.cv_results = cv_results
        self.score_name = score_name

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> PathDisplay:
        """Draw the path of a fitted estimator.

        Parameters
        ----------
        estimator : OBDClassifier, OBDRegressor or one of the CV classes
        ax : Axes or sequence of two Axes, optional
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        PathDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is not one of these estimators.
        """
        path = fitted_path(estimator, cls.__name__)
        return cls.from_path(
            path,
            cv_results=getattr(estimator, "cv_results_", None),
            score_name=score_name(estimator),
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_path(
        cls,
        path: Any,
        *,
        cv_results: dict[str, Any] | None = None,
        score_name: str = "score",
        ax: Any = None,
        **kwargs: Any,
    ) -> PathDisplay:
        """Draw a path.

        Parameters
        ----------
        path : PruningPath
        cv_results, score_name
            As for the class.
        ax, **kwargs
            As for :meth:`from_estimator`.

        Returns
        -------
        PathDisplay
        """
        columns = ("n_params", "train_score", "validation_score", "loss")
        display = cls(
            **{name: np.array([row[name] for row in path]) for name in columns},
            kept=path.kept,
            cv_results=cv_results,
            score_name=score_name,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Any = None,
        name: str | None = None,
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
    ) -> PathDisplay:
        """Draw the two panels.

        Parameters
        ----------
        ax : Axes or sequence of two Axes, optional
            Two: one for the scores, one for the loss. One: its place is shared out. None: a new
            figure.
        name : str, optional
            Put before the labels; useful where several paths are drawn on the same axes.
        line_kw : dict, optional
            For all lines, as ``Axes.plot`` takes them.
        fill_between_kw : dict, optional
            For the band, as ``Axes.fill_between`` takes them.

        Returns
        -------
        PathDisplay
            This display.

        Raises
        ------
        ImportError
            If matplotlib cannot be imported.
        ValueError
            If `ax` has neither two axes nor a single one in a grid of subplots.
        """
        self.axes_ = panels("PathDisplay", ax, shape=(2, 1), height_ratios=(2, 1))
        self.ax_, below = self.axes_
        self.figure_ = self.ax_.figure
        self.lines_: dict[str, Any] = {}
        self.fill_between_ = None
        prefix = "" if name is None else f"{name}, "
        line_kw = {"lw": 1.6, "ms": 4} | (line_kw or {})

        def draw(axes, key, x, y, **style):
            style |= {"label": prefix + key, "marker": style["marker"] if len(x) <= 40 else ""}
            (self.lines_[key],) = axes.plot(x, y, **(style | line_kw))

        draw(
            self.ax_, "training", self.n_params, self.train_score, marker="o", color=BLUE, zorder=3
        )
        main, color = self.train_score, BLUE
        if np.isfinite(self.validation_score).any():
            main, color = self.validation_score, ORANGE
            draw(self.ax_, "validation", self.n_params, main, marker="s", color=color, zorder=4)
        if self.cv_results is not None:
            sizes, main = (np.asarray(self.cv_results[k]) for k in ("n_params", "mean_test_score"))
            spread, color = np.asarray(self.cv_results["std_test_score"]), PLUM
            draw(self.ax_, "cross-validation", sizes, main, marker="D", color=color, zorder=5)
            style = {"color": self.lines_["cross-validation"].get_color(), "alpha": 0.25, "lw": 0}
            self.fill_between_ = self.ax_.fill_between(
                sizes, main - spread, main + spread, **(style | (fill_between_kw or {}))
            )
        dotted = {"color": line_kw.get("color", color), "lw": 1, "ls": ":", "zorder": 1}
        self.dense_line_ = self.ax_.axhline(main[0], **dotted, label=f"{prefix}dense")
        draw(below, "loss", self.n_params, self.loss, marker="o", color=BLUE, zorder=3)

        kept = self.n_params[self.kept]
        for axes in self.axes_:
            line = axes.axvline(kept, color=GREY, lw=1, ls="--", zorder=0)
            axes.spines[["top", "right"]].set_visible(False)
        self.kept_line_ = self.ax_.lines[-1]
        line.set_label("_")
        self.kept_line_.set_label(f"{prefix}kept: {kept:,} parameters")
        self._label(below)
        return self

    def _label(self, below):
        """Give both axes their scales, limits, labels and legend."""
        sizes = self.n_params
        if self.cv_results is not None:
            sizes = np.concatenate([sizes, self.cv_results["n_params"]])
        fitting_scale(below, self.loss)
        for axes in self.axes_:
            size_axis(axes, sizes)
        ends = np.array([axes.get_xlim() for axes in self.axes_])
        for axes in self.axes_:
            axes.set_xlim(ends[:, 0].max(), ends[:, 1].min())
        self.ax_.set_ylabel(self.score_name)
        self.ax_.tick_params(labelbottom=False)
        below.set(xlabel="parameters left", ylabel="training loss")
        self.figure_.align_ylabels(self.axes_)
        legend_above(self.ax_, ncols=4 if len(self.lines_) < 4 else 3)


def score_name(estimator: Any) -> str:
    """What the scores of a path are, in words."""
    scoring = getattr(estimator, "scoring", None)
    if isinstance(scoring, str):
        return scoring.replace("_", " ")
    if scoring is not None:
        return "score"
    return "accuracy" if is_classifier(estimator) else "R²"
