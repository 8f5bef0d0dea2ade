"""The ONNX file predicts in onnxruntime what the estimator predicts."""

import sys

import onnxruntime
import pytest

from tests.export.checks import close
from tests.library.fitted import CASES, fitted
from tests.library.marks import slow_but

#: GELU in float64, of which onnxruntime has no Erf.
NOT_IN_ONNXRUNTIME = ("classifier of strings", "embedding")


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["regressor of three", "convolution"],
        [name for name in CASES if name not in NOT_IN_ONNXRUNTIME],
    ),
)
@pytest.mark.parametrize("n_rows", slow_but([37], [1, 37]))
def test_onnxruntime_predicts_the_same(name, n_rows, tmp_path):
    estimator, X = fitted(name)
    estimator.to_onnx(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    outputs = [output.name for output in session.get_outputs()]
    classifies = hasattr(estimator, "classes_")
    assert outputs == (["label", "probabilities"] if classifies else ["variable"])
    found = session.run(None, {"X": X[:n_rows]})
    close(found, estimator, X[:n_rows], max(CASES[name][2], 1e-9))


@pytest.mark.parametrize("name", slow_but(NOT_IN_ONNXRUNTIME[1:], NOT_IN_ONNXRUNTIME))
def test_what_onnxruntime_lacks_is_named_with_the_way_out(name, tmp_path):
    with pytest.raises(ValueError, match=r"Erf.*float32"):
        fitted(name)[0].to_onnx(tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_without_a_library_it_says_what_to_install(library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}.*pip install 'sk_obd\[export\]'"):
        fitted("classifier")[0].to_onnx(tmp_path / "net.onnx")
