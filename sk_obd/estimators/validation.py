"""X, y and weights, validated as scikit-learn does."""

import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.validation import check_array, validate_data

#: How X is validated: any dimension from 2, any type of number.
X_RULES = {"accept_sparse": "csr", "dtype": "numeric", "allow_nd": True}


def passes_unchanged(X, estimator):
    """Whether validation would return X as it is: the common case, told in a few microseconds."""
    return (
        type(X) is np.ndarray
        and X.ndim >= 2
        and X.dtype.kind in "fiu"
        and X.dtype.itemsize <= 8
        and X.dtype.isnative
        and X.size > 0
        and X.shape[1] == estimator.n_features_in_
        and not hasattr(estimator, "feature_names_in_")
        # Finite numbers may overflow in the sum; such an X simply takes the slow, full validation.
        and math.isfinite(X.sum())
    )


def check_X(X, estimator, *, reset):
    """X validated as scikit-learn does, as an array or CSR matrix of a type that torch knows.

    Text, categories, objects, dates and numbers longer than float64 become float64, or are refused
    in scikit-learn's words; big-endian numbers are put in this machine's order.
    """
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = X.float() if X.dtype == torch.bfloat16 else X
    as_float = X_RULES | {"dtype": np.float64}
    is_text = isinstance(X, np.ndarray) and X.dtype.kind in "US"
    X = validate_data(estimator, X, reset=reset, **(as_float if is_text else X_RULES))
    if X.dtype.kind not in "biuf" or X.dtype.itemsize > 8:
        return check_array(X, estimator=estimator, **as_float)
    return X if X.dtype.isnative else X.astype(X.dtype.newbyteorder("="))


def hint_at_percentage(prune_rate, n_prunable, *, stacklevel):
    """Warn of a small number of parameters that looks like a percentage of many.

    Parameters
    ----------
    prune_rate : int or float
    n_prunable : int
        How many parameters may be deleted.
    stacklevel : int
        As for ``warnings.warn``.
    """
    if isinstance(prune_rate, Integral) and 2 <= prune_rate < 100 and prune_rate < n_prunable / 4:
        warnings.warn(
            f"prune_rate={prune_rate} deletes {prune_rate} of {n_prunable} parameters, which is "
            f"{prune_rate / n_prunable:.2%}. For {prune_rate} % of them give "
            f"prune_rate={prune_rate / 100}.",
            UserWarning,
            stacklevel=stacklevel,
        )


def refuse_several_inputs(X, y, owner):
    """Raise TypeError for X of several arrays, which scikit-learn's tools cannot split.

    Parameters
    ----------
    X : object
    y : object
        Tells a list of arrays from a list of rows; None where it is not known.
    owner : str
        The estimator's name.
    """
    several = isinstance(X, Mapping | torch.utils.data.Dataset) and not sparse.issparse(X)
    if isinstance(X, list | tuple) and hasattr(y, "__len__") and len(X) != len(y):
        several = len(X) > 0 and all(hasattr(x, "shape") and len(x) == len(y) for x in X)
    if several:
        of = f" of {len(X)} arrays" if isinstance(X, list | tuple) else ""
        raise TypeError(
            f"X is a {type(X).__name__}{of}; {owner} expects one array, DataFrame or CSR matrix of "
            "shape (n_samples, ...). Stack the inputs into one array and take them apart in the "
            "module's forward."
        )


def check_weights(sample_weight, n_rows):
    """Row weights as a float64 array, or None.

    Raises
    ------
    ValueError
        If they are not one finite number >= 0 per row, some of them > 0.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real):
        return np.full(n_rows, float(sample_weight))
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.ndim != 1:
        raise ValueError(f"Sample weights must be 1D array or scalar, got {weights.ndim}D array.")
    if weights.shape != (n_rows,):
        raise ValueError(
            f"sample_weight.shape == {weights.shape}, expected {(n_rows,)}: a weight for each row."
        )
    if not np.isfinite(weights).all():
        raise ValueError("Input sample_weight contains NaN or infinity; expected finite numbers.")
    if (weights < 0).any():
        raise ValueError(
            f"Negative values in data passed to `sample_weight`: {weights.min()} is the smallest. "
            "Expected numbers >= 0; 0 leaves a row out."
        )
    if not weights.any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights


def as_kwarg(weights, rows=slice(None)):
    """What a scorer is given for the weights of some rows."""
    return {} if weights is None else {"sample_weight": weights[rows]}


def unequal(weights):
    """Weights as a tensor; None where all are equal: the unweighted loss is the same and faster."""
    if weights is None or np.all(weights == weights[0]):
        return None
    return torch.from_numpy(weights)
