"""The paper's recursion: where it is exact, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from sk_obd.curvature import dense_diagonal, diagonal
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME


@pytest.mark.parametrize("name", ["mse", "mse behind tanh", "huber", "poisson"])
def test_recursion_is_the_hessian_for_one_hidden_layer_with_separate_outputs(name):
    module, criterion, X, y = BY_NAME[name].make()
    expected = dense_diagonal(module, criterion, X, y)
    assert error(diagonal(module, criterion, X, y, method="recursion"), expected) <= 1e-10


def test_recursion_is_exact_for_the_last_two_layers_of_weights_and_wrong_before():
    module, criterion, X, y = BY_NAME["five tanh layers"].make()
    expected = dense_diagonal(module, criterion, X, y)
    got = diagonal(module, criterion, X, y, method="recursion")
    *early, last_but_one, last = sorted({name.split(".")[0] for name in expected}, key=int)
    for layer in (last_but_one, last):
        keys = [k for k in expected if k.startswith(f"{layer}.")]
        assert error({k: got[k] for k in keys}, {k: expected[k] for k in keys}) <= 1e-10
    for layer in early:
        assert not torch.allclose(got[f"{layer}.weight"], expected[f"{layer}.weight"], rtol=1e-2)


def test_recursion_lm_is_never_negative_and_drops_the_bends():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    full, lm = (diagonal(module, criterion, X, y, method=m) for m in ("recursion", "recursion-lm"))
    assert all((value >= 0).all() for value in lm.values())
    assert error(lm, full) > 0.01


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("residual", "reads"),
        ("layer used twice", "used twice"),
        ("one parameter in two layers", "layers '0' and '2' share"),
        ("lstm", "'rnn'"),
        ("transformer", "'words'"),
        ("layer norm", "LayerNorm"),
        ("own parameters", "'scale' of Own"),
        ("mse behind softmax", "mixes units"),
        ("overlapping windows", "mixes units"),
        ("dilated windows", "mixes units"),
        ("tied autoencoder", "'bias' of TiedAutoencoder"),
    ],
)
@pytest.mark.parametrize("method", ["recursion", "recursion-lm"])
def test_recursion_refuses_what_it_cannot_pass(name, found, method):
    module, criterion, X, y = BY_NAME[name].make()
    with pytest.raises(ValueError, match=rf'{found}.*method="ggn"'):
        diagonal(module, criterion, X, y, method=method)
