"""A key for a cache: equal where the code and the values are equal, in every process.

``joblib.hash`` is not that: a tensor's changes from call to call, an edited class keeps its own.
"""

import enum
import functools
import hashlib
import importlib.metadata
import logging
import sys
import types
import weakref
from pathlib import Path

import numpy as np
import torch
from scipy import sparse


class Unstable(TypeError):
    """Something has no digest that would be the same in another process."""


def digest(*values):
    """A hexadecimal digest of values.

    Parameters
    ----------
    *values : object
        Numbers, text, arrays, tensors, containers of them; classes and functions, with all code
        of the user that theirs names (of installed packages, the version); objects whose
        attributes are such values.

    Returns
    -------
    str

    Raises
    ------
    Unstable
        Naming what has no stable digest.

    Examples
    --------
    >>> digest([1, 2.0], {"a": torch.zeros(2)}) == digest([1, 2.0], {"a": torch.zeros(2)})
    True
    >>> digest(1) == digest(1.0)
    False
    """
    walk = Walk()
    for value in values:
        walk.add(value)
    return walk.hash.hexdigest()


@functools.cache
def own_source():
    """A digest of this package's files, for those who edit them."""
    root = Path(__file__).parents[1]
    files = sorted(root.rglob("*.py"))
    return digest([(str(f.relative_to(root)), f.read_bytes()) for f in files])


class Walk:
    """One pass over values and all they lead to; each object is looked at once."""

    def __init__(self):
        self.hash = hashlib.sha256()
        self.seen = {}  # id -> (number, object): held, so that its id stays its own

    def text(self, *words):
        for word in words:
            raw = word if isinstance(word, bytes) else str(word).encode()
            self.hash.update(len(raw).to_bytes(8, "little"))
            self.hash.update(raw)

    def add(self, value):
        if isinstance(value, SIMPLE):
            self.text(type(value).__name__, value if isinstance(value, bytes) else repr(value))
            return
        if id(value) in self.seen:
            self.text("seen", self.seen[id(value)][0])
            return
        self.seen[id(value)] = len(self.seen), value
        self.text(type(value).__qualname__)
        rule = next((rule for kinds, rule in RULES if isinstance(value, kinds)), Walk.instance)
        rule(self, value)

    # -- values ----------------------------------------------------------------------------------

    def sequence(self, values):
        self.text(len(values))
        for value in values:
            self.add(value)

    def mapping(self, values):
        self.sequence([part for pair in values.items() for part in pair])

    def unordered(self, values):
        self.sequence(sorted(digest(value) for value in values))

    def array(self, value):
        if value.dtype.hasobject:
            self.sequence([value.shape, value.tolist()])
        else:
            self.text(value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())

    def matrix(self, value):
        value = value.tocsr()
        self.sequence([value.shape, value.data, value.indices, value.indptr])

    def tensor(self, value):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self.text(value.dtype, tuple(value.shape), raw.numpy().tobytes())

    def named(self, value):
        self.text(repr(value))

    def instance(self, value):
        self.add(type(value))
        new = type(value).__new__
        written_in_python = new is object.__new__ or isinstance(new, types.FunctionType)
        if not (written_in_python and hasattr(value, "__dict__")):
            # What it holds lies where nothing here can look.
            raise Unstable(f"{value!r} of type {type(value).__name__}")
        self.mapping(dict(sorted(vars(value).items())))

    # -- code ------------------------------------------------------------------------------------

    def defined(self, value):
        """Note where code comes from; return whether it is the user's own, to be looked into."""
        self.text(value.__module__, value.__qualname__)
        version = version_of(value.__module__)
        self.text(version)
        return version is None

    def cls(self, value):
        if not self.defined(value):
            return
        self.sequence(value.__bases__)
        for name, member in sorted(vars(value).items()):
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(function, types.FunctionType):
                self.text(name)
                self.code_of(function)
            elif not (name.startswith(("__", "_abc_"))):
                self.text(name)
                self.add(member)

    def function(self, value):
        if self.defined(value):
            self.code_of(value)

    def code_of(self, function):
        """A function's code, and what it leads to: defaults, closure, globals that it names."""
        self.code(function.__code__)
        self.sequence([function.__defaults__, function.__kwdefaults__])
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # a cell still empty
                self.text("empty")
        used = names_in(function.__code__)
        for name in sorted(used & set(function.__globals__)):
            self.text(name)
            value = function.__globals__[name]
            if isinstance(value, types.ModuleType):
                self.module(value, used)
            else:
                self.add(value)

    def code(self, code):
        self.text(code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant)
            else:
                self.add(constant)

    def module(self, value, used=()):
        """Add a module: its version, or of a module of the user what the code may take from it."""
        version = version_of(value.__name__)
        self.text(value.__name__, version)
        if version is None:
            for name in sorted(set(used) & set(vars(value))):
                self.add(getattr(value, name))


def names_in(code):
    """Names that a function's code, and the functions in it, use."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(names_in, inner))


@functools.cache
def distributions():
    return importlib.metadata.packages_distributions()


def version_of(module_name):
    """What stands for the code of an installed module; None for a module of the user."""
    top = (module_name or "builtins").partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return sys.version
    if top == __package__.partition(".")[0]:
        return own_source()
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    if top in distributions() and "site-packages" in Path(file).parts:
        return ", ".join(importlib.metadata.version(name) for name in distributions()[top])
    return None


SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(...))

RULES = (
    ((tuple, list), Walk.sequence),
    ((dict, types.MappingProxyType), Walk.mapping),
    ((set, frozenset), Walk.unordered),
    (np.ndarray, Walk.array),
    (np.generic, lambda walk, value: walk.array(np.asarray(value))),
    (torch.Tensor, Walk.tensor),
    ((sparse.sparray, sparse.spmatrix), Walk.matrix),
    ((torch.dtype, torch.device, np.dtype, range, slice, Path, logging.Logger), Walk.named),
    (np.random.RandomState, lambda walk, value: walk.add(value.get_state())),
    (
        functools.partial,
        lambda walk, value: walk.sequence([value.func, value.args, value.keywords]),
    ),
    (types.MethodType, lambda walk, value: walk.sequence([value.__self__, value.__func__])),
    (enum.Enum, lambda walk, value: walk.sequence([type(value), value.name])),
    (type, Walk.cls),
    (types.FunctionType, Walk.function),
    (
        (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType),
        lambda walk, value: walk.text(value.__qualname__),
    ),
    # What a weak reference refers to is held, and so met, elsewhere.
    (
        (property, staticmethod, classmethod, weakref.ref),
        lambda walk, value: walk.text(type(value).__name__),
    ),
    (types.ModuleType, Walk.module),
)
