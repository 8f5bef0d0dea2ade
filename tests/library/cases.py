"""The shared list of networks and losses that every exact method is tested on, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tests.library.modules import (
    Attention,
    FirstState,
    Functional,
    Own,
    PerPosition,
    Recurrent,
    Residual,
    TiedAutoencoder,
    Twice,
    WordTransformer,
    mlp,
    tanh_mlp,
)

F64 = torch.float64


@dataclass
class Case:
    name: str
    build: Callable[[], nn.Module]
    criterion: Callable[[], object]
    data: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    outputs: str | None = None

    def make(self, dtype=F64):
        """(module, criterion, X, y), the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self.build()
            for norm in module.modules():
                if getattr(norm, "running_mean", None) is not None:
                    norm.running_mean.normal_()
                    norm.running_var.uniform_(0.5, 2)
            for parameter in module.parameters():
                if parameter.ndim == 1:
                    nn.init.normal_(
                        parameter, std=0.5
                    ) if parameter.detach().abs().max() == 0 else None
            X, y = self.data()
            criterion = self.criterion()
        module.to(dtype)
        if isinstance(criterion, nn.Module):
            criterion = criterion.to(dtype)
        cast = [t.to(dtype) if t.is_floating_point() else t for t in (X, y)]
        return module, criterion, *cast

    def judged(self):
        """(criterion, output, y): what the criterion is given in eval mode."""
        module, criterion, X, y = self.make()
        return criterion, module.eval()(X).detach(), y


def labels(n, *shape, classes=3):
    """Data for a classifier of ``classes``: X (n, *shape) and y."""

    def make():
        return torch.randn(n, *shape, dtype=F64), torch.arange(n) % classes

    return make


def numbers(n, inputs, *outputs, positive=False):
    def make():
        y = torch.randn(n, *outputs, dtype=F64)
        return torch.randn(n, inputs, dtype=F64), y.abs() + 0.1 if positive else y

    return make


def binary(n, inputs, k):
    def make():
        return torch.randn(n, inputs, dtype=F64), (torch.rand(n, k, dtype=F64) > 0.5).to(F64)

    return make


def tokens(n, length, classes=3, words=6):
    def make():
        return torch.randint(0, words, (n, length)), torch.arange(n) % classes

    return make


def tied_parameter():
    """Two layers that share one weight."""
    module = tanh_mlp(4, 4, 4, 3)
    module[2].weight = module[0].weight
    return module


def recurrent(kind, **options):
    """A small recurrent network of a kind of torch's."""
    return Recurrent(kind, 2, 3, 3, **options)


class FixedVariance(nn.Module):
    """A criterion of a user's own: the likelihood of Gaussians, each output with its variance."""

    reduction = "mean"

    def forward(self, output, target):
        variance = torch.tensor([0.5, 2.0], dtype=output.dtype)
        return F.gaussian_nll_loss(
            output, target, variance.expand_as(output), reduction=self.reduction
        )


def cosh(output, target):
    """A criterion without ``reduction``: a mean over rows that mixes the outputs of a row."""
    return torch.log(torch.cosh(output - target).sum(1)).mean()


def bounded(output, target):
    """A criterion with negative second derivatives where it is far off."""
    return (1 - torch.exp(-(output - target).square())).sum(1).mean()


def dense_labels():
    X, y = tokens(4, 5)()
    y = torch.randint(0, 3, (4, 5))
    y[0, 1] = y[2, 3] = -100
    return X, y


def soft_targets():
    return torch.randn(6, 4, dtype=F64), torch.softmax(torch.randn(6, 3, dtype=F64), 1)


def class_weights(kind, **options):
    return lambda: kind(weight=torch.tensor([0.5, 2.0, 1.0], dtype=F64), **options)


def image(*layers, shape, classes=3, n=3):
    def build():
        head = nn.Sequential(*[layer() for layer in layers], nn.Flatten())
        width = head.to(F64).eval()(torch.zeros(1, *shape, dtype=F64)).shape[1]
        return nn.Sequential(*head, nn.Linear(width, classes)).train()

    return build, labels(n, *shape, classes=classes)


