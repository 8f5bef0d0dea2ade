"""Networks other than multilayer perceptrons: from real data to a pruned network."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sk_obd import OBDClassifier
from sk_obd.curvature import dense_diagonal
from sk_obd.pruning.rows import INCREMENTS, MOVES
from tests.library.marks import slow_but
from tests.library.modules import Convolutional, ImageTransformer, Recurrent, TiedClassifier
from tests.library.nets import classifier_net


@pytest.fixture(scope="module")
def images(digits):
    X, y = digits
    return X.reshape(-1, 8, 8), y


@pytest.fixture(
    scope="module",
    params=slow_but([Convolutional], [Convolutional, Recurrent, ImageTransformer, TiedClassifier]),
    ids=lambda module: module.__name__,
)
def fitted(request, images):
    """Half of each network deleted, in two iterations, on every second row."""
    X, y = images
    net = classifier_net(request.param, max_epochs=40, optimizer__weight_decay=1e-4)
    return OBDClassifier(net, step=0.3, retrain_epochs=5, random_state=0).fit(X[::2], y[::2])


def test_half_of_it_is_deleted_and_it_still_reads(fitted, images):
    X, y = images
    path = fitted.path_
    assert path.n_deleted == round(path.n_prunable / 2)
    assert fitted.n_params_ == path[0]["n_params"] - path.n_deleted
    for name, parameter in fitted.net_.module_.named_parameters():
        assert (parameter.detach().numpy()[~fitted.mask_[name]] == 0).all()
        assert (fitted.saliencies_[name][~fitted.mask_[name]] == 0).all()
    # Guessing gets a tenth of the rows that it has not seen.
    assert fitted.score(X[1::2], y[1::2]) > 0.7


def test_every_number_of_the_path_is_finite(fitted):
    # Nothing is known of validation rows, of negative curvature where there can be none, and of
    # moves of survivors that stay.
    unknown = {"validation_score", "negative_curvature", *MOVES}
    for i, row in enumerate(fitted.path_):
        increments = set() if i else set(INCREMENTS)
        for name in row.keys() - unknown - increments:
            assert np.isfinite(row[name]), (i, name)


def test_saliencies_are_what_slow_autograd_says(fitted, images):
    """Of the pruned network, on one row of each class: a backward pass a row and output."""
    X, y = (rows[:10] for rows in images)
    trained = copy.deepcopy(fitted.net_.module_).double()
    seen = OBDClassifier(classifier_net(trained, max_epochs=0), prune_rate=0).fit(X, y)
    module = seen.net_.module_
    h = dense_diagonal(
        module, nn.CrossEntropyLoss(), torch.tensor(X), torch.tensor(y), method="ggn"
    )
    for name, u in module.named_parameters():
        expected = (h[name] * u.square() / 2).detach().numpy()
        np.testing.assert_array_equal(expected[~fitted.mask_[name]], 0)
        np.testing.assert_allclose(
            seen.saliencies_[name], expected, rtol=1e-8, atol=1e-10 * expected.max()
        )
