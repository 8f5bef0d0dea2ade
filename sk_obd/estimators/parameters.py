"""The estimators' own parameters in one table, and how each is checked.

From this table follow the checks, the :class:`~sk_obd.pruning.recipe.Recipe` of a fit, and what a
cached network depends on. A new parameter is a line here, besides the signatures and its entry in
the documentation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from numbers import Integral, Real
from typing import Literal

import numpy as np

from ..curvature import METHODS
from ..pruning.compensation import COMPENSATIONS
from ..pruning.groups import GRANULARITIES
from ..pruning.saliency import LOSSES, NEEDS
from ..training.mlp import ACTIVATIONS

RULES = ("best", "one_se")

#: How a net of one's own has what a setting of the default network says.
ON_A_NET = {
    "hidden_layer_sizes": "Build the net's module with these layers",
    "activation": "Build the net's module with this activation",
    "learning_rate_init": "Set it on the net as lr (net__lr in a grid)",
    "batch_size": "Set it on the net as batch_size (net__batch_size in a grid)",
    "max_epochs": "Set it on the net as max_epochs (net__max_epochs in a grid)",
    "weight_decay": "Set it on the net as optimizer__weight_decay",
}


def anything(name, value, parameters):
    """No check: what takes the value says what is wrong with it."""


@dataclass(frozen=True)
class Parameter:
    """What is to be known of a parameter."""

    #: ``check(name, value, parameters)`` raises for a value that is not allowed.
    check: Callable = anything
    #: What it decides: what the networks of a path are, given their sizes; which sizes the path
    #: visits and where it stops; or nothing of both.
    decides: Literal["networks", "path"] | None = None
    #: Which classes have it.
    classes: Literal["plain", "cv", "both"] = "both"
    #: Whether it is a setting of the default network, so that it means nothing beside a `net`.
    default_net: bool = False


def check_parameters(estimator):
    """Raise for a parameter of an estimator that is not allowed.

    Raises
    ------
    ValueError, TypeError
        Naming the parameter, the value found and what was expected.
    """
    parameters = estimator.get_params(deep=False)
    for name, value in parameters.items():
        known = PARAMETERS.get(name, Parameter())
        if not known.default_net or parameters["net"] is None:
            known.check(name, value, parameters)


def refuse_settings_beside_net(estimator):
    """Raise ValueError for a setting of the default network that was given beside a net."""
    defaults = signature(type(estimator)).parameters
    for name in names_where(default_net=True):
        value = getattr(estimator, name)
        if not same(value, defaults[name].default):
            raise ValueError(
                f"{name}={value!r} is a setting of the default network and means nothing beside "
                f"net={type(estimator.net).__name__}(...). {ON_A_NET[name]}, or leave out net."
            )


def same(value, default):
    """Whether a value is the default, where both are numbers, strings or sequences of numbers."""
    if isinstance(default, tuple) and not isinstance(value, str):
        return np.array_equal(np.asarray(value), np.asarray(default))
    return type(value) is type(default) and value == default


def names_where(**wanted):
    """Names of the parameters with such entries in the table.

    Examples
    --------
    >>> names_where(classes="cv")
    ['cv', 'rule', 'n_jobs']
    """
    return [
        name
        for name, known in PARAMETERS.items()
        if all(getattr(known, field) == value for field, value in wanted.items())
    ]


# -- kinds of checks -------------------------------------------------------------------------------


def choice(choices, other=None):
    """One of some strings, or with `other`, its description, a callable."""

    def check(name, value, parameters):
        if other and callable(value):
            return
        if not (isinstance(value, str) and value in choices):
            listed = ", ".join(repr(choice) for choice in choices)
            listed += f" or {other}" if other else ""
            raise ValueError(f"{name}={value!r}; expected one of {listed}.")

    return check


def number(kind, least, other=None):
    """A number of a kind from `least` on, or the value `other`."""
    article = "an int" if kind is Integral else "a number"

    def check(name, value, parameters):
        if other is not None and isinstance(value, str) and value == other:
            return
        if isinstance(value, bool) or not isinstance(value, kind) or not value >= least:
            ending = "." if other is None else f" or {other!r}."
            raise ValueError(f"{name}={value!r}; expected {article} >= {least}{ending}")

    return check


def none_or(check):
    """None, or what passes another check."""

    def check_unless_none(name, value, parameters):
        if value is not None:
            check(name, value, parameters)

    return check_unless_none


# -- checks of single parameters -------------------------------------------------------------------


def check_prune_rate(name, value, parameters):
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


def check_step(name, value, parameters):
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


def check_trust_region(name, value, parameters):
    """None, or a float > 0, which needs a first step and a saliency that predicts the loss."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or not value > 0:
        raise ValueError(
            f"trust_region={value!r}; expected a float > 0, the error of the predicted increase "
            "that is tolerated, as a share of the training loss, or None."
        )
    if parameters["step"] is None:
        raise ValueError(
            f"trust_region={value!r} changes the step from one iteration to the next, and "
            "step=None deletes all at once. Give the first step, for instance step=0.2."
        )
    if parameters["saliency"] not in LOSSES and parameters["compensation"] != "obs":
        raise ValueError(
            f"trust_region={value!r} compares the predicted increase of the loss with the actual "
            f"one, and saliency={parameters['saliency']!r} predicts none. Use one of "
            f"{', '.join(LOSSES)}, or compensation='obs'."
        )


