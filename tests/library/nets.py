"""skorch nets that the tests share; importable, so that they pickle."""

import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback
from torch import nn

from tests.library.modules import TwoLayers


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
