"""What a route must not assume: rows that mix before the first layer or weakly, weight norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import METHODS, diagonal, register_rule
from sk_obd.curvature.layers.registry import RULES, computes_as, rule_for
from tests.curvature.comparison import error
from tests.curvature.plain import ggn_diagonal, hessian_diagonal
from tests.library.cases import Doubled, HalfConv, Of, lin, reading
from tests.library.modules import tanh_mlp

F64 = torch.float64
CE = nn.CrossEntropyLoss()

MIXED_BEFORE = {
    "centred": lambda s, x: s.a(x - x.mean(0)),
    "scaled by the largest": lambda s, x: s.a(x / x.abs().amax(0)),
    "weakly centred": lambda s, x: s.a(x - 1e-4 * x.mean(0)),
    "attending to rows": lambda s, x: s.a((x @ x.T).softmax(1) @ x),
    "sorted": lambda s, x: s.a(x.sort(0).values),
    "reversed and back": lambda s, x: s.a(x.cumsum(0)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MIXED_BEFORE)
@pytest.mark.parametrize("size", [None, 2])
def test_rows_that_mix_before_the_first_layer_are_refused(name, method, size):
    module = reading(MIXED_BEFORE[name], a=lin(3, 3))().to(F64)
    X, y = torch.randn(6, 3, dtype=F64), torch.arange(6) % 3
    with pytest.raises(ValueError, match="rows depend on each other"):
        diagonal(module, CE, X, y, method=method, batch_size=size)


@pytest.mark.parametrize("way", ["hook", "parametrization"])
@pytest.mark.parametrize("layer", [lambda: nn.Linear(3, 4), lambda: nn.Conv1d(1, 2, 2)])
@pytest.mark.parametrize("dim", [0, 1])
def test_weight_norm_has_right_second_derivatives(way, layer, dim):
    torch.manual_seed(0)
    norm = nn.utils.weight_norm if way == "hook" else nn.utils.parametrizations.weight_norm
    first = norm(layer(), dim=dim)
    inner = [nn.Unflatten(1, (1, 3)), first] if isinstance(first, nn.Conv1d) else [first]
    module = nn.Sequential(*inner, nn.Flatten(), nn.Tanh(), nn.Linear(4, 3)).to(F64)
    X, y = torch.randn(5, 3, dtype=F64), torch.arange(5) % 3
    expected = {
        "hessian": hessian_diagonal(module, lambda m: CE(m(X), y)),
        "ggn": ggn_diagonal(module, lambda m: m(X), lambda z: CE(z, y)),
    }
    for method, value in expected.items():
        assert error(diagonal(module, CE, X, y, method=method), value) <= 1e-10


def test_a_rule_that_does_not_know_a_parameter_leaves_it_to_the_rest():
    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.by, self.plus = (nn.Parameter(torch.randn(4)) for _ in range(2))

        def forward(self, x):
            return x * self.by + self.plus

    register_rule(Affine, lambda layer, x, G: {"by": G * x})
    try:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Affine(), nn.Linear(4, 3)).to(F64)
        X, y = torch.randn(5, 3, dtype=F64), torch.arange(5) % 3
        expected = ggn_diagonal(module, lambda m: m(X), lambda z: CE(z, y))
        assert error(diagonal(module, CE, X, y, check=False), expected) <= 1e-10
    finally:
        del RULES[Affine]


def test_a_rule_holds_for_what_is_called_as_its_type():
    assert computes_as(Doubled(2, 2), nn.Linear)
    assert rule_for(HalfConv(1, 1, 1)) is None
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x
    assert rule_for(layer) is None

    class Shown(nn.Linear):
        def extra_repr(self):
            return "shown"

    assert rule_for(Shown(2, 2)) is RULES[nn.Linear]


def test_a_hook_of_all_modules_that_changes_outputs_is_seen():
    module, X, y = tanh_mlp(3, 4, 3).to(F64), torch.randn(5, 3, dtype=F64), torch.arange(5) % 3
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, args, z: 2 * z if isinstance(m, nn.Linear) else None
    )
    try:
        for method, expected in (
            ("hessian", hessian_diagonal(module, lambda m: CE(m(X), y))),
            ("ggn", ggn_diagonal(module, lambda m: m(X), lambda z: CE(z, y))),
        ):
            assert error(diagonal(module, CE, X, y, method=method), expected) <= 1e-10
    finally:
        handle.remove()


@pytest.mark.parametrize("method", ["recursion", "recursion-lm"])
def test_the_recursion_refuses_parameters_that_it_does_not_know(method):
    X, y = torch.randn(5, 3), torch.arange(5) % 3
    normed = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 3))
    parent = Of(
        lambda s, x: s.b(torch.relu(s.a(x) * s.a.scale)), a=Doubled(3, 4), b=nn.Linear(4, 3)
    )
    for module, name in ((normed, "weight_[gv]"), (parent, "scale")):
        with pytest.raises(ValueError, match=f"parameter '{name}'"):
            diagonal(module, CE, X, y, method=method)


@pytest.mark.parametrize("option", ["sparse", "scale_grad_by_freq"])
@pytest.mark.parametrize("method", ["ggn", "hessian", "fisher"])
def test_embeddings_with_other_gradients_have_the_same_curvature(option, method):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(4, 2), nn.Flatten(), nn.Tanh(), nn.Linear(6, 3)).to(F64)
    X, y = torch.randint(0, 4, (5, 3)), torch.arange(5) % 3
    expected = diagonal(module, CE, X, y, method=method)
    setattr(module[0], option, True)
    assert error(diagonal(module, CE, X, y, method=method), expected) <= 1e-12
    assert getattr(module[0], option) is True
