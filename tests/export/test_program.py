"""What cannot be exported is refused, and what predicts something else is found out."""

import onnxruntime
import pytest
import torch

from sk_obd import OBDClassifier
from tests.export.checks import close
from tests.library.marks import slow_but
from tests.library.modules import (
    Branching,
    Convolutional,
    ImageTransformer,
    Recurrent,
    TiedClassifier,
)
from tests.library.nets import classifier_net


@pytest.mark.parametrize(
    "module",
    slow_but([Convolutional], [Convolutional, Recurrent, ImageTransformer, TiedClassifier]),
)
def test_networks_of_every_architecture_in_onnx_and_torch(module, images, tmp_path):
    X, y = images
    clf = OBDClassifier(classifier_net(module, max_epochs=1), prune_rate=0.2, step=None).fit(X, y)
    clf.to_torch(tmp_path / "net.pt2", X=X[:7])
    clf.to_onnx(tmp_path / "net.onnx", X=X[:7])
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    close(session.run(None, {"X": X[:50]}), clf, X[:50], 1e-5)


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
