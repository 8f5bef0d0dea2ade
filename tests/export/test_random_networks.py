"""Random networks, pruned and compacted, predict as NumPy programs what they predict in torch.

None may be refused: what the generator draws has a counterpart in NumPy.

60 networks, with the environment variable FULL_CHECKS=1 (set by ``.ci/run full``) 500.
"""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch

from sk_obd.compact import shrink
from sk_obd.export.numpy_file import source_of
from tests.export.random_networks import Network

FULL = bool(os.environ.get("FULL_CHECKS"))
NETWORKS = 500 if FULL else 60
AT_ONCE = 10

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}


def program_of(module, X):
    """The function `network` of the program that is written for a module; X has a few rows."""
    rows = ({0: torch.export.Dim("n_rows")},)
    namespace = {}
    exec(source_of(torch.export.export(module, (X,), dynamic_shapes=rows, strict=False)), namespace)
    return namespace["network"]


@torch.no_grad()
def check(network, dtype):
    """Compare the smaller network with its NumPy program."""
    module, _, _ = shrink(network.module, network.masks, network.X)
    module = copy.deepcopy(module).to(dtype)
    X = network.X.to(dtype) if network.X.is_floating_point() else network.X
    run = program_of(module, X)
    for n in (1, len(X)):
        given = X[:n].numpy().copy()
        found, expected = run(given), module(X[:n].clone()).numpy()
        assert found.dtype == expected.dtype
        scale = max(1, np.abs(expected[np.isfinite(expected)]).max(initial=0))
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=TOLERANCES[dtype] * scale, err_msg=str(network)
        )
        np.testing.assert_array_equal(given, X[:n].numpy())


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, NETWORKS, AT_ONCE))
def test_random_networks_are_right_and_none_is_refused(start):
    for seed in range(start, start + AT_ONCE):
        network = Network(seed)
        both = (torch.float64, torch.float32)
        for dtype in both if FULL else both[seed % 2 : seed % 2 + 1]:
            check(network, dtype)


@pytest.mark.slow
def test_compacted_random_networks_return_the_same():
    for seed in range(NETWORKS):
        network = Network(seed)
        smaller, _, report = shrink(network.module, network.masks, network.X)
        torch.testing.assert_close(
            smaller(network.X.clone()), network.module(network.X.clone()), equal_nan=True
        )
        assert report.n_stored[1] <= report.n_stored[0]
