"""Names and labels in exported programs are data, whatever they say."""

import ast
import json
import keyword

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from sk_obd import OBDClassifier
from sk_obd.export.literals import array_literal, check_names, literal, plain_labels, variable
from sk_obd.export.numpy_file import source_of
from tests.library.nets import classifier_net
from tests.library.settings import QUICK

#: Text that means something to Python, alone or within quotes.
NASTY = [
    "\"]; raise SystemError('ran')  #",
    "'''; raise SystemError('ran')  #",
    '"""\nraise SystemError("ran")\n"""',
    "x\nraise SystemError('ran')",
    "x\rraise SystemError('ran')",
    "\x0craise SystemError('ran')",
    "{}[exec(\"raise SystemError('ran')\")]",
    "\\",
    "\\'",
    "\\N{DIGIT ONE}",
    "\u2028raise SystemError('ran')",
    "größe",
    "\ufb01",
    "\ud800",
    "\0",
    "class",
    "__builtins__",
    "max",
    "l_weight",
    "a-b",
    "sepal length (cm)",
]
anything = st.text(st.characters(codec=None)) | st.sampled_from(NASTY)
numbers = st.integers() | st.floats() | st.booleans() | st.none()
scalars = st.sampled_from(["?", "i2", "u8", "f4", "f8", "U5", "S3"]).flatmap(
    lambda dtype: hnp.arrays(dtype, ()).map(lambda array: array[()])
)


def parts(expression):
    """The value of an expression, after a look at what it is made of."""
    assert expression.isascii()
    for node in ast.walk(ast.parse(expression, mode="eval")):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called.startswith("np.") or called == "float" or called.endswith(".view")
        assert not isinstance(node, ast.Subscript | ast.BinOp | ast.Lambda | ast.JoinedStr)
    return eval(expression, {"np": np, "__builtins__": {"float": float}})


@given(anything | st.binary() | numbers | scalars)
def test_a_label_is_written_as_what_it_is(label):
    found = parts(literal(label))
    assert type(found) is type(label)
    assert found == label or (found != found and label != label)


ARRAYS = [
    np.array(["a'", '"b', "\n"]),
    np.array(["a'", '"b', "\n"], dtype=object),
    np.array([b"a'", b'"b', b"\n"]),
    np.array([1.5, np.nan, -np.inf]),
    np.array([1, 0, 3], dtype=">i4"),
    np.array([True, False]),
    np.array([1, 0, -3]).astype("M8[D]"),
    np.array([1, 0, -3]).astype(">m8[s]"),
]


@pytest.mark.parametrize("labels", ARRAYS, ids=lambda labels: labels.dtype.str)
def test_an_array_of_labels_is_written_as_what_it_is(labels):
    found = parts(array_literal(labels))
    np.testing.assert_array_equal(found, labels)
    assert found.dtype in (labels.dtype, labels.dtype.newbyteorder("="))


class Label(str):
    def __repr__(self):
        raise SystemError("the label's own code was run")

    __str__ = __repr__


class Number(int):
    __repr__ = __str__ = Label.__repr__


class Scalar(np.float64):
    __repr__ = __str__ = Label.__repr__


@pytest.mark.parametrize(
    "label",
    [Label("a"), Number(3), Scalar(2), (1, 2), 1j, np.longdouble(1)],
    ids=lambda value: type(value).__name__,
)
def test_a_label_of_another_type_is_refused_unseen(label):
    with pytest.raises(ValueError, match=rf"of type {type(label).__name__}, .* Encode y"):
        literal(label)
    with pytest.raises(ValueError, match="Encode y"):
        plain_labels(np.array([label, None], dtype=object)[:1])


def fit_to(labels, iris):
    X, y = iris
    return OBDClassifier(**QUICK | {"max_epochs": 2}).fit(X, labels[y])


class Coded(str):
    def __repr__(self):
        return "exec(\"raise SystemError('ran')\")"


