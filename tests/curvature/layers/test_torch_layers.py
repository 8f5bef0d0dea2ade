"""The short cuts of torch's layers against the rule that they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature.layers.layer_rule import Rule
from sk_obd.curvature.layers.registry import RULES, rule_for

F64 = torch.float64
LAYERS = {
    "linear": (nn.Linear(3, 2), (3,)),
    "linear over positions": (nn.Linear(3, 2), (4, 3)),
    "conv 1d": (nn.Conv1d(2, 4, 3, stride=2, padding=1), (2, 7)),
    "conv 2d in groups": (nn.Conv2d(2, 4, (3, 1), groups=2, padding="same"), (2, 4, 4)),
    "conv 2d reflected": (nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), (1, 3, 4)),
    "conv 3d": (nn.Conv3d(1, 2, 2, dilation=(1, 2, 1)), (1, 3, 4, 3)),
    "transposed 1d": (nn.ConvTranspose1d(2, 4, 3, stride=2, groups=2), (2, 4)),
    "transposed 2d": (nn.ConvTranspose2d(2, 2, 2, padding=1), (2, 3, 3)),
    "transposed 3d": (nn.ConvTranspose3d(1, 2, 2), (1, 2, 2, 2)),
    "embedding": (nn.Embedding(5, 2, padding_idx=1), None),
    "batch norm": (nn.BatchNorm2d(2), (2, 3, 3)),
    "batch norm of numbers": (nn.BatchNorm1d(2), (2,)),
    "batch norm 3d": (nn.BatchNorm3d(2), (2, 2, 2, 2)),
    "instance norm 1d": (nn.InstanceNorm1d(2, affine=True), (2, 4)),
    "instance norm 2d": (nn.InstanceNorm2d(2, affine=True), (2, 3, 3)),
    "instance norm 3d": (nn.InstanceNorm3d(2, affine=True), (2, 2, 2, 2)),
    "group norm": (nn.GroupNorm(2, 4), (4, 3)),
    "layer norm": (nn.LayerNorm((2, 3)), (4, 2, 3)),
    "prelu": (nn.PReLU(), (3,)),
    "prelu by channel": (nn.PReLU(2), (2, 3)),
}
N, K = 5, 3


def columns(layer, shape):
    """(layer, x, A, B, signs) with x (n, ...) and columns (k, n, ...) at the output."""
    torch.manual_seed(0)
    layer = layer.to(F64).eval()
    x = torch.randint(0, 5, (N, 4)) if shape is None else torch.randn(N, *shape, dtype=F64)
    z = layer(x)
    A, B = torch.randn(2, K, *z.shape, dtype=F64)
    return layer, x, A, B, torch.where(torch.rand(K, N) < 0.5, -1.0, 1.0).to(F64)


def test_every_rule_is_tried_out():
    assert {type(layer) for layer, _ in LAYERS.values()} == RULES.keys()


@pytest.mark.parametrize("name", LAYERS)
def test_pull_is_the_jacobian_of_each_row_transposed(name):
    layer, x, G, _, _ = columns(*LAYERS[name])
    pulled = rule_for(layer).pull(layer, x, G)
    own = dict(layer.named_parameters())
    assert pulled.keys() >= own.keys()
    for k in range(K):
        for i in range(N):
            slopes = torch.autograd.grad(layer(x[i : i + 1]), list(own.values()), G[k, i : i + 1])
            for local, slope in zip(own, slopes, strict=True):
                torch.testing.assert_close(pulled[local][k, i], slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", ["squares", "products", "signed", "signed products"])
@pytest.mark.parametrize("name", LAYERS)
def test_contract_is_the_sum_over_what_is_pulled(name, options):
    layer, x, A, B, signs = columns(*LAYERS[name])
    B = B if "products" in options else None
    signs = signs if "signed" in options else None
    rule = rule_for(layer)
    expected = Rule.contract(rule, layer, x, A, B, signs)
    found = rule.contract(layer, x, A, B, signs)
    for local, parameter in layer.named_parameters():
        assert found[local].shape == parameter.shape
        torch.testing.assert_close(found[local], expected[local], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["conv 1d", "conv 2d in groups", "conv 2d reflected", "conv 3d"])
def test_columns_at_few_positions_give_what_they_give_among_zeros(name, signed):
    layer, x, A, _, signs = columns(*LAYERS[name])
    signs = signs if signed else None
    flat = A.flatten(3)
    where = torch.rand(flat.shape[1:]).argsort(-1)[..., :2]
    S = flat.gather(3, where.expand(K, *where.shape))
    whole = torch.zeros_like(flat).scatter_(3, where.expand(K, *where.shape), S).view(A.shape)
    rule = rule_for(layer)
    found = rule.contract_pooled(layer, x, S, where, signs)
    for local, value in rule.contract(layer, x, whole, None, signs).items():
        torch.testing.assert_close(found[local], value, rtol=1e-10, atol=1e-12)
