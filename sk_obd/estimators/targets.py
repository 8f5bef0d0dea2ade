"""What fit learns of y: class labels or values, on their way to the network and back.

Both kinds answer to the same names. In the order in which a fit asks: ``check`` the user's y,
``learn`` from the training rows, ``weigh`` the rows, ``encode`` for torch, ``shape_for`` the net's
criterion; and ``decode`` what the net predicts.
"""

import re
import reprlib
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array
from torch import nn

BINARY_LOSSES = (nn.BCELoss, nn.BCEWithLogitsLoss)


def refuse_labels_without_order(y):
    """Raise ValueError for labels of several types, which cannot be sorted."""
    if y.dtype != object:
        return
    try:
        np.unique(y)
    except TypeError as error:
        types = sorted({type(label).__name__ for label in y.ravel()})
        raise ValueError(
            f"y has labels of several types ({', '.join(types)}), which have no common order; "
            "expected labels of one type. Turn them into strings, for instance."
        ) from error


@dataclass(frozen=True)
class ClassTargets:
    """Class labels; the network sees their indices into `classes`."""

    kind = "classifier"
    scorer = "accuracy"

    classes: np.ndarray

    @staticmethod
    def check(y, estimator):
        """The user's y as an array of labels of shape (n,)."""
        refuse_labels_without_order(np.asarray(y))
        check_classification_targets(y)
        return column_or_1d(y, warn=True)

    @classmethod
    def of_all(cls, y):
        """What is to be known of the whole y where fits see parts of it: every class."""
        return cls(np.unique(y))

    @classmethod
    def learn(cls, y, rows, weights, *, standardise):
        """What fit learns of y: the classes of all its rows, whatever their weights."""
        return cls(np.unique(y))

    def continued(self, y):
        """These targets for a fit that goes on with a new y.

        Raises
        ------
        ValueError
            If y contains other classes.
        """
        unknown = np.setdiff1d(y, self.classes)
        if len(unknown):
            raise ValueError(
                f"warm_start=True goes on from a fit to classes {self.classes}, and y contains "
                f"{unknown} as well. Fit anew with warm_start=False."
            )
        return self

    def weigh(self, y, weights, *, class_weight, owner):
        """Weights of the rows with those of their classes, or None where all are equal.

        Raises
        ------
        ValueError
            If fewer than two classes have a positive weight.
        """
        if class_weight is not None:
            balance = compute_sample_weight(class_weight, y)
            weights = balance if weights is None else balance * weights
        present = np.unique(y if weights is None else y[weights > 0])
        if len(present) < 2:
            raise ValueError(
                f"{owner} needs rows of at least two classes (with positive weight) "
                f"to learn from; found one class: {present[0]!r}."
            )
        return weights

    @property
    def n_outputs(self):
        """How wide a network is for them."""
        return len(self.classes)

    def examples(self):
        """Two example targets that cover the range of y, for callbacks that size the module."""
        return np.array([0, len(self.classes) - 1])

    def encode(self, y):
        """Class codes of labels, a tensor of int64."""
        return torch.from_numpy(np.searchsorted(self.classes, y))

    def shape_for(self, net, output, y):
        """Class codes `y` as the net's criterion takes them beside `output`.

        Raises
        ------
        ValueError
            If the width of the module's output does not fit the number of classes.
        """
        name, n_classes = type(net.module_).__name__, len(self.classes)
        if isinstance(net.criterion_, BINARY_LOSSES):
            if n_classes != 2 or output.numel() != len(output):
                raise ValueError(
                    f"{name} returns shape {tuple(output.shape)} for {len(output)} rows with "
                    f"{type(net.criterion_).__name__}, which is for two classes and one output; y "
                    f"has {n_classes} classes. Use torch.nn.CrossEntropyLoss and one output for "
                    "each class."
                )
            return y.to(output.dtype).reshape(-1, *output.shape[1:])
        if output.ndim != 2 or output.shape[1] != n_classes:
            raise ValueError(
                f"{name} returns shape {tuple(output.shape)} for {len(output)} rows; y has "
                f"{n_classes} classes, so shape ({len(output)}, {n_classes}) was expected. Make "
                f"its last layer {n_classes} wide."
            )
        return y

    def decode(self, codes):
        """Labels of class codes."""
        return self.classes[codes.astype(np.intp)]

    def fitted_attributes(self):
        """What a fitted estimator shows of them."""
        return {"classes_": self.classes}

    def to_file(self):
        """(what goes into a file's JSON header, what goes into it as arrays).

        Raises
        ------
        ValueError
            If the labels are neither numbers nor text.
        """
        values, dtype = self.classes.tolist(), self.classes.dtype
        if not are_labels(values, dtype):
            raise ValueError(
                f"classes_ are of type {dtype}; save_params keeps numbers, bools and text. Encode "
                "y (sklearn.preprocessing.LabelEncoder) before fit."
            )
        if dtype.kind == "U" and is_too_wide(values, dtype):
            # As wide as the longest label; y may have been made for longer ones.
            dtype = np.array(values).dtype
        if dtype.kind == "U" and is_too_wide(values, dtype):
            raise ValueError(
                f"classes_ of type {dtype} take {dtype.itemsize * len(values)} bytes for far less "
                "text. Shorten the longest label, or give y with dtype=object."
            )
        return {"classes": {"dtype": dtype.str, "values": values}}, {}

    @classmethod
    def from_file(cls, header, arrays):
        """What :meth:`to_file` gave.

        Raises
        ------
        ValueError, KeyError, TypeError, OverflowError
            If it is damaged.
        """
        name, values = header["classes"]["dtype"], header["classes"]["values"]
        if type(name) is not str or type(values) is not list:
            raise ValueError("its classes are not a list of a type")
        if not re.fullmatch(r"[<>|][biufUO][0-9]*", name):
            # NumPy knows many more ways to write a type, and warns of some.
            raise ValueError(f"its classes are of type {reprlib.repr(name)}, not numbers or text")
        dtype = np.dtype(name)
        if not are_labels(values, dtype):
            raise ValueError(f"its classes are of type {dtype} and not numbers or text of it")
        if dtype.kind == "U" and is_too_wide(values, dtype):
            raise ValueError(f"its classes are of type {dtype}, far wider than their text")
        classes = np.array(values, dtype=dtype)
        if len(np.unique(classes)) != len(classes) or len(classes) < 2:
            raise ValueError("its classes are not two or more different labels")
        return cls(classes)


