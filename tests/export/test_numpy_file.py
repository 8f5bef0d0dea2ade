"""The NumPy file predicts what the estimator predicts, and needs nothing else."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sk_obd import OBDClassifier
from tests.export.checks import close, every_case
from tests.library.fitted import CASES, fitted
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


def test_a_layer_without_a_counterpart_is_named_with_the_way_out(images, tmp_path):
    X, y = images
    module = nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Flatten(),
        nn.LazyLinear(10),
    )
    clf = OBDClassifier(classifier_net(module, max_epochs=1), prune_rate=0).fit(X, y)
    with pytest.raises(ValueError, match=r"counterpart of .*used by 1 \(Upsample\).*to_onnx"):
        clf.to_numpy(tmp_path / "net.py")
    assert not (tmp_path / "net.py").exists()


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


def test_a_function_is_written_without_its_decorator(tmp_path):
    fitted("classifier")[0].to_numpy(tmp_path / "net.py")
    assert "aten" not in (tmp_path / "net.py").read_text()
