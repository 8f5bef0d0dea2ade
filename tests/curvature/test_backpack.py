"""Agreement with BackPACK's exact diagonals, where it supports the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature import diagonal
from tests.curvature.comparison import error
from tests.library.modules import mlp, tanh_mlp

pytest.importorskip("backpack")
F64 = torch.float64


def backpack_diagonal(module, criterion, X, y, method):
    from backpack import backpack, extend
    from backpack.extensions import DiagGGNExact, DiagHessian

    module, criterion = extend(module), extend(criterion)
    extension, attribute = {
        "ggn": (DiagGGNExact(), "diag_ggn_exact"),
        "hessian": (DiagHessian(), "diag_h"),
    }[method]
    with backpack(extension):
        criterion(module(X), y).backward()
    return {name: getattr(p, attribute) for name, p in module.named_parameters()}


NETS = {
    "relu": (lambda: mlp(4, 6, 5, 3, activation=nn.ReLU), (4,)),
    "tanh": (lambda: tanh_mlp(4, 6, 5, 3), (4,)),
    "sigmoid": (lambda: mlp(4, 6, 5, 3, activation=nn.Sigmoid), (4,)),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1),
            nn.Sigmoid(),
            nn.Conv2d(2, 2, 2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(18, 3),
        ),
        (1, 4, 4),
    ),
    "pooled conv": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
        ),
        (1, 6, 6),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["ggn", "hessian"])
@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize("net", NETS)
def test_agrees_with_backpack(net, loss, method):
    build, shape = NETS[net]
    torch.manual_seed(0)
    module, X = build().to(F64), torch.randn(6, *shape, dtype=F64)
    criterion = nn.CrossEntropyLoss() if loss == "ce" else nn.MSELoss()
    y = torch.arange(6) % 3 if loss == "ce" else torch.randn(6, 3, dtype=F64)
    got = diagonal(module, criterion, X, y, method=method)
    assert error(got, backpack_diagonal(module, criterion, X, y, method)) <= 1e-10
