"""Which NumPy function stands for which of torch's operations, and the functions' source.

What no function stands for is first taken apart by torch into operations that may have one.
"""

import ast
import inspect
from collections.abc import Callable, Iterable

import torch

#: By name of one of torch's own (``aten``) operations, with the overload where it matters
#: (``"max"`` or ``"max.dim"``): the function that does the same in NumPy.
COUNTERPARTS: dict[str, Callable] = {}


def aten(*names: str) -> Callable[[Callable], Callable]:
    """Decorate a NumPy function that does what torch's operations of these names do.

    Its source is copied into exported files, without the decorator: it takes the arguments of
    torch's operation and uses nothing but NumPy, the standard library and functions of its own
    module, whose source is copied too.

    Parameters
    ----------
    *names : str
        Of operations in ``torch.ops.aten``, such as ``"relu"`` or ``"max.dim"``.
    """

    def register(function):
        COUNTERPARTS.update(dict.fromkeys(names, function))
        return function

    return register


def counterpart(operation: object) -> Callable | None:
    """The function that does what a node of a program calls; None if there is not one."""
    parts = str(operation).split(".")
    if len(parts) != 3 or parts[0] != "aten":
        return None
    return COUNTERPARTS.get(f"{parts[1]}.{parts[2]}", COUNTERPARTS.get(parts[1]))


def in_known_operations(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with each operation that has no counterpart taken apart, and nothing in place.

    Torch's own decompositions are taken, except of the operations that have a counterpart: layers
    stay layers, which is shorter to read and faster to run.

    Raises
    ------
    ValueError
        If torch cannot take an operation apart.
    """
    table = torch.export.default_decompositions()
    for operation in list(table):
        if counterpart(operation) is not None:
            del table[operation]
    try:
        return program.run_decompositions(table)
    except Exception as error:
        # Of any of torch's many rules.
        raise ValueError(
            f"torch.export cannot take the network apart: {str(error).strip().splitlines()[:1]}. "
            "Export with to_onnx or to_torch."
        ) from error


def source(function: Callable) -> str:
    """The source of a function, without decorators.

    Examples
    --------
    >>> from sk_obd.export.elementwise_operations import relu
    >>> print(source(relu))
    def relu(x):
        return np.maximum(x, 0)
    """
    text = inspect.getsource(function)
    return text[text.index("def ") :]


def with_helpers(functions: Iterable[Callable]) -> list[Callable]:
    """Functions and those of their modules that they call, callers first, each once."""
    found: dict[str, Callable] = {}
    todo = list(functions)
    while todo:
        function = todo.pop(0)
        found.setdefault(function.__name__, function)
        known = inspect.getmodule(function)
        nodes = list(ast.walk(ast.parse(source(function))))
        own = {node.arg for node in nodes if isinstance(node, ast.arg)}
        read = [node.id for node in nodes if isinstance(node, ast.Name)]
        called = [getattr(known, name, None) for name in read if name not in own]
        todo += [f for f in called if inspect.isfunction(f) and f.__name__ not in found]
    return list(found.values())
