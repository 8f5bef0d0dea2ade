"""The parts of the package stand in one order; none imports another that stands before it."""

from __future__ import annotations

import ast
from pathlib import Path

from sk_obd import curvature

#: As the package's docstring says it.
ORDER = [
    "__init__",
    "diagonal products inverse oracle",
    "gauss_newton check",
    "boundary",
    "methods",
    "problem",
    "routes",
    "layers",
    "losses",
    "hooks",
]
ROOT = Path(curvature.__file__).parent
FLOOR = {name: floor for floor, names in enumerate(ORDER) for name in names.split()}


def imported(path):
    """Parts of this package that a file imports."""
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level <= depth, f"{path} imports from outside the package"
            if node.level == depth:
                yield from (node.module.split(".")[:1] if node.module else ())


def test_imports_go_one_way():
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for other in imported(path):
            assert FLOOR[part] < FLOOR[other] or part == other, f"{path} imports {other}"


def test_every_part_has_a_docstring():
    for path in ROOT.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
