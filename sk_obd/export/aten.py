"""Which NumPy function stands for which of torch's operations, and the functions' source."""

import ast
import inspect
from collections.abc import Callable, Iterable

#: By name of one of torch's own (``aten``) operations: the function that does the same in NumPy.
COUNTERPARTS: dict[str, Callable] = {}


def aten(*names: str) -> Callable[[Callable], Callable]:
    """Decorate a NumPy function that does what torch's operations of these names do.

    Its source is copied into exported files, without the decorator: it takes the arguments of
    torch's operation and uses nothing but NumPy, the standard library and functions that its module
    has, whose source is copied too.

    Parameters
    ----------
    *names : str
        Of operations in ``torch.ops.aten``.
    """

    def register(function):
        COUNTERPARTS.update(dict.fromkeys(names, function))
        return function

    return register


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
        read = [n.id for n in ast.walk(ast.parse(source(function))) if isinstance(n, ast.Name)]
        called = [getattr(known, name, None) for name in read]
        todo += [f for f in called if inspect.isfunction(f) and f.__name__ not in found]
    return list(found.values())
