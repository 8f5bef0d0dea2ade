"""Iterations kept on disk: what was trained once, in whatever run, is not trained again.

The key of an iteration says all it depends on: the data, the network as it starts, how it is
trained, and the numbers of parameters deleted so far. Therefore a longer path goes on from a
shorter one, and a run that was killed goes on from its last finished iteration.

The digests are our own (:mod:`sk_obd.pruning.digest`), since those of joblib and dask do not hold
here: a tensor's ``joblib.hash`` changes from call to call, an edited module class keeps the hash
that it had, and lambdas raise.
"""

import hashlib
import os
import pickle
import platform
import warnings
from dataclasses import dataclass

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

    Each call moves on along the path: the key of an iteration is a digest of the key before it. A
    store that fails costs time and gives a warning, and never the fit.

    Parameters
    ----------
    memory : None, str, path or joblib.Memory
        None keeps nothing.
    key : str or None
        A digest of all that the path starts from; None keeps nothing.
    stacklevel : int, default=2
        Of the warnings, as for :func:`key_of`, called where this is made.
    """

    def __init__(self, memory=None, key=None, *, stacklevel=2):
        self.key, self.stacklevel = key, stacklevel
        #: ``compute_once`` with the store; None where nothing is kept.
        self.cached = None
        if memory is not None and key is not None:
            memory = os.fspath(memory) if isinstance(memory, os.PathLike) else memory
            try:
                self.cached = check_memory(memory).cache(compute_once, ignore=["compute"])
            except OSError as error:
                self.give_up(error, stacklevel + 2)

    def __call__(self, row, total, compute):
        """What ``compute()`` returns for a row of the path, now or in an earlier run."""
        if self.key is None:
            return compute()
        self.key = digest(self.key, row, total)
        once = Once(self.key, compute)
        if self.cached is None:
            return once.value()
        # prune stands between, and _follow in the place of _cache.
        level = self.stacklevel + 3
        try:
            entry = self.entry(once)
        except Exception as error:
            return self.without_store(once, error, level)
        if once.done:
            return once.value()
        try:
            return once.opened(entry.get())
        except Exception as error:
            # Whatever a reader of damaged pickles may raise.
            warnings.warn(
                f"An iteration in the cache is damaged, or gone: {type(error).__name__}: {error}. "
                "It is computed again, and takes its place.",
                UserWarning,
                stacklevel=level - 1,
            )
        try:
            entry.clear()
            self.entry(once)
        except Exception as error:
            return self.without_store(once, error, level)
        return once.value()

    def entry(self, once):
        """The entry of an iteration, with ``get()`` and ``clear()``; made where there is none."""
        shelve = getattr(self.cached, "call_and_shelve", None)
        if shelve is None:
            # Of a memory that is not joblib's.
            return Entry(self.cached(once.key, once.record))
        return shelve(once.key, once.record)

    def without_store(self, once, error, level):
        """What an iteration computes, where the store raised an error and not the iteration."""
        if once.error is not None:
            raise once.error
        self.give_up(error, level + 1)
        return once.value()

    def give_up(self, error, level):
        """Keep nothing from here on."""
        self.cached = None
        warnings.warn(
            f"memory is given but nothing more is cached: {type(error).__name__}: {error}. The fit "
            "goes on without. Give a folder that can be written to, with space left.",
            UserWarning,
            stacklevel=level,
        )


class Once:
    """A computation that is made at most once, whatever the store does.

    Parameters
    ----------
    key : str
    compute : callable
    """

    def __init__(self, key, compute):
        self.key, self.compute = key, compute
        #: The value, as soon as it is there.
        self.done = []
        #: What computing it raised.
        self.error = None

    def value(self):
        """What is computed."""
        if not self.done:
            try:
                self.done.append(self.compute())
            except BaseException as error:
                self.error = error
                raise
        return self.done[0]

    def record(self):
        """What is stored: a seal, and the value as bytes."""
        raw = pickle.dumps(self.value(), protocol=pickle.HIGHEST_PROTOCOL)
        return self.seal(raw), raw

    def opened(self, record):
        """The value in a record, whose seal is looked at before anything is made of it.

        Raises
        ------
        ValueError
            If it was changed, or belongs to another key.
        """
        seal, raw = record
        if seal != self.seal(raw):
            raise ValueError("its digest is another")
        return pickle.loads(raw)

    def seal(self, raw):
        """A digest of bytes under this key."""
        return hashlib.sha256(self.key.encode() + raw).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A record as an entry that cannot be cleared."""

    record: tuple

    def get(self):
        """The record."""
        return self.record

    def clear(self):
        """Nothing: only joblib's own entries can be."""


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
