"""An estimator's predictor as a `torch.export` program, and how a program is checked."""

import copy
import warnings

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetBinaryClassifier
from torch import nn

from ..compact.select import with_all_columns

#: Made-up rows on which a program is checked.
N_ROWS = 5


class Predictor(nn.Module):
    """From X to predictions, as one module.

    A classifier's gives (codes, probabilities), the codes indices into ``classes_``; a
    regressor's gives the values, with the scaling of y undone, in float64 as ``predict`` does.
    """

    def __init__(self, estimator):
        super().__init__()
        net = estimator.net_
        self.module = with_all_columns(copy.deepcopy(net.module_).cpu(), estimator._row_shape[0])
        # Private in skorch, which has no public name for what "auto" stands for.
        self.nonlinearity = net._get_predict_nonlinearity()
        self.classifies = estimator._kind == "classifier"
        if self.classifies:
            binary = isinstance(net, NeuralNetBinaryClassifier)
            self.threshold = net.threshold if binary else None
        else:
            self.register_buffer("scale", torch.from_numpy(np.array(estimator._y_scale)))
            self.register_buffer("mean", torch.from_numpy(np.array(estimator._y_mean)))
        self.eval()

    def forward(self, X):
        output = self.module(X)
        output = output[0] if isinstance(output, tuple) else output
        if self.classifies and self.threshold is not None:
            # As skorch's binary net does.
            output = output.reshape(-1)
        output = self.nonlinearity(output)
        if not self.classifies:
            values = output.reshape(-1, *self.mean.shape).to(torch.float64)
            return values * self.scale + self.mean
        if self.threshold is None:
            return output.argmax(dim=1), output
        return (output[:, 1] > self.threshold).to(torch.int64), output


def export_program(estimator):
    """The predictor as a program for any number of rows.

    Raises
    ------
    ValueError
        If torch cannot export the network.
    """
    check_is_fitted(estimator, "net_")
    predictor = Predictor(estimator)
    rows = made_up_rows(estimator)
    try:
        with warnings.catch_warnings():
            # Of layers that keep views of their weights, such as LSTM.
            warnings.filterwarnings("ignore", message="The tensor attribute")
            return torch.export.export(
                predictor,
                (rows,),
                dynamic_shapes=({0: torch.export.Dim("n_rows")},),
                strict=False,
            )
    except Exception as error:
        # Whatever a user's forward does that torch cannot follow.
        raise ValueError(
            f"torch.export cannot follow the module {type(estimator.net_.module_).__name__}: "
            f"{str(error).strip().splitlines()[0]} Its forward may depend on X's values or on a "
            "number of rows by operations on tensors alone."
        ) from error


def made_up_rows(estimator, seed=0):
    """Rows of the shape and type that fit saw; indices are in the range of every Embedding."""
    rng = np.random.default_rng(seed)
    shape = (N_ROWS, *estimator._row_shape)
    dtype = getattr(torch, estimator._row_dtype)
    if not dtype.is_floating_point:
        sizes = [
            layer.num_embeddings
            for layer in estimator.net_.module_.modules()
            if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
        ]
        return torch.from_numpy(rng.integers(min(sizes, default=2), size=shape)).to(dtype)
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def check_program(estimator, run, X, what):
    """Compare what a program predicts with the estimator.

    Parameters
    ----------
    estimator : fitted
    run : callable
        ``run(X) -> (labels, probabilities)``, or values.
    X : array-like or None
        None: made-up rows.
    what : str
        What the program is called in the message.

    Raises
    ------
    ValueError
        If any prediction differs.
    """
    rows = made_up_rows(estimator).numpy() if X is None else X
    with warnings.catch_warnings():
        # Made-up rows have no column names.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        rows = estimator._check_X(rows)
        rows = rows.toarray() if sparse.issparse(rows) else rows.numpy()
        for n in (1, len(rows)):
            found = run(rows[:n])
            if estimator._kind == "regressor":
                _compare(found, estimator.predict(rows[:n]), estimator._row_dtype, what)
                continue
            proba = estimator.predict_proba(rows[:n])
            _compare(found[1], proba, estimator._row_dtype, what)
            _compare_labels(estimator, found[0], rows[:n], proba, what)


def _compare(found, expected, row_dtype, what):
    tolerance = 1e-9 if row_dtype == "float64" and expected.dtype == np.float64 else 1e-4
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    if found.shape != expected.shape:
        raise ValueError(
            f"{what} gives predictions of shape {found.shape}, the estimator {expected.shape}."
        )
    if not np.allclose(found, expected, rtol=0, atol=tolerance * scale, equal_nan=True):
        worst = np.nanmax(np.abs(found - expected))
        raise ValueError(
            f"{what} predicts something else than the estimator: the largest difference is "
            f"{worst:.3g}, and at most {tolerance * scale:.3g} was expected. A net whose infer or "
            "predict_proba does more than call its module cannot be exported."
        )


def _compare_labels(estimator, found, rows, proba, what):
    expected = estimator.predict(rows)
    for i in np.flatnonzero(np.asarray(found) != expected):
        columns = np.searchsorted(estimator.classes_, [found[i], expected[i]])
        # Rounding may decide between equal probabilities.
        if abs(np.subtract(*proba[i, columns])) > 1e-4:
            raise ValueError(
                f"{what} predicts {found[i]!r} where the estimator predicts {expected[i]!r}."
            )
