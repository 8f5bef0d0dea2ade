"""Iterations kept on disk: what was trained once, in whatever run, is not trained again.

The key of an iteration says all it depends on: the data, the network as it starts, how it is
trained, and the numbers of parameters deleted so far. Therefore a longer path goes on from a
shorter one, and a run that was killed goes on from its last finished iteration.

The digests are our own (:mod:`sk_obd.pruning.digest`), since those of joblib and dask do not hold
here: a tensor's ``joblib.hash`` changes from call to call, an edited module class keeps the hash
that it had, and lambdas raise.
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


def compute_once(key, compute):
    """What ``compute()`` returns, kept under `key` by joblib."""
    return compute()


class IterationCache:
    """The iterations of one path, recalled where a store has them.

    Each call moves on along the path: the key of an iteration is a digest of the key before it.

    Parameters
    ----------
    memory : None, str, path or joblib.Memory
        None keeps nothing.
    key : str or None
        A digest of all that the path starts from; None keeps nothing.
    """

    def __init__(self, memory=None, key=None):
        self.key = key
        self.call = compute_once
        if memory is not None and key is not None:
            memory = os.fspath(memory) if isinstance(memory, os.PathLike) else memory
            self.call = check_memory(memory).cache(compute_once, ignore=["compute"])

    def __call__(self, row, total, compute):
        """What ``compute()`` returns for a row of the path, now or in an earlier run."""
        if self.key is not None:
            self.key = digest(self.key, row, total)
        return self.call(self.key, compute)


def key_of(net, objective, path, settings, stacklevel=2):
    """Digest of everything a path's networks depend on except how many parameters are deleted.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised.
    objective : Objective
    path : PruningPath
    settings : dict or None
        The estimator's parameters that decide the networks; None where no two fits are the same.
    stacklevel : int, default=2
        Of the warnings.

    Returns
    -------
    str or None
        None, with a warning, where there is no such digest: for a fit without a fixed seed, or
        something whose code or value a digest cannot tell.
    """
    if settings is None:
        warnings.warn(
            "memory is given but random_state is None, so no two fits are the same and nothing is "
            "cached. Give random_state an int.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
        return None
    try:
        return digest(
            versions(),
            settings_of(net),
            # With their weights, and with the code of every layer.
            parts_of(net),
            str(net.device),
            settings,
            [path.prunable, path.deleted_at, len(path)],
            [objective.X, objective.targets, objective.sample_weight],
        )
    except Unstable as error:
        warnings.warn(
            f"memory is given but nothing is cached: no digest can be made of {error}, which would "
            "be the same in the next run. Define it at the top level of a module, with attributes "
            "that are numbers, text, arrays or tensors.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
        return None


def versions():
    """Versions of what affects training but is not reached through the user's own classes."""
    packages = (torch, skorch, np)
    return [platform.python_version(), own_source(), *(p.__version__ for p in packages)]


def settings_of(net):
    """The net's settings that can change its weights.

    Modules are digested separately, with their weights.
    """
    apart = ("verbose", "module")
    settings = {k: v for k, v in vars(clone(net)).items() if k not in apart and k[0] != "_"}
    return [type(net), dict(sorted(settings.items()))]