#: What an array of labels has in a list, by its dtype's kind; of one sort in a file.
LABELS = {"b": bool, "i": int, "u": int, "f": float, "U": str, "O": str}


def are_labels(values, dtype):
    """Whether these are labels of a dtype as JSON can have them."""
    kind = LABELS.get(dtype.kind)
    return all(type(value) is kind for value in values)


def is_too_wide(values, dtype):
    """Whether an array of text takes much more memory than its text, as it does in a file."""
    return dtype.itemsize * len(values) > 2**20 + 64 * sum(map(len, values))


@dataclass(frozen=True)
class ValueTargets:
    """Values to regress on; the network sees ``(y - mean) / scale``, of the shape of one y."""

    kind = "regressor"
    scorer = "r2"

    mean: np.ndarray
    scale: np.ndarray

    @staticmethod
    def check(y, estimator):
        """The user's y as a float64 array of shape (n,) or (n, n_outputs)."""
        y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y", estimator=estimator)
        if y.ndim > 2 or y.ndim == 0:
            raise ValueError(f"y has {y.ndim} dimensions; expected (n,) or (n, n_outputs).")
        y = y.astype(np.float64, copy=False)
        largest, limit = np.abs(y).max(initial=0.0), np.sqrt(np.finfo(np.float64).max / len(y))
        if largest > limit / 10:
            raise ValueError(
                f"y has values up to {largest:.3g}, whose squares add up to more than a float can "
                "hold, so that they have no spread and no R². Give y in another unit."
            )
        return y

    @classmethod
    def of_all(cls, y):
        """None: each fit learns mean and scale from its own training rows only."""
        return None

    @classmethod
    def learn(cls, y, rows, weights, *, standardise):
        """What fit learns of y: mean and spread of the training rows, with their weights."""
        if not standardise:
            # A user's net is trained on y as it is: its criterion and scale are the user's.
            return cls(np.zeros(y.shape[1:]), np.ones(y.shape[1:]))
        mean = np.asarray(np.average(y[rows], axis=0, weights=weights))
        # In units of the largest difference, whose square may be too small or large for a float.
        largest = np.abs(y[rows] - mean).max(axis=0)
        unit = np.where(largest > 0, largest, 1.0)
        variance = np.average(((y[rows] - mean) / unit) ** 2, axis=0, weights=weights)
        return cls(mean, np.where(variance > 0, unit * np.sqrt(variance), 1.0))

    def continued(self, y):
        """These targets for a fit that goes on with a new y.

        Raises
        ------
        ValueError
            If y has another number of outputs.
        """
        if y.shape[1:] != self.mean.shape:
            raise ValueError(
                f"warm_start=True goes on from a fit to y of shape (n, *{self.mean.shape}), "
                f"and y has shape {y.shape}. Fit anew with warm_start=False."
            )
        return self

    def weigh(self, y, weights, *, class_weight, owner):
        """Weights of the rows, as they are: values have no classes."""
        return weights

    @property
    def n_outputs(self):
        """How wide a network is for them."""
        return self.mean.size

    def examples(self):
        """Two example targets, for callbacks that size the module."""
        return np.zeros((2, *self.mean.shape))

    def encode(self, y):
        """Values as the network sees them, a tensor of float64."""
        return torch.from_numpy((y - self.mean) / self.scale)

    def shape_for(self, net, output, y):
        """Encoded `y` of shape (n,) or (n, k), in the shape and dtype of the net's `output`.

        Raises
        ------
        ValueError
            If the width of the module's output does not fit y.
        """
        width = 1 if y.ndim == 1 else y.shape[1]
        found = output.numel() // len(output)
        if found != width:
            raise ValueError(
                f"{type(net.module_).__name__} returns shape {tuple(output.shape)} for "
                f"{len(output)} rows; y has {width} target(s). Make its last layer {width} wide."
            )
        return y.to(output.dtype).reshape(-1, *output.shape[1:])

    def decode(self, y):
        """Values as the user gave them, with as many dimensions."""
        return y.reshape(len(y), *self.mean.shape) * self.scale + self.mean

    def fitted_attributes(self):
        """What a fitted estimator shows of them."""
        return {}

    def to_file(self):
        """(what goes into a file's JSON header, what goes into it as arrays)."""
        return {"classes": None}, {"mean": np.asarray(self.mean), "scale": np.asarray(self.scale)}

    @classmethod
    def from_file(cls, header, arrays):
        """What :meth:`to_file` gave.

        Raises
        ------
        ValueError, KeyError
            If it is damaged.
        """
        mean, scale = arrays["mean"], arrays["scale"]
        if mean.shape != scale.shape or mean.ndim > 1 or mean.dtype != np.float64:
            raise ValueError("its mean and scale of y do not fit each other")
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("its mean or scale of y cannot be one")
        return cls(mean, scale)
