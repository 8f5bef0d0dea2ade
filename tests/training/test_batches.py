from itertools import chain

import numpy as np
import pytest
import torch
from scipy import sparse
from skorch.dataset import Dataset
from torch.utils.data import DataLoader, Subset

from sk_obd.training.batches import ArrayBatches, RowWeights, array_batches

X = np.arange(22.0).reshape(11, 2)
Y = np.arange(11)


@pytest.mark.parametrize("data", [X, torch.tensor(X), sparse.csr_array(X)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_those_of_a_dataloader(data, drop_last):
    ours = ArrayBatches(Dataset(data, Y), batch_size=4, drop_last=drop_last)
    theirs = DataLoader(Dataset(X, Y), batch_size=4, drop_last=drop_last)
    assert len(ours) == len(theirs)
    for (Xi, yi), (Xj, yj) in zip(ours, theirs, strict=True):
        assert torch.equal(Xi, Xj)
        assert torch.equal(yi, yj)


def test_shuffled_batches_hold_every_row_once_and_follow_the_seed():
    batches = ArrayBatches(Dataset(X, Y), batch_size=3, shuffle=True)
    torch.manual_seed(0)
    first, second = ([y.tolist() for _, y in batches] for _ in range(2))
    assert sorted(chain(*first)) == list(range(11))
    assert first != second
    torch.manual_seed(0)
    assert [y.tolist() for _, y in batches] == first
    for Xi, yi in batches:
        assert torch.equal(Xi[:, 0], 2.0 * yi)


def test_subsets_of_subsets_and_their_weights():
    weights = RowWeights(torch.arange(11) * 10)
    subset = Subset(Subset(Dataset(X, Y), np.array([8, 6, 4, 2])), [3, 0])
    batches = array_batches(subset, row_weights=weights, batch_size=2)
    for _, y in batches:
        assert y.tolist() == [2, 8]
        assert weights.batch.tolist() == [20, 80]


def test_data_that_are_no_arrays_go_to_a_dataloader():
    for dataset, options in [
        (Dataset({"a": X, "b": X}, Y), {}),
        (Dataset(X, Y), {"num_workers": 0}),
        (torch.utils.data.TensorDataset(torch.tensor(X)), {}),
    ]:
        assert isinstance(array_batches(dataset, batch_size=2, **options), DataLoader)
        with pytest.raises(ValueError, match="iterator_train"):
            array_batches(dataset, row_weights=RowWeights(), batch_size=2, **options)


def test_without_y_there_is_a_placeholder():
    (Xi, yi), *_ = ArrayBatches(Dataset(X), batch_size=4)
    assert len(Xi) == len(yi) == 4
