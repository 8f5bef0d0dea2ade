"""The folds of a cross-validated path: followed, tabulated, and a size chosen from them."""

import copy
import math

import numpy as np

# Private by its name, but a function of scikit-learn's documented API: any X, any kind of index.
from sklearn.utils import _safe_indexing as part


def choose(scores, rule):
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
        The last row that the rule allows. Means that differ by rounding alone are ties.

    Raises
    ------
    ValueError
        If every row has a NaN among its scores.

    Examples
    --------
    >>> scores = [[0.90, 0.95, 0.92, 0.5], [0.92, 0.91, 0.93, 0.6]]
    >>> choose(scores, "best"), choose(scores, "one_se")
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


def follow(plain, X, y, sample_weight, split, scorer, score_params, title, task):
    """Fit the path of a fold; its rows, each with its score on the test rows."""
    train, test = split
    weights = None if sample_weight is None else sample_weight[train]
    fitted = copy.copy(plain)
    with task(fitted):
        fitted.fit(part(X, train), y[train], weights)
    X_test, y_test = part(X, test), y[test]
    score_params = {
        name: part(value, test) if np.ndim(value) and len(value) == len(y) else value
        for name, value in score_params.items()
    }
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
    """A scorer that leaves the weights aside: the user's has not requested them."""

    def __init__(self, scorer):
        self.scorer = scorer

    def __call__(self, estimator, X, y, sample_weight=None):
        return self.scorer(estimator, X, y)
