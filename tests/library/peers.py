"""The problems that BackPACK and curvlinops test themselves on, as cases of ours.

Both packages give the curvature of a module under a loss. Each case here is a kind of problem from
their lists, made small and written anew; `cases` has some more of these kinds. Left out is what is
no problem of ours: X in a dict, and a function with parameters but without a module.
"""

from __future__ import annotations

from itertools import cycle

import torch
import torch.nn.functional as F
from torch import nn

from tests.library.cases import CE, F64, MSE, Case, image, labels, lin, numbers, reading

BCE = nn.BCEWithLogitsLoss
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONV_OPTIONS = {
    "plain": {},
    "strided and dilated": {"stride": 2, "dilation": 2},
    "strided and padded": {"stride": 2, "padding": 1},
    "strided, padded and dilated": {"stride": 4, "padding": 2, "dilation": 3},
    "without bias": {"stride": 4, "padding": 2, "bias": False},
    "in groups": {"groups": 2},
}
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MAX_OPTIONS = {
    "overlapping": {"stride": 1},
    "dilated": {"stride": 1, "dilation": 2},
    "dilated and cut off": {"stride": 2, "dilation": 2, "ceil_mode": True},
}
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
AVERAGE_OPTIONS = {
    "overlapping": {"stride": 1},
    "padded and cut off": {"stride": 2, "padding": 1, "ceil_mode": True},
    "padded, of what is inside": {"padding": 1, "count_include_pad": False},
}
ADAPTIVE_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.LogSigmoid, nn.ELU, nn.SELU)

#: X without its rows, by the number of its dimensions.
SHAPES = ((2, 8), (2, 5, 4), (2, 4, 4, 4))
SMALL_SHAPES = ((2, 4), (2, 3, 2), (2, 2, 3, 2))


def of_shape(*x):
    return lambda *y: lambda: (torch.randn(x, dtype=F64), torch.randn(y, dtype=F64))


def soft(*x):
    """Targets between 0 and 1."""
    return lambda *y: lambda: (torch.randn(x, dtype=F64), torch.rand(y, dtype=F64))


def classed(*x, classes):
    return lambda *y: lambda: (torch.randn(x, dtype=F64), torch.randint(0, classes, y))


def words(*x, kinds, classes):
    return lambda *y: lambda: (torch.randint(0, kinds, x), torch.randint(0, classes, y))


def part(kind, *sizes, **options):
    """Build a layer."""
    return lambda: kind(*sizes, **options)


def chain(*parts):
    """Build a chain of what the parts build."""
    return lambda: nn.Sequential(*(build() for build in parts))


def does(function):
    """Build a layer without parameters."""
    return reading(lambda s, x: function(x))


def beside(*parts):
    """Build a layer that adds x to what a chain of the parts makes of it."""
    return reading(lambda s, x: x + s.inner(x), inner=chain(*parts))


def residual_block(n_in, n_out, stride=1):
    """Build two convolutions with batch norm, and a shorter way beside them."""

    def normed(n_in, size, **options):
        return chain(part(nn.Conv2d, n_in, n_out, size, bias=False, **options), norm)

    norm = part(nn.BatchNorm2d, n_out)
    return reading(
        lambda s, x: F.relu(s.long(x) + s.short(x), inplace=True),
        long=chain(normed(n_in, 3, stride=stride, padding=1), nn.ReLU, normed(n_out, 1)),
        short=nn.Identity if n_in == n_out else normed(n_in, 1, stride=stride),
    )


def below_frozen(name, *parts, shape, reduction="mean"):
    """A case whose last Linear layer is not trained: three rows of two classes."""
    build, data = image(*parts, shape=shape, classes=2)

    def frozen():
        module = build()
        module[-1].requires_grad_(False)
        return module

    return Case(name, frozen, part(CE, reduction=reduction), data)


def convolutions():
    for kinds, shapes in ((CONVS, SHAPES), (TRANSPOSED, SMALL_SHAPES)):
        for kind, shape in zip(kinds, shapes, strict=True):
            for name, options in CONV_OPTIONS.items():
                yield below_frozen(
                    f"{kind.__name__}, {name}",
                    part(kind, 2, 2, 2, **options),
                    nn.ReLU,
                    shape=shape,
                    reduction="sum",
                )
    for bias in (True, False):
        for activation in ACTIVATIONS:
            yield below_frozen(
                f"{activation.__name__} {'with' if bias else 'without'} bias below",
                part(nn.Conv2d, 2, 2, 2, bias=bias),
                activation,
                shape=SHAPES[1],
            )


