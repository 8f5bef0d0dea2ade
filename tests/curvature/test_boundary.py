"""What goes in, and that the module is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sk_obd.curvature import METHODS, diagonal
from sk_obd.curvature.boundary import (
    CHAIN_BYTES,
    COLUMNS_BYTES,
    FEWEST,
    MOST,
    MOST_OF_ANY,
    as_it_was,
    checked_batch_size,
    default_batch_size,
)
from sk_obd.curvature.hooks import trainable
from sk_obd.curvature.losses.registry import loss_of
from sk_obd.curvature.problem import Problem
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME
from tests.library.modules import tanh_mlp

F64 = torch.float64


def snapshot(module):
    return (
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()],
        [(p.requires_grad, p.grad, p._version) for p in module.parameters()],
        {name: value.clone() for name, value in module.state_dict().items()},
    )


def assert_same(before, after):
    assert before[0] == after[0]
    for (a, b, c), (d, e, f) in zip(before[1], after[1], strict=True):
        assert (a, c) == (d, f)
        assert b is e
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])


def mixed_modes(module):
    for i, m in enumerate(module.modules()):
        m.training = i % 2 == 0
    for i, p in enumerate(module.parameters()):
        p.grad = torch.full_like(p, 3.0) if i % 2 else None
    return module


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp ReLU", "conv2d", "dropout", "batch norm 2d", "lstm"])
def test_the_module_comes_back_as_it_was(name, method):
    module, criterion, X, y = BY_NAME[name].make()
    before = snapshot(mixed_modes(module))
    try:
        diagonal(module, criterion, X, y, method=method)
    except ValueError:
        assert method.startswith("recursion")
    assert_same(before, snapshot(module))


@pytest.mark.parametrize("method", METHODS)
def test_the_module_comes_back_after_an_error(method):
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    before = snapshot(mixed_modes(module))
    with pytest.raises((RuntimeError, IndexError)):
        diagonal(module, criterion, X[:, :2], y, method=method)
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        diagonal(module, criterion, X, y + 5, method=method)
    assert_same(before, snapshot(module))


def test_inputs_weights_and_the_global_generator_are_left_alone():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    w, state = torch.ones(len(X)), torch.random.get_rng_state()
    kept = [t.clone() for t in (X, y, w)]
    for method in METHODS:
        diagonal(module, criterion, X, y, sample_weight=w, method=method)
    assert all(torch.equal(a, b) for a, b in zip(kept, (X, y, w), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["dropout", "batch norm 1d", "batch norm 2d"])
def test_dropout_and_batch_norm_in_train_mode_give_the_eval_result(name):
    module, criterion, X, y = BY_NAME[name].make()
    trained = diagonal(module.train(), criterion, X, y)
    assert error(trained, diagonal(module.eval(), criterion, X, y)) == 0


def test_it_works_without_gradients_switched_on():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    expected = diagonal(module, criterion, X, y)
    with torch.no_grad():
        assert error(diagonal(module, criterion, X, y), expected) == 0
    with torch.inference_mode():
        assert error(diagonal(module, criterion, X, y), expected) == 0


def test_hooks_of_the_users_still_run():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    doubled = tanh_mlp(4, 5, 4, 3).to(F64)
    doubled.load_state_dict(module.state_dict())
    module[1].register_forward_hook(lambda layer, args, z: 2 * z)
    doubled[2].weight.data *= 2
    got, expected = (diagonal(m, criterion, X, y)["0.weight"] for m in (module, doubled))
    torch.testing.assert_close(got, expected)


def test_numpy_arrays_are_taken():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    expected = diagonal(module, criterion, X, y, sample_weight=torch.arange(len(X)))
    got = diagonal(module, criterion, X.numpy(), y.numpy(), sample_weight=np.arange(len(X)))
    assert error(got, expected) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "exact"}, "'exact' is not known; expected one of 'ggn'"),
        ({"sample_weight": [1.0, 2.0]}, r"sample_weight has shape \(2,\); expected \(7,\)"),
        ({"sample_weight": [-1.0] * 7}, "finite and >= 0, found -1.0"),
        ({"sample_weight": [0.0] * 7}, "sum to 0.0"),
        ({"y": torch.zeros(3, dtype=torch.long)}, r"X has shape \(7, 4\), y \(3,\)"),
        ({"batch_size": 0}, "batch_size=0; expected a positive integer"),
        ({"X": np.array(["a"] * 7)}, "X must be numeric"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    X, y = options.pop("X", X), options.pop("y", y)
    with pytest.raises(ValueError, match=message):
        diagonal(module, criterion, X, y, **options)


def batch_size(module, X, *, chain):
    problem = Problem(
        module, loss_of(nn.CrossEntropyLoss()), trainable(module), lambda: X, try_dense_chain=chain
    )
    return default_batch_size(problem, X)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("width", [256, 512])
def test_a_batch_of_a_dense_chain_keeps_the_widest_layer_in_the_cache(width, dtype):
    module, X = tanh_mlp(3, width, 100, 2).to(dtype), torch.randn(1, 3, dtype=dtype)
    assert batch_size(module, X, chain=True) == CHAIN_BYTES // (width * dtype.itemsize)


def test_a_batch_of_a_dense_chain_has_bounds():
    X = torch.randn(1, 3)
    assert batch_size(tanh_mlp(3, 4, 2), X, chain=True) == MOST
    assert batch_size(tanh_mlp(3, 100_000, 2), X, chain=True) == FEWEST


@pytest.mark.parametrize(("outputs", "counted"), [(4, 4), (32, 32), (500, 32)])
def test_a_batch_of_any_other_module_keeps_the_columns_of_all_outputs_bounded(outputs, counted):
    module = nn.Sequential(nn.Linear(3, 5000), nn.Tanh(), nn.Linear(5000, outputs))
    X = torch.randn(7, 3)
    # What the Linear layers, tanh and the whole module give for a row.
    held = 5000 + 5000 + outputs + outputs
    expected = min(MOST_OF_ANY, COLUMNS_BYTES // (held * counted * 4))
    assert batch_size(module, X, chain=False) == expected
    assert not any(m._forward_hooks for m in module.modules())


def test_a_batch_of_any_other_module_has_bounds():
    assert batch_size(tanh_mlp(3, 2), torch.randn(1, 3), chain=False) == MOST_OF_ANY
    huge = nn.Sequential(nn.Linear(3, 1), nn.Upsample(scale_factor=1_000_000), nn.AvgPool1d(30_000))
    assert batch_size(huge, torch.randn(1, 1, 3), chain=False) == 1


def test_a_batch_size_is_a_positive_integer():
    assert checked_batch_size(None) is None
    assert checked_batch_size(3) == 3
    assert type(checked_batch_size(np.int64(3))) is int
    for wrong in (0, -1, 2.0, "2"):
        with pytest.raises(ValueError, match="expected a positive integer or None"):
            checked_batch_size(wrong)


def test_numpys_integers_are_batch_sizes():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    one, two = (diagonal(module, criterion, X, y, batch_size=s) for s in (2, np.int64(2)))
    assert error(one, two) == 0


def test_buffers_changed_in_place_come_back():
    module = nn.BatchNorm1d(2)
    with as_it_was(module):
        module.running_mean += 1
    assert not module.running_mean.any()


@pytest.mark.parametrize("kind", [torch.Generator, np.random.RandomState])
def test_generators_are_taken_and_go_on(kind):
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()

    def made():
        return kind().manual_seed(5) if kind is torch.Generator else kind(5)

    def sampled(state):
        return diagonal(module, criterion, X, y, method="ggn-mc", random_state=state)

    state = made()
    first, second = sampled(state), sampled(state)
    assert error(first, sampled(made())) == 0
    assert error(first, second) > 0
