"""The boundary: what goes in, what comes back, and that the module is left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sk_obd.curvature import METHODS, diagonal
from tests.library.cases import BY_NAME, CASES, Case, labels, mlp

from .test_exact import error

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


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_have_no_entry_and_change_nothing(method):
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    whole = diagonal(module, criterion, X, y, method=method, random_state=0)
    module[0].weight.requires_grad_(False)
    module[2].bias.requires_grad_(False)
    got = diagonal(module, criterion, X, y, method=method, random_state=0)
    assert (
        error(got, {name: whole[name] for name in whole if name not in ("0.weight", "2.bias")})
        <= 1e-12
    )


@pytest.mark.parametrize("method", ["ggn", "hessian", "fisher"])
@pytest.mark.parametrize("name", ["conv2d", "lstm", "transformer"])
def test_a_frozen_body_leaves_the_head(name, method):
    module, criterion, X, y = BY_NAME[name].make()
    whole = diagonal(module, criterion, X, y, method=method)
    head = dict(module.named_parameters())
    last = list(head)[-2:]
    for key, parameter in head.items():
        parameter.requires_grad_(key in last)
    got = diagonal(module, criterion, X, y, method=method)
    assert error(got, {key: whole[key] for key in last}) <= 1e-10


def test_a_parameter_that_is_not_used_has_curvature_zero():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    for method in METHODS:
        got = diagonal(
            Spare(),
            nn.CrossEntropyLoss(),
            torch.randn(3, 2),
            torch.tensor([0, 1, 1]),
            method=method,
        )
        assert not got["spare.weight"].any()
        assert got["used.weight"].any()


def test_zero_initialised_biases_have_curvature():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    for layer in (module[0], module[2], module[4]):
        nn.init.zeros_(layer.bias)
    got = diagonal(module, criterion, X, y)
    assert all(got[name].all() for name in ("0.bias", "2.bias", "4.bias"))


def test_it_is_the_diagonal_and_not_the_row_sums_and_all_rows_count():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    from sk_obd.curvature import hessian_vector_product

    ones = {name: torch.ones_like(p) for name, p in module.named_parameters()}
    sums = hessian_vector_product(module, criterion, X, y, ones)
    exact = diagonal(module, criterion, X, y, method="hessian")
    assert error(exact, sums) > 0.1
    parts = [
        diagonal(module, criterion, X[i : i + 1], y[i : i + 1], method="hessian")
        for i in range(len(X))
    ]
    assert error({k: sum(p[k] for p in parts) / len(X) for k in exact}, exact) <= 1e-12
    assert error(parts[-1], exact) > 0.1


def test_numpy_arrays_are_taken():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    expected = diagonal(module, criterion, X, y, sample_weight=torch.arange(len(X)))
    got = diagonal(module, criterion, X.numpy(), y.numpy(), sample_weight=np.arange(len(X)))
    assert error(got, expected) == 0


@pytest.mark.parametrize("method", METHODS)
def test_class_numbers_of_a_byte_are_taken_as_torch_takes_them(method):
    module, criterion, X, y = BY_NAME["mlp ReLU"].make()
    options = {"method": method, "random_state": 0}
    expected, got = (diagonal(module, criterion, X, t, **options) for t in (y, y.byte()))
    assert error(got, expected) == 0


def test_only_the_ratios_of_weights_matter():
    module, criterion, X, y = BY_NAME["weighted classes"].make()
    w = torch.rand(len(X), dtype=F64)
    for method in METHODS:
        one, two = (
            diagonal(module, criterion, X, y, sample_weight=s * w, method=method, random_state=0)
            for s in (1, 10)
        )
        assert error(one, two) <= 1e-12


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


@pytest.mark.parametrize("method", ["ggn", "hessian", "fisher"])
def test_batch_norm_without_running_statistics_is_refused(method):
    module = nn.Sequential(
        nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2)
    )
    with pytest.raises(
        ValueError, match=r"'1' .*statistics of the batch.*track_running_stats=True"
    ):
        diagonal(
            module,
            nn.CrossEntropyLoss(),
            torch.randn(4, 2),
            torch.tensor([0, 1, 0, 1]),
            method=method,
        )


class Mixing(nn.Module):
    """Subtracts the mean over the batch."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        z = self.one(x)
        return self.two(torch.tanh(z - z.mean(0)))


@pytest.mark.parametrize("method", ["ggn", "hessian", "fisher", "ggn-mc"])
def test_rows_that_depend_on_each_other_are_refused(method):
    with pytest.raises(ValueError, match="rows depend on each other"):
        diagonal(
            Mixing(),
            nn.CrossEntropyLoss(),
            torch.randn(4, 3),
            torch.tensor([0, 1, 0, 1]),
            method=method,
        )


def test_embeddings_that_change_their_weights_are_refused():
    module = nn.Sequential(nn.Embedding(5, 2, max_norm=1.0), nn.Flatten(), nn.Linear(4, 2))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="max_norm=None"):
        diagonal(
            module, nn.CrossEntropyLoss(), torch.randint(0, 5, (3, 2)), torch.tensor([0, 1, 0])
        )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_outputs_that_are_no_tensor_with_the_rows_first_are_refused():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    class Scalar(nn.Linear):
        def forward(self, x):
            return super().forward(x).sum()

    X, y = torch.randn(3, 2), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="returned tuple; expected one tensor"):
        diagonal(Two(2, 2), nn.MSELoss(), X, y)
    with pytest.raises(ValueError, match=r"shape \(\) for \d rows"):
        diagonal(Scalar(2, 2), nn.MSELoss(), X, y)


def test_a_module_without_trainable_parameters_has_none():
    module = nn.Linear(2, 2).requires_grad_(False)
    assert diagonal(module, nn.MSELoss(), torch.randn(3, 2), torch.zeros(3, 2)) == {}


def test_in_place_functions_are_no_obstacle():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.two(torch.relu_(self.one(x)))

    case = Case("in place", InPlace, nn.CrossEntropyLoss, labels(5, 4))
    module, criterion, X, y = case.make()
    plain = nn.Sequential(module.one, nn.ReLU(), module.two)
    for method in METHODS:
        got = diagonal(module, criterion, X, y, method=method, random_state=0)
        expected = diagonal(plain, criterion, X, y, method=method, random_state=0)
        assert error(dict(zip(expected, got.values(), strict=True)), expected) == 0


def test_hooks_of_the_users_still_run():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    doubled = mlp(4, 5, 4, 3).to(F64)
    doubled.load_state_dict(module.state_dict())
    module[1].register_forward_hook(lambda layer, args, z: 2 * z)
    doubled[2].weight.data *= 2
    got, expected = (diagonal(m, criterion, X, y)["0.weight"] for m in (module, doubled))
    torch.testing.assert_close(got, expected)


def test_every_case_names_its_parameters_in_order():
    for case in CASES:
        module, criterion, X, y = case.make()
        got = diagonal(module, criterion, X, y, outputs=case.outputs)
        assert list(got) == [name for name, _ in module.named_parameters()]