def pools():
    for conv, largest, average, adaptive, shape in zip(
        CONVS, MAX_POOLS, AVERAGE_POOLS, ADAPTIVE_POOLS, SHAPES, strict=True
    ):
        pools = {
            **{f"{largest.__name__}, {k}": part(largest, 2, **o) for k, o in MAX_OPTIONS.items()},
            **{
                f"{average.__name__}, {k}": part(average, 2, **o)
                for k, o in AVERAGE_OPTIONS.items()
            },
            adaptive.__name__: part(adaptive, 2),
        }
        for name, pool in pools.items():
            yield below_frozen(name, part(conv, 2, 2, 2), pool, shape=shape)
        yield Case(
            f"{adaptive.__name__} of a Linear layer",
            chain(part(nn.Linear, shape[-1], 4), part(adaptive, 2), nn.Flatten),
            MSE,
            of_shape(2, *shape)(2, 2 * 2 ** (len(shape) - 1)),
        )


def norms():
    for norm, shape in zip(NORMS, SMALL_SHAPES, strict=True):
        yield Case(
            f"nothing but {norm.__name__}",
            chain(part(norm, 2), nn.Flatten),
            MSE,
            of_shape(3, *shape)(3, torch.Size(shape).numel()),
        )
    norm = part(nn.BatchNorm3d, 2)
    yield Case(
        "batch norms around a Linear layer and above ReLU",
        chain(norm, lin(2, 3), norm, nn.ReLU, norm, nn.Flatten),
        MSE,
        of_shape(3, 2, 2, 1, 2)(3, 12),
    )


def linear_layers():
    two, with_relu, with_sigmoid = (
        chain(lin(4, 3), lin(3, 2)),
        chain(lin(4, 3), nn.ReLU, lin(3, 2)),
        chain(lin(4, 3), nn.Sigmoid, lin(3, 2)),
    )
    classes_second = does(lambda x: x.movedim(-1, 1))
    conv, channels_last = part(nn.Conv2d, 2, 2, 2, padding=1), does(lambda x: x.movedim(1, -1))
    x = (3, 2, 2, 4)
    reductions = cycle(("mean", "sum"))
    for name, build, loss, data in [
        ("one Linear layer", lin(4, 2), MSE, numbers(4, 4, 2)),
        ("one Linear layer under classes", lin(4, 3), CE, labels(4, 4)),
        ("Linear layers", two, MSE, numbers(4, 4, 2)),
        ("Linear layers to one number", chain(lin(4, 3), lin(3, 1)), MSE, numbers(4, 4, 1)),
        ("one row", two, CE, labels(1, 4, classes=2)),
        ("one row of shares", two, BCE, soft(1, 4)(1, 2)),
        ("a classifier", with_relu, CE, labels(5, 4, classes=2)),
        ("a regressor", with_sigmoid, MSE, numbers(5, 4, 2)),
        ("one share", chain(lin(4, 3), nn.ReLU, lin(3, 1)), BCE, soft(4, 4)(4, 1)),
        ("two shares", with_relu, BCE, soft(4, 4)(4, 2)),
        ("shares at positions", with_relu, BCE, soft(*x)(3, 2, 2, 2)),
        ("numbers at positions", with_sigmoid, MSE, of_shape(*x)(3, 2, 2, 2)),
        ("numbers of all positions", chain(two, nn.Flatten), MSE, of_shape(*x)(3, 8)),
        ("a class of all positions", chain(with_relu, nn.Flatten), CE, classed(*x, classes=8)(3)),
        (
            "a class at each position",
            chain(with_relu, classes_second),
            CE,
            classed(*x, classes=2)(3, 2, 2),
        ),
        (
            "positions as classes",
            chain(lin(4, 3), nn.ReLU, lin(3, 2, bias=False)),
            CE,
            classed(*x, classes=2)(3, 2, 2),
        ),
        (
            "the mean over positions",
            chain(two, does(lambda x: x.mean((1, 2)))),
            MSE,
            of_shape(*x)(3, 2),
        ),
        ("shares of pixels", chain(conv, channels_last, nn.Flatten), BCE, soft(2, 2, 2, 1)(2, 12)),
        ("numbers of pixels", chain(conv, channels_last), MSE, of_shape(2, 2, 2, 1)(2, 3, 2, 2)),
        (
            "the mean over pixels",
            chain(conv, part(nn.AdaptiveAvgPool2d, 1), nn.Flatten),
            CE,
            labels(3, 2, 2, 3, classes=2),
        ),
        (
            "down and up",
            chain(
                part(nn.Conv2d, 1, 2, 3, padding=1, stride=2),
                part(nn.Conv2d, 2, 2, 3, padding=1),
                part(nn.Upsample, scale_factor=2, mode="nearest"),
                part(nn.Conv2d, 2, 3, 3, padding=1),
            ),
            CE,
            classed(2, 1, 4, 2, classes=3)(2, 4, 2),
        ),
        (
            "one weight in two layers, one without bias",
            with_one_weight,
            MSE,
            numbers(4, 6, 6),
        ),
        (
            "one layer on both halves",
            reading(lambda s, x: torch.cat([s.a(h) for h in x.split(3, 1)], 1), a=lin(3, 3)),
            MSE,
            numbers(4, 6, 6),
        ),
    ]:
        yield Case(name, build, part(loss, reduction=next(reductions)), data)


