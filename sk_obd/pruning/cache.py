"""Iterations kept on disk: what was trained once, in whatever run, is not trained again.

The key of an iteration says all it depends on: the data, the network as it starts, how it is
trained, and the numbers of parameters deleted so far. A longer path so goes on from a shorter one,
and a run that was killed from its last finished iteration.
"""

import os
import platform
import warnings

import numpy as np
import skorch
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_memory

from ..training.nets import parts_of
from .digest import Unstable, digest, own_source


def finished(key, compute):
    """What ``compute()`` returns, kept under `key` by joblib."""
    return compute()


class Finished:
    """The iterations of one path, recalled where a store has them.

    Parameters
    ----------
    memory : None, str, path or joblib.Memory
        None keeps nothing.
    key : str or None
        A digest of all that the path starts from; None keeps nothing.
    """

    def __init__(self, memory, key):
        self.key = key
        self.call = finished
        if memory is not None and key is not None:
            memory = os.fspath(memory) if isinstance(memory, os.PathLike) else memory
            self.call = check_memory(memory).cache(finished, ignore=["compute"])

    def __call__(self, iteration, total, compute):
        if self.key is not None:
            self.key = digest(self.key, iteration, total)
        return self.call(self.key, compute)


def key_of(net, objective, path, recipe, fixed_seed):
    """A digest of all that the networks of a path depend on, less their sizes.

    None, with a warning, where there is none: a fit without a seed of its own, or something whose
    code or value cannot be told by a digest.
    """
    if not fixed_seed:
        warnings.warn(
            "memory is given but random_state is None, so no two fits are the same and nothing is "
            "cached. Give random_state an int.",
            UserWarning,
            stacklevel=5,
        )
        return None
    try:
        return digest(
            versions(),
            settings_of(net),
            # With their weights, and with the code of every layer.
            parts_of(net),
            str(net.device),
            recipe.of_networks(),
            [path.prunable, path.deleted_at, len(path)],
            [objective.X, objective.targets, objective.sample_weight],
        )
    except Unstable as error:
        warnings.warn(
            f"memory is given but nothing is cached: no digest can be made of {error}, which would "
            "be the same in the next run. Define it at the top level of a module, with attributes "
            "that are numbers, text, arrays or tensors.",
            UserWarning,
            stacklevel=5,
        )
        return None


def versions():
    """Of what decides how a network is trained, and is named by no class of the user's."""
    packages = (torch, skorch, np)
    return [platform.python_version(), own_source(), *(p.__version__ for p in packages)]


def settings_of(net):
    """What the user set on a skorch net, less what only prints; its modules are told apart."""
    apart = ("verbose", "module")
    settings = {k: v for k, v in vars(clone(net)).items() if k not in apart and k[0] != "_"}
    return [type(net), dict(sorted(settings.items()))]
