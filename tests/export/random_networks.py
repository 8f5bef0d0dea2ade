"""Random networks of many kinds of layers and functions, pruned at random, by a seed.

A network is a chain of steps, each of which takes (n, ...) to (n, ...), any number n of rows. Steps
are drawn from those for vectors (n, d), sequences (n, t, d), images (n, c, h, w) and volumes
(n, c, d, h, w); a last Linear layer gives the outputs.
"""

from __future__ import annotations

import random
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from tests.library.networks import prune

#: A row of what a step returns has at most so many numbers, and at least one.
MOST_NUMBERS = 400

ACTIVATIONS = {
    **{
        name: getattr(nn, name)
        for name in (
            *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish"),
            *("Softplus", "Softsign", "Sigmoid", "Tanh", "Tanhshrink", "Hardtanh", "Hardsigmoid"),
            *("Hardswish", "Hardshrink", "Softshrink", "LogSigmoid", "RReLU"),
        )
    },
    "GELU by tanh": lambda: nn.GELU("tanh"),
    "Threshold": lambda: nn.Threshold(0.1, -0.3),
    "Softplus of 2": lambda: nn.Softplus(2, 1.5),
    "ReLU in place": lambda: nn.ReLU(inplace=True),
    "Softmax": lambda: nn.Softmax(-1),
    "Softmin": lambda: nn.Softmin(-1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
    "Dropout": nn.Dropout,
    "AlphaDropout": nn.AlphaDropout,
    "Identity": nn.Identity,
}


class Step(nn.Module):
    """A function of some layers."""

    def __init__(self, name, function, *layers, **parameters):
        super().__init__()
        self.name, self.layers = name, nn.ModuleList(layers)
        self.__dict__["function"] = function
        for key, value in parameters.items():
            self.register_parameter(key, nn.Parameter(value))

    def forward(self, x):
        return self.function(self, x)

    def extra_repr(self):
        return self.name


# -- of any shape ----------------------------------------------------------------------------------


def activation(rng, shape):
    name = rng.choice(list(ACTIVATIONS))
    return ACTIVATIONS[name]()


FUNCTIONS = {
    "mul add": lambda x: 2 * x + x * 0.5,
    "sub div": lambda x: (1 - x) / 3 - x,
    "pow": lambda x: x**2 + x.tanh().pow(3),
    "pow of 2": lambda x: 2 ** x.tanh(),
    "sqrt": lambda x: (x.abs() + 0.1).sqrt(),
    "rsqrt": lambda x: torch.rsqrt(x.square() + 0.1),
    "reciprocal": lambda x: torch.reciprocal(1 + x.abs()),
    "exp": lambda x: torch.exp(-x.abs()),
    "log": lambda x: torch.log(1 + x * x) + torch.log1p(x.abs()),
    "expm1": lambda x: torch.expm1(-x.square()),
    "clamp": lambda x: x.clamp(-0.5, 0.7).clamp(max=0.6).clamp_min(-0.4),
    "sin": lambda x: torch.sin(x) + torch.cos(2 * x),
    "atan": lambda x: torch.atan(x) + torch.sinh(x.tanh()),
    "erf": lambda x: torch.erf(x),
    "where": lambda x: torch.where(x > 0, x, 0.2 * x),
    "masked": lambda x: x.masked_fill(x < -0.5, 0.0),
    "logical": lambda x: x * ((x > -1) & (x <= 1)),
    "maximum": lambda x: torch.maximum(x, -x / 2) + torch.minimum(x, x.new_zeros(())),
    "lerp": lambda x: torch.lerp(x, x.tanh(), 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x.tanh(), value=0.3),
    "norm": lambda x: F.normalize(x, dim=-1),
    "standardised": lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.5),
    "var": lambda x: x + x.var(dim=1, keepdim=True, correction=0),
    "logsumexp": lambda x: x - x.logsumexp(1, keepdim=True),
    "amax": lambda x: x - x.amax(1, keepdim=True) / 2,
    "max": lambda x: x + x.max(1, keepdim=True).values,
    "min": lambda x: x + x.min(dim=-1, keepdim=True)[0],
    "sum": lambda x: x + 0.1 * x.sum(1, keepdim=True) + x.new_ones(x.shape[1:]).mean(),
    "cumsum": lambda x: 0.3 * x.cumsum(1),
    "flip": lambda x: x.flip(1),
    "roll": lambda x: torch.roll(x, 1, 1),
    "cat": lambda x: torch.cat([x, x.abs()], -1),
    "stack": lambda x: torch.stack([x, x.tanh()], 2).sum(2),
    "chunk": lambda x: torch.add(*(torch.cat([x, x * x], 1).chunk(2, 1))),
    "split": lambda x: torch.cat([part.tanh() for part in x.split(2, dim=1)], 1),
    "sizes": lambda x: torch.cat(x.split([1, x.shape[1] - 1], 1)[::-1], 1),
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "slice": lambda x: x[:, :-1] + x[:, 1:] if x.shape[1] > 1 else x,
    "steps": lambda x: x[:, ::2],
    "index": lambda x: x[:, [0, -1, 0]],
    "select": lambda x: x - x[:, :1] + x.select(1, -1).unsqueeze(1),
    "repeat": lambda x: x.repeat_interleave(2, dim=1) if x.shape[1] < 4 else x,
    "tile": lambda x: torch.cat([x, x[:, :1].expand_as(x)], 1),
    "pad": lambda x: F.pad(x, (1, 2), value=0.3),
    "pad less": lambda x: F.pad(x, (-1, 1)) if x.shape[-1] > 2 else x,
    "glu": lambda x: F.glu(torch.cat([x, x.tanh()], 1), 1),
    "topk": lambda x: x.topk(1, dim=1).values + x,
    "sorted": lambda x: x.sort(dim=1).values,
    "all": lambda x: x + (x > -9).all(1, keepdim=True) + (x > 9).any(1, keepdim=True),
    "prod": lambda x: x + x.tanh().prod(1, keepdim=True),
    "outer": lambda x: torch.einsum("ni...,nj...->nij...", x, x).flatten(1, 2),
    "sign": lambda x: x.sign() * x.abs().add(0.2),
    "round": lambda x: x + 0.1 * (x - torch.floor(x)),
    "in place": lambda x: x.clone().mul_(2).add_(1),
    "assigned": lambda x: assigned(x),
    "numbers": lambda x: x + torch.arange(x.shape[1], dtype=x.dtype).view(-1, *[1] * (x.ndim - 2)),
    "tril": lambda x: x * torch.ones(x.shape[1:]).tril() if x.ndim == 3 else x,
    "softmax": lambda x: x.softmax(dim=1) * x,
}


