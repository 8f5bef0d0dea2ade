"""Modules that need X to mean something: smaller and exported networks are tried on real rows."""

import os

import numpy as np
import pytest
import torch
from scipy import sparse
from skorch import NeuralNetClassifier
from torch import nn
from torch.nn import functional as F

from sk_obd import OBDClassifier


class CodesInFloats(nn.Module):
    """The first column is a category."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

    def coded(self, codes):
        return self.table(codes)

    def forward(self, X):
        return self.layers(torch.cat([self.coded(X[:, 0].long()), X[:, 1:]], 1))


class OneHot(CodesInFloats):
    def coded(self, codes):
        return F.one_hot(codes, 5)[:, :3].to(torch.float32)


class Logarithms(CodesInFloats):
    """Refuses what is not positive."""

    def coded(self, codes):
        return self.table(codes.clamp(0, 4))

    def forward(self, X):
        if (X < 0).any():
            raise ValueError("X has negative numbers")
        return super().forward(torch.log1p(X))


class PackedLengths(nn.Module):
    """The first column says how many of the others count."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, X):
        packed = nn.utils.rnn.pack_padded_sequence(
            X[:, 1:, None], X[:, 0].long() + 1, batch_first=True, enforce_sorted=False
        )
        return self.out(self.rnn(packed)[1][0])


MODULES = [CodesInFloats, OneHot, Logarithms, PackedLengths]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    X = np.c_[rng.integers(0, 3, 120), rng.uniform(size=(120, 3)) + y[:, None]]
    return X.astype(np.float32), y


def estimator(module, **parameters):
    net = NeuralNetClassifier(
        module, criterion=nn.CrossEntropyLoss, lr=0.05, max_epochs=5, optimizer__weight_decay=1e-3
    )
    return OBDClassifier(net, saliency="magnitude", retrain_epochs=1, random_state=0, **parameters)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("backend", ["auto", "dense", "sparse"])
def test_compact_tries_rows_of_fit(module, backend, data):
    X, y = data
    clf = estimator(module).fit(X, y)
    for given in (None, X[:40], X[:1]):
        small = clf.compact(backend, X=given)
        np.testing.assert_allclose(small.predict_proba(X), clf.predict_proba(X), atol=1e-5)
    assert set(clf.dead_parameters()) == set(clf.mask_)


@pytest.mark.parametrize("module", [CodesInFloats, OneHot])
def test_exports_try_rows_of_fit(module, data, tmp_path):
    clf = estimator(module).fit(*data)
    clf.to_torch(tmp_path / "net.pt2")
    clf.compact().to_torch(tmp_path / "small.pt2")


def test_a_few_rows_are_remembered_and_not_in_files(data, tmp_path):
    X, y = data
    X = X.copy()
    X[[0, -1], 1] = 0.123456789
    clf = estimator(CodesInFloats).fit(X, y)
    examples = clf._fitted.rows.examples
    assert examples.shape == (5, 4)
    np.testing.assert_array_equal(examples[[0, -1]].numpy(), X[[0, -1]])
    clf.save_params(tmp_path / "net.safetensors")
    clf.to_torch(tmp_path / "net.pt2")
    number = np.float32(0.123456789).tobytes()
    for name in os.listdir(tmp_path):
        assert number not in (tmp_path / name).read_bytes()
    few = estimator(CodesInFloats).fit(X[y == 0][:2], [0, 1])
    assert few._fitted.rows.examples.shape == (2, 4)
    csr = OBDClassifier(hidden_layer_sizes=(3,), max_epochs=2).fit(sparse.csr_array(X), y)
    np.testing.assert_array_equal(csr._fitted.rows.examples[0].numpy(), X[0])


def test_after_loading_a_module_that_cannot_take_made_up_rows_asks_for_x(data, tmp_path):
    X, y = data
    clf = estimator(CodesInFloats).fit(X, y)
    clf.save_params(tmp_path / "net")
    loaded = estimator(CodesInFloats).load_params(tmp_path / "net")
    with pytest.raises(ValueError, match="compact tries the network on made-up rows"):
        loaded.compact()
    for name in ("onnx", "torch", "numpy"):
        with pytest.raises(ValueError, match=f"to_{name} tries .* Give a few rows as X="):
            getattr(loaded, f"to_{name}")(tmp_path / "export")
    small = loaded.compact(X=X[:9])
    np.testing.assert_allclose(small.predict_proba(X), clf.predict_proba(X), atol=1e-5)
    loaded.to_torch(tmp_path / "export", X=X[:9])


def test_rows_given_to_compact_are_checked(data):
    clf = estimator(CodesInFloats).fit(*data)
    with pytest.raises(ValueError, match="features"):
        clf.compact(X=data[0][:, :2])


# -- forwards that read more of a layer than its call ----------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.code, self.out = nn.Linear(4, 32), nn.Linear(4, 2)

    def forward(self, X):
        return self.out(torch.tanh(F.linear(torch.tanh(self.code(X)), self.code.weight.t())))


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2, bias=False)

    def forward(self, X):
        return 5 * F.normalize(torch.relu(self.body(X))) @ F.normalize(self.head.weight).t()


class ReadsABias(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, X):
        return self.head(torch.relu(self.body(X))) + self.body.bias.sum()


class AsksForSizes(ReadsABias):
    def forward(self, X):
        hidden = torch.relu(self.body(X)) / self.body.out_features
        return self.head(hidden * (self.head.weight.device.type == "cpu"))


class AsksForKinds(ReadsABias):
    def forward(self, X):
        for layer in self.children():
            X = torch.tanh(layer(X)) if isinstance(layer, nn.Linear) else X
        return X


class Hooked(ReadsABias):
    """The hook is part of what the layer computes."""

    def __init__(self):
        super().__init__()
        self.body.register_forward_hook(twice)

    def forward(self, X):
        return self.head(torch.relu(self.body(X)))


def twice(layer, inputs, output):
    return 2 * output


@pytest.mark.parametrize("module", [Tied, Cosine, ReadsABias, AsksForSizes, AsksForKinds, Hooked])
@pytest.mark.parametrize("backend", ["auto", "dense", "sparse"])
def test_a_forward_may_read_what_its_layers_hold(module, backend, data):
    X, y = data
    clf = estimator(module, prune_rate=0.6).fit(X, y)
    small = clf.compact(backend)
    np.testing.assert_allclose(small.predict_proba(X), clf.predict_proba(X), atol=1e-5)
    np.testing.assert_allclose(small.predict_proba(X[:3]), clf.predict_proba(X[:3]), atol=1e-5)
