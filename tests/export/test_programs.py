"""Programs outside of scikit-learn predict what the estimator predicts."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sk_obd import OBDClassifier
from sk_obd.export.numpy_file import source_of
from tests.estimators.test_architectures import Convolutional, Recurrent, Tied, Transformer
from tests.library.fitted import CASES, fitted, predictions
from tests.library.nets import TwoLayers, classifier_net

every_case = pytest.mark.parametrize("name", CASES)

#: Runs the file where nothing but NumPy and the standard library can be imported.
ALONE = """
import importlib.abc, runpy, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "sklearn", "scipy", "skorch", "sk_obd", "pandas"}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
import numpy as np
module = runpy.run_path(sys.argv[1])
X = np.load(sys.argv[2])
found = {"labels": module["predict"](X)}
if "predict_proba" in module:
    found["proba"] = module["predict_proba"](X)
np.savez(sys.argv[3], **{k: v.astype(str) if v.dtype == object else v for k, v in found.items()})
assert not {"torch", "sklearn", "scipy", "sk_obd"} & set(sys.modules)
"""


def close(found, estimator, X, tolerance):
    """Found predictions are the estimator's: labels exactly, numbers to a share of the largest."""
    expected = predictions(estimator, X)
    if len(expected) == 2:
        np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(
        found[-1], expected[-1], rtol=0, atol=tolerance * max(1, np.abs(expected[-1]).max())
    )
    assert found[-1].dtype == expected[-1].dtype


@every_case
def test_the_numpy_file_predicts_the_same_where_nothing_else_can_be_imported(name, tmp_path):
    estimator, X = fitted(name)
    estimator.to_numpy(tmp_path / "net.py")
    np.save(tmp_path / "X.npy", X)
    files = [str(tmp_path / file) for file in ("net.py", "X.npy", "found.npz")]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *files], check=True)
    found = np.load(files[-1])
    close([found[key] for key in found], estimator, X, CASES[name][2])


