"""The rooms of the package: imports run in one direction, and what is private says so."""

import ast
import inspect
from pathlib import Path

import pytest

import sk_obd

ROOT = Path(sk_obd.__file__).parent

#: From the top to the bottom: a room imports only rooms after it.
ROOMS = [
    "__init__",
    "estimators",
    "export",
    "pruning",
    "compact",
    "training",
    "curvature",
    "display",
]
PUBLIC = {"__init__", "curvature", "compact", "display"}
MODULES = sorted(ROOT.rglob("*.py"))


def name_of(file):
    """``("pruning", "recipe")`` for a module, ``("pruning",)`` for a package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts if parts[-1] != "__init__" or len(parts) == 1 else parts[:-1]


KNOWN = {name_of(file) for file in MODULES} | {()}


def imported(file):
    """The modules of the package that a file imports, wherever in it."""
    found = set()
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {tuple(name[1:]) for name in names if name[0] == "sk_obd"}
        elif isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                module = package[: len(package) - node.level + 1] + module
            elif module[:1] == ("sk_obd",):
                module = module[1:]
            else:
                continue
            for alias in node.names:
                inner = (*module, alias.name)
                found.add(inner if inner in KNOWN else module)
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda file: "/".join(name_of(file)))
def test_a_room_imports_only_the_rooms_below_it(file):
    room = name_of(file)[0]
    for module in imported(file):
        assert module in KNOWN, f"{file} imports {module}, which is not there"
        other = module[0] if module else "__init__"
        assert ROOMS.index(other) >= ROOMS.index(room), f"{file} imports {'.'.join(module)}"


def test_no_modules_import_each_other_in_a_circle():
    """An ``__init__`` that only passes names on stands for what it passes on, not for itself."""
    imports = {name_of(file): imported(file) - {name_of(file)} for file in MODULES}
    faces = {name_of(f) for f in MODULES if f.name == "__init__.py"}
    for start in imports:
        seen, todo = set(), list(imports[start])
        while todo:
            module = todo.pop()
            assert module != start, f"{start} imports itself by way of others"
            if module not in seen and not (module in faces and start[: len(module)] == module):
                seen.add(module)
                todo += imports.get(module, ())


def test_every_folder_is_a_room():
    assert {name_of(file)[0] for file in MODULES} == set(ROOMS)


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in PUBLIC])
def test_private_rooms_say_so_and_name_nothing_public(room):
    doc = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
    assert doc.startswith("Private: ")


@pytest.mark.parametrize("room", sorted(PUBLIC - {"__init__"}))
def test_public_rooms_list_what_is_public(room):
    module = __import__(f"sk_obd.{room}", fromlist=["__all__"])
    for name in module.__all__:
        assert inspect.getdoc(getattr(module, name)) or not callable(getattr(module, name))


def test_no_function_takes_more_than_five_positional_arguments():
    """Besides self or cls; a sixth is given by its name.

    The functions that stand for torch's operations are called as torch's programs call these.
    """
    for file in MODULES:
        if file.parent.name == "export" and file.name.endswith("operations.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                names = [arg.arg for arg in [*node.args.posonlyargs, *node.args.args]]
                own = [name for name in names if name not in ("self", "cls")]
                assert len(own) <= 5, f"{file}: {getattr(node, 'name', 'lambda')}({own})"


def test_no_private_attribute_of_another_room_is_read():
    """``estimator._x`` outside of the estimators, and the like: what is private stays in its room.

    Private names of other libraries are told apart by where they stand; each has a comment there.
    """
    own = set()
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith("_"):
                own.add((name_of(file)[0], node.name))
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add((name_of(file)[0], node.attr))
    for file in MODULES:
        room = name_of(file)[0]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                if node.attr.startswith("__") or (room, node.attr) in own:
                    continue
                others = {r for r, name in own if name == node.attr}
                assert not others, f"{file}:{node.lineno} reads {node.attr} of {others}"
