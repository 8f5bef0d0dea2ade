"""What goes in, and that the module is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sk_obd.curvature import METHODS, diagonal
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME, mlp

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
    doubled = mlp(4, 5, 4, 3).to(F64)
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
