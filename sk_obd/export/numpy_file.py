"""The predictor as a Python file that needs nothing but NumPy."""

from __future__ import annotations

import base64
import builtins
import operator
import os
import textwrap
import zlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import fx

from . import (
    elementwise_operations,
    layer_operations,
    reduction_operations,
    shape_operations,
    spatial_operations,
)
from .aten import counterpart, in_known_operations, source, with_helpers
from .files import write_whole
from .literals import array_literal, comment, literal, variable
from .program import Source, check_program, export_program

#: Below this share of entries that are not zero, only those are stored, with a bit for each entry.
SPARSE_BELOW = 0.9

#: How a program of torch computes with numbers of rows.
ARITHMETIC = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.truediv: "/",
}

#: Arguments that say where or how a tensor lies in memory.
LAYOUT = {"layout", "device", "pin_memory", "memory_format", "non_blocking", "copy"}

#: Names that weights cannot have in the file, besides x1, x2, ... of its lines.
RESERVED = {
    "CLASSES",
    "ROW_SHAPE",
    "X",
    "base64",
    "network",
    "predict",
    "predict_proba",
    "rows",
    "unpack",
    "zlib",
    *vars(builtins),
    *vars(layer_operations),
    *vars(elementwise_operations),
    *vars(reduction_operations),
    *vars(shape_operations),
    *vars(spatial_operations),
}

IMPORTS = "import base64\nimport math\nimport zlib\n\nimport numpy as np\n"

UNPACK = '''
def unpack(dtype, shape, values, alive=None):
    """An array; with `alive`, a bit for each entry, only those set are in `values`."""
    data = zlib.decompress(base64.b85decode(values.replace("\\n", "")))
    values = np.frombuffer(data, dtype)
    if alive is None:
        return values.reshape(shape)
    bits = np.frombuffer(zlib.decompress(base64.b85decode(alive.replace("\\n", ""))), np.uint8)
    array = np.zeros(math.prod(shape), dtype)
    array[np.unpackbits(bits, count=array.size).astype(bool)] = values
    return array.reshape(shape)
'''


def to_numpy(source: Source, path: str | os.PathLike[str]) -> None:
    """Write the predictor as a NumPy program (see ``FittedMixin.to_numpy``)."""
    text = numpy_source(source)
    namespace: dict[str, Any] = {"__name__": "exported"}
    exec(compile(text, str(path), "exec"), namespace)
    predict, proba = namespace["predict"], namespace.get("predict_proba")
    check_program(
        source,
        _saying_so(predict if proba is None else lambda rows: (predict(rows), proba(rows))),
        "The NumPy program",
    )
    write_whole(path, text.encode())


def _saying_so(run):
    """A function that raises ValueError where `run` raises another error."""

    def wrapped(rows):
        try:
            return run(rows)
        except Exception as error:
            raise ValueError(
                f"The NumPy program does not run: {error} ({type(error).__name__}). Export with "
                "to_onnx or to_torch, which support more layers."
            ) from error

    return wrapped


def numpy_source(source):
    """The text of the program.

    Raises
    ------
    ValueError
        For an operation without a counterpart here; it names the layer.
    """
    program = export_program(source)
    about = [_header(source), IMPORTS, f"ROW_SHAPE = {tuple(source.rows.shape)}"]
    if source.classifies:
        about.append(f"CLASSES = {array_literal(source.classes)}")
    functions, weights = _network(program)
    own = ["\n".join(about), *_predict(source.classifies), _rows_function(source.rows)]
    return _joined([*own, *functions, weights])


def source_of(program):
    """The text of a ``torch.export`` program as a function ``network(X)``, nothing around it."""
    functions, weights = _network(program)
    return _joined([IMPORTS, *functions, weights])


def _joined(sections):
    return "\n\n\n".join(section.strip("\n") for section in sections) + "\n"


def _header(source):
    kind = "classes" if source.classifies else "values"
    call = "predict(X) and predict_proba(X)" if kind == "classes" else "predict(X)"
    shape = ", ".join(["n", *map(str, source.rows.shape)])
    release = version("sk_obd")
    return (
        f'"""A network that predicts {kind}, in NumPy alone; written by sk_obd {release}.\n\n'
        f"{call} take X of shape ({shape}), any number n of rows, as\n"
        f"{source.rows.dtype}. Of {source.estimator.path_[0]['n_params']} parameters "
        f"{source.estimator.n_params_} were left after pruning.\n"
        '"""\n'
    )


def _rows_function(rows):
    return f'''
def rows(X):
    """X in the shape and type of the network's input."""
    X = np.asarray(X, dtype=np.{rows.dtype})
    if X.shape[1:] != ROW_SHAPE or X.ndim != {len(rows.shape) + 1}:
        raise ValueError(f"X has shape {{X.shape}}; expected (n, *{{ROW_SHAPE}})")
    return X
'''


def _network(program):
    """The function `network` with those that it calls, and the weights."""
    program = in_known_operations(program)
    arrays = _arrays(program)
    lines, result, used = _body(program, arrays)
    body = textwrap.indent("\n".join([*lines, f"return {result}"]), "    ")
    functions = [f'def network(X):\n    """Layer after layer, in eval mode."""\n{body}']
    functions += [source(function) for function in with_helpers(used.values())]
    weights = [_weight(name, array) for name, array in arrays.values()]
    return [*functions, UNPACK], "\n".join(weights)