def assigned(x):
    x = x.clone()
    x[:, 0] = x[:, -1] * 2
    return x


def function(rng, shape):
    name = rng.choice(list(FUNCTIONS))
    return Step(name, lambda s, x: FUNCTIONS[name](x))


def layer_norm(rng, shape):
    kind = rng.choice((nn.LayerNorm, nn.RMSNorm))
    size = shape if rng.random() < 0.3 else shape[-1:]
    if kind is nn.LayerNorm:
        return nn.LayerNorm(size, elementwise_affine=rng.random() < 0.8, bias=rng.random() < 0.7)
    return nn.RMSNorm(size, eps=rng.choice((None, 1e-3)), elementwise_affine=rng.random() < 0.7)


def channel_norm(rng, shape):
    """BatchNorm, InstanceNorm or GroupNorm over dimension 1."""
    c, affine = shape[0], rng.random() < 0.7
    kinds = [lambda: nn.GroupNorm(groups(rng, c), c, affine=affine)]
    if len(shape) < 4:
        Batch = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[len(shape) - 1]
        kinds += [lambda: Batch(c, affine=affine)] * 2
    else:
        kinds += [lambda: nn.BatchNorm3d(c, affine=affine)]
    if len(shape) > 1:
        Instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[len(shape) - 2]
        kinds += [
            lambda: Instance(c, affine=affine),
            lambda: Instance(c, affine=affine, track_running_stats=True),
        ]
    return rng.choice(kinds)()


