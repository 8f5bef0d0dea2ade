"""What the report says of each layer."""

import sys

import pytest
import torch
from torch import nn

from sk_obd.compact import shrink
from tests.library.modules import Branching, ChangedInPlace, mlp
from tests.library.networks import NETWORKS, build, prune


@pytest.mark.parametrize(
    ("make", "shape", "why"),
    [
        (lambda: Branching(9), (9,), "cannot trace"),
        (ChangedInPlace, (9,), "changed in place"),
        (lambda: nn.Sequential(mlp(4, 5, 5), nn.LayerNorm(5), mlp(5, 3)), (4,), "LayerNorm"),
        (*NETWORKS["Recurrent"], "not return a single tensor"),
    ],
)
def test_the_report_says_what_was_left_and_why(make, shape, why):
    module = make()
    masks = prune(module, 0.3, 0)
    _, _, report = shrink(module, masks, torch.randn(2, *shape))
    assert any(why in row["left"] for row in report.rows)
    assert why in str(report)


def test_the_frame_has_the_rows():
    module, X = build("three hidden layers", 0)
    _, _, report = shrink(module, prune(module, 0.2, 0), X)
    frame = report.to_frame()
    assert list(frame.columns) == ["layer", "before", "after", "left"]
    assert frame.to_dict("records") == report.rows


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    module, X = build("one hidden layer", 0)
    _, _, report = shrink(module, prune(module, 0.2, 0), X)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_frame needs pandas.*pip install 'sk_obd\[plot\]'"):
        report.to_frame()
