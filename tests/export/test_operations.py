"""Torch's operations in NumPy give what torch gives."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sk_obd.export.numpy_file import source_of

SPATIAL = {
    "conv1d": lambda x: F.conv1d(x[:, :, 0], W["1d"], W["b"], 2, 1, 2),
    "conv2d": lambda x: F.conv2d(x, W["2d"], W["b"], (2, 1), (1, 2), (1, 2)),
    "conv2d same": lambda x: F.conv2d(x, W["2d"], W["b"], padding="same"),
    "conv2d in groups": lambda x: F.conv2d(x, W["grouped"], None, groups=2),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_pool2d dilated": lambda x: F.max_pool2d(x, (2, 3), dilation=(2, 1)),
    "max_pool1d": lambda x: F.max_pool1d(x[:, :, 0], 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool2d ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg_pool2d ceil padded": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg_pool2d divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "avg_pool1d": lambda x: F.avg_pool1d(x[:, :, 0], 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "global mean": lambda x: x.mean((2, 3)) + x.sum(dim=(2, 3)),
}


POINTWISE = {
    name: getattr(F, name)
    for name in (
        "relu",
        "relu6",
        "hardtanh",
        "tanh",
        "sigmoid",
        "logsigmoid",
        "gelu",
        "silu",
        "mish",
        "softplus",
        "softsign",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "hardsigmoid",
        "hardswish",
    )
} | {
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu of 2": lambda x: F.elu(x, 2.0),
    "celu of 2": lambda x: F.celu(x, 2.0),
    "prelu": lambda x: F.prelu(x, W["b"]),
    "arithmetic": lambda x: (2 - x) * x / 3 + x**2 - torch.exp(-x.square()) + abs(x).sqrt(),
    "clamp": lambda x: x.clamp(-0.3, 0.4).clamp(min=-0.1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "shapes": lambda x: torch.cat([x.permute(0, 2, 3, 1).transpose(1, 3).mT, x.abs()], 1)[:, 1:5:2],
    "views": lambda x: x.view(x.shape[0], -1).unflatten(1, (5, -1)).unsqueeze(1).squeeze(1),
    "batch_norm": lambda x: F.batch_norm(x, W["b"], W["b"] ** 2, W["b"], None),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "index": lambda x: torch.stack([x.index_select(1, W["i"]), x[:, W["i"]]], 1).select(1, 0),
}


draw = torch.Generator().manual_seed(0)


W = {
    "1d": torch.randn(4, 4, 3, generator=draw, dtype=torch.float64),
    "2d": torch.randn(4, 4, 3, 2, generator=draw, dtype=torch.float64),
    "grouped": torch.randn(6, 2, 3, 3, generator=draw, dtype=torch.float64),
    "b": torch.randn(4, generator=draw, dtype=torch.float64),
    "i": torch.tensor([2, 0]),
}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, X):
        return self.function(X)


@pytest.mark.parametrize("name", [*SPATIAL, *POINTWISE])
def test_an_operation_in_numpy_is_torchs(name):
    """Through the program and the source that is written, as in an exported file."""
    function = Function((SPATIAL | POINTWISE)[name])
    X = torch.randn(3, 4, 9, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = {0: torch.export.Dim("n_rows")}
    program = torch.export.export(function, (X,), dynamic_shapes=(rows,))
    namespace = {}
    exec(source_of(program), namespace)
    found = namespace["network"](X.numpy())
    np.testing.assert_allclose(found, function(X).numpy(), rtol=1e-12, atol=1e-12)
