"""What a user named or labelled, as text of a program that cannot run it."""

import keyword
import math
import re
import unicodedata
from collections.abc import Container

import numpy as np
from torch import nn

#: What is written by ``repr``: of these very types, whose ``repr`` is Python's own.
PLAIN = (str, bytes, int, float, bool, type(None))


def literal(value: object) -> str:
    r"""A label as a Python expression in ASCII, which needs nothing but ``np``.

    Raises
    ------
    ValueError
        For a label that is neither text, bytes, a number, a bool nor None: a subclass of these too,
        since its ``repr`` may be any code.

    Examples
    --------
    >>> literal("it's"), literal(float("inf")), literal(np.float32(0.5))
    ('"it\'s"', "float('inf')", 'np.float32(0.5)')
    """
    kind = type(value)
    if isinstance(value, float) and kind is float and not math.isfinite(value):
        return f"float('{value}')"
    if kind in PLAIN:
        return ascii(value)
    name = "bool_" if kind is np.bool_ else kind.__name__
    if isinstance(value, np.generic) and getattr(np, name, None) is kind:
        item = value.item()
        if type(item) in PLAIN:
            return f"np.{name}({literal(item)})"
    raise unknown_label(kind)


def array_literal(labels: np.ndarray) -> str:
    """An array of labels as a Python expression in ASCII, which needs nothing but ``np``.

    Raises
    ------
    ValueError
        For labels of a type that cannot be written as data.

    Examples
    --------
    >>> array_literal(np.array(["b", "a"]))
    "np.array(['b', 'a'], dtype='<U1')"
    """
    dtype, end = labels.dtype, ""
    if dtype.kind in "mM":
        # As numbers since 1970, or of units of time.
        dtype, end = np.dtype("int64"), f".view({dtype.newbyteorder('=').str!r})"
        labels = labels.astype(labels.dtype.newbyteorder("=")).view(dtype)
    values = labels.tolist()
    if dtype.kind not in "biufUSO" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise unknown_label(dtype.type)
    return f"np.array([{', '.join(map(literal, values))}], dtype={dtype.str!r}){end}"


def plain_labels(labels: np.ndarray) -> list:
    """Labels as JSON has them: numbers, bools, text, None; dates as text.

    Raises
    ------
    ValueError
        For labels of another type.
    """
    if labels.dtype.kind in "mM":
        return labels.astype(str).tolist()
    values = [v.item() if is_scalar(v) else v for v in labels.tolist()]
    for value in values:
        if type(value) not in PLAIN or type(value) is bytes:
            raise unknown_label(type(value))
    return values


def is_scalar(value):
    """Whether a value is one of NumPy's own scalars, and not of a subclass."""
    return isinstance(value, np.generic) and type(value) is value.dtype.type


def unknown_label(kind: type) -> ValueError:
    """The error for a label of a type that cannot be written."""
    return ValueError(
        f"A class label is of type {kind.__name__}, which cannot be written as data; labels may be "
        "numbers, bools and text (str itself, not a subclass of it). Encode y "
        "(sklearn.preprocessing.LabelEncoder) before fit."
    )


def variable(name: str, taken: Container[str]) -> str:
    """A name of a variable in a program for what a module calls `name`.

    Examples
    --------
    >>> variable("0.weight", ()), variable("a-b.weight", ()), variable("class", {"x"})
    ('w0_weight', 'a_b_weight', 'class_')
    """
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    name = name if name[:1].isalpha() else f"w{name}"
    while name in taken or keyword.iskeyword(name) or re.fullmatch(r"x\d+", name):
        name += "_"
    return name


def comment(text: str) -> str:
    """Text that stays in its line."""
    return text.encode("unicode_escape").decode()


def check_names(module: nn.Module) -> None:
    r"""Refuse names that torch cannot write into a program, or writes as code.

    torch.export puts names of layers and parameters between double quotes as they are.

    Raises
    ------
    ValueError
        For a name with a double quote, a backslash, a line's end or another control character, half
        a surrogate pair, or one that Python reads as a keyword or as another name.
    """
    names = [name for name, _ in module.named_modules()]
    names += [name for name, _ in module.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in module.named_buffers(remove_duplicate=False)]
    for part in {part for name in names for part in name.split(".")}:
        control = any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in part)
        other = part.isidentifier() and unicodedata.normalize("NFKC", part) != part
        if control or other or '"' in part or "\\" in part or keyword.iskeyword(part):
            raise ValueError(
                f"The module {type(module).__name__} has a layer or parameter named {part!a}, "
                "which torch.export cannot write into a program. Rename it: without double quotes, "
                "backslashes, control characters, and not as a keyword of Python."
            )
