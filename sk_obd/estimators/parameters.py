"""The estimators' own parameters, checked: what was found, what was expected, what to do."""

from numbers import Integral, Real

import numpy as np

from ..pruning.groups import GRANULARITIES
from ..pruning.saliency import LOSSES, NEEDS
from ..training.mlp import ACTIVATIONS


def check_parameters(estimator):
    """Raise for a parameter of an estimator that is out of range.

    Raises
    ------
    ValueError, TypeError
        Naming the parameter, the value found and what was expected.
    """
    from ..curvature import METHODS

    p = estimator.get_params(deep=False)
    check_prune_rate(p["prune_rate"])
    check_step(p["step"])
    _count("n_recomputations", p["n_recomputations"], least=0)
    check_trust_region(p["trust_region"], p["step"], p["saliency"])
    _choice("granularity", p["granularity"], GRANULARITIES)
    check_sweep(p["sweep"])
    _choice("saliency", p["saliency"], NEEDS, "a callable(parameters, curvature)")
    _choice("curvature", p["curvature"], METHODS)
    _choice("keep_path", p["keep_path"], ("all", "last"))
    _count("retrain_epochs", p["retrain_epochs"], least=0)
    _count("n_iter_no_change", p["n_iter_no_change"], least=1)
    _number("tol", p["tol"], least=0)
    if p["max_loss_increase"] is not None:
        _number("max_loss_increase", p["max_loss_increase"], least=0)
    fraction = p["validation_fraction"]
    if not (isinstance(fraction, Real) and 0 < fraction < 1):
        raise ValueError(
            f"validation_fraction={fraction!r}; expected a float in (0, 1), the share of the rows "
            "that early stopping scores."
        )
    if p["net"] is None:
        _check_default_net(p)


def check_prune_rate(value):
    """A float in [0, 1) or an int >= 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"prune_rate={value!r} is a {type(value).__name__}; expected a float in [0, 1), the "
            "share of parameters deleted in the end, or an int, their number."
        )
    if value < 0 or (not isinstance(value, Integral) and not value < 1):
        raise ValueError(
            f"prune_rate={value!r}; expected a float in [0, 1), the share of parameters deleted "
            "in the end (0.9 for 90 %), or an int >= 1, their number. 0 trains the dense network."
        )


def check_step(value):
    """A float in (0, 1), an int >= 1, or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"step={value!r} is a {type(value).__name__}; expected a float in (0, 1), an int >= 1 "
            "or None."
        )
    if not (value >= 1 if isinstance(value, Integral) else 0 < value < 1):
        raise ValueError(
            f"step={value!r} makes no progress or has no meaning; expected a float in (0, 1), the "
            "share of what is left that one iteration deletes, an int >= 1, their number, or None "
            "to delete all at once."
        )


def check_trust_region(value, step, saliency):
    """None, or a float > 0, which needs a first step and a saliency that predicts the loss."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or not value > 0:
        raise ValueError(
            f"trust_region={value!r}; expected a float > 0, the error of the predicted increase "
            "that is tolerated, as a share of the training loss, or None."
        )
    if step is None:
        raise ValueError(
            f"trust_region={value!r} changes the step from one iteration to the next, and "
            "step=None deletes all at once. Give the first step, for instance step=0.2."
        )
    if saliency not in LOSSES:
        raise ValueError(
            f"trust_region={value!r} compares the predicted increase of the loss with the actual "
            f"one, and saliency={saliency!r} predicts none. Use one of {', '.join(LOSSES)}."
        )


def check_sweep(value):
    """A bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"sweep={value!r} is a {type(value).__name__}; expected True or False: whether "
            "parameters that no longer matter are deleted too, after each deletion."
        )


def _check_default_net(p):
    _choice("activation", p["activation"], ACTIVATIONS)
    _count("max_epochs", p["max_epochs"], least=0)
    if p["batch_size"] != "auto":
        _count("batch_size", p["batch_size"], least=1, other="'auto'")
    if p["weight_decay"] != "auto":
        _number("weight_decay", p["weight_decay"], least=0, other="'auto'")
    rate = p["learning_rate_init"]
    if not (isinstance(rate, Real) and rate > 0):
        raise ValueError(f"learning_rate_init={rate!r}; expected a float > 0.")
    sizes = p["hidden_layer_sizes"]
    try:
        good = all(isinstance(size, Integral) and size >= 1 for size in sizes)
    except TypeError:
        good = False
    if not good:
        raise ValueError(
            f"hidden_layer_sizes={sizes!r}; expected a sequence of ints >= 1, a hidden layer each, "
            "for instance (100,)."
        )


def _choice(name, value, choices, other=None):
    if other and callable(value):
        return
    if not (isinstance(value, str) and value in choices):
        listed = ", ".join(repr(choice) for choice in choices) + (f" or {other}" if other else "")
        raise ValueError(f"{name}={value!r}; expected one of {listed}.")


def _count(name, value, least, other=None):
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(
            f"{name}={value!r}; expected an int >= {least}" + (f" or {other}." if other else ".")
        )


def _number(name, value, least, other=None):
    if isinstance(value, bool) or not isinstance(value, Real) or not value >= least:
        raise ValueError(
            f"{name}={value!r}; expected a number >= {least}" + (f" or {other}." if other else ".")
        )
