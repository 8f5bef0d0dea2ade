"""Batches cut from whole arrays, with the weights of their rows.

torch's DataLoader collects a batch row by row, which for tables costs more than training on it.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from scipy import sparse
from skorch.dataset import Dataset
from torch.utils.data import DataLoader, Subset

NEEDS_ARRAY_BATCHES = (
    "Row weights need the batches that sk_obd cuts itself, and the net brings its own dataset, "
    "iterator_train or iterator_valid, or options for them beyond batch_size, shuffle and "
    "drop_last. Leave these at their defaults, or fit without sample_weight and class_weight."
)


#: What shuffles the rows in this thread; None: torch's generator, which belongs to the process.
_shuffler: ContextVar[torch.Generator | None] = ContextVar("_shuffler", default=None)


@contextmanager
def shuffled_by(generator):
    """Let a generator of its own shuffle the batches that are cut in this thread."""
    token = _shuffler.set(generator)
    try:
        yield
    finally:
        _shuffler.reset(token)


class RowWeights:
    """The weights of all rows, and of the batch being trained on.

    Batches write `batch`; the weighted loss reads it. ``rows=None`` leaves the loss unweighted.
    """

    def __init__(self, rows=None):
        self.rows = rows
        self.batch = None


class ArrayBatches:
    """Iterate over ``(X, y)`` batches of a skorch Dataset (or nested Subsets of one).

    A batch is one indexing operation on each array, and always a copy, which a module may change in
    place. CSR rows are densified here, batch by batch.
    The order is that of the rows, or with `shuffle` a new one each epoch.
    """

    def __init__(self, dataset, batch_size=1, shuffle=False, drop_last=False, row_weights=None):
        rows = None
        while isinstance(dataset, Subset):
            indices = torch.as_tensor(np.asarray(dataset.indices))
            rows = indices if rows is None else indices[rows]
            dataset = dataset.dataset
        self.X = dataset.X if sparse.issparse(dataset.X) else torch.as_tensor(dataset.X)
        self.y = None if dataset.y is None else torch.as_tensor(dataset.y)
        self.rows = rows
        self.n_rows = self.X.shape[0] if rows is None else len(rows)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.row_weights = row_weights

    def __len__(self):
        whole, rest = divmod(self.n_rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self):
        order = torch.randperm(self.n_rows, generator=_shuffler.get()) if self.shuffle else None
        for batch in range(len(self)):
            rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            if order is not None:
                rows = order[rows]
            if self.rows is not None:
                rows = self.rows[rows]
            if self.row_weights is not None and self.row_weights.rows is not None:
                self.row_weights.batch = self.row_weights.rows[rows]
            X = take_copies(self.X, rows)
            yield X, torch.zeros(len(X)) if self.y is None else take_copies(self.y, rows)


def take_copies(X, rows):
    """Copies of rows of a tensor or CSR matrix, as a dense tensor."""
    taken = take_rows(X, rows)
    # Of what torch gives, only a slice is a view.
    return taken.clone() if isinstance(rows, slice) and not sparse.issparse(X) else taken


def take_rows(X, rows):
    """Rows of a tensor or CSR matrix, as a dense tensor, which may be a view."""
    if sparse.issparse(X):
        if isinstance(rows, torch.Tensor):
            rows = rows.numpy()
        return torch.from_numpy(X[rows].toarray())
    return X[rows]


def first_rows(X):
    """The first two rows of X (or its only one), as a dense tensor."""
    return torch.as_tensor(take_rows(X, slice(0, 2)))


def examples(X, n_rows):
    """A few rows of X, at equal distances from the first to the last, as a dense tensor."""
    n_rows = min(n_rows, X.shape[0])
    return take_rows(X, torch.linspace(0, X.shape[0] - 1, n_rows, dtype=torch.float64).long())


def array_batches(dataset, row_weights=None, **kwargs):
    """A skorch ``iterator_train``: `ArrayBatches` where the data are arrays, else a DataLoader."""
    base = dataset
    while isinstance(base, Subset):
        base = base.dataset
    arrays = type(base) is Dataset and (
        isinstance(base.X, np.ndarray | torch.Tensor) or sparse.issparse(base.X)
    )
    options = set(kwargs) <= {"batch_size", "shuffle", "drop_last"}
    if arrays and options and (base.y is None or isinstance(base.y, np.ndarray | torch.Tensor)):
        return ArrayBatches(dataset, row_weights=row_weights, **kwargs)
    if row_weights is not None:
        raise ValueError(NEEDS_ARRAY_BATCHES)
    return DataLoader(dataset, **kwargs)
