"""The fused form of an optimiser is chosen, unasked, only where the module can take it."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from torch import nn
from torch.nn import functional as F

from sk_obd import OBDClassifier
from sk_obd.training.nets import start


class SparseLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(12, 4, sparse=True), nn.Linear(4, 2)

    def forward(self, X):
        return self.out(self.table(X).mean(1))


class SparseBag(SparseLayer):
    def __init__(self):
        super().__init__()
        self.table = nn.EmbeddingBag(12, 4, sparse=True, mode="sum")

    def forward(self, X):
        return self.out(self.table(X))


class SparseFunction(SparseLayer):
    """Nothing but its gradient says that it is sparse."""

    def __init__(self):
        super().__init__()
        # An Embedding, so that X stays whole numbers; it is not called.
        self.table.sparse = False

    def forward(self, X):
        return self.out(F.embedding(X, self.table.weight, sparse=True).mean(1))


class DenseTable(SparseLayer):
    def __init__(self):
        super().__init__()
        self.table.sparse = False


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 80)
    X = rng.integers(1, 12, size=(80, 7))
    X[y == 1, 0] = 3
    return X, y


def net_of(module, optimizer, **settings):
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=optimizer,
        lr=0.05,
        max_epochs=3,
        optimizer__weight_decay=0.0,
        **settings,
    )


@pytest.mark.parametrize("module", [SparseLayer, SparseBag, SparseFunction])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adagrad])
def test_sparse_gradients_train_and_are_pruned(module, optimizer, codes):
    net = net_of(module, optimizer)
    clf = OBDClassifier(net, saliency="magnitude", retrain_epochs=2, random_state=0).fit(*codes)
    table = clf.net_.module_.table.weight.detach().numpy()
    deleted = ~clf.mask_["table.weight"]
    assert deleted.any()
    assert (table[deleted] == 0).all()
    assert not clf.net_.optimizer_.defaults.get("fused")


def test_dense_gradients_are_trained_by_the_fused_form(codes, capsys):
    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        net = start(net_of(DenseTable, optimizer), *codes, verbose=1)
        assert net.optimizer_.defaults["fused"]
        assert net.verbose == 1
    assert capsys.readouterr().out == ""


def test_a_trained_net_is_fused_too(codes):
    X, y = codes
    net = net_of(DenseTable, torch.optim.SGD, verbose=0).fit(X, y)
    ours = start(net, X, y)
    assert ours.optimizer_.defaults["fused"]
    assert torch.equal(ours.module_.table.weight, net.module_.table.weight)


def test_complex_parameters_are_refused_by_name(codes):
    class Complex(DenseTable):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))

        def forward(self, X):
            return super().forward(X) + self.phase.abs()

    with pytest.raises(ValueError, match=r"'phase' of Complex is complex.*view_as_complex"):
        OBDClassifier(net_of(Complex, torch.optim.SGD)).fit(*codes)