def _predict(classifies):
    if not classifies:
        return ['def predict(X):\n    """Values."""\n    return network(rows(X))']
    return [
        'def predict(X):\n    """Class labels."""\n    return CLASSES[network(rows(X))[0]]',
        'def predict_proba(X):\n    """Probabilities, a column for each of CLASSES."""\n'
        "    return network(rows(X))[1]",
    ]


# -- the body ----------------------------------------------------------------------------------


def _arrays(program):
    """Weights and constants that the program reads: (their names, arrays) by graph node's name."""
    signature, graph = program.graph_signature, program.graph
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    found, taken = {}, set(RESERVED)
    for node in graph.nodes:
        if node.op != "placeholder" or node.name not in targets or not node.users:
            continue
        target = targets[node.name]
        tensor = program.state_dict.get(target, program.constants.get(target))
        name = variable(target.removeprefix("module."), taken)
        taken.add(name)
        _check_type(tensor.dtype)
        found[node.name] = (name, tensor.detach().numpy())
    return found


def _body(program, arrays):
    """Lines of code, the text of what is returned, and the functions called, by name."""
    names = {key: name for key, (name, _) in arrays.items()}
    lines: list[str] = []
    used: dict[str, Callable] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            names.setdefault(node.name, "X")
        elif node.op == "output":
            results = [_text(value, names) for value in _results(program, node)]
            return lines, ", ".join(results), used
        elif not node.users:
            continue
        elif node.target is operator.getitem:
            names[node.name] = f"{_text(node.args[0], names)}[{node.args[1]}]"
        elif counterpart(node.target) is shape_operations.same:
            names[node.name] = _text(node.args[0], names)
        else:
            names[node.name] = f"x{len(lines) + 1}"
            layer = comment(_layer(node))
            line = f"{names[node.name]} = {_expression(node, names, used)}"
            lines.append(f"{line}  # {layer}" if layer else line)
    raise AssertionError("a program ends with its output")


def _results(program, output):
    """What the network returns, without what it left in tensors that it changed in place."""
    signature = program.graph_signature
    if signature.buffers_to_mutate:
        raise ValueError(
            f"to_numpy cannot export a module that changes its buffers in forward: "
            f"{', '.join(signature.buffers_to_mutate.values())}."
        )
    returned = set(signature.user_outputs)
    return [value for value in output.args[0] if getattr(value, "name", value) in returned]


def _expression(node, names, used):
    """What a node computes as Python source; the function that it calls is added to `used`."""
    if node.target in ARITHMETIC and not _is_tensor(node):
        left, right = (_text(value, names) for value in node.args)
        return f"({left} {ARITHMETIC[node.target]} {right})"
    function = counterpart(node.target)
    if function is None:
        where = _layer(node) or "the network"
        raise ValueError(
            f"to_numpy has no counterpart of {node.target}, used by {where}. Export with to_onnx "
            "or to_torch, which support more layers."
        )
    args = [_text(value, names) for value in node.args]
    args += [f"{k}={_text(v, names)}" for k, v in node.kwargs.items() if k not in LAYOUT]
    if isinstance(function, np.ufunc):
        call = f"np.{function.__name__}({', '.join(args)})"
    else:
        used[function.__name__] = function
        call = f"{function.__name__}({', '.join(args)})"
    if _differs_in_type(node, function):
        used["to"] = shape_operations.to
        return f"to({call}, {_text(node.meta['val'].dtype, names)})"
    return call


def _differs_in_type(node, function):
    """Whether NumPy may give the numbers that a node computes another type than torch does.

    Integers divided are float32 in torch, and a tensor without axes does not decide the type.
    """
    if not _is_tensor(node) or function is shape_operations.to:
        return False
    types = {source.meta["val"].dtype for source in node.all_input_nodes if _is_tensor(source)}
    dtype = node.meta["val"].dtype
    return dtype.is_floating_point and {t for t in types if t.is_floating_point} != {dtype}


def _is_tensor(node):
    return isinstance(node.meta.get("val"), torch.Tensor)


def _layer(node):
    """The module that a node belongs to: its name and class, where it is a layer with a name."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack or not stack[-1][0].startswith("module"):
        return ""
    name, kind = stack[-1][0].removeprefix("module").removeprefix("."), str(stack[-1][1])
    kind = kind.rpartition(".")[2].strip("'>")
    return f"{name} ({kind})" if name else kind


def _text(value, names):
    """An argument as Python source."""
    if isinstance(value, fx.Node):
        return names[value.name]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(v, names) for v in value)}]"
    if isinstance(value, torch.dtype):
        _check_type(value)
        return f"np.{str(value).removeprefix('torch.')}".replace("np.bool", "np.bool_")
    return literal(value)


def _check_type(dtype):
    """Raise ValueError for a type that NumPy does not have."""
    if not hasattr(np, str(dtype).removeprefix("torch.")):
        raise ValueError(
            f"to_numpy has no counterpart of {dtype}. Export with to_onnx or to_torch."
        )


# -- weights -----------------------------------------------------------------------------------


def _weight(name, array):
    """The line that unpacks a weight."""
    stored = (
        (array != 0) | np.signbit(array)
        if array.dtype.kind == "f"
        else np.ones_like(array, dtype=bool)
    )
    head = f'{name} = unpack("{array.dtype.str}", {array.shape}, '
    if stored.mean() >= SPARSE_BELOW or not array.ndim:
        return f"{head}{_code(array)})"
    return f"{head}{_code(array[stored])}, {_code(np.packbits(stored))})"


def _code(array):
    """An array's bytes as a literal."""
    text = base64.b85encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    lines = [text[i : i + 96] for i in range(0, len(text), 96)]
    return '"""' + "\n".join(["", *lines, ""]) + '"""'
