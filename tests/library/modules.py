"""Networks that the tests share, each a case of what users build; importable, so that they pickle.

Sizes have defaults, so that a skorch net needs only the class.
"""

from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


def mlp(*sizes, activation=nn.ReLU, bias=True, top=()):
    """Linear layers of these sizes with activations between them, and then the modules of `top`."""
    layers = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out, bias=bias), activation()]
    return nn.Sequential(*layers[:-1], *top)


#: The same with a smooth activation, which has second derivatives of its own.
tanh_mlp = partial(mlp, activation=nn.Tanh)


class TwoLayers(nn.Module):
    """Linear, activation, Linear; what it returns is up to `top`."""

    def __init__(
        self, n_in=4, n_out=3, hidden=8, activation=nn.ReLU, top=nn.Identity, dtype=torch.float32
    ):
        super().__init__()
        self.first = nn.Linear(n_in, hidden, dtype=dtype)
        self.activation = activation()
        self.second = nn.Linear(hidden, n_out, dtype=dtype)
        self.top = top()

    def forward(self, X):
        return self.top(self.second(self.activation(self.first(X))))


class SoftmaxTop(nn.Softmax):
    """Probabilities, as a `top` without arguments."""

    def __init__(self):
        super().__init__(dim=-1)


class Squeezed(TwoLayers):
    """One output, shape (n,)."""

    def forward(self, X):
        return super().forward(X).squeeze(-1)


class TwoOutputs(TwoLayers):
    """Returns a tuple: what is predicted, and something else."""

    def forward(self, X):
        hidden = self.activation(self.first(X))
        return self.second(hidden), hidden


class FullBatch(TwoLayers):
    """A float64 network for scikit-learn's checks."""

    def __init__(self, n_in=1, n_out=1):
        super().__init__(n_in, n_out, hidden=20, dtype=torch.float64)


class Branching(TwoLayers):
    """What it computes depends on the values of X: no tracer can follow it."""

    def forward(self, X):
        return super().forward(-X if X.sum() > 1e9 else X)


class Lazy(nn.Module):
    """Layers that learn their input's size from the first batch."""

    def __init__(self, n_out=3):
        super().__init__()
        self.first = nn.LazyLinear(8)
        self.second = nn.LazyLinear(n_out)

    def forward(self, X):
        return self.second(torch.relu(self.first(X)))


class Functional(nn.Module):
    """A chain whose forward is all functional calls."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, X):
        X = F.gelu(self.one(X))
        X = self.two(F.dropout(X, 0.5, self.training)).sigmoid() * 2 - 1
        return self.three(X)


class Own(nn.Module):
    """A user's module with parameters of its own."""

    def __init__(self):
        super().__init__()
        self.scale, self.mix = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4, 3))
        self.layer = nn.Linear(4, 4)

    def forward(self, X):
        return (torch.sin(self.layer(X * self.scale)) ** 2) @ self.mix


class Residual(nn.Module):
    """The second layer's units are added to the first's, or with `cat` put beside them."""

    def __init__(self, activation=torch.tanh, cat=False):
        super().__init__()
        self.activation, self.cat = activation, cat
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.top = nn.Linear(8 if cat else 4, 3)

    def forward(self, X):
        X = self.activation(self.one(X))
        h = self.activation(self.two(X))
        return self.top(torch.cat([X, h], 1) if self.cat else X + h)


class Bottleneck(nn.Module):
    """A residual block of two layers, with inner units that nothing else reads."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(9, 6)
        self.inner = nn.Linear(6, 5)
        self.back = nn.Linear(5, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, X):
        h = torch.relu(self.first(X))
        h = h + self.back(torch.tanh(self.inner(h)))
        return self.last(torch.sigmoid(h))


class Wide(nn.Module):
    """Hidden units, X itself and a second branch side by side."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(9, 4)
        self.right = nn.Linear(9, 5)
        self.last = nn.Linear(18, 3)

    def forward(self, X):
        parts = [torch.tanh(self.left(X)), X, F.softplus(self.right(X))]
        return F.log_softmax(self.last(torch.cat(parts, dim=1)), dim=-1)


class Gated(nn.Module):
    """A product of two branches, scaled and shifted by numbers."""

    def __init__(self):
        super().__init__()
        self.value = nn.Linear(9, 6)
        self.gate = nn.Linear(9, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, X):
        return self.last(1 - 2 * self.value(X) * torch.sigmoid(self.gate(X)))


class Twice(nn.Module):
    """One layer used twice, before one that is used once."""

    def __init__(self, activation=torch.tanh, width=4, n_out=3):
        super().__init__()
        self.same, self.top = nn.Linear(width, width), nn.Linear(width, n_out)
        self.activation = activation

    def forward(self, X):
        return self.top(self.activation(self.same(self.activation(self.same(X)))))


