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

from ..curvature.boundary import buffers_restored
from ..curvature.hooks import evaluating, first_output
from ..curvature.losses.base import WrongOutputs
from ..curvature.losses.registry import loss_of
from .batches import array_batches, first_rows
from .isolation import OwnGenerator
from .probes import call_net

#: Rows predicted or measured at a time.
PREDICTION_ROWS = 1024


def check_net(net, kind, owner):
    """Refuse what is not a skorch net, or is made for the other kind of task.

    Raises
    ------
    TypeError
        With the line of code to write instead.
    ValueError
        For a module that cannot be looked into.
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

    if net.compile:
        raise ValueError(
            f"net has compile=True; {owner} looks into the module and differentiates it twice, "
            "which compiled modules do not allow. Set compile=False, and compile net_.module_ "
            "after fit if predictions shall be faster."
        )
    if isinstance(net.module, nn.Module):
        check_module(net.module)


def check_module(module):
    """Refuse modules that cannot be looked into, or have parameters that OBD does not know.

    Raises
    ------
    ValueError
        Naming the submodule or the parameter, and what to do.
    """
    for name, part in module.named_modules():
        where = f"{name!r} of the module {type(module).__name__}" if name else "the module"
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(
                f"{where} is a TorchScript module ({type(part).__name__}), which cannot be looked "
                "into. Give the module that it was made from; to_torch exports the pruned one."
            )
        if hasattr(part, "_orig_mod"):
            raise ValueError(
                f"{where} is what torch.compile returned, which cannot be differentiated twice. "
                "Give the module itself, and compile net_.module_ after fit."
            )
    for name, parameter in module.named_parameters():
        if parameter.is_complex():
            raise ValueError(
                f"The parameter {name!r} of {type(module).__name__} is complex ({parameter.dtype}),"
                " and second derivatives are of real parameters. Hold it as real numbers with a "
                "last dimension of 2, and take torch.view_as_complex of them in forward."
            )
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"The parameter {name!r} of {type(module).__name__} is of {parameter.dtype}, in "
                "which training and second derivatives lose what deletion rests on. Give "
                "module.float(), and take net_.module_.half() after fit where memory matters."
            )


def duplicate(net):
    """A copy of a skorch net, with its weights where it is initialised."""
    copied = clone(net)
    if net.initialized_:
        verbose, copied.verbose = copied.verbose, 0
        with OwnGenerator(torch.Generator()):  # the weights drawn are replaced at once
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
    with OwnGenerator(torch.Generator()):
        copied.initialize()
    _copy_parts(net, copied)
    copied.module = copied.module_ = module
    copied.initialize_optimizer()
    copied.verbose, copied.history_ = net.verbose, net.history_
    return copied


def parts_of(net):
    """The initialised modules and criteria of a net, by attribute."""
    return {k: v for k, v in vars(net).items() if k.endswith("_") and isinstance(v, nn.Module)}


def start(net, X, y, *, verbose=0, fuse=True):
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
    fuse : bool, default=True
        Whether the optimiser's fused form is used where there is one, which is found out by passing
        the first rows of X through the module.
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
    for name in {name for name, _ in ours.get_default_callbacks()}.intersection(idle):
        # An attribute, since skorch's set_params fails for a callback that is already off.
        setattr(ours, f"callbacks__{name}", None)
    ours.initialize()
    check_module(ours.module_)
    # Here callbacks such as skorch's InputShapeSetter rebuild the module for this X.
    ours.notify("on_train_begin", X=X, y=y)
    if net.initialized_:
        _copy_parts(net, ours)
    if any(isinstance(p, UninitializedParameter) for p in ours.module_.parameters()):
        call_net(ours, first_rows(cast(X, input_dtype(ours.module_, X))).to(ours.device))
        ours.initialize_optimizer()
    if fuse and _can_fuse(ours) and _gradients_are_dense(ours, X):
        # An attribute, since skorch's set_params would only change the optimiser's groups.
        ours.optimizer__fused = True
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


def _gradients_are_dense(net, X):
    """Whether the gradients of all parameters are ordinary tensors, as fused optimisers need.

    An Embedding with ``sparse=True`` has others, whether it is a layer or a function.
    """
    module = net.module_
    rows = first_rows(cast(X, input_dtype(module, X))).to(net.device)
    parameters = [p for p in module.parameters() if p.requires_grad]
    try:
        with evaluating(module), buffers_restored(module), torch.enable_grad():
            total = first_output(module(rows.clone())).sum()
            found = torch.autograd.grad(total, parameters, allow_unused=True)
    except Exception:
        # The trial pass says what is wrong with it.
        return False
    return all(g is None or g.layout == torch.strided for g in found)


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


def class_columns(proba):
    """Probabilities as scikit-learn takes them: of shape (n_rows, n_classes).

    skorch stacks those of BCELoss beside an output of shape (n_rows, 1) as (n_rows, 2, 1), and a
    nonlinearity of the user's may give those of the second class only.
    """
    if proba.ndim == 2 and proba.shape[1] > 1:
        return proba
    columns = proba.reshape(proba.shape[0], -1)
    return torch.cat([1 - columns, columns], dim=1) if columns.shape[1] == 1 else columns


def check_criterion(net, output, target):
    """Refuse a criterion that cannot judge (output, target), before any training.

    Raises
    ------
    ValueError
        Among others, for NLLLoss beside a module that does not return (log-)probabilities.
    """
    outputs = outputs_of(net)
    loss = loss_of(net.criterion_, outputs)
    try:
        loss.refuse_outputs(output)
    except WrongOutputs as error:
        owner, module = type(net).__name__, type(net.module_).__name__
        end = "Softmax" if outputs == "proba" else "LogSoftmax"
        of = "probabilities" if outputs == "proba" else "logarithms of probabilities"
        raise ValueError(
            f"{owner} with criterion={type(net.criterion_).__name__} expects a module that returns "
            f"{of}; those that {module} returns do not sum to 1 in each row. Let its forward end "
            f"in {end}, or give {owner} criterion=torch.nn.CrossEntropyLoss, which takes logits."
        ) from error
    with torch.no_grad():
        loss.rows(output, target[: len(output)].to(output.device))


def batch_size_of(net, X):
    """Rows in a training batch of a skorch net."""
    return X.shape[0] if net.batch_size == -1 else min(net.batch_size, X.shape[0])
