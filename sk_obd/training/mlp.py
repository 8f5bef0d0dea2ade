"""The default network: a multilayer perceptron sized only from the data."""

from collections import OrderedDict

import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EarlyStopping
from torch import nn

from .standardise import Standardise

ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class MLP(nn.Sequential):
    """A multilayer perceptron: Linear layers ``hidden0``, ``hidden1``, ... and ``output``.

    X is standardised first, by numbers that stay as they are. Weights start uniform after Glorot
    and Bengio (2010), the same ones for every dtype, and biases at zero.

    Parameters
    ----------
    n_features, n_outputs : int
    hidden_layer_sizes : sequence of int, default=(100,)
    activation : {"identity", "logistic", "tanh", "relu", "gelu", "silu"}, default="relu"
    dtype : torch.dtype, default=torch.float64
    mean, scale : array of shape (n_features,), default=None
        Of the columns of X; None: 0 and 1.

    Examples
    --------
    >>> [name for name, _ in MLP(4, 3, (5,)).named_parameters()]
    ['hidden0.weight', 'hidden0.bias', 'output.weight', 'output.bias']
    """

    def __init__(
        self,
        n_features,
        n_outputs,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        dtype=torch.float64,
        mean=None,
        scale=None,
    ):
        mean = torch.zeros(n_features) if mean is None else mean
        scale = torch.ones(n_features) if scale is None else scale
        layers = OrderedDict(standardise=Standardise(mean, scale))
        width = n_features
        for i, size in enumerate(hidden_layer_sizes):
            layers[f"hidden{i}"] = nn.Linear(width, size, dtype=torch.float64)
            layers[f"activation{i}"] = ACTIVATIONS[activation]()
            width = size
        layers["output"] = nn.Linear(width, n_outputs, dtype=torch.float64)
        super().__init__(layers)
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.to(dtype)


def default_net(
    kind,
    *,
    mean_and_scale,
    n_outputs,
    sum_of_weights,
    n_rows,
    dtype,
    hidden_layer_sizes,
    activation,
    learning_rate_init,
    batch_size,
    max_epochs,
    weight_decay,
):
    """The skorch net that is used for ``net=None``: Adam on shuffled batches.

    Each round of training ends when the training loss has not improved by 1e-4 for 10 epochs.
    """
    mean, scale = mean_and_scale
    if weight_decay == "auto":
        # Never 0: separable data have no minimum without it, and OBD assumes one.
        weight_decay = min(1e-2, 4.0 / sum_of_weights)
    net_class, criterion = {
        "classifier": (NeuralNetClassifier, nn.CrossEntropyLoss),
        "regressor": (NeuralNetRegressor, nn.MSELoss),
    }[kind]
    return net_class(
        MLP,
        criterion=criterion,
        module__n_features=len(mean),
        module__n_outputs=n_outputs,
        module__hidden_layer_sizes=tuple(hidden_layer_sizes),
        module__activation=activation,
        module__dtype=dtype,
        module__mean=mean,
        module__scale=scale,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=weight_decay,
        lr=learning_rate_init,
        max_epochs=max_epochs,
        batch_size=min(200, n_rows) if batch_size == "auto" else batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[
            (
                "minimum",
                EarlyStopping(
                    monitor="train_loss", patience=10, threshold=1e-4, threshold_mode="abs"
                ),
            )
        ],
    )