#: GELU in float64, of which onnxruntime has no Erf.
NOT_IN_ONNXRUNTIME = ("classifier of strings", "embedding")


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_IN_ONNXRUNTIME])
@pytest.mark.parametrize("n_rows", [1, 37])
def test_onnxruntime_predicts_the_same(name, n_rows, tmp_path):
    estimator, X = fitted(name)
    estimator.to_onnx(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    outputs = [output.name for output in session.get_outputs()]
    classifies = hasattr(estimator, "classes_")
    assert outputs == (["label", "probabilities"] if classifies else ["variable"])
    found = session.run(None, {"X": X[:n_rows]})
    close(found, estimator, X[:n_rows], max(CASES[name][2], 1e-9))


@pytest.mark.parametrize("name", NOT_IN_ONNXRUNTIME)
def test_what_onnxruntime_lacks_is_named_with_the_way_out(name, tmp_path):
    with pytest.raises(ValueError, match=r"Erf.*float32"):
        fitted(name)[0].to_onnx(tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


@every_case
def test_a_program_of_torch_predicts_the_same(name, tmp_path):
    estimator, X = fitted(name)
    estimator.to_torch(tmp_path / "net.pt2")
    extra = {"sk_obd.json": ""}
    module = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    found = module(torch.from_numpy(X))
    if hasattr(estimator, "classes_"):
        classes = np.array(json.loads(extra["sk_obd.json"])["classes"])
        found = [classes[found[0].numpy()], found[1].detach().numpy()]
    else:
        found = [found.detach().numpy()]
    close(found, estimator, X, CASES[name][2])


@pytest.fixture(scope="module")
def images(digits):
    X, y = digits
    return X.reshape(-1, 8, 8).astype(np.float32), y


@pytest.mark.parametrize("module", [Convolutional, Recurrent, Transformer, Tied])
def test_networks_of_every_architecture_in_onnx_and_torch(module, images, tmp_path):
    X, y = images
    clf = OBDClassifier(classifier_net(module, max_epochs=1), prune_rate=0.2, step=None).fit(X, y)
    clf.to_torch(tmp_path / "net.pt2", X=X[:7])
    clf.to_onnx(tmp_path / "net.onnx", X=X[:7])
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    close(session.run(None, {"X": X[:50]}), clf, X[:50], 1e-5)


def test_a_layer_without_a_counterpart_is_named_with_the_way_out(images, tmp_path):
    X, y = images
    clf = OBDClassifier(classifier_net(Recurrent, max_epochs=1), prune_rate=0).fit(X, y)
    with pytest.raises(ValueError, match=r"counterpart of .*used by lstm \(LSTM\).*to_onnx"):
        clf.to_numpy(tmp_path / "net.py")
    assert not (tmp_path / "net.py").exists()


class Branching(TwoLayers):
    """What it computes depends on the values of X: no program."""

    def forward(self, X):
        return super().forward(X if X.sum() > 0 else -X)


def test_a_module_that_branches_on_values_is_refused(iris, tmp_path):
    X, y = iris
    clf = OBDClassifier(classifier_net(Branching, max_epochs=1), prune_rate=0).fit(X, y)
    for export in (clf.to_onnx, clf.to_torch, clf.to_numpy):
        with pytest.raises(ValueError, match="cannot follow the module Branching"):
            export(tmp_path / "net")


def test_a_net_that_does_more_than_call_its_module_is_found_out(iris, tmp_path):
    X, y = iris
    clf = OBDClassifier(classifier_net(max_epochs=1), prune_rate=0).fit(X, y)
    infer = clf.net_.infer
    clf.net_.infer = lambda X, **kwargs: infer(X, **kwargs) + torch.tensor([1.0, 0, 0])
    for export in (clf.to_onnx, clf.to_torch, clf.to_numpy):
        with pytest.raises(ValueError, match="something else"):
            export(tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_without_a_library_it_says_what_to_install(library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}.*pip install 'sk_obd\[export\]'"):
        fitted("classifier")[0].to_onnx(tmp_path / "net.onnx")


def test_weights_that_are_deleted_take_no_room_in_the_numpy_file(tmp_path):
    X, y = CASES["classifier"][1]()
    clf = OBDClassifier(hidden_layer_sizes=(300, 100), max_epochs=1, random_state=0, step=None)
    sizes = []
    for rate in (0, 0.95):
        clf.set_params(prune_rate=rate).fit(X, y).to_numpy(tmp_path / "net.py")
        sizes.append((tmp_path / "net.py").stat().st_size)
    assert sizes[1] < sizes[0] / 8


SPATIAL = {
    "conv1d": lambda x: F.conv1d(x[:, :, 0], W["1d"], W["b"], 2, 1, 2),
    "conv2d": lambda x: F.conv2d(x, W["2d"], W["b"], (2, 1), (1, 2), (1, 2)),
    "conv2d same": lambda x: F.conv2d(x, W["2d"], W["b"], padding="same"),
    "conv2d in groups": lambda x: F.conv2d(x, W["grouped"], None, groups=2),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_pool2d dilated": lambda x: F.max_pool2d(x, (2, 3), dilation=(2, 1)),
    "max_pool1d": lambda x: F.max_pool1d(x[:, :, 0], 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool2d ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg_pool2d ceil padded": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg_pool2d divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "avg_pool1d": lambda x: F.avg_pool1d(x[:, :, 0], 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "global mean": lambda x: x.mean((2, 3)) + x.sum(dim=(2, 3)),
}
POINTWISE = {
    name: getattr(F, name)
    for name in (
        *("relu", "relu6", "hardtanh", "tanh", "sigmoid", "logsigmoid", "gelu", "silu", "mish"),
        *("softplus", "softsign", "leaky_relu", "elu", "selu", "celu", "hardsigmoid", "hardswish"),
    )
} | {
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu of 2": lambda x: F.elu(x, 2.0),
    "celu of 2": lambda x: F.celu(x, 2.0),
    "prelu": lambda x: F.prelu(x, W["b"]),
    "arithmetic": lambda x: (2 - x) * x / 3 + x**2 - torch.exp(-x.square()) + abs(x).sqrt(),
    "clamp": lambda x: x.clamp(-0.3, 0.4).clamp(min=-0.1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "shapes": lambda x: torch.cat([x.permute(0, 2, 3, 1).transpose(1, 3).mT, x.abs()], 1)[:, 1:5:2],
    "views": lambda x: x.view(x.shape[0], -1).unflatten(1, (5, -1)).unsqueeze(1).squeeze(1),
    "batch_norm": lambda x: F.batch_norm(x, W["b"], W["b"] ** 2, W["b"], None),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "index": lambda x: torch.stack([x.index_select(1, W["i"]), x[:, W["i"]]], 1).select(1, 0),
}
draw = torch.Generator().manual_seed(0)
W = {
    "1d": torch.randn(4, 4, 3, generator=draw, dtype=torch.float64),
    "2d": torch.randn(4, 4, 3, 2, generator=draw, dtype=torch.float64),
    "grouped": torch.randn(6, 2, 3, 3, generator=draw, dtype=torch.float64),
    "b": torch.randn(4, generator=draw, dtype=torch.float64),
    "i": torch.tensor([2, 0]),
}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, X):
        return self.function(X)


@pytest.mark.parametrize("name", [*SPATIAL, *POINTWISE])
def test_an_operation_in_numpy_is_torchs(name):
    """Through the program and the source that is written, as in an exported file."""
    function = Function((SPATIAL | POINTWISE)[name])
    X = torch.randn(3, 4, 9, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = {0: torch.export.Dim("n_rows")}
    program = torch.export.export(function, (X,), dynamic_shapes=(rows,))
    namespace = {}
    exec(source_of(program), namespace)
    found = namespace["network"](X.numpy())
    np.testing.assert_allclose(found, function(X).numpy(), rtol=1e-12, atol=1e-12)
