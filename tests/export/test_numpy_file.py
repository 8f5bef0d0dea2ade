"""The NumPy file predicts what the estimator predicts, and needs nothing else."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sk_obd import OBDClassifier
from sk_obd.export.numpy_file import source_of
from tests.export.checks import close, every_case
from tests.library.fitted import CASES, fitted
from tests.library.modules import ImageTransformer, Recurrent
from tests.library.nets import classifier_net

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


@every_case
def test_the_numpy_file_predicts_the_same_where_nothing_else_can_be_imported(name, tmp_path):
    estimator, X = fitted(name)
    estimator.to_numpy(tmp_path / "net.py")
    np.save(tmp_path / "X.npy", X)
    files = [str(tmp_path / file) for file in ("net.py", "X.npy", "found.npz")]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *files], check=True)
    found = np.load(files[-1])
    close([found[key] for key in found], estimator, X, CASES[name][2])


class Spectrum(nn.Module):
    def forward(self, X):
        return torch.fft.rfft(X).abs()


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, X):
        self.calls += 1
        return X * self.calls.sign()


class Middle(nn.Module):
    """Where the largest numbers lie, which the pools of the program do not tell."""

    def forward(self, X):
        found = nn.functional.adaptive_max_pool1d(X.unsqueeze(1), 3, return_indices=True)
        return found[1].flatten(1).to(X.dtype)


REFUSED = {
    Spectrum: r"counterpart of aten\._fft_r2c\.default, used by 0 \(Spectrum\).*to_onnx",
    Counting: r"changes its buffers in forward: .*0\.calls",
    Middle: "does not run: .*to_onnx",
}


@pytest.mark.parametrize("layer", REFUSED)
def test_what_has_no_counterpart_is_named_with_the_way_out(layer, iris, tmp_path):
    X, y = iris
    X = X.astype(np.float32)
    clf = OBDClassifier(classifier_net(With, module__layer=layer, max_epochs=1), prune_rate=0)
    clf.fit(X, y)
    with pytest.raises(ValueError, match=REFUSED[layer]):
        clf.to_numpy(tmp_path / "net.py")
    assert not (tmp_path / "net.py").exists()


class With(nn.Sequential):
    """A layer, and a Linear one on three of its numbers."""

    def __init__(self, layer):
        super().__init__(layer(), nn.Linear(3 if layer is not Counting else 4, 3))


@pytest.mark.parametrize("module", [Recurrent, ImageTransformer])
def test_recurrent_layers_and_attention_are_written(module, images, tmp_path):
    X, y = images
    clf = OBDClassifier(classifier_net(module, max_epochs=1), prune_rate=0.3, step=None).fit(X, y)
    clf.to_numpy(tmp_path / "net.py", X=X[:7])
    written = (tmp_path / "net.py").read_text()
    assert "lstm(" in written or "scaled_dot_product_attention(" in written


def test_weights_that_are_deleted_take_no_room_in_the_numpy_file(tmp_path):
    X, y = CASES["classifier"][1]()
    clf = OBDClassifier(hidden_layer_sizes=(300, 100), max_epochs=1, random_state=0, step=None)
    sizes = []
    for rate in (0, 0.95):
        clf.set_params(prune_rate=rate).fit(X, y).to_numpy(tmp_path / "net.py")
        sizes.append((tmp_path / "net.py").stat().st_size)
    assert sizes[1] < sizes[0] / 8


class Named(nn.Module):
    """Weights with the names of what the file itself defines."""

    def __init__(self):
        super().__init__()
        for name in ("X", "rows", "x1", "predict", "np", "linear", "a_b"):
            self.register_parameter(name, nn.Parameter(torch.randn(4)))
        self.a = nn.ParameterDict({"b": nn.Parameter(torch.randn(4))})
        self.last = nn.Linear(4, 3)

    def forward(self, X):
        X = X * self.X + self.rows * self.x1 - self.predict + self.np * self.linear
        return self.last(X * self.a_b + self.a["b"])


def test_weights_may_have_any_names(iris, tmp_path):
    X, y = iris
    clf = OBDClassifier(classifier_net(Named, max_epochs=1), prune_rate=0.3, step=None)
    clf.fit(X.astype(np.float32), y).to_numpy(tmp_path / "net.py", X=X.astype(np.float32))


def test_only_functions_that_are_called_are_written():
    """Not one that has the name of another's argument, as the threshold of softplus."""
    module = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)).eval()
    written = source_of(torch.export.export(module, (torch.zeros(2, 3),)))
    assert re.findall(r"^def (\w+)", written, re.M) == ["network", "linear", "softplus", "unpack"]


def test_a_function_is_written_without_its_decorator(tmp_path):
    fitted("classifier")[0].to_numpy(tmp_path / "net.py")
    assert "aten" not in (tmp_path / "net.py").read_text()