def check_sweep(name, value, parameters):
    """A bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"sweep={value!r} is a {type(value).__name__}; expected True or False: whether "
            "parameters that no longer matter are deleted too, after each deletion."
        )


def check_validation_fraction(name, value, parameters):
    """A float in (0, 1)."""
    if not (isinstance(value, Real) and 0 < value < 1):
        raise ValueError(
            f"validation_fraction={value!r}; expected a float in (0, 1), the share of the rows "
            "that early stopping scores."
        )


def check_scoring(name, value, parameters):
    """One scorer for the CV classes; the plain ones leave the check to scikit-learn."""
    if "cv" in parameters and not (value is None or isinstance(value, str) or callable(value)):
        raise TypeError(
            f"scoring={value!r} is a {type(value).__name__}; expected one "
            "scorer: a str, a callable(estimator, X, y), or None."
        )


def check_rule(name, value, parameters):
    """One of the rules by which a size is chosen."""
    if value not in RULES:
        raise ValueError(f"rule={value!r}; expected 'best' or 'one_se'.")


def check_learning_rate(name, value, parameters):
    """A number > 0."""
    if not (isinstance(value, Real) and value > 0):
        raise ValueError(f"learning_rate_init={value!r}; expected a float > 0.")


def check_hidden_layer_sizes(name, value, parameters):
    """A sequence of ints >= 1."""
    try:
        good = all(isinstance(size, Integral) and size >= 1 for size in value)
    except TypeError:
        good = False
    if not good:
        raise ValueError(
            f"hidden_layer_sizes={value!r}; expected a sequence of ints >= 1, one for each hidden "
            "layer, for instance (100,)."
        )


PARAMETERS: dict[str, Parameter] = {
    "net": Parameter(),
    "prune_rate": Parameter(check_prune_rate, decides="path"),
    "step": Parameter(check_step, decides="path"),
    "n_recomputations": Parameter(number(Integral, 0), decides="networks"),
    "trust_region": Parameter(check_trust_region, decides="path", classes="plain"),
    "granularity": Parameter(choice(GRANULARITIES), decides="networks", classes="plain"),
    "sweep": Parameter(check_sweep, decides="networks", classes="plain"),
    "cv": Parameter(classes="cv"),
    "scoring": Parameter(check_scoring),
    "rule": Parameter(check_rule, classes="cv"),
    "n_jobs": Parameter(classes="cv"),
    "saliency": Parameter(choice(NEEDS, "a callable(parameters, curvature)"), decides="networks"),
    "curvature": Parameter(choice(METHODS), decides="networks"),
    "compensation": Parameter(none_or(choice(COMPENSATIONS)), decides="networks"),
    "prunable": Parameter(),
    "retrain_epochs": Parameter(none_or(number(Integral, 0)), decides="networks"),
    "max_loss_increase": Parameter(none_or(number(Real, 0)), decides="path", classes="plain"),
    "early_stopping": Parameter(decides="path", classes="plain"),
    "n_iter_no_change": Parameter(number(Integral, 1), decides="path", classes="plain"),
    "tol": Parameter(number(Real, 0), decides="path", classes="plain"),
    "validation_fraction": Parameter(check_validation_fraction, classes="plain"),
    "class_weight": Parameter(),
    "hidden_layer_sizes": Parameter(check_hidden_layer_sizes, default_net=True),
    "activation": Parameter(choice(ACTIVATIONS), default_net=True),
    "learning_rate_init": Parameter(check_learning_rate, default_net=True),
    "batch_size": Parameter(number(Integral, 1, "auto"), default_net=True),
    "max_epochs": Parameter(number(Integral, 0), default_net=True),
    "weight_decay": Parameter(number(Real, 0, "auto"), default_net=True),
    "keep_path": Parameter(choice(("all", "last"))),
    "memory": Parameter(),
    "warm_start": Parameter(classes="plain"),
    "random_state": Parameter(),
    "verbose": Parameter(),
}