class TiedAutoencoder(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose."""

    def __init__(self, n_in=4, n_code=3):
        super().__init__()
        self.encode = nn.Linear(n_in, n_code)
        self.bias = nn.Parameter(torch.randn(n_in))

    def forward(self, X):
        return F.linear(torch.tanh(self.encode(X)), self.encode.weight.T, self.bias)


class TiedClassifier(TiedAutoencoder):
    """Images of shape (8, 8), classified from what a tied autoencoder makes of them."""

    def __init__(self):
        super().__init__(64, 12)
        nn.init.zeros_(self.bias)
        self.linear = nn.Linear(64, 10)

    def forward(self, X):
        return self.linear(torch.relu(super().forward(X.flatten(1))))


class TiedLayers(nn.Module):
    """Two Linear layers with one weight and a bias each, and another layer between them."""

    def __init__(self):
        super().__init__()
        self.code = nn.Linear(9, 5)
        self.decode = nn.Linear(5, 9, bias=False)
        self.decode.weight = nn.Parameter(torch.zeros(9, 5))
        self.again = nn.Linear(9, 5)
        self.again.weight = self.code.weight
        self.last = nn.Linear(5, 3)

    def forward(self, X):
        return self.last(torch.relu(self.again(torch.tanh(self.decode(self.code(X))))))


class SmallConv(nn.Module):
    """Images of shape (1, 8, 8); batch norm and dropout on the way."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.1)
        self.linear = nn.Linear(36, 10)

    def forward(self, X):
        return self.linear(self.drop(torch.relu(self.norm(self.conv(X))).flatten(1)))


class Convolutional(nn.Module):
    """Images of shape (8, 8); two convolutions, one with a ReLU and one smooth."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3)
        self.linear = nn.Linear(32, 10)

    def forward(self, X):
        X = F.max_pool2d(torch.relu(self.first(X.unsqueeze(1))), 2)
        return self.linear(torch.tanh(self.second(X)).flatten(1))


class LeNet(nn.Module):
    """Views with sizes written as numbers, functional pooling."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.dense = nn.Linear(6 * 2 * 2, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, X):
        X = F.max_pool2d(torch.relu(self.first(X)), 2)
        X = F.avg_pool2d(torch.relu(self.second(X)), 2, padding=1)
        X = X.view(-1, 6 * 2 * 2)
        return self.last(F.relu(self.dense(X)))


class ResidualConv(nn.Module):
    """A residual block of convolutions and batch norms, and a mean over the image."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 1)
        self.norm = nn.BatchNorm2d(5)
        self.inner = nn.Conv2d(5, 5, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(5)
        self.last = nn.Linear(5, 3)

    def forward(self, X):
        h = torch.relu(self.norm(self.stem(X)))
        h = torch.relu(h + self.inner_norm(self.inner(h)))
        return self.last(h.mean(dim=(2, 3)))


class ChangedInPlace(nn.Module):
    """What `other` reads has been changed by then, through a view."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 4, 2)
        self.other = nn.Linear(32, 3)
        self.last = nn.Linear(32, 3)

    def forward(self, X):
        h = self.first(X.unsqueeze(1))
        flat = F.relu(torch.flatten(h, 1), inplace=True)
        return self.last(flat) + self.other(torch.flatten(h, 1))


class Recurrent(nn.Module):
    """Reads one step after the other; the last state says what it was."""

    def __init__(self, kind=nn.LSTM, n_in=8, width=16, n_out=10, batch_first=True, **options):
        super().__init__()
        self.rnn = kind(n_in, width, batch_first=batch_first, **options)
        n_states = options.get("proj_size", width) * (2 if options.get("bidirectional") else 1)
        self.top, self.batch_first = nn.Linear(n_states, n_out), batch_first

    def forward(self, X):
        if self.batch_first:
            return self.top(self.rnn(X)[0][:, -1])
        return self.top(self.rnn(X.transpose(0, 1))[0][-1])


class FirstState(nn.Module):
    """A GRU whose first state is learned."""

    def __init__(self):
        super().__init__()
        self.state, self.rnn = nn.Parameter(torch.randn(3)), nn.GRU(2, 3, batch_first=True)
        self.top = nn.Linear(3, 3)

    def forward(self, X):
        state = self.state.expand(1, len(X), 3).contiguous()
        return self.top(self.rnn(X, state)[0][:, -1])


class Attention(nn.Module):
    """Each position attends to all, and their mean is classified."""

    def __init__(self):
        super().__init__()
        self.attend, self.top = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, X):
        return self.top(self.attend(X, X, X, need_weights=False)[0].mean(1))


class WordTransformer(nn.Module):
    """Words of a table of six, an encoder layer, and the mean over the positions."""

    def __init__(self, batch_first=True):
        super().__init__()
        self.words = nn.Embedding(6, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, activation="gelu", batch_first=batch_first)
        self.top, self.batch_first = nn.Linear(4, 3), batch_first

    def forward(self, X):
        X = self.words(X)
        X = self.layer(X) if self.batch_first else self.layer(X.transpose(0, 1)).transpose(0, 1)
        return self.top(X.mean(1))


class ImageTransformer(nn.Module):
    """The rows of an image of shape (8, 8) at once, each with its place added."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(0.1 * torch.randn(8, 8))
        self.encoder = nn.TransformerEncoderLayer(
            8, nhead=2, dim_feedforward=16, dropout=0.1, batch_first=True
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, X):
        return self.linear(self.encoder(X + self.place).flatten(1))


class PerPosition(nn.Module):
    """Class scores (n, classes, positions)."""

    def __init__(self):
        super().__init__()
        self.words, self.top = nn.Embedding(6, 3), nn.Linear(3, 3)

    def forward(self, X):
        return self.top(torch.tanh(self.words(X))).transpose(1, 2)


class Embedded(nn.Module):
    """Whole numbers of four columns, a row of a table for each."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 3, dtype=torch.float64)
        self.norm = nn.LayerNorm(12, dtype=torch.float64)
        self.linear = nn.Linear(12, 3, dtype=torch.float64)

    def forward(self, X):
        return self.linear(F.gelu(self.norm(self.table(X).flatten(1))))
