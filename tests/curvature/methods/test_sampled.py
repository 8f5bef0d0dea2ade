"""Gauss-Newton from one random column per row."""

from __future__ import annotations

import pytest
import torch

from sk_obd.curvature import diagonal
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME, SOME


@pytest.mark.parametrize("name", SOME)
def test_sampling_averages_to_ggn(name):
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    exact = diagonal(module, criterion, X, y, outputs=case.outputs)
    many = 30 if name in ("lstm", "transformer") else 200
    repeated = (X.repeat(many, *[1] * (X.ndim - 1)), y.repeat(many, *[1] * (y.ndim - 1)))
    got = diagonal(
        module, criterion, *repeated, method="ggn-mc", random_state=0, outputs=case.outputs
    )
    assert error(got, exact) <= 6 / (many * len(X)) ** 0.5


@pytest.mark.parametrize("name", SOME)
def test_samples_depend_on_the_seed_alone(name):
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    state = torch.random.get_rng_state()

    def sampled(seed, size):
        return diagonal(
            module,
            criterion,
            X,
            y,
            method="ggn-mc",
            random_state=seed,
            batch_size=size,
            outputs=case.outputs,
        )

    assert error(sampled(0, 1), sampled(0, None)) <= 1e-12
    assert error(sampled(1, None), sampled(0, None)) > 1e-3
    assert torch.equal(torch.random.get_rng_state(), state)
