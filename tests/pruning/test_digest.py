"""Digests are equal for equal code and values, in every process, and for nothing else."""

import importlib
import io
import os
import subprocess
import sys
import textwrap
from functools import partial

import numpy as np
import pytest
import torch
from scipy import sparse
from skorch.callbacks import EarlyStopping, LRScheduler
from torch import nn

from sk_obd.pruning.digest import Unstable, digest
from tests.library.modules import SmallConv, TwoLayers
from tests.library.nets import classifier_net


def square(x):
    return x * x


VALUES = [
    None,
    True,
    1,
    1.0,
    "1",
    b"1",
    (1, 2),
    [1, 2],
    [1, [2]],
    {"a": 1},
    {"b": 1},
    {1, 2},
    np.array([1, 2]),
    np.array([1.0, 2.0]),
    np.array([[1.0, 2.0]]),
    np.float64(1),
    np.array(["a", None], dtype=object),
    torch.tensor([1, 2]),
    torch.tensor([1.0, 2.0]),
    torch.float32,
    torch.device("cpu"),
    sparse.csr_array(np.eye(2)),
    sparse.csr_array(np.eye(3)),
    nn.ReLU,
    nn.Tanh,
    TwoLayers,
    square,
    partial(square, 2),
    torch.relu,
    EarlyStopping(patience=3),
    EarlyStopping(patience=4),
    LRScheduler(),
    np.random.RandomState(0),
    nn.LSTM,
]


def test_a_value_has_one_digest():
    for value in VALUES:
        assert digest(value) == digest(value)


def test_different_values_have_different_digests():
    assert len({digest(value) for value in VALUES}) == len(VALUES)


def test_where_a_boundary_lies_makes_a_difference():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest([1], [2]) != digest([1, 2])


def test_a_copy_of_a_value_has_its_digest():
    def made():
        torch.manual_seed(0)
        return [SmallConv(), nn.LSTM(3, 4), classifier_net(), np.arange(5)]

    assert digest(made()) == digest(made())


@pytest.mark.parametrize("change", ["weight", "buffer", "attribute"])
def test_a_changed_module_is_another(change):
    torch.manual_seed(0)
    module = SmallConv()
    before = digest(module)
    with torch.no_grad():
        if change == "weight":
            module.conv.weight[0, 0, 0, 0] += 1e-7
        elif change == "buffer":
            module.norm.running_mean[1] += 1e-7
        else:
            module.drop.p = 0.11
    assert digest(module) != before


@pytest.mark.parametrize("make", [io.StringIO, np.random.default_rng])
def test_what_has_no_stable_digest_is_refused(make):
    value = make()
    with pytest.raises(Unstable):
        digest({"a": [value]})


PROGRAM = """
    import torch
    from torch import nn
    from helpers import half
    import settings

    SCALE = 3.0

    def shift(x):
        return half(x) + settings.OFFSET

    class Net(nn.Module):
        size = 4

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, self.size)

        def forward(self, x):
            def inner(z):
                return torch.tanh(z) * SCALE
            return inner(self.linear(shift(x)))
"""
HELPERS = """
    def half(x):
        return x / 2

    def unused(x):
        return x
"""
EDITS = [
    ("net.py", "torch.tanh(z)", "torch.relu(z)", True),
    ("net.py", "SCALE = 3.0", "SCALE = 3.5", True),
    ("net.py", "half(x) + s", "half(x) - s", True),
    ("net.py", "size = 4", "size = 5", True),
    ("helpers.py", "x / 2", "x / 4", True),
    ("settings.py", "OFFSET = 1", "OFFSET = 2", True),
    ("net.py", "def inner", "# a comment\n        def inner", False),
    ("helpers.py", "return x\n", "return 2 * x\n", False),
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's modules in a folder of their own, imported anew at each call."""
    files = {"net.py": PROGRAM, "helpers.py": HELPERS, "settings.py": "OFFSET = 1"}
    for name, text in files.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def imported():
        for name in ("net", "helpers", "settings"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("net").Net

    yield tmp_path, imported
    for name in ("net", "helpers", "settings"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit[2].strip())
def test_an_edit_of_any_code_that_a_class_leads_to_is_noticed(edit, project):
    """And one of code that it does not lead to, or of a comment, is not."""
    folder, imported = project
    name, old, new, noticed = edit
    before = digest(imported())
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    assert (digest(imported()) != before) == noticed


@pytest.mark.slow
def test_a_digest_is_the_same_in_another_process(project):
    folder, imported = project
    code = (
        "from sk_obd.pruning.digest import digest; import net, torch; from torch import nn;"
        "torch.manual_seed(0); print(digest(net.Net, net.Net(), nn.LSTM(2, 3), {'b', 'a', 'c'}))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    net = imported()
    torch.manual_seed(0)
    assert done.stdout.strip() == digest(net, net(), nn.LSTM(2, 3), {"b", "a", "c"})