class Square(torch.autograd.Function):
    """A square whose derivative can be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class OnceSquare(Square):
    """The same, marked as not to be differentiated again: torch leaves its part out silently."""

    backward = staticmethod(torch.autograd.function.once_differentiable(Square.backward))


CE, MSE = nn.CrossEntropyLoss, nn.MSELoss
ACTIVATIONS = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Identity,
)
LAYERS = {
    "conv1d": ([lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.Tanh], (2, 7)),
    "conv2d": (
        [lambda: nn.Conv2d(2, 3, 3, padding=1), nn.Tanh, lambda: nn.MaxPool2d(2)],
        (2, 4, 4),
    ),
    "conv2d dilated in groups": (
        [
            lambda: nn.Conv2d(2, 4, (2, 3), dilation=(2, 1), groups=2, padding="same", bias=False),
            nn.Tanh,
        ],
        (2, 4, 4),
    ),
    "conv2d circular": (
        [lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.Tanh],
        (2, 3, 3),
    ),
    "conv3d": (
        [lambda: nn.Conv3d(1, 2, 2, stride=(1, 2, 1)), nn.Tanh, lambda: nn.AvgPool3d(2, 1)],
        (1, 3, 4, 3),
    ),
    "deep relu convs": (
        [
            lambda: nn.Conv2d(1, 2, 3),
            lambda: nn.ReLU(inplace=True),
            lambda: nn.Conv2d(2, 2, 2),
            nn.ReLU,
        ],
        (1, 5, 5),
    ),
    "transposed 1d": (
        [lambda: nn.ConvTranspose1d(2, 4, 3, stride=2, groups=2, output_padding=1), nn.Tanh],
        (2, 4),
    ),
    "transposed 2d": (
        [lambda: nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1, dilation=2), nn.Tanh],
        (2, 3, 3),
    ),
    "transposed 3d": ([lambda: nn.ConvTranspose3d(1, 2, 2), nn.Tanh], (1, 2, 2, 2)),
    "batch norm 1d": ([lambda: nn.Linear(3, 4), lambda: nn.BatchNorm1d(4), nn.Tanh], (3,)),
    "batch norm 2d": ([lambda: nn.Conv2d(1, 2, 2), lambda: nn.BatchNorm2d(2), nn.Tanh], (1, 3, 3)),
    "batch norm 3d": ([lambda: nn.BatchNorm3d(2), nn.Tanh], (2, 2, 2, 2)),
    "layer norm": ([lambda: nn.Linear(3, 4), lambda: nn.LayerNorm(4), nn.Tanh], (2, 3)),
    "group norm": ([lambda: nn.Conv1d(2, 4, 2), lambda: nn.GroupNorm(2, 4), nn.Tanh], (2, 4)),
    "instance norm": (
        [
            lambda: nn.Conv1d(2, 3, 2, bias=False),
            lambda: nn.InstanceNorm1d(3, affine=True),
            nn.Tanh,
        ],
        (2, 4),
    ),
    "tracked instance norm": (
        [lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True), nn.Tanh],
        (2, 3, 3),
    ),
    "prelu": ([lambda: nn.Linear(3, 4), nn.PReLU], (3,)),
    "prelu by channel": ([lambda: nn.Conv1d(2, 3, 2), lambda: nn.PReLU(3)], (2, 4)),
    "linear over positions": (
        [lambda: nn.Linear(3, 4), nn.Tanh, lambda: nn.Linear(4, 2)],
        (2, 2, 3),
    ),
    "dropout": ([lambda: nn.Linear(3, 4), nn.Tanh, lambda: nn.Dropout(0.5)], (3,)),
}

POOLED = {
    "relu, max pool": (
        [lambda: nn.Conv2d(2, 3, 3, padding=1), nn.ReLU, lambda: nn.MaxPool2d(2)],
        (2, 4, 6),
    ),
    "max pool, relu, in groups": (
        [
            lambda: nn.Conv2d(2, 3, 2, bias=False),
            lambda: nn.MaxPool2d(2),
            nn.ReLU,
            lambda: nn.Conv2d(3, 6, 2, groups=3, stride=(1, 2), padding=1),
            lambda: nn.MaxPool2d(2),
            lambda: nn.ReLU(inplace=True),
        ],
        (2, 5, 7),
    ),
    "overlapping windows": (
        [lambda: nn.Conv2d(1, 2, 3), nn.ReLU, lambda: nn.MaxPool2d(3, stride=2, padding=1)],
        (1, 6, 6),
    ),
    "dilated windows": (
        [lambda: nn.Conv2d(1, 2, 2), lambda: nn.MaxPool2d(2, dilation=2, ceil_mode=True)],
        (1, 5, 6),
    ),
    "max pool 1d": (
        [lambda: nn.Conv1d(2, 3, 2, dilation=2), lambda: nn.MaxPool1d(3), nn.ReLU],
        (2, 8),
    ),
    "max pool 3d": (
        [lambda: nn.Conv3d(1, 2, (1, 2, 1)), nn.ReLU, lambda: nn.MaxPool3d(2)],
        (1, 2, 5, 2),
    ),
    "max pool behind tanh": (
        [lambda: nn.Conv2d(1, 2, 2), nn.Tanh, lambda: nn.MaxPool2d(2)],
        (1, 5, 5),
    ),
    "planes reshaped before a max pool": (
        [
            lambda: nn.Conv2d(1, 2, 2),
            lambda: nn.Flatten(1, 2),
            lambda: nn.Unflatten(1, (4, 2)),
            lambda: nn.MaxPool2d(2),
        ],
        (1, 5, 5),
    ),
    "adaptive max pool": (
        [lambda: nn.Conv2d(1, 2, 2), nn.ReLU, lambda: nn.AdaptiveMaxPool2d(2)],
        (1, 5, 5),
    ),
    "transposed, max pool": (
        [lambda: nn.ConvTranspose2d(1, 2, 2), nn.ReLU, lambda: nn.MaxPool2d(2)],
        (1, 3, 3),
    ),
    "batch norm, max pool": (
        [
            lambda: nn.Conv2d(1, 2, 2),
            lambda: nn.BatchNorm2d(2),
            nn.ReLU,
            lambda: nn.MaxPool2d(2),
        ],
        (1, 5, 5),
    ),
}

CASES = [
    Case(f"mlp {a.__name__}", lambda a=a: mlp(4, 5, 4, 3, activation=a), CE, labels(7, 4))
    for a in ACTIVATIONS
]
for name, (layers, shape) in LAYERS.items():
    build, data = image(*layers, shape=shape)
    CASES.append(Case(name, build, CE, data))
for name, (layers, shape) in POOLED.items():
    build, data = image(*layers, shape=shape, classes=6, n=6)
    CASES.append(Case(name, build, CE, data))
CASES += [
    Case(
        "max pool under a loss that is not convex",
        image(*POOLED["relu, max pool"][0], shape=(2, 4, 6), classes=5)[0],
        lambda: bounded,
        lambda: (torch.randn(4, 2, 4, 6, dtype=F64), torch.randn(4, 5, dtype=F64)),
    ),
    Case("five tanh layers", lambda: tanh_mlp(3, 4, 4, 4, 4, 4, 2), MSE, numbers(5, 3, 2)),
    Case("one layer", lambda: nn.Linear(4, 3), CE, labels(5, 4)),
    Case("functional chain", Functional, CE, labels(6, 4)),
    Case("residual", Residual, CE, labels(5, 4)),
    Case("concatenation", lambda: Residual(cat=True), CE, labels(5, 4)),
    Case("layer used twice", Twice, CE, labels(5, 4)),
    Case("relu layer used twice", lambda: Twice(torch.relu), CE, labels(5, 4)),
    Case("tied autoencoder", TiedAutoencoder, MSE, numbers(5, 4, 4)),
    Case("one parameter in two layers", tied_parameter, CE, labels(5, 4)),
    Case("own parameters", Own, CE, labels(5, 4)),
    Case(
        "embedding",
        lambda: nn.Sequential(
            nn.Embedding(6, 2, padding_idx=0), nn.Flatten(), nn.Tanh(), nn.Linear(10, 3)
        ),
        CE,
        tokens(4, 5),
    ),
    Case("rnn", lambda: recurrent(nn.RNN), CE, labels(4, 3, 2)),
    Case("gru", lambda: recurrent(nn.GRU, num_layers=2), CE, labels(3, 3, 2)),
    Case("lstm", lambda: recurrent(nn.LSTM, bidirectional=True), CE, labels(3, 3, 2)),
    Case(
        "time first lstm, as many steps as rows",
        lambda: recurrent(nn.LSTM, batch_first=False),
        CE,
        labels(3, 3, 2),
    ),
    Case("projected lstm", lambda: recurrent(nn.LSTM, proj_size=2), CE, labels(3, 3, 2)),
    Case("a learned first state", FirstState, CE, labels(3, 3, 2)),
    Case("attention", Attention, CE, labels(3, 3, 4)),
    Case("transformer", WordTransformer, CE, tokens(3, 4)),
    Case("time first transformer", lambda: WordTransformer(False), CE, tokens(3, 3)),
    Case("weighted classes", lambda: tanh_mlp(4, 4, 3), class_weights(CE), labels(6, 4)),
    Case(
        "smooth labels",
        lambda: tanh_mlp(4, 4, 3),
        class_weights(CE, label_smoothing=0.2),
        labels(6, 4),
    ),
    Case(
        "probability targets",
        lambda: tanh_mlp(4, 4, 3),
        class_weights(CE, label_smoothing=0.1),
        soft_targets,
    ),
    Case("ignored rows", lambda: tanh_mlp(4, 4, 3), lambda: CE(ignore_index=1), labels(6, 4)),
    Case("dense labels", PerPosition, class_weights(CE), dense_labels),
    Case(
        "nll on log-probabilities",
        lambda: tanh_mlp(4, 4, 3, top=[nn.LogSoftmax(1)]),
        nn.NLLLoss,
        labels(6, 4),
    ),
    Case(
        "nll on probabilities",
        lambda: tanh_mlp(4, 4, 3, top=[nn.Softmax(-1)]),
        class_weights(nn.NLLLoss),
        labels(6, 4),
        "proba",
    ),
    Case(
        "probabilities of a conv net",
        lambda: nn.Sequential(
            nn.Conv1d(2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3), nn.Softmax(1)
        ),
        nn.NLLLoss,
        labels(4, 2, 4),
        "proba",
    ),
    Case(
        "bce with logits",
        lambda: tanh_mlp(4, 4, 2),
        lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0, 0.5], dtype=F64)),
        binary(5, 4, 2),
    ),
    Case(
        "bce on one flat output",
        lambda: tanh_mlp(4, 4, 1, top=[nn.Flatten(0)]),
        nn.BCEWithLogitsLoss,
        lambda: (torch.randn(5, 4, dtype=F64), torch.tensor([0.0, 1, 1, 0, 1], dtype=F64)),
    ),
    Case(
        "bce", lambda: tanh_mlp(4, 4, 2, top=[nn.Sigmoid()]), nn.BCELoss, binary(5, 4, 2), "proba"
    ),
    Case("mse", lambda: tanh_mlp(4, 5, 2), MSE, numbers(6, 4, 2)),
    Case("mse behind tanh", lambda: tanh_mlp(4, 5, 2, top=[nn.Tanh()]), MSE, numbers(6, 4, 2)),
    Case(
        "mse behind softmax", lambda: tanh_mlp(4, 5, 3, top=[nn.Softmax(1)]), MSE, numbers(6, 4, 3)
    ),
    Case(
        "smooth l1", lambda: tanh_mlp(4, 5, 2), lambda: nn.SmoothL1Loss(beta=0.7), numbers(6, 4, 2)
    ),
    Case("huber", lambda: tanh_mlp(4, 5, 2), lambda: nn.HuberLoss(delta=0.7), numbers(6, 4, 2)),
    Case("poisson", lambda: tanh_mlp(4, 5, 2), nn.PoissonNLLLoss, numbers(6, 4, 2, positive=True)),
    Case(
        "poisson rates",
        lambda: tanh_mlp(4, 5, 2, top=[nn.Softplus()]),
        lambda: nn.PoissonNLLLoss(log_input=False, full=True),
        numbers(6, 4, 2, positive=True),
    ),
    Case("gaussian of fixed variance", lambda: tanh_mlp(4, 5, 2), FixedVariance, numbers(6, 4, 2)),
    Case(
        "soft margin",
        lambda: tanh_mlp(4, 5, 2),
        nn.SoftMarginLoss,
        lambda: (torch.randn(5, 4, dtype=F64), torch.tensor([[1.0, -1]] * 5, dtype=F64)),
    ),
    Case(
        "divergence",
        lambda: tanh_mlp(4, 4, 3, top=[nn.LogSoftmax(1)]),
        lambda: nn.KLDivLoss(reduction="batchmean"),
        soft_targets,
    ),
    Case(
        "a function that mixes outputs", lambda: tanh_mlp(4, 5, 2), lambda: cosh, numbers(5, 4, 2)
    ),
]
BY_NAME = {case.name: case for case in CASES}
#: Names of some cases that differ in kind, for tests that need not see all of them.
SOME = [
    "mlp Tanh",
    "conv2d",
    "residual",
    "lstm",
    "transformer",
    "weighted classes",
    "dense labels",
    "bce",
]
