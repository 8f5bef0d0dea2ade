"""Random networks and losses: layers, sharing, hooks, reshapes, norms, attention, by a seed.

A network is a chain of steps, each of which keeps the rows first. Steps are chosen among those for
vectors (n, d), sequences (n, t, d) and images (n, c, h, w); a last Linear layer gives the outputs.
"""

from __future__ import annotations

import random
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

F64 = torch.float64
ACTIVATIONS = (torch.tanh, torch.relu, F.gelu, F.silu, F.softplus, F.leaky_relu, torch.sin)


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


class Cube(torch.autograd.Function):
    """A function that no table has."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


def act(rng):
    return rng.choice(ACTIVATIONS)


def linear(rng, a, b):
    """A Linear layer, now and then one that torch or a user has changed."""
    layer = nn.Linear(a, b, bias=rng.random() < 0.8)
    kind = rng.randrange(12)
    if kind == 0:
        prune.random_unstructured(layer, "weight", amount=0.4)
    elif kind == 1:
        nn.utils.weight_norm(layer)
    elif kind == 2:
        parametrizations.weight_norm(layer)
    elif kind == 3:
        nn.utils.spectral_norm(layer)
    elif kind == 4:
        layer.register_forward_hook(lambda layer, args, z: 1.5 * z + z.tanh())
    elif kind == 5:
        layer.register_forward_pre_hook(lambda layer, args: (args[0] * 0.7,))
    elif kind == 6:
        layer.weight.requires_grad_(False)
    return layer


# -- vectors ---------------------------------------------------------------------------------------


def dense(rng, d, e):
    f = act(rng)
    return Step(f"dense {f.__name__}", lambda s, x: f(s.layers[0](x)), linear(rng, d, e))


def residual(rng, d, e):
    f = act(rng)

    def function(s, x):
        x = s.layers[0](x)
        return x + f(s.layers[1](x))

    return Step("residual", function, linear(rng, d, e), linear(rng, e, e))


def gated(rng, d, e):
    return Step(
        "gated",
        lambda s, x: s.layers[0](x) * torch.sigmoid(s.layers[1](x)),
        *(linear(rng, d, e), linear(rng, d, e)),
    )


def twice(rng, d, e):
    def function(s, x):
        x = s.layers[0](x)
        return torch.relu(s.layers[1](torch.relu(s.layers[1](x))))

    return Step("twice", function, linear(rng, d, e), nn.Linear(e, e))


def tied(rng, d, e):
    def function(s, x):
        (a,) = s.layers
        h = torch.tanh(a(x))
        return torch.cat([h, F.linear(h, a.weight.T)], 1)[:, :e]

    return Step("tied", function, nn.Linear(d, e))


def extra(rng, d, e):
    step = Step("extra", lambda s, x: s.layers[0](x) * s.layers[0].scale, nn.Linear(d, e))
    step.layers[0].scale = nn.Parameter(torch.rand(e) + 0.5)
    return step


def borrowed(rng, d, e):
    """A layer called with twice its weight."""

    def function(s, x):
        (a,) = s.layers
        return torch.func.functional_call(a, {"weight": 2 * a.weight}, (x,)).relu()

    return Step("borrowed", function, nn.Linear(d, e))


def folded(rng, d, e):
    """Two halves of a row as two rows of a layer."""

    def function(s, x):
        x = s.layers[0](x).view(2 * len(x), -1)
        return torch.tanh(s.layers[1](x)).reshape(len(x) // 2, -1)[:, :e]

    return Step("folded", function, nn.Linear(d, 4), nn.Linear(2, e))


def siamese(rng, d, e):
    def function(s, x):
        h = torch.relu(s.layers[0](torch.cat([x, x.flip(1)])))
        return (h[: len(x)] - h[len(x) :]).abs() + h[: len(x)]

    return Step("siamese", function, nn.Linear(d, e))


def gram(rng, d, e):
    def function(s, x):
        h = torch.relu(s.layers[0](x)).view(len(x), 2, 2)
        return s.layers[1]((h @ h.mT).flatten(1))

    return Step("gram", function, nn.Linear(d, 4), nn.Linear(4, e))


def hyper(rng, d, e):
    def function(s, x):
        W = s.layers[0](x).view(len(x), e, d)
        return torch.bmm(W, x.unsqueeze(2)).squeeze(2)

    return Step("hyper", function, nn.Linear(d, d * e))


def coupled(rng, d, e):
    def function(s, x):
        h = torch.tanh(s.layers[0](x))
        return h + 10.0**-rng_power * h.sum(1, keepdim=True)

    rng_power = rng.randint(1, 5)
    return Step("coupled", function, nn.Linear(d, e))


def routed(rng, d, e):
    """A second layer that is called only where some row needs it."""

    def function(s, x):
        on, h = x[:, :1] > 0, torch.tanh(s.layers[0](x))
        if on.all():
            return h
        return torch.where(on, h, torch.relu(s.layers[1](x)))

    return Step("routed", function, nn.Linear(d, e), nn.Linear(d, e))


def prototypes(rng, d, e):
    return Step(
        "prototypes",
        lambda s, x: torch.cdist(s.layers[0](x), s.p).square(),
        *(nn.Linear(d, 3),),
        p=torch.randn(e, 3),
    )


def normed(rng, d, e):
    norm = rng.choice((nn.LayerNorm, nn.BatchNorm1d, lambda e: nn.GroupNorm(1, e)))(e)
    return Step("normed", lambda s, x: s.layers[1](s.layers[0](x)), linear(rng, d, e), norm)


def sloped(rng, d, e):
    return Step(
        "sloped",
        lambda s, x: s.layers[1](s.layers[0](x)),
        *(linear(rng, d, e), nn.PReLU(rng.choice((1, e)))),
    )


def cubed(rng, d, e):
    return Step("cubed", lambda s, x: Cube.apply(0.5 * s.layers[0](x).tanh()), linear(rng, d, e))


def soft(rng, d, e):
    return Step("soft", lambda s, x: s.layers[0](x).softmax(1), linear(rng, d, e))


def mirrored(rng, d, e):
    return Step("mirrored", lambda s, x: s.layers[0](x).flip(1).tanh(), linear(rng, d, e))


VECTORS = (
    *(dense, dense, residual, gated, twice, tied, extra, borrowed, folded, siamese, gram, hyper),
    *(coupled, routed, prototypes, normed, sloped, cubed, soft, mirrored),
)


# -- sequences -------------------------------------------------------------------------------------


def positions(rng, d, e):
    f = act(rng)
    return Step("positions", lambda s, x: f(s.layers[0](x)), linear(rng, d, e))


def positions_as_rows(rng, d, e):
    def function(s, x):
        return torch.tanh(s.layers[0](x.reshape(-1, d))).view(len(x), -1, e)

    return Step("positions as rows", function, linear(rng, d, e))


def time_first(rng, d, e):
    def function(s, x):
        return torch.relu(s.layers[0](x.transpose(0, 1))).transpose(0, 1)

    return Step("time first", function, linear(rng, d, e))


def attention(rng, d, e):
    def function(s, x):
        x = s.layers[0](x)
        return s.layers[1](x, x, x, need_weights=False)[0]

    return Step(
        "attention", function, nn.Linear(d, e), nn.MultiheadAttention(e, 1, batch_first=True)
    )


def linear_attention(rng, d, e):
    def function(s, x):
        q, k, v = (layer(x) for layer in s.layers)
        return torch.relu(q) @ (torch.relu(k).mT @ v)

    return Step("linear attention", function, *(nn.Linear(d, e) for _ in range(3)))


def recurrent(rng, d, e):
    kind = rng.choice((nn.RNN, nn.GRU, nn.LSTM))
    if rng.random() < 0.5:
        return Step(
            f"{kind.__name__}", lambda s, x: s.layers[0](x)[0], kind(d, e, batch_first=True)
        )
    return Step(
        f"{kind.__name__} time first",
        lambda s, x: s.layers[0](x.transpose(0, 1))[0].transpose(0, 1),
        kind(d, e),
    )


def along_time(rng, d, e):
    return Step(
        "along time",
        lambda s, x: s.layers[0](x.mT).mT.tanh(),
        nn.Conv1d(d, e, 3, padding=1, padding_mode=rng.choice(("zeros", "circular"))),
    )


SEQUENCES = (
    *(positions, positions_as_rows, time_first, attention, linear_attention, recurrent),
    along_time,
)


# -- images ----------------------------------------------------------------------------------------


def convolved(rng, c, e):
    f, groups = act(rng), rng.choice((1, c))
    layer = nn.Conv2d(c, c * e if groups > 1 else e, 2, padding=1, groups=groups)
    return Step("convolved", lambda s, x: f(s.layers[0](x))[:, :e], layer)


def pooled(rng, c, e):
    return Step(
        "pooled",
        lambda s, x: F.max_pool2d(torch.relu(s.layers[0](x)), 2, ceil_mode=True),
        nn.Conv2d(c, e, 3, padding=1),
    )


def channels_normed(rng, c, e):
    norm = rng.choice(
        (nn.BatchNorm2d, lambda e: nn.InstanceNorm2d(e, affine=True), lambda e: nn.GroupNorm(1, e))
    )(e)
    return Step(
        "channels normed", lambda s, x: s.layers[1](s.layers[0](x)), nn.Conv2d(c, e, 1), norm
    )


def transposed(rng, c, e):
    layer = nn.ConvTranspose2d(
        *(c, e, 2),
        dilation=2,
        padding=1,
        stride=rng.choice((1, 2)),
        output_padding=rng.choice((0, 1)),
    )
    return Step("transposed", lambda s, x: s.layers[0](x).tanh(), layer)


def channels_as_rows(rng, c, e):
    def function(s, x):
        x = s.layers[0](x)
        return torch.relu(s.layers[1](x.flatten(0, 1).unsqueeze(1))).view(x.shape)

    return Step("channels as rows", function, nn.Conv2d(c, e, 1), nn.Conv2d(1, 1, 3, padding=1))


IMAGES = (convolved, pooled, channels_normed, transposed, channels_as_rows)


# -- networks and losses ---------------------------------------------------------------------------


def body(rng, n):
    """Steps, the shape of a row, and how many numbers they give for a row."""
    kind = rng.choice(("vector", "vector", "sequence", "image"))
    steps = []
    if kind == "vector":
        shape, d = (3,), 3
        for _ in range(rng.randint(0, 3)):
            e = rng.choice((2, 3, 4))
            steps.append(rng.choice(VECTORS)(rng, d, e))
            with torch.no_grad():
                d = nn.Sequential(*steps).to(F64).eval()(torch.randn(2, *shape, dtype=F64)).shape[1]
    elif kind == "sequence":
        shape, d = (rng.choice((2, 3, n)), 3), 3
        for _ in range(rng.randint(1, 2)):
            e = rng.choice((2, 3))
            steps.append(rng.choice(SEQUENCES)(rng, d, e))
            d = e
        steps.append(Step("mean", lambda s, x: x.mean(1)) if rng.random() < 0.5 else nn.Flatten())
    else:
        shape, c = (rng.choice((1, 2)), 4, 4), None
        c = shape[0]
        for _ in range(rng.randint(1, 2)):
            e = rng.choice((2, 3))
            steps.append(rng.choice(IMAGES)(rng, c, e))
            c = e
        steps.append(nn.Flatten())
    return steps, shape


def bounded(output, target):
    """A criterion without ``reduction`` that mixes outputs and is not convex."""
    return (1 - torch.exp(-(output - target).square().sum(1))).mean()


def loss(rng, n, k):
    """(criterion, y, last layers, outputs, logits) of a loss over k outputs: ``logits`` are where
    the Gauss-Newton split is, of the module's output, and ``at`` is the loss there.
    """
    classes, floats = torch.arange(n) % k, torch.randn(n, k, dtype=F64)
    kind = rng.choice(
        (
            "ce",
            "ce",
            "weighted",
            "smooth",
            "ignoring",
            "mse",
            "bce",
            "nll",
            "proba",
            "huber",
            "own",
            "kl",
        )
    )
    weight = torch.rand(k, dtype=F64) + 0.5
    plain = (), None, lambda z: z
    if kind in ("ce", "weighted", "smooth", "ignoring"):
        criterion = {
            "ce": lambda: nn.CrossEntropyLoss(),
            "weighted": lambda: nn.CrossEntropyLoss(weight=weight),
            "smooth": lambda: nn.CrossEntropyLoss(label_smoothing=0.2),
            "ignoring": lambda: nn.CrossEntropyLoss(ignore_index=1),
        }[kind]()
        return criterion, classes, *plain, criterion
    if kind == "bce":
        criterion = nn.BCEWithLogitsLoss()
        return criterion, (floats > 0).to(F64), *plain, criterion
    if kind in ("mse", "huber", "own"):
        criterion = {"mse": nn.MSELoss(), "huber": nn.HuberLoss(delta=0.8), "own": bounded}[kind]
        return criterion, floats, *plain, criterion
    if kind == "kl":
        criterion, soft = nn.KLDivLoss(reduction="batchmean"), floats.softmax(1)
        return (
            *(criterion, soft, [nn.LogSoftmax(1)], None, lambda z: z),
            lambda z, y: criterion(z.log_softmax(1), y),
        )
    criterion = nn.NLLLoss()
    top, outputs = ([nn.LogSoftmax(1)], None) if kind == "nll" else ([nn.Softmax(1)], "proba")
    return (
        *(criterion, classes, top, outputs, (lambda z: z) if kind == "nll" else torch.log),
        lambda z, y: criterion(z.log_softmax(1), y),
    )


class Problem:
    """A network, a loss and rows, all drawn from a seed."""

    def __init__(self, seed):
        rng = random.Random(seed)
        n, k = rng.choice((3, 4, 5)), rng.choice((2, 3))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            steps, shape = body(rng, n)
            self.X = torch.randn(n, *shape, dtype=F64)
            head = nn.Sequential(*steps).to(F64).eval()
            width = head(self.X).shape[1]
            self.criterion, self.y, top, self.outputs, self.logits, self.at = loss(rng, n, k)
            self.module = nn.Sequential(*steps, nn.Linear(width, k), *top).to(F64).eval()
            for norm in self.module.modules():
                if getattr(norm, "running_mean", None) is not None:
                    norm.running_mean.normal_()
                    norm.running_var.uniform_(0.5, 2)
        self.batch_size = rng.choice((None, None, 1, 2))

    def __str__(self):
        return f"{self.module}, {self.criterion}, batch_size={self.batch_size}"

    def value(self, module):
        """The loss as torch has it."""
        output = module(self.X)
        return self.criterion(output.log() if self.outputs == "proba" else output, self.y)