def with_one_weight():
    module = reading(
        lambda s, x: torch.cat([s.a(x[:, :3]), s.b(x[:, 3:])], 1),
        a=lin(3, 3),
        b=lin(3, 3, bias=False),
    )()
    module.b.weight = module.a.weight
    return module


def images():
    def conv(*sizes, **options):
        return part(nn.Conv2d, *sizes, **options)

    for name, parts, shape in [
        (
            "padded between convolutions",
            [conv(2, 2, 2), does(lambda x: F.pad(x, (1, 1, 0, 2))), conv(2, 2, 3, stride=2)],
            (2, 4, 4),
        ),
        (
            "channels of ones beside others",
            [
                conv(2, 2, 3, padding=1),
                nn.ReLU,
                does(lambda x: F.pad(x, (1, 1, 2, 0, 1, 2), value=1.0)),
                conv(5, 1, 2, stride=2),
                nn.ReLU,
            ],
            (2, 3, 3),
        ),
        (
            "a channel that is cut",
            [conv(2, 2, 2, padding=1), does(lambda x: x[:, 0, ::2, :2]), nn.ReLU],
            (2, 4, 5),
        ),
        (
            "cut before and after ReLU",
            [
                conv(2, 2, 2, padding=1),
                does(lambda x: x[:, :, 2]),
                nn.ReLU,
                does(lambda x: x[:, 1]),
            ],
            (2, 4, 5),
        ),
        (
            "convolutions and pools",
            [
                *(conv(1, 2, 3), nn.ReLU, part(nn.MaxPool2d, 2)),
                *(conv(2, 2, 2), nn.ReLU, part(nn.MaxPool2d, 2)),
            ],
            (1, 8, 8),
        ),
        (
            "dropout between convolutions",
            [conv(1, 2, 2), part(nn.Dropout2d, 0.5), nn.Tanh, conv(2, 2, 2), nn.Dropout],
            (1, 4, 4),
        ),
        (
            "a branch of convolutions",
            [
                conv(1, 2, 3, padding=1),
                nn.ReLU,
                beside(conv(2, 3, 3, padding=1), nn.ReLU, conv(3, 2, 1)),
                part(nn.MaxPool2d, 3, stride=2),
            ],
            (1, 5, 5),
        ),
        (
            "a branch within a branch",
            [
                conv(1, 2, 2),
                nn.ReLU,
                beside(
                    *(conv(2, 3, 1), nn.Sigmoid, conv(3, 2, 1)),
                    beside(conv(2, 2, 3, padding=1), nn.ReLU, conv(2, 2, 1)),
                ),
                part(nn.MaxPool2d, 3, stride=2),
            ],
            (1, 6, 6),
        ),
        (
            "residual blocks",
            [
                conv(1, 2, 3, stride=2, padding=1, bias=False),
                *(part(nn.BatchNorm2d, 2), nn.ReLU, part(nn.MaxPool2d, 3, stride=1, padding=1)),
                *(residual_block(2, 2), residual_block(2, 1, stride=2)),
                part(nn.AdaptiveAvgPool2d, 1),
            ],
            (1, 5, 5),
        ),
    ]:
        yield below_frozen(name, *parts, shape=shape)