def groups(rng, *channels):
    """A divisor of all these numbers."""
    return rng.choice([g for g in range(1, 5) if all(c % g == 0 for c in channels)])


def dense(rng, shape):
    layer = nn.Linear(shape[-1], rng.randint(2, 6), bias=rng.random() < 0.8)
    if rng.random() < 0.5:
        return layer
    return nn.Sequential(layer, activation(rng, shape))


def residual(rng, shape):
    inner = nn.Sequential(
        nn.Linear(shape[-1], 5), activation(rng, shape), nn.Linear(5, shape[-1], bias=False)
    )
    if rng.random() < 0.5:
        return Step("residual", lambda s, x: x + s.layers[0](x), inner)
    return Step("both", lambda s, x: torch.cat([x, s.layers[0](x)], -1), inner)


def product(rng, shape):
    d = shape[-1]
    how = {
        "matmul": lambda s, x: x @ s.w,
        "einsum": lambda s, x: torch.einsum("...i,ij->...j", x, s.w),
        "tensordot": lambda s, x: torch.tensordot(x, s.w, dims=1),
        "scaled": lambda s, x: x * s.w.sum(1) / s.w.square().mean(),
        "functional": lambda s, x: F.linear(x, s.w.T),
        "weighed": lambda s, x: F.linear(x, F.normalize(s.w.T, dim=1)),
    }
    name = rng.choice(list(how))
    return Step(name, how[name], w=torch.randn(d, d))


def gated(rng, shape):
    d = shape[-1]
    return Step(
        "gated",
        lambda s, x: s.layers[0](x) * torch.sigmoid(s.layers[1](x)),
        *(nn.Linear(d, 4), nn.Linear(d, 4)),
    )


def flat(rng, shape):
    how = {
        "flatten": lambda x: x.flatten(1),
        "reshape": lambda x: x.reshape(x.shape[0], -1),
        "view": lambda x: x.contiguous().view(x.size(0), -1),
    }
    name = rng.choice(list(how))
    return Step(name, lambda s, x: how[name](x)) if rng.random() < 0.7 else nn.Flatten()


def swapped(rng, shape):
    order = [*range(2, len(shape) + 1), 1]
    how = {
        "permute": lambda x: x.permute(0, *order),
        "transpose": lambda x: x.transpose(1, -1),
        "movedim": lambda x: x.movedim(-1, 1),
        "mT": lambda x: x.mT,
        "swapaxes": lambda x: x.swapaxes(1, 2),
    }
    name = rng.choice(list(how))
    return Step(name, lambda s, x: how[name](x))


def reduced(rng, shape):
    dim = rng.choice((1, -1))
    how = {
        "mean": lambda x: x.mean(dim),
        "sum": lambda x: torch.sum(x, dim),
        "max": lambda x: x.max(dim)[0],
        "amax": lambda x: x.amax(dim),
        "amin": lambda x: torch.amin(x, dim),
        "std": lambda x: x.std(dim, correction=0),
        "norm": lambda x: x.norm(dim=dim),
        "last": lambda x: x[:, -1],
        "first": lambda x: x[..., 0],
        "logsumexp": lambda x: torch.logsumexp(x, dim),
    }
    name = rng.choice(list(how))
    return Step(f"reduced by {name}", lambda s, x: how[name](x))


ANY = (activation, activation, function, function, function, layer_norm, channel_norm, dense)


# -- vectors ---------------------------------------------------------------------------------------


