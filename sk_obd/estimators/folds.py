"""The folds of a cross-validated path: followed, tabulated, and a size chosen from them."""

import copy
import math
from dataclasses import dataclass

import numpy as np

# Private by its name, but a function of scikit-learn's documented API: any X, any kind of index.
from sklearn.utils import _safe_indexing as part

from .targets import ClassTargets, ValueTargets


def choose_size(scores, rule):
    """The row of the path to take: the smallest network that a rule allows.

    Parameters
    ----------
    scores : array-like of shape (n_folds, n_rows)
        Larger is better; networks get smaller from left to right.
    rule : {"best", "one_se"}
        "best": the highest mean over the folds. "one_se": a mean not below the highest one by
        more than its standard error, ``std(ddof=1) / sqrt(n_folds)``.

    Returns
    -------
    int
        The last row that the rule allows. Means that differ only by rounding are ties.

    Raises
    ------
    ValueError
        If every row has a NaN among its scores.

    Examples
    --------
    >>> scores = [[0.90, 0.95, 0.92, 0.5], [0.92, 0.91, 0.93, 0.6]]
    >>> choose_size(scores, "best"), choose_size(scores, "one_se")
    (1, 2)
    """
    scores = np.asarray(scores, dtype=float)
    # fsum: rows with the same scores in another order have exactly the same mean.
    means = np.array([math.fsum(column) / len(column) for column in scores.T])
    means[np.isnan(means)] = -np.inf
    best = means.max()
    if best == -np.inf:
        raise ValueError(
            "scoring returned NaN or -inf in some fold for every size of the network, so that "
            "none can be chosen. Is it defined on every test fold (all classes there, enough rows)?"
        )
    allowed = 1e-12 * abs(best)
    if rule == "one_se":
        of_best = scores[:, np.flatnonzero(means >= best - allowed)[-1]]
        allowed += of_best.std(ddof=1) / math.sqrt(len(of_best))
    return int(np.flatnonzero(means >= best - allowed)[-1])


@dataclass(frozen=True)
class FoldRows:
    """The rows of a cross-validation, of which each fold sees parts."""

    X: object
    y: np.ndarray
    weights: np.ndarray | None
    #: What the scorer is given besides.
    score_params: dict
    #: What is known of the whole y (a fold may lack a class); None: each fold learns its own.
    targets: ClassTargets | ValueTargets | None

    def train(self, rows):
        """(X, y, weights) of some rows."""
        weights = None if self.weights is None else self.weights[rows]
        return part(self.X, rows), self.y[rows], weights

    def test(self, rows):
        """(X, y, what the scorer is given besides) of some rows."""
        params = {
            name: part(value, rows) if np.ndim(value) and len(value) == len(self.y) else value
            for name, value in self.score_params.items()
        }
        return part(self.X, rows), self.y[rows], params


def follow(plain, data, split, scorer, *, title, task):
    """Fit the path of a fold; return its rows, each with its score on the test rows.

    Parameters
    ----------
    plain : OBDClassifier or OBDRegressor
        Copied.
    data : FoldRows
    split : (array, array)
        Training and test rows.
    scorer : callable
    title : str
        What the line printed begins with; nothing is printed without.
    task : Subtask
        Of which callbacks are told.
    """
    train, test = split
    fitted = copy.copy(plain)
    with task(fitted):
        fitted._fit(*data.train(train), targets=data.targets)
    X_test, y_test, score_params = data.test(test)
    rows = []
    for i, row in enumerate(fitted.path_):
        score = float(scorer(fitted.at(iteration=i), X_test, y_test, **score_params))
        columns = ("n_params", "prune_rate", "n_deleted", "fit_time")
        rows.append({name: row[name] for name in columns} | {"test_score": score})
    if title:
        print(
            f"{title}: test score {rows[0]['test_score']:.4f} at {rows[0]['n_params']} parameters "
            f"to {rows[-1]['test_score']:.4f} at {rows[-1]['n_params']}, "
            f"{sum(row['fit_time'] for row in rows):.1f} s",
            flush=True,
        )
    return rows


def tabulate(folds):
    """The rows of all folds as ``cv_results_``.

    Raises
    ------
    ValueError
        If the folds have visited different sizes.
    """
    sizes = [[row["n_params"] for row in rows] for rows in folds]
    for i, found in enumerate(sizes):
        if found != sizes[0]:
            raise ValueError(
                f"Fold {i} visited networks of {found} parameters, fold 0 of {sizes[0]}; their "
                "scores cannot be averaged. Does a callback of the net size it by the rows or "
                "classes it sees? Give the sizes as net__module__..., or stratify cv."
            )
    results = {
        name: np.array([row[name] for row in folds[0]]) for name in ("n_params", "prune_rate")
    }
    for name in ("test_score", "fit_time"):
        values = np.array([[row[name] for row in rows] for rows in folds])
        results |= {f"mean_{name}": values.mean(axis=0), f"std_{name}": values.std(axis=0)}
        results |= {f"split{i}_{name}": of_fold for i, of_fold in enumerate(values)}
    return results


class Unweighted:
    """Calls the user's scorer without sample_weight, which it has not requested."""

    def __init__(self, scorer):
        self.scorer = scorer

    def __call__(self, estimator, X, y, sample_weight=None):
        return self.scorer(estimator, X, y)
