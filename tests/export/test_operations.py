"""Torch's operations in NumPy give what torch gives."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sk_obd.export.numpy_file import source_of
from tests.library.marks import slow_but

MODES = ("reflect", "replicate", "circular")

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


def changed_in_place(x):
    x = x.clone()
    before = x * 1
    x.mul_(2)[:, 1] += 1
    return x + before


#: What the type of the result hangs on, and what torch takes apart.
POINTWISE |= {
    "changed in place": changed_in_place,
    "integers divided": lambda x: x.long() / 2 + (x > 0).sum(1, keepdim=True) / 3,
    "integers times a float": lambda x: (x > 0).long() * 0.5,
    "a number in float64": lambda x: x.float() * torch.tensor(0.5, dtype=torch.float64),
    "another type": lambda x: x.to("cpu", torch.float32) + x.mean(1, dtype=torch.float32)[:, None],
    "rounded down": lambda x: x // 2 + x % 2 + torch.div(x, 3, rounding_mode="trunc"),
    "spreads": lambda x: (
        x.var() + x.std(1, unbiased=False, keepdim=True) + torch.var_mean(x, 2)[0][:, :, None]
    ),
    "parts": lambda x: torch.cat([*x.split([1, 3], 1), *x.chunk(3, 1), *x.tensor_split(2, 1)], 1),
    "larger ones": lambda x: torch.max(x, x.flip(1)) + torch.min(x, -x) + x.max(),
    "one of several": lambda x: F.one_hot((x > 0).long(), 2).to(x.dtype),
    "scattered": lambda x: torch.zeros_like(x).scatter(1, x.argsort(1), x),
    "sets": lambda x: torch.cdist(x.flatten(2), x.flatten(2)[:, :2]),
    "patches": lambda x: F.fold(F.unfold(x, 2), (9, 10), 2),
    "areas": lambda x: F.interpolate(x, (3, 4), mode="area"),
    "cubic": lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"),
    "local response": lambda x: F.local_response_norm(x, 2),
    "similar": lambda x: F.cosine_similarity(x, x.flip(1), 1),
    "set where": lambda x: x.clone().masked_fill_(x > 0, 1.0),
    "glu": lambda x: F.glu(x, 1),
}


#: With layers of torch, and by what torch takes others apart into. "time": on rows (n, 6, 8).
LAYERS = {
    **{f"padded {m}": lambda m=m: nn.Conv2d(4, 3, 3, padding=1, padding_mode=m) for m in MODES},
    "zeros around": lambda: nn.ZeroPad2d(2),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "instance norm of all rows": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "root mean square": lambda: nn.RMSNorm(10),
    "local response": lambda: nn.LocalResponseNorm(2),
    "transposed": lambda: nn.ConvTranspose2d(4, 3, (3, 2), (2, 3), (1, 0), (1, 2), dilation=(2, 1)),
    "transposed in groups": lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False),
    "power pool": lambda: nn.LPPool2d(2, 2),
    "stretched": lambda: nn.Upsample(scale_factor=2),
    "stretched to a size": lambda: nn.Upsample(size=(7, 13)),
    "pixels": lambda: nn.PixelShuffle(2),
    "channels": lambda: nn.ChannelShuffle(2),
    "gated": lambda: nn.GLU(1),
    **{
        kind.__name__: kind
        for kind in (nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.RReLU, nn.Softmax2d)
    },
    "softmin": lambda: nn.Softmin(1),
    "threshold": lambda: nn.Threshold(0.1, 20.0),
    "time transposed": lambda: nn.ConvTranspose1d(6, 4, 3, 2, 1, 1, groups=2),
    "time max": lambda: nn.AdaptiveMaxPool1d(3),
    "time dilated": lambda: nn.MaxPool1d(2, dilation=2),
    "time LSTM": lambda: nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True),
    "time GRU": lambda: nn.GRU(8, 5, batch_first=True),
    "time RNN": lambda: nn.RNN(8, 5, batch_first=True),
    "time attention": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "time attention, norms first": lambda: nn.TransformerEncoderLayer(
        8, 2, 16, activation="gelu", batch_first=True, norm_first=True
    ),
    "volume": lambda: nn.Sequential(
        nn.Unflatten(3, (2, 5)), nn.ConvTranspose3d(4, 2, 2, 2), nn.MaxPool3d(2), nn.AvgPool3d(2, 1)
    ),
    "volume, adaptive": lambda: nn.Sequential(nn.Unflatten(3, (2, 5)), nn.AdaptiveAvgPool3d(2)),
}

FUNCTIONS = {
    "pad": lambda x: F.pad(x, (1, 2, -1, 3)) + F.pad(x, (0, 3, 1, 1), value=3.0),
    **{f"pad {mode}": lambda x, m=mode: F.pad(x, (1, 2, 3, 1), mode=m) for mode in MODES},
    "split": lambda x: torch.cat(x.split(2, 1)[::-1], 1) + torch.cat(x.split([1, 3], 1), 1),
    "chunk": lambda x: x.chunk(3, 1)[0] + sum(x.unbind(1)).unsqueeze(1),
    "products": lambda x: torch.einsum("ncij,nckj->ncik", x, x) + x @ x.mT,
    "batches": lambda x: torch.baddbmm(x[:, 0] @ x[:, 1].mT, x[:, 0], x[:, 1].mT),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, (x @ x.mT) > 0.0),
    "where": lambda x: torch.where(x > 0, x, -x) + x.masked_fill(x < 0, 2.0) * (x <= 1),
    "comparisons": lambda x: x * ((x >= 0) & (x != 1)) + x * ~(x == 2) * (x > 0).any(1, True),
    "extremes": lambda x: x.max(1).values + x.amax(1) + x.min(dim=1)[0] + x.amin((1,)),
    "larger": lambda x: torch.maximum(x, 2 * x) + torch.max(x, -x) + torch.min(x, -x),
    "norms": lambda x: F.normalize(x, dim=1) + x.norm(dim=1, keepdim=True),
    "spread": lambda x: x.var(1) + x.std(1) + x.var((1, 2), unbiased=False).sum(),
    "cosine": lambda x: F.cosine_similarity(x, x * 2 + 1, 1) + x.logsumexp(1) + x.prod(1),
    "trigonometry": lambda x: x.sin() + x.cos() + x.sinh() + x.cosh() + x.atan() + x.tan(),
    "logarithms": lambda x: x.abs().log1p() + x.expm1() + (x.abs() + 1).rsqrt() + x.erf(),
    "whole numbers": lambda x: x.floor() + x.ceil() + x.round() + x.sign() + x // 2 + x % 2,
    "order": lambda x: x.cumsum(1) + x.flip((1, 2)) + x.roll(1, 2) + x.sort(1)[0],
    "largest": lambda x: x.topk(2, 1)[0] + x.gather(1, (x[:, :2] > 0).long()),
    "copies": lambda x: x[:, :1].expand(-1, 4, -1, -1) + x.tile((1, 1, 1, 1)),
    "one_hot": lambda x: F.one_hot((x > 0).long(), 2).double() + (x > 0).double()[..., None],
    "constants": lambda x: torch.cat([x + torch.arange(10), torch.zeros_like(x)], 1),
    "lower triangle": lambda x: x.mT @ torch.tril(torch.ones(9, 9, dtype=torch.float64)),
    "sizes": lambda x: x.reshape(x.shape[0] * 4, -1).reshape(x.shape[0], -1).swapaxes(0, 1).T,
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


def in_numpy(module, X):
    """What the program that is written gives, for all rows and for one."""
    X = X.clone()
    rows = {0: torch.export.Dim("n_rows")}
    program = torch.export.export(module, (X,), dynamic_shapes=(rows,))
    namespace = {}
    exec(source_of(program), namespace)
    return namespace["network"](X.numpy()), namespace["network"](X[:1].numpy())


NAMES = [*SPATIAL, *POINTWISE, *FUNCTIONS, *LAYERS]


@pytest.mark.parametrize("name", slow_but(NAMES[::4], NAMES))
def test_an_operation_in_numpy_is_torchs(name):
    """Through the program and the source that is written, as in an exported file."""
    torch.manual_seed(0)
    X = torch.randn(3, 4, 9, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if name in LAYERS:
        layer = LAYERS[name]().double().eval()
        module = Function(lambda x: x[0] if isinstance(x := layer(x), tuple) else x)
        module.layer = layer
        X = X[:, 0].reshape(3, -1)[:, :48].reshape(3, 6, 8) if name.startswith("time") else X
    else:
        module = Function((SPATIAL | POINTWISE | FUNCTIONS)[name])
    with torch.no_grad():
        expected = module(X.clone()).numpy(), module(X[:1].clone()).numpy()
    for found, given in zip(in_numpy(module, X), expected, strict=True):
        assert found.dtype == given.dtype
        tolerance = 1e-11 if given.dtype == np.float64 else 1e-6
        np.testing.assert_allclose(found, given, rtol=tolerance, atol=tolerance)
