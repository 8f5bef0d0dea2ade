"""The shared list of networks and losses that every exact method is tested on, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

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


class Of(nn.Module):
    """A function of some layers and parameters, which it reads as attributes."""

    def __init__(self, function, **parts):
        super().__init__()
        self.__dict__["function"] = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, x):
        return self.function(self, x)


def changed(layer, change):
    change(layer)
    return layer


def reading(function, **parts):
    """Build a network from a function and functions that build its parts."""
    return lambda: Of(function, **{name: part() for name, part in parts.items()})


def spectral(a, b):
    return lambda: changed(nn.Linear(a, b), nn.utils.spectral_norm)


def lin(a, b, **options):
    return lambda: nn.Linear(a, b, **options)


class Doubled(nn.Linear):
    """A Linear layer with a parameter that its parent uses."""

    def __init__(self, a, b):
        super().__init__(a, b)
        self.scale = nn.Parameter(torch.rand(b) + 0.5)


class Dropped(nn.Module):
    """Weight-dropout: the inner layer's weight is made from a parameter of another name."""

    def __init__(self, a, b):
        super().__init__()
        self.inner = nn.Linear(a, b)
        raw = self.inner._parameters.pop("weight")
        self.inner.register_parameter("weight_raw", nn.Parameter(raw.detach()))

    def forward(self, x):
        self.inner.weight = F.dropout(self.inner.weight_raw, 0.5, self.training)
        return self.inner(x)


