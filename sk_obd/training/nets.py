"""A user's skorch net made ready: copied, started, and checked against the data."""

import copy
import inspect

import numpy as np
import torch
from scipy import sparse
from sklearn.base import clone
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.dataset import Dataset
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.utils.data import DataLoader

from ..curvature.losses.registry import loss_of
from .batches import array_batches
from .probes import try_net

#: Rows predicted or measured at a time.
PREDICTION_ROWS = 1024


def check_net(net, kind, owner):
    """Refuse what is not a skorch net, or is made for the other kind of task.

    Raises
    ------
    TypeError
        With the line of code to write instead.
    """
    right, wrong = {
        "classifier": (NeuralNetClassifier, NeuralNetRegressor),
        "regressor": (NeuralNetRegressor, (NeuralNetClassifier, NeuralNetBinaryClassifier)),
    }[kind]
    if isinstance(net, nn.Module) or (isinstance(net, type) and issubclass(net, nn.Module)):
        name = net.__name__ if isinstance(net, type) else type(net).__name__
        criterion = "torch.nn.CrossEntropyLoss" if kind == "classifier" else "torch.nn.MSELoss"
        raise TypeError(
            f"net={name} is a torch module; {owner} expects a skorch net, which also says how it "
            f"is trained. Write {owner}({right.__name__}({name}, criterion={criterion}, "
            "optimizer=torch.optim.Adam, lr=1e-3, max_epochs=50))."
        )
    if not isinstance(net, NeuralNet):
        raise TypeError(
            f"net is a {type(net).__name__}; {owner} expects a skorch net, for instance "
            f"{right.__name__}(MyModule), or None for a default multilayer perceptron."
        )
    if isinstance(net, wrong):
        raise TypeError(
            f"net is a {type(net).__name__}, made for the other kind of task; {owner} expects a "
            f"{kind}'s net. Write {owner}({right.__name__}(...))."
        )


def duplicate(net):
    """A copy of a skorch net, with its weights where it is initialised."""
    copied = clone(net)
    if net.initialized_:
        verbose, copied.verbose = copied.verbose, 0
        copied.initialize()
        copied.verbose = verbose
        _copy_parts(net, copied)
    return copied


def _copy_parts(source, target):
    """Give `target` copies of every module and criterion of `source`, weights included."""
    memo = {}
    for name, part in parts_of(source).items():
        # One memo: a parameter shared by two parts stays shared.
        setattr(target, name, copy.deepcopy(part, memo))
    if isinstance(target.module, nn.Module):
        target.module = target.module_
    target.initialize_optimizer()


def with_module(net, module):
    """A copy of an initialised net around another module, which it holds as an instance."""
    params = clone(net).get_params(deep=False)
    params = {name: p for name, p in params.items() if not name.startswith("module__")}
    copied = type(net)(**(params | {"module": module, "verbose": 0}))
    copied.initialize()
    _copy_parts(net, copied)
    copied.module = copied.module_ = module
    copied.initialize_optimizer()
    copied.verbose, copied.history_ = net.verbose, net.history_
    return copied


def parts_of(net):
    """The initialised modules and criteria of a net, by attribute."""
    return {k: v for k, v in vars(net).items() if k.endswith("_") and isinstance(v, nn.Module)}


def start(net, X, y, *, verbose=0):
    """An initialised copy of `net`, trained as small networks are best trained.

    Data are cut from whole arrays, an optimiser that has a fused form uses it, nothing is
    printed unless asked, and the net's validation split is used only where a callback needs it.

    Parameters
    ----------
    net : skorch.NeuralNet
        Left as it is. If initialised, the copy starts from its weights.
    X, y : array or CSR matrix, array
        What callbacks that size the module look at, and a lazy layer (the first rows of X).
    verbose : int, default=0
        The copy's own ``verbose``.
    """
    ours = clone(net)
    settings = {"verbose": verbose, "warm_start": False}
    for iterator in ("iterator_train", "iterator_valid"):
        if getattr(ours, iterator) is DataLoader and ours.dataset is Dataset:
            settings[iterator] = array_batches
            if iterator == "iterator_valid" and f"{iterator}__batch_size" not in vars(ours):
                # Prediction needs no gradients: larger batches are faster and fit in memory.
                settings[f"{iterator}__batch_size"] = PREDICTION_ROWS
    idle = [] if verbose else ["print_log"]
    if not monitors_validation(ours):
        settings["train_split"] = None
        idle += ["valid_loss", "valid_acc"]
    ours.set_params(**settings)
    if _can_fuse(ours):
        ours.set_params(optimizer__fused=True)
    for name in {name for name, _ in ours.get_default_callbacks()}.intersection(idle):
        # An attribute, since skorch's set_params fails for a callback that is already off.
        setattr(ours, f"callbacks__{name}", None)
    ours.initialize()
    # Here callbacks such as skorch's InputShapeSetter rebuild the module for this X.
    ours.notify("on_train_begin", X=X, y=y)
    if net.initialized_:
        _copy_parts(net, ours)
    if any(isinstance(p, UninitializedParameter) for p in ours.module_.parameters()):
        try_net(ours, cast(X, input_dtype(ours.module_, X)))
        ours.initialize_optimizer()
    return ours


def monitors_validation(net):
    """Whether a callback of the user looks at the net's own validation data.

    That is: it monitors something named ``valid_...``, or it scores (skorch's scoring callbacks
    look at validation data unless told ``on_train=True``), or it decides by a function.
    """
    if not isinstance(net.callbacks, list | tuple):
        return False
    for entry in net.callbacks:
        callback = entry[1] if isinstance(entry, tuple) else entry
        if isinstance(callback, type):
            callback = callback()
        monitor = getattr(callback, "monitor", None)
        if callable(monitor) or str(monitor).startswith("valid"):
            return True
        if getattr(callback, "on_train", None) is False:
            return True
    return False


def _can_fuse(net):
    """Whether the optimiser has a fused form and the user chose nothing that excludes it."""
    chosen = {"fused", "foreach", "differentiable", "capturable"}
    if any(f"optimizer__{option}" in vars(net) for option in chosen):
        return False
    try:
        return "fused" in inspect.signature(net.optimizer).parameters
    except (TypeError, ValueError):
        return False


def input_dtype(module, X):
    """The dtype in which X enters the module: its own floating type; int64 for an Embedding."""
    if np.issubdtype(X.dtype, np.integer) and any(
        isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in module.modules()
    ):
        return torch.int64
    return module_dtype(module)


def cast(X, dtype):
    """X as a tensor of a type; a CSR matrix stays one."""
    if sparse.issparse(X):
        return X.astype(torch.empty(0, dtype=dtype).numpy().dtype)
    return torch.from_numpy(np.require(X, requirements=["C", "W"])).to(dtype)


def module_dtype(module):
    """Floating type of the module's parameters (torch's default where they do not say)."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.get_default_dtype()


def outputs_of(net):
    """What the module returns where the criterion leaves it open (see ``curvature.diagonal``)."""
    if isinstance(net.criterion_, nn.NLLLoss):
        # skorch's classifier takes the logarithm itself.
        return "proba" if isinstance(net, NeuralNetClassifier) else "log_proba"
    return None


def check_criterion(net, output, target):
    """Refuse a criterion that cannot judge (output, target), before any training."""
    loss = loss_of(net.criterion_, outputs_of(net))
    with torch.no_grad():
        loss.rows(output, target[: len(output)].to(output.device))