def functions():
    """Networks that are more than a chain."""
    permuted = chain(
        lin(3, 2), does(lambda x: x.permute(0, 2, 1)), lin(4, 2), does(lambda x: x.transpose(1, 2))
    )
    for name, build, loss, data in [
        (
            "a branch of one layer",
            chain(lin(4, 3), nn.ReLU, beside(lin(3, 3)), nn.Sigmoid, lin(3, 3)),
            CE,
            labels(4, 4),
        ),
        (
            "a tenth of a network beside x",
            reading(
                lambda s, x: x + 0.1 * s.inner(x),
                inner=chain(lin(2, 4), nn.Tanh, lin(4, 4), nn.Tanh, lin(4, 2)),
            ),
            MSE,
            numbers(1, 2, 2),
        ),
        (
            "one activation in three places",
            reading(lambda s, x: s.f(s.b(s.f(s.a(s.f(x))))), a=lin(3, 3), b=lin(3, 2), f=nn.ReLU),
            MSE,
            numbers(5, 3, 2),
        ),
        (
            "flattened twice",
            reading(
                lambda s, x: s.b(torch.flatten(s.a(x), 2)).flatten(1), a=lin(3, 2), b=lin(4, 2)
            ),
            MSE,
            of_shape(3, 2, 2, 3)(3, 4),
        ),
        (
            "scaled everywhere",
            reading(lambda s, x: (0.5 * s.a(2.5 * x)).multiply(3.0), a=lin(4, 3)),
            MSE,
            numbers(3, 4, 3),
        ),
        (
            "added twice",
            reading(
                lambda s, x: (lambda h: torch.relu(s.b(h) + s.c(h)).add(s.c(h)))(s.a(x)),
                a=lin(3, 3),
                b=lin(3, 2),
                c=lin(3, 2),
            ),
            MSE,
            numbers(4, 3, 2),
        ),
        ("permuted and back", permuted, CE, classed(3, 4, 3, classes=2)(3, 2)),
        (
            "a layer that is not used",
            reading(lambda s, x: s.a(x), a=lin(3, 2), b=lin(3, 2)),
            MSE,
            numbers(4, 3, 2),
        ),
        (
            "no way for derivatives through a layer",
            reading(
                lambda s, x: s.b(torch.tanh(s.a(x)) + x.sign() * s.c(x).round()),
                a=lin(3, 3),
                b=lin(3, 2),
                c=lin(3, 3),
            ),
            MSE,
            numbers(4, 3, 2),
        ),
        (
            "functions of parameters",
            reading(
                lambda s, x: F.linear(F.relu(F.linear(x, s.u, s.v)), s.w),
                **{
                    "u": lambda: torch.randn(3, 4),
                    "v": lambda: torch.randn(3),
                    "w": lambda: torch.randn(2, 3),
                },
            ),
            MSE,
            numbers(4, 4, 2),
        ),
    ]:
        yield Case(name, build, loss, data)


def sequences():
    rnn, lstm = part(nn.RNN, 3, 2, batch_first=True), part(nn.LSTM, 2, 2, batch_first=True)

    def letters(kind):
        """Build a network for the next letter, of whose two layers' biases one is not trained."""

        def made():
            layers = kind(1, 1, num_layers=2, dropout=0.3, batch_first=True)
            layers.bias_ih_l0.requires_grad_(False)
            layers.bias_ih_l1.requires_grad_(False)
            return layers

        return reading(
            lambda s, x: s.o(s.d(s.a(s.d(s.e(x)))[0])).permute(0, 2, 1),
            e=part(nn.Embedding, 4, 1),
            d=part(nn.Dropout, 0.2),
            a=made,
            o=lin(1, 4),
        )

    for name, build, loss, data in [
        (
            "one word",
            chain(part(nn.Embedding, 5, 2), lin(2, 3)),
            CE,
            words(6, kinds=5, classes=3)(6),
        ),
        (
            "a table of words",
            chain(part(nn.Embedding, 3, 2), nn.Flatten),
            CE,
            words(3, 2, 2, kinds=3, classes=8)(3),
        ),
        (
            "numbers of all steps",
            reading(lambda s, x: s.a(x)[0].permute(0, 2, 1).flatten(1), a=rnn),
            MSE,
            of_shape(3, 4, 3)(3, 8),
        ),
        (
            "a class of all steps",
            reading(lambda s, x: s.a(x)[0].flatten(1), a=lstm),
            CE,
            classed(3, 3, 2, classes=6)(3),
        ),
        (
            "a class at each step",
            reading(lambda s, x: s.o(s.a(x)[0]).mT, a=rnn, o=lin(2, 3)),
            CE,
            classed(3, 4, 3, classes=3)(3, 4),
        ),
        (
            "the last state",
            reading(lambda s, x: s.o(s.a(x)[1][0][-1]), a=lstm, o=lin(2, 3)),
            CE,
            labels(3, 2, 2),
        ),
        ("the next letter by LSTM", letters(nn.LSTM), CE, words(3, 3, kinds=4, classes=4)(3, 3)),
        ("the next letter by RNN", letters(nn.RNN), CE, words(3, 3, kinds=4, classes=4)(3, 3)),
    ]:
        yield Case(name, build, loss, data)


PEERS = [
    case
    for group in (convolutions, pools, norms, linear_layers, images, functions, sequences)
    for case in group()
]