@pytest.mark.parametrize("export", ["to_numpy", "to_onnx", "to_torch", "save_params"])
def test_no_export_runs_what_a_label_of_a_class_of_the_user_says(export, iris, tmp_path):
    clf = fit_to(np.array([Coded("a"), Coded("b"), Coded("c")], dtype=object), iris)
    with pytest.raises(ValueError, match="Encode y"):
        getattr(clf, export)(tmp_path / "net")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "labels",
    [
        np.array(sorted(NASTY[:3])),
        np.array(sorted(NASTY[3:6]), dtype=object),
        np.array(["2020", "2021", "2022"], dtype="M8[Y]"),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_programs_predict_labels_of_any_text(labels, iris, tmp_path):
    clf, X = fit_to(labels, iris), iris[0]
    clf.to_numpy(tmp_path / "net.py")
    namespace = {"__name__": "net"}
    exec((tmp_path / "net.py").read_text(encoding="ascii"), namespace)
    np.testing.assert_array_equal(namespace["predict"](X), clf.predict(X))
    assert namespace["CLASSES"].dtype == clf.classes_.dtype
    clf.to_torch(tmp_path / "net.pt2")
    extra = {"sk_obd.json": ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    assert json.loads(extra["sk_obd.json"])["classes"] == [str(label) for label in clf.classes_]


# -- names -----------------------------------------------------------------------------------------


@given(st.lists(anything, min_size=1, max_size=5))
def test_variables_have_names_of_their_own_that_python_takes(names):
    taken = {"np", "max"}
    for name in names:
        found = variable(name, taken)
        assert found.isascii()
        assert found.isidentifier()
        assert not keyword.iskeyword(found)
        assert not found.startswith("_")
        assert found not in taken
        taken.add(found)


class Named(nn.Module):
    """A parameter and a layer of this name, in a class of this name."""

    def __init__(self, name):
        super().__init__()
        self.of = name
        self.l = nn.Linear(4, 3)
        self.register_parameter(name, nn.Parameter(torch.ones(3)))
        self.columns = nn.ModuleDict({name: type(name, (nn.Linear,), {})(4, 3)})

    def forward(self, X):
        return self.l(X) * getattr(self, self.of) + self.columns[self.of](X)


def nameable(name):
    """What torch takes as a name, and Python as that of a class."""
    own = {*dir(nn.Module()), *dir(nn.ModuleDict()), "of", "l", "columns"}
    encodes = not any(0xD800 <= ord(c) < 0xE000 for c in name)
    return name and "." not in name and "\0" not in name and name not in own and encodes


@settings(max_examples=25, deadline=None)
@given(anything.filter(nameable))
@example(NASTY[0])
@example(NASTY[6])
@example("l_weight")
@example("a-b")
@example("sepal length (cm)")
@example("it's # )")
@example("max")
def test_a_program_computes_the_same_whatever_its_layers_are_named(name):
    module, X = Named(name).eval(), torch.randn(3, 4)
    try:
        check_names(module)
    except ValueError as error:
        assert "Rename it" in str(error)  # noqa: PT017
        return
    text = source_of(torch.export.export(module, (X,), strict=False))
    assert text.isascii()
    namespace = {"__name__": "net"}
    exec(text, namespace)
    np.testing.assert_allclose(
        namespace["network"](X.numpy()), module(X).detach().numpy(), rtol=1e-5, atol=1e-6
    )
    # Nothing but imports, weights and functions.
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign):
            assert ast.unparse(statement.value.func) == "unpack"
        else:
            assert isinstance(statement, ast.Import | ast.FunctionDef)


@pytest.mark.parametrize("name", [*NASTY[2:6], *NASTY[7:9], "\ufb01", "class", '"'])
def test_names_that_torch_would_write_as_code_are_refused(name, iris, tmp_path):
    X, y = iris
    net = classifier_net(Named, module__name=name, max_epochs=1)
    clf = OBDClassifier(net, prune_rate=0.2, step=None).fit(X.astype(np.float32), y)
    for export in (clf.to_numpy, clf.to_torch, clf.to_onnx):
        with pytest.raises(ValueError, match=r"cannot write into a program\. Rename it"):
            export(tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_a_name_that_torch_cannot_read_back_is_an_error_with_a_way_out(iris, tmp_path):
    X, y = iris
    net = classifier_net(Named, module__name="w)", max_epochs=1)
    clf = OBDClassifier(net, prune_rate=0.2, step=None).fit(X.astype(np.float32), y)
    with pytest.raises(ValueError, match="Rename them"):
        clf.to_torch(tmp_path / "net")
    clf.to_numpy(tmp_path / "net.py")
