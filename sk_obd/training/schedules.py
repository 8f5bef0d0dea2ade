"""Learning-rate schedules beside the rounds that they run in.

Each round of training starts its schedule anew, so one that is made for more epochs than a round
has never comes to its end.
"""

import math

from skorch.callbacks import LRScheduler

#: What torch's schedules call the steps after which they are at their end.
HORIZONS = ("T_max", "total_steps", "total_iters")


def unfinished_schedules(net, retrain_epochs, n_batches):
    """Sentences for a warning about schedules that are longer than a round of retraining.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised.
    retrain_epochs : int
        At most so many epochs in a round; of 0, nothing is said.
    n_batches : int
        Of an epoch.

    Returns
    -------
    list of str
    """
    found = []
    for _, callback in net.callbacks_:
        if not isinstance(callback, LRScheduler) or retrain_epochs == 0:
            continue
        setting, horizon = horizon_of(callback.kwargs)
        unit, per_epoch = (
            ("batches", n_batches) if callback.step_every == "batch" else ("epochs", 1)
        )
        steps = retrain_epochs * per_epoch
        if horizon is None or horizon <= steps:
            continue
        policy = callback.policy
        name = policy if isinstance(policy, str) else policy.__name__
        found.append(
            f"{name} ({setting}={horizon}) is made for {horizon} {unit}, and a round of retraining "
            f"has at most {steps}: its schedule never comes to its end there. Set "
            f"retrain_epochs={math.ceil(horizon / per_epoch)} or more, None for as many as the "
            f"dense training, or a {setting} of at most {steps}."
        )
    return found


def horizon_of(settings):
    """The name of the setting that says how long a schedule is, and how many steps it says.

    Examples
    --------
    >>> horizon_of({"T_max": 50, "eta_min": 0})
    ('T_max', 50)
    >>> horizon_of({"epochs": 5, "steps_per_epoch": 10, "max_lr": 0.1})
    ('epochs * steps_per_epoch', 50)
    >>> horizon_of({"gamma": 0.9})
    ('', None)
    """
    for name in HORIZONS:
        if settings.get(name) is not None:
            return name, settings[name]
    if settings.get("epochs") and settings.get("steps_per_epoch"):
        return "epochs * steps_per_epoch", settings["epochs"] * settings["steps_per_epoch"]
    return "", None