class HalfConv(nn.Conv1d):
    """A convolution of which a subclass has changed what forward calls."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight, bias) / 2


def own_forward(layer):
    layer.forward = lambda x: F.linear(x, layer.weight**2, layer.bias)


def experts(s, x):
    """Later rows take another layer, or the same one again."""
    on, h = x[:, :1] < 0, torch.tanh(s.a(x))
    if on.any():
        h = torch.where(on, torch.relu(s.b(h)), h)
    if (x[:, 1:2] > 1).any():
        h = torch.where(x[:, 1:2] > 1, torch.tanh(s.b(h)), h)
    return s.o(h)


def later(n, d):
    def make():
        X, y = labels(n, d)()
        X[:2] = X[:2].abs().clamp(max=0.9)
        X[2:, 0] = -X[2:, 0].abs()
        X[-1, 1] = 2.0
        return X, y

    return make


def hyper(s, x):
    return s.o(torch.relu(torch.bmm(s.a(x).view(-1, 4, 3), x.unsqueeze(2)).squeeze(2)))


def dynamic_convolution(s, x):
    kernel = torch.relu(s.a(x[:, 0])).view(-1, 1, 3)
    z = F.conv1d(x.view(1, -1, x.shape[2]), kernel, groups=len(kernel))
    return s.o(z.view(len(x), -1))


def soft_images(s, x):
    return s.b(torch.tanh(s.a(x))).view(-1, 2, 3)


#: Networks whose layers are not reached as they seem to be.
TREACHEROUS = {
    "time first, as many steps as rows": (
        reading(
            lambda s, x: s.b(torch.tanh(s.a(x.transpose(0, 1)))).mean(0), a=lin(3, 4), b=lin(4, 3)
        ),
        labels(4, 4, 3),
    ),
    "deep set": (
        reading(
            lambda s, x: s.o(torch.relu(s.a(x.flatten(0, 1))).view(len(x), -1, 4).sum(1)),
            a=lin(3, 4),
            o=lin(4, 3),
        ),
        labels(5, 3, 3),
    ),
    "rows as a layer norm's positions": (
        reading(
            lambda s, x: s.o(s.n(s.a(x).view(-1, 4)).view(len(x), -1)),
            a=lin(3, 8),
            n=lambda: nn.LayerNorm(4),
            o=lin(8, 3),
        ),
        labels(5, 3),
    ),
    "frames of a video": (
        reading(
            lambda s, x: s.o(torch.relu(s.a(x.flatten(0, 1))).view(len(x), -1)),
            a=lambda: nn.Conv2d(1, 2, 2),
            o=lin(16, 3),
        ),
        labels(4, 2, 1, 3, 3),
    ),
    "twins in one batch": (
        reading(
            lambda s, x: s.o((lambda h: h[: len(x)] * h[len(x) :])(torch.tanh(s.a(s.j(x))))),
            j=lambda: Of(lambda s, x: torch.cat([x[:, 0], x[:, 1]])),
            a=lin(3, 4),
            o=lin(4, 3),
        ),
        labels(5, 2, 3),
    ),
    "pruned channels": (
        lambda: nn.Sequential(
            changed(
                nn.Conv1d(2, 3, 2), lambda m: prune.ln_structured(m, "weight", 0.4, n=2, dim=0)
            ),
            *(nn.Tanh(), nn.Flatten(), nn.Linear(9, 3)),
        ),
        labels(5, 2, 4),
    ),
    "pruned bias": (
        lambda: nn.Sequential(
            changed(nn.Linear(3, 4), lambda m: prune.random_unstructured(m, "bias", 0.5)),
            *(nn.ReLU(), nn.Linear(4, 3)),
        ),
        labels(5, 3),
    ),
    "spectral norm by a hook": (
        reading(lambda s, x: s.b(torch.tanh(s.a(x))), a=spectral(3, 4), b=lin(4, 3)),
        labels(5, 3),
    ),
    "spectral norm by parametrization": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 3)
        ),
        labels(5, 3),
    ),
    "a parameter that the parent uses": (
        reading(
            lambda s, x: s.b(torch.relu(s.a(x) * s.a.scale)), a=lambda: Doubled(3, 4), b=lin(4, 3)
        ),
        labels(5, 3),
    ),
    "weight dropout": (
        lambda: nn.Sequential(Dropped(3, 4), nn.Tanh(), nn.Linear(4, 3)),
        labels(5, 3),
    ),
    "a weight in another's place": (
        reading(
            lambda s, x: s.b(
                torch.func.functional_call(s.a, {"weight": 3 * s.a.weight}, (x,)).tanh()
            ),
            a=lin(3, 4),
            b=lin(4, 3),
        ),
        labels(5, 3),
    ),
    "a layer whose output is not used": (
        reading(
            lambda s, x: s.b(torch.relu(F.linear(x, 2 * s.a.weight)) + 0 * s.a(x).detach()),
            a=lin(3, 4, bias=False),
            b=lin(4, 3),
        ),
        labels(5, 3),
    ),
    "a changed method of a convolution": (
        lambda: nn.Sequential(HalfConv(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(9, 3)),
        labels(5, 2, 4),
    ),
    "a changed forward of an instance": (
        lambda: nn.Sequential(changed(nn.Linear(3, 4), own_forward), nn.ReLU(), nn.Linear(4, 3)),
        labels(5, 3),
    ),
    "a hook that changes the output": (
        lambda: nn.Sequential(
            changed(
                nn.Conv1d(2, 3, 2),
                lambda m: m.register_forward_hook(lambda m, args, z: z + 0.5 * z.tanh()),
            ),
            *(nn.Flatten(), nn.Linear(9, 3)),
        ),
        labels(5, 2, 4),
    ),
    "a hook that mixes units": (
        lambda: nn.Sequential(
            changed(
                nn.Linear(3, 4), lambda m: m.register_forward_hook(lambda m, args, z: z.softmax(1))
            ),
            nn.Linear(4, 3),
        ),
        labels(5, 3),
    ),
    "a hook that changes the input": (
        lambda: nn.Sequential(
            changed(
                nn.Linear(3, 4),
                lambda m: m.register_forward_pre_hook(lambda m, args: (args[0] ** 2,)),
            ),
            *(nn.Tanh(), nn.Linear(4, 3)),
        ),
        labels(5, 3),
    ),
    "experts of later rows": (
        reading(experts, a=lin(3, 4), b=lin(4, 4), o=lin(4, 3)),
        later(6, 3),
    ),
    "hypernetwork": (reading(hyper, a=lin(3, 12), o=lin(4, 3)), labels(5, 3)),
    "dynamic convolution": (
        reading(dynamic_convolution, a=lin(4, 3), o=lin(2, 3)),
        labels(5, 1, 4),
    ),
    "squared features": (
        reading(
            lambda s, x: s.o((lambda h: h.unsqueeze(2) * h.unsqueeze(1))(s.a(x)).flatten(1)),
            a=lin(3, 2),
            o=lin(4, 3),
        ),
        labels(5, 3),
    ),
    "a factor that all units share": (
        reading(
            lambda s, x: s.o((lambda h: h * h.amax(1, keepdim=True))(torch.relu(s.a(x)))),
            a=lin(3, 4),
            o=lin(4, 3),
        ),
        labels(5, 3),
    ),
    "a coupling of a millionth": (
        reading(
            lambda s, x: s.o((lambda h: h + 1e-6 * h.flip(1))(torch.tanh(s.a(x)))),
            a=lin(3, 4),
            o=lin(4, 3),
        ),
        labels(5, 3),
    ),
    "output padding as large as the stride": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(1, 2, 2, stride=(1, 2), dilation=(3, 2), output_padding=(2, 1)),
            *(nn.Tanh(), nn.Flatten(), nn.Linear(112, 3)),
        ),
        labels(3, 1, 2, 3),
    ),
}
CASES += [Case(name, build, CE, data) for name, (build, data) in TREACHEROUS.items()]
CASES += [
    Case(
        "softmax under log-softmax",
        lambda: mlp(4, 4, 3, top=[nn.Softmax(1), nn.LogSoftmax(1)]),
        nn.NLLLoss,
        labels(5, 4),
    ),
    Case(
        "softmax twice",
        lambda: mlp(4, 4, 3, top=[nn.Softmax(1), nn.Softmax(1)]),
        nn.NLLLoss,
        labels(5, 4),
        "proba",
    ),
    Case(
        "sigmoid twice",
        lambda: mlp(4, 4, 2, top=[nn.Sigmoid(), nn.Sigmoid()]),
        nn.BCELoss,
        binary(5, 4, 2),
        "proba",
    ),
    Case(
        "divergence over the last dimension",
        reading(lambda s, x: soft_images(s, x).log_softmax(2), a=lin(3, 4), b=lin(4, 6)),
        lambda: nn.KLDivLoss(reduction="batchmean"),
        lambda: (torch.randn(5, 3, dtype=F64), torch.randn(5, 2, 3, dtype=F64).softmax(2)),
    ),
    Case(
        "divergence over the middle dimension, log targets",
        reading(lambda s, x: soft_images(s, x).log_softmax(1), a=lin(3, 4), b=lin(4, 6)),
        lambda: nn.KLDivLoss(log_target=True),
        lambda: (torch.randn(5, 3, dtype=F64), torch.randn(5, 2, 3, dtype=F64).log_softmax(1)),
    ),
]


def u_net(s, x):
    """Down, up again, and beside what was there before."""
    down = torch.relu(s.down(x))
    return torch.cat([torch.sigmoid(s.up(F.max_pool2d(down, 2))), down], 1).flatten(1)


#: Some kinds of problems that BackPACK and curvlinops test themselves on; `peers` has the others.
AS_PEERS_DO = {
    "branches that are added": (
        reading(
            lambda s, x: s.o(s.a(x) + torch.sigmoid(s.b(x)) + x),
            a=lin(4, 4),
            b=lin(4, 4),
            o=lin(4, 3),
        ),
        CE,
        labels(5, 4),
    ),
    "branches of branches": (
        reading(
            lambda s, x: (lambda h: s.o(h + s.b(torch.tanh(s.c(h)) + h)))(torch.relu(s.a(x))),
            a=lin(4, 3),
            b=lin(3, 3),
            c=lin(3, 3),
            o=lin(3, 3),
        ),
        CE,
        labels(5, 4),
    ),
    "a scaled and padded image": (
        lambda: nn.Sequential(
            nn.ZeroPad2d((1, 0, 2, 1)),
            nn.Conv2d(1, 2, 2),
            nn.LogSigmoid(),
            Of(lambda s, x: 0.3 * x[:, :, 1:, ::2]),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        CE,
        labels(4, 1, 3, 4),
    ),
    "adaptive pools in three dimensions": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 2, 2, padding=1),
            nn.SELU(),
            nn.AdaptiveMaxPool3d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        ),
        CE,
        labels(3, 1, 3, 2, 3),
    ),
    "last step of stacked recurrences": (
        reading(
            lambda s, x: s.o(s.b(s.a(x.permute(0, 2, 1))[0])[0][:, -1]),
            a=lambda: nn.LSTM(2, 3, batch_first=True),
            b=lambda: nn.RNN(3, 2, batch_first=True),
            o=lin(2, 3),
        ),
        CE,
        labels(4, 2, 3),
    ),
    "numbers for every position": (
        lambda: tanh_mlp(3, 4, 2),
        MSE,
        lambda: (torch.randn(4, 2, 3, 3, dtype=F64), torch.randn(4, 2, 3, 2, dtype=F64)),
    ),
    "yes or no for every position": (
        lambda: mlp(3, 4, 1),
        nn.BCEWithLogitsLoss,
        lambda: (
            torch.randn(4, 5, 3, dtype=F64),
            (torch.randn(4, 5, 1, dtype=F64) > 0).to(F64),
        ),
    ),
    "classes of every pixel": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 1)),
        CE,
        lambda: (torch.randn(3, 1, 3, 2, dtype=F64), torch.randint(0, 3, (3, 3, 2))),
    ),
    "u-net": (
        reading(
            u_net,
            down=lambda: nn.Conv2d(1, 2, 3, padding=1),
            up=lambda: nn.ConvTranspose2d(2, 1, 2, 2),
        ),
        MSE,
        lambda: (torch.randn(3, 1, 4, 4, dtype=F64), torch.randn(3, 48, dtype=F64)),
    ),
}
CASES += [
    Case(name, build, criterion, data) for name, (build, criterion, data) in AS_PEERS_DO.items()
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
