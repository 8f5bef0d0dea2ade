"""An estimator's predictor as a `torch.export` program, and how a program is checked."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch import NeuralNet, NeuralNetBinaryClassifier
from torch import nn

from ..compact.select import with_all_columns
from ..curvature.hooks import first_output
from ..training.nets import class_columns
from ..training.probes import RowsSeen
from ..training.standardise import folded
from .literals import check_names

#: Rows with which a network is traced; the program takes any number.
N_TRACED_ROWS = 5


@dataclass(frozen=True)
class Source:
    """A fitted estimator as the exports see it."""

    estimator: BaseEstimator
    #: What fit saw of the rows.
    rows: RowsSeen
    #: What fit learnt of y: a ClassTargets or ValueTargets.
    targets: Any
    #: Rows on which a program is compared with the estimator, as the module takes them.
    compared: np.ndarray

    @property
    def net(self) -> NeuralNet:
        """The trained net."""
        return self.estimator.net_

    @property
    def classifies(self) -> bool:
        """Whether it predicts classes, and not values."""
        return self.targets.kind == "classifier"

    @property
    def classes(self) -> np.ndarray | None:
        """The class labels; None for values."""
        return self.targets.classes if self.classifies else None


class ExportedPredictor(nn.Module):
    """From X to predictions, as one module.

    A classifier's gives (codes, probabilities), the codes indices into ``classes_``; a
    regressor's gives the values, with the scaling of y undone, in float64 as ``predict`` does.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, source: Source):
        super().__init__()
        net = source.net
        module, _ = folded(copy.deepcopy(net.module_).cpu())
        self.module = with_all_columns(module, source.rows.shape[0])
        # Private in skorch, which has no public name for what "auto" stands for.
        self.nonlinearity = net._get_predict_nonlinearity()
        self.classifies = source.classifies
        if self.classifies:
            binary = isinstance(net, NeuralNetBinaryClassifier)
            self.threshold = net.threshold if binary else None
        else:
            self.register_buffer("scale", torch.from_numpy(np.array(source.targets.scale)))
            self.register_buffer("mean", torch.from_numpy(np.array(source.targets.mean)))
        self.eval()

    def forward(self, X):
        output = first_output(self.module(X))
        if self.classifies and self.threshold is not None:
            # As skorch's binary net does.
            output = output.reshape(-1)
        output = self.nonlinearity(output)
        if not self.classifies:
            values = output.reshape(-1, *self.mean.shape).to(torch.float64)
            return values * self.scale + self.mean
        output = class_columns(output)
        if self.threshold is None:
            return output.argmax(dim=1), output
        return (output[:, 1] > self.threshold).to(torch.int64), output


def export_program(source: Source) -> torch.export.ExportedProgram:
    """The predictor as a program for any number of rows.

    Raises
    ------
    ValueError
        If torch cannot export the network, or it has names that cannot stand in a program.
    """
    check_names(source.net.module_)
    predictor = ExportedPredictor(source)
    # Only their shape and type matter, and what a network is traced with is saved along with it.
    rows = torch.zeros((N_TRACED_ROWS, *source.rows.shape), dtype=getattr(torch, source.rows.dtype))
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
            f"torch.export cannot follow the module {type(source.net.module_).__name__}: "
            f"{str(error).strip().splitlines()[0]} Its forward must not branch in Python on X's "
            "values or number of rows."
        ) from error


def check_program(source: Source, run: Callable, what: str) -> None:
    """Compare what a program predicts with the estimator.

    Parameters
    ----------
    source : Source
    run : callable
        ``run(X) -> (labels, probabilities)``, or values.
    what : str
        What the program is called in the message.

    Raises
    ------
    ValueError
        If any prediction differs.
    """
    estimator, X, dtype = source.estimator, source.compared, source.rows.dtype
    with warnings.catch_warnings():
        # The rows are an array, whatever X was in fit.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        for n in (1, len(X)):
            found = run(X[:n])
            if not source.classifies:
                _compare(found, estimator.predict(X[:n]), dtype, what)
                continue
            proba = estimator.predict_proba(X[:n])
            _compare(found[1], proba, dtype, what)
            _compare_labels(estimator, found[0], X[:n], proba, what)


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
    classes = estimator.classes_
    for i in np.flatnonzero(np.asarray(found) != expected):
        columns = np.searchsorted(classes, [found[i], expected[i]])
        # Rounding may decide between equal probabilities.
        is_class = columns[0] < len(classes) and classes[columns[0]] == found[i]
        if not is_class or abs(np.subtract(*proba[i, columns])) > 1e-4:
            raise ValueError(
                f"{what} predicts {found[i]!r} where the estimator predicts {expected[i]!r}."
            )
