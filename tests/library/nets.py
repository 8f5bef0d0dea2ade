"""Modules and skorch nets that the tests share; importable, so that they pickle."""

import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback
from torch import nn


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
    def __init__(self):
        super().__init__(dim=-1)


class Squeezed(TwoLayers):
    """One output, shape (n,)."""

    def forward(self, X):
        return super().forward(X).squeeze(-1)


class Lazy(nn.Module):
    def __init__(self, n_out=3):
        super().__init__()
        self.first = nn.LazyLinear(8)
        self.second = nn.LazyLinear(n_out)

    def forward(self, X):
        return self.second(torch.relu(self.first(X)))


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


class TwoOutputs(TwoLayers):
    """Returns a tuple: what is predicted, and something else."""

    def forward(self, X):
        hidden = self.activation(self.first(X))
        return self.second(hidden), hidden


class TupleNet(NeuralNetClassifier):
    """A loss that looks at both outputs."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        predicted, hidden = y_pred
        loss = super().get_loss(predicted, y_true, *args, **kwargs)
        return loss + 1e-3 * hidden.square().mean()


class PenalisedNet(NeuralNetClassifier):
    """skorch's recipe for a penalty."""

    def __init__(self, *args, strength=1e-3, **kwargs):
        super().__init__(*args, **kwargs)
        self.strength = strength

    def get_loss(self, y_pred, y_true, X=None, training=False):
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        return loss + self.strength * sum(w.abs().sum() for w in self.module_.parameters())


class OwnLossNet(NeuralNetClassifier):
    """A loss that never calls the criterion."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        return nn.functional.cross_entropy(y_pred, y_true)


class SizedByData(Callback):
    """skorch's documented recipe: a callback that sizes the module for the data."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        classes = isinstance(net, NeuralNetClassifier)
        n_out = int(y.max()) + 1 if classes else y[:1].reshape(1, -1).shape[1]
        net.set_params(module__n_in=X.shape[1], module__n_out=n_out)


class FullBatch(TwoLayers):
    """A float64 network for scikit-learn's checks."""

    def __init__(self, n_in=1, n_out=1):
        super().__init__(n_in, n_out, hidden=20, dtype=torch.float64)


def classifier_net(module=TwoLayers, **kwargs):
    settings = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": torch.optim.Adam,
        "lr": 1e-2,
        "max_epochs": 15,
        "batch_size": 64,
        "iterator_train__shuffle": True,
    }
    return NeuralNetClassifier(module, **(settings | kwargs))


def binary_net(module=TwoLayers, **kwargs):
    settings = {"module__n_in": 30, "module__n_out": 1, "optimizer": torch.optim.Adam, "lr": 1e-2}
    return NeuralNetBinaryClassifier(module, **(settings | {"max_epochs": 15} | kwargs))


def regressor_net(module=TwoLayers, **kwargs):
    settings = {"module__n_in": 10, "module__n_out": 1, "optimizer": torch.optim.Adam, "lr": 1e-2}
    return NeuralNetRegressor(module, **(settings | {"max_epochs": 15} | kwargs))
