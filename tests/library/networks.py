"""Networks that the tests of `sk_obd.compact` share: each with the shape of one row of its X."""

import torch
from hypothesis import strategies as st
from torch import nn

from tests.library.modules import (
    Bottleneck,
    Branching,
    ChangedInPlace,
    Gated,
    LeNet,
    Recurrent,
    ResidualConv,
    TiedLayers,
    Twice,
    Wide,
    mlp,
)

#: Shares of the parameters that are left, as tests of any share draw them.
densities = st.sampled_from([0.0, 0.03, 0.08, 0.15, 0.3, 0.6, 1.0])


def conv(first=0, second=0, pool=None, mode="zeros"):
    """Two convolutions with paddings of their own."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=first, padding_mode=mode),
        nn.Sigmoid(),
        *([pool] if pool is not None else []),
        nn.Conv2d(4, 5, 2, padding=second, padding_mode=mode),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


#: name: (function that makes the network, shape of a row)
NETWORKS = {
    "one hidden layer": (lambda: mlp(9, 7, 3), (9,)),
    "three hidden layers": (lambda: mlp(9, 7, 6, 5, 3, activation=nn.Tanh), (9,)),
    "sigmoid": (lambda: mlp(9, 7, 6, 3, activation=nn.Sigmoid), (9,)),
    "softplus": (lambda: mlp(9, 7, 6, 3, activation=nn.Softplus), (9,)),
    "no biases": (lambda: mlp(9, 7, 6, 3, activation=nn.Sigmoid, bias=False), (9,)),
    "in place": (lambda: mlp(9, 7, 6, 3, activation=lambda: nn.ReLU(inplace=True)), (9,)),
    "nested": (lambda: nn.Sequential(mlp(9, 7, 6), nn.Dropout(), nn.GELU(), mlp(6, 5, 3)), (9,)),
    "PReLU": (
        lambda: nn.Sequential(nn.Linear(9, 7), nn.PReLU(7), nn.Linear(7, 6), nn.PReLU(), mlp(6, 3)),
        (9,),
    ),
    "norm": (
        lambda: nn.Sequential(
            nn.BatchNorm1d(9), nn.Linear(9, 7), nn.BatchNorm1d(7), nn.ELU(), nn.Linear(7, 3)
        ),
        (9,),
    ),
    "layer norm": (
        lambda: nn.Sequential(mlp(9, 7, 6), nn.LayerNorm(6), nn.ReLU(), mlp(6, 5, 3)),
        (9,),
    ),
    "conv": (lambda: conv(), (2, 6, 6)),
    "padded conv": (lambda: conv(first=1, second=1), (2, 5, 5)),
    "circular conv": (lambda: conv(first=1, second=1, mode="circular"), (2, 5, 5)),
    "max pool": (lambda: conv(1, 0, nn.MaxPool2d(2, padding=1)), (2, 6, 6)),
    "padded average": (lambda: conv(1, 0, nn.AvgPool2d(2, padding=1)), (2, 6, 6)),
    "unpadded average": (lambda: conv(1, 0, nn.AvgPool2d(3, ceil_mode=True)), (2, 7, 7)),
    "same": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3),
            nn.SiLU(),
            nn.Conv1d(4, 3, 3, padding="same"),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        (2, 6),
    ),
    "strided": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 6, 2, stride=2), nn.Tanh(), nn.Conv1d(6, 4, 2), nn.Flatten(), mlp(8, 5, 3)
        ),
        (2, 6),
    ),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 2),
            nn.ReLU(),
            nn.Conv1d(4, 4, 2, groups=2),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        (2, 5),
    ),
    "sequence": (
        lambda: nn.Sequential(mlp(3, 5, 4, activation=nn.Tanh), nn.Flatten(), mlp(16, 6, 3)),
        (4, 3),
    ),
    "Residual": (Bottleneck, (9,)),
    "Wide": (Wide, (9,)),
    "Gated": (Gated, (9,)),
    "Tied": (TiedLayers, (9,)),
    "Twice": (
        lambda: nn.Sequential(
            nn.Linear(9, 6), nn.ReLU(), Twice(torch.relu, 6, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
        (9,),
    ),
    "LeNet": (LeNet, (1, 8, 8)),
    "ResidualConv": (ResidualConv, (2, 4, 4)),
    "Recurrent": (
        lambda: nn.Sequential(
            nn.Linear(4, 5), nn.ReLU(), Recurrent(nn.LSTM, 5, 6, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
        (6, 4),
    ),
    "Branching": (lambda: Branching(9, hidden=6), (9,)),
    "ChangedInPlace": (ChangedInPlace, (9,)),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), mlp(12, 6, 3)),
        (3,),
    ),
}

#: Names of some that differ in kind, for the quick tests.
SOME = [
    "three hidden layers",
    "norm",
    "Residual",
    "LeNet",
    "Recurrent",
]


def build(name, seed):
    """A network, in float64 and with statistics of its own in the norms, and 40 rows for it."""
    torch.manual_seed(seed)
    make, shape = NETWORKS[name]
    module = make().double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    for layer in module.modules():
        if hasattr(layer, "running_mean"):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    X = torch.randint(5, (40, *shape)) if name == "embedding" else torch.randn(40, *shape).double()
    return module.eval(), X


@torch.no_grad()
def prune(module, density, seed):
    """Delete all but a share of the parameters at random; the masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, parameter in module.named_parameters():
        masks[name] = torch.rand(parameter.shape, generator=generator) < density
        parameter.mul_(masks[name])
    return masks


def close(found, expected):
    """Fail unless two tensors in float64 are equal to rounding."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def stored(module):
    """Number of parameters that a module holds, dead ones included."""
    return sum(p.numel() for p in module.parameters())