def unflattened(rng, shape):
    (d,) = shape
    a = rng.choice([a for a in range(1, d + 1) if d % a == 0])
    if rng.random() < 0.5:
        return nn.Unflatten(1, (a, d // a))
    return Step("view", lambda s, x: x.reshape(-1, a, d // a))


VECTORS = (*ANY, dense, dense, residual, product, gated, unflattened)


# -- convolutions and pools ------------------------------------------------------------------------


def each(rng, values, n):
    """A number, or one for each of n axes."""
    return rng.choice(values) if rng.random() < 0.5 else tuple(rng.choice(values) for _ in range(n))


def convolution(rng, shape):
    n, c = len(shape) - 1, shape[0]
    out = rng.choice((2, 4, 6))
    options = {
        "stride": each(rng, (1, 1, 2), n),
        "dilation": each(rng, (1, 1, 2), n),
        "padding": each(rng, (0, 1), n),
        "groups": groups(rng, c, out),
        "bias": rng.random() < 0.8,
        "padding_mode": rng.choice(("zeros", "zeros", "reflect", "replicate", "circular")),
    }
    if rng.random() < 0.25:
        options |= {"padding": rng.choice(("same", "valid")), "stride": 1}
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    return kind(c, out, each(rng, (1, 2, 3), n), **options)


def transposed_convolution(rng, shape):
    n, c = len(shape) - 1, shape[0]
    out = rng.choice((2, 4))
    stride, dilation = rng.choice((1, 2)), rng.choice((1, 1, 2))
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[n - 1]
    return kind(
        *(c, out, each(rng, (1, 2, 3), n)),
        stride=stride,
        dilation=dilation,
        padding=each(rng, (0, 1), n),
        output_padding=rng.randrange(max(stride, dilation)),
        groups=groups(rng, c, out),
        bias=rng.random() < 0.8,
    )


def pool(rng, shape):
    n = len(shape) - 1
    kernel = each(rng, (2, 3), n)
    options = {"padding": rng.choice((0, 1)), "ceil_mode": rng.random() < 0.4}
    if rng.random() < 0.6:
        options["stride"] = each(rng, (1, 2), n)
    if rng.random() < 0.5:
        kind = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[n - 1]
        return kind(kernel, dilation=rng.choice((1, 1, 2)), **options)
    kind = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[n - 1]
    options["count_include_pad"] = rng.random() < 0.5
    if n > 1 and rng.random() < 0.3:
        options["divisor_override"] = 3
    return kind(kernel, **options)


def adaptive_pool(rng, shape):
    n = len(shape) - 1
    kinds = (
        (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
        (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
        (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
    )
    return rng.choice(kinds[n - 1])(each(rng, (1, 2, 3), n))


def power_pool(rng, shape):
    kind = (nn.LPPool1d, nn.LPPool2d, nn.LPPool3d)[len(shape) - 2]
    return nn.Sequential(nn.Softplus(), kind(2, 2))


def padded(rng, shape):
    n = len(shape) - 1
    kinds = {
        1: (nn.ZeroPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d, nn.CircularPad1d),
        2: (nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d),
        3: (nn.ZeroPad3d, nn.ReflectionPad3d, nn.ReplicationPad3d, nn.CircularPad3d),
    }
    sides = rng.choice((1, tuple(rng.choice((0, 1)) for _ in range(2 * n))))
    if rng.random() < 0.2:
        return (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)[n - 1](sides, 0.7)
    return rng.choice(kinds[n])(sides)


def upsampled(rng, shape):
    n = len(shape) - 1
    smooth = ("linear", "bilinear", "trilinear")[n - 1]
    mode = rng.choice(("nearest", "nearest", "nearest-exact", smooth))
    options = {"align_corners": rng.random() < 0.5} if mode == smooth else {}
    if rng.random() < 0.5:
        return nn.Upsample(scale_factor=rng.choice((2.0, 1.5)), mode=mode, **options)
    size = [rng.randint(2, 6) for _ in range(n)]
    return Step("interpolate", lambda s, x: F.interpolate(x, size, mode=mode, **options))


def channel_dropout(rng, shape):
    return (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)[len(shape) - 2]()


def block(rng, shape):
    """A residual block of convolutions."""
    n, c = len(shape) - 1, shape[0]
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    mode = rng.choice(("zeros", "reflect", "circular"))
    inner = nn.Sequential(
        conv(c, 4, 3, padding=1, padding_mode=mode),
        activation(rng, shape),
        conv(4, c, 3, padding="same"),
    )
    return Step("residual", lambda s, x: torch.relu(x + s.layers[0](x)), inner)


SPATIAL = (
    *(convolution, convolution, convolution, transposed_convolution, pool, pool, adaptive_pool),
    *(power_pool, padded, upsampled, channel_dropout, block, channel_norm),
)


# -- sequences -------------------------------------------------------------------------------------


def recurrent(rng, shape):
    kind = rng.choice((nn.RNN, nn.GRU, nn.LSTM))
    options = {
        "num_layers": rng.choice((1, 1, 2)),
        "bidirectional": rng.random() < 0.3,
        "bias": rng.random() < 0.8,
    }
    if kind is nn.RNN:
        options["nonlinearity"] = rng.choice(("tanh", "relu"))
    if kind is nn.LSTM and rng.random() < 0.3:
        options["proj_size"] = 2
    size = rng.randint(3, 4)
    if rng.random() < 0.3:
        layer = kind(shape[-1], size, **options)
        return Step(
            f"{kind.__name__} time first",
            lambda s, x: s.layers[0](x.transpose(0, 1))[0].transpose(0, 1),
            layer,
        )
    layer = kind(shape[-1], size, batch_first=True, **options)
    if rng.random() < 0.3:

        def last(s, x):
            h = s.layers[0](x)[1]
            return (h[0] if isinstance(h, tuple) else h)[-1]

        return Step(f"last of {kind.__name__}", last, layer)
    return Step(kind.__name__, lambda s, x: s.layers[0](x)[0], layer)


def attention(rng, shape):
    t, d = shape
    heads, weights, masked = groups(rng, d), rng.random() < 0.4, rng.random() < 0.3
    layer = nn.MultiheadAttention(
        d, heads, batch_first=True, bias=rng.random() < 0.8, add_bias_kv=rng.random() < 0.2
    )

    def function(s, x):
        mask = torch.ones(t, t, dtype=torch.bool).triu(1) if masked else None
        return s.layers[0](x, x, x, need_weights=weights, attn_mask=mask)[0]

    return Step("attention", function, layer)


def plain_attention(rng, shape):
    d, causal = shape[-1], rng.random() < 0.4
    scale = rng.choice((None, 0.3))

    def function(s, x):
        q, k, v = (layer(x).unsqueeze(1) for layer in s.layers)
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).squeeze(1)

    return Step("plain attention", function, *(nn.Linear(d, d) for _ in range(3)))


def transformer(rng, shape):
    d = shape[-1]
    make = nn.TransformerEncoderLayer(
        *(d, groups(rng, d), 6),
        batch_first=True,
        norm_first=rng.random() < 0.5,
        activation=rng.choice(("relu", "gelu")),
    )
    if rng.random() < 0.5:
        return make
    return nn.TransformerEncoder(make, 2, enable_nested_tensor=False)


def gram(rng, shape):
    how = {
        "bmm": lambda x: torch.bmm(x, x.transpose(1, 2)),
        "matmul": lambda x: x @ x.mT,
        "einsum": lambda x: torch.einsum("nij,nkj->nik", x, x),
        "baddbmm": lambda x: torch.baddbmm(x @ x.mT, x, x.mT, alpha=0.5),
    }
    name = rng.choice(list(how))
    return Step(name, lambda s, x: how[name](x) * 0.3)


def image_of(rng, shape):
    return Step("unsqueeze", lambda s, x: x.unsqueeze(1))


SEQUENCES = (
    *(*ANY, *SPATIAL, residual, gated, product, recurrent, recurrent, recurrent, attention),
    *(attention, plain_attention, transformer, gram, swapped, reduced, flat, image_of),
)


# -- images and volumes ----------------------------------------------------------------------------


def shuffled(rng, shape):
    c = shape[0]
    g = groups(rng, c)
    if c % 4 == 0 and rng.random() < 0.5:
        return nn.PixelShuffle(2)
    if shape[1] % 2 == 0 and shape[2] % 2 == 0 and rng.random() < 0.5:
        return nn.PixelUnshuffle(2)

    def function(s, x):
        n, _, h, w = x.shape
        return x.view(n, g, c // g, h, w).transpose(1, 2).reshape(n, c, h, w)

    return Step("shuffled", function)


def as_sequence(rng, shape):
    return Step("tokens", lambda s, x: x.flatten(2).transpose(1, 2))


def global_pool(rng, shape):
    dims = list(range(2, len(shape) + 1))
    how = {
        "mean": lambda x: x.mean(dims),
        "sum": lambda x: x.sum(dim=dims),
        "amax": lambda x: x.amax(dims),
    }
    name = rng.choice(list(how))
    return Step(f"global {name}", lambda s, x: how[name](x))


IMAGES = (*ANY, *SPATIAL, *SPATIAL, shuffled, as_sequence, global_pool, flat, swapped, reduced)
VOLUMES = (*ANY, *SPATIAL, *SPATIAL, global_pool, flat, reduced)
STEPS = {1: VECTORS, 2: SEQUENCES, 3: IMAGES, 4: VOLUMES}


# -- networks --------------------------------------------------------------------------------------


def randomise(module):
    """Parameters that are not left at 0 or 1, and statistics."""
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] != "weight" or parameter.ndim == 1:
            nn.init.normal_(parameter, 0.3, 0.5)
    for layer in module.modules():
        if getattr(layer, "running_mean", None) is not None:
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)


def chain(rng, X):
    """Steps from X to a vector for each row; a step that X does not suit is drawn again."""
    steps, x = [], X
    if not X.is_floating_point():
        steps.append(nn.Embedding(7, rng.randint(3, 5), padding_idx=rng.choice((None, 0))))
        x = steps[0](x)
    for _ in range(rng.randint(1, 5)):
        for _ in range(20):
            try:
                step = rng.choice(STEPS[x.ndim - 1])(rng, tuple(x.shape[1:]))
                out = step.double().eval()(x.clone())
            except (RuntimeError, ValueError, AssertionError, IndexError, NotImplementedError):
                continue  # of kernels larger than the image, and the like
            fits = out.ndim in (2, 3, 4, 5) and len(out) == len(x) and out.isfinite().all()
            if fits and 0 < out[0].numel() <= MOST_NUMBERS and out.abs().max() < 1e3:
                steps.append(step)
                x = out
                break
    if x.ndim > 2:
        steps.append(flat(rng, tuple(x.shape[1:])))
    return steps, x.flatten(1).shape[1]


#: What a network's rows may be.
KINDS = ("vector", "sequence", "channels", "image", "image", "volume", "codes")


class Network:
    """A network in float64, its masks and rows, all drawn from a seed."""

    def __init__(self, seed, n_rows=6):
        rng = random.Random(seed)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            kind = rng.choice(
                ("vector", "sequence", "channels", "image", "image", "volume", "codes")
            )
            shape = {
                "vector": (rng.randint(3, 8),),
                "sequence": (rng.randint(3, 6), rng.choice((3, 4, 6))),
                "channels": (rng.choice((2, 3, 4)), rng.randint(5, 9)),
                "image": (rng.choice((1, 2, 3)), rng.randint(4, 8), rng.randint(4, 8)),
                "volume": (rng.choice((1, 2)), 4, 4, 3),
                "codes": (rng.randint(3, 6),),
            }[kind]
            size = (n_rows, *shape)
            self.X = torch.randint(7, size) if kind == "codes" else torch.randn(size).double()
            steps, width = chain(rng, self.X)
            self.module = nn.Sequential(*steps, nn.Linear(width, 3)).double().eval()
            randomise(self.module)
            self.masks = prune(self.module, rng.choice((0.2, 0.4, 0.7, 1.0)), seed)
            for name, parameter in self.module.named_parameters():
                if parameter.ndim > 1 and rng.random() < 0.5:
                    dead = torch.rand(len(parameter)) < rng.choice((0.2, 0.5))
                    self.masks[name][dead] = False
                    parameter[dead] = 0

    def __str__(self):
        return f"{self.module}, X of shape {tuple(self.X.shape)}"
