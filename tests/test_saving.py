"""What is saved comes back; what does not fit is refused with a reason, and changes nothing."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from fitted_cases import CASES, fitted, iris, predictions, unfitted
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import TwoLayers, binary_net, classifier_net
from numpy.testing import assert_equal
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor, saving
from sk_obd.coding import decode_mask, decode_rows, encode_mask, encode_rows

every_case = pytest.mark.parametrize("name", CASES)

#: Every fitted attribute that the documentation lists, but net_ and path_.
ATTRIBUTES = (
    *("mask_", "saliencies_", "ranking_", "n_params_", "n_iter_", "support_", "classes_"),
    *("feature_importances_", "n_features_in_", "feature_names_in_", "_y_mean", "_y_scale"),
)


def assert_same(loaded, estimator, X, *, history):
    for name in ATTRIBUTES:
        assert hasattr(loaded, name) == hasattr(estimator, name), name
        if hasattr(estimator, name) and (history or name != "ranking_"):
            found, expected = getattr(loaded, name), getattr(estimator, name)
            assert_equal(found, expected)
            assert getattr(found, "dtype", None) == getattr(expected, "dtype", None), name
    assert_equal(loaded.path_.rows, estimator.path_.rows)
    assert (loaded.path_.kept, loaded.path_.keep) == (estimator.path_.kept, estimator.path_.keep)
    assert loaded.path_.prunable == estimator.path_.prunable
    assert_equal(loaded.path_.history, estimator.path_.history if history else [])
    own, expected = loaded.net_.module_.state_dict(), estimator.net_.module_.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[key], expected[key]) for key in own)
    assert not any(m.training for m in loaded.net_.module_.modules())
    assert loaded.net_.batch_size == estimator.net_.batch_size
    for found, wanted in zip(predictions(loaded, X), predictions(estimator, X), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@every_case
@pytest.mark.parametrize("history", [False, True])
def test_what_is_saved_comes_back(name, history, tmp_path):
    estimator, X = fitted(name)
    estimator.save_params(tmp_path / "net", history=history)
    state = torch.get_rng_state()
    loaded = unfitted(name)
    assert loaded.load_params(tmp_path / "net") is loaded
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(loaded, estimator, X, history=history)


@every_case
def test_pickle_brings_back_the_same_too(name):
    estimator, X = fitted(name)
    assert_same(pickle.loads(pickle.dumps(estimator)), estimator, X, history=True)


def test_without_the_history_the_ranking_knows_alive_and_deleted(tmp_path):
    estimator, _ = fitted("classifier")
    estimator.save_params(tmp_path / "net")
    loaded = unfitted("classifier").load_params(tmp_path / "net")
    for name, mask in estimator.mask_.items():
        np.testing.assert_array_equal(loaded.ranking_[name], np.where(mask, 1, 2))


def test_column_names_come_back(tmp_path):
    pd = pytest.importorskip("pandas")
    X, y = iris()
    X = pd.DataFrame(X, columns=list("abcd"))
    clf = OBDClassifier(prune_rate=0, max_epochs=1).fit(X, y)
    clf.save_params(tmp_path / "net")
    loaded = OBDClassifier().load_params(tmp_path / "net")
    assert_equal(loaded.feature_names_in_, clf.feature_names_in_)
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(X.rename(columns={"a": "z"}))


def test_other_rows_of_the_path_are_not_there(tmp_path):
    estimator, X = fitted("classifier")
    estimator.save_params(tmp_path / "net")
    loaded = unfitted("classifier").load_params(tmp_path / "net")
    last = loaded.at(iteration=loaded.path_.kept)
    np.testing.assert_array_equal(last.predict(X), estimator.predict(X))
    with pytest.raises(ValueError, match="No kept row of the path fits iteration=0"):
        loaded.at(iteration=0)


@pytest.mark.parametrize("name", ["classifier", "regressor of three", "convolution"])
def test_a_loaded_estimator_goes_on_as_the_saved_one_does(name, tmp_path):
    X, y = CASES[name][1]()
    estimator, _ = fitted(name)
    estimator.save_params(tmp_path / "net", history=True)
    loaded = unfitted(name).load_params(tmp_path / "net")
    further = {"warm_start": True, "prune_rate": 0.85, "random_state": 3}
    on = copy.deepcopy(estimator).set_params(**further).fit(X, y)
    loaded.set_params(**further).fit(X, y)
    for found, expected in zip(predictions(loaded, X), predictions(on, X), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert_equal(loaded.ranking_, on.ranking_)


def test_the_file_is_an_eighth_of_the_dense_one_at_95_percent(tmp_path):
    """What decides is the number of weights and where they are, not how well they do."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 256)).astype(np.float32), np.arange(40) % 10
    clf = OBDClassifier(
        prune_rate=0.95, step=0.2, hidden_layer_sizes=(300, 100), max_epochs=2, retrain_epochs=0
    ).fit(X, y)
    clf.save_params(tmp_path / "net")
    torch.save(clf.at(iteration=0).net_.module_.state_dict(), tmp_path / "dense")
    assert (tmp_path / "net").stat().st_size <= (tmp_path / "dense").stat().st_size / 8


# -- what does not fit -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "net"
    fitted("classifier")[0].save_params(path, history=True)
    return path


def refused(path, estimator, match):
    """Loading raises ValueError with a reason, and the estimator stays exactly as it was."""
    before = dict(vars(estimator))
    with pytest.raises(ValueError, match=match) as caught:
        estimator.load_params(path)
    assert str(path) in str(caught.value)
    assert vars(estimator) == before


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: OBDRegressor(), "holds a OBDClassifier; expected a OBDRegressor"),
        (lambda: OBDClassifier(hidden_layer_sizes=(99,)), r"hidden_layer_sizes=\[100\].*\[99\]"),
        (lambda: OBDClassifier(activation="tanh"), "activation='relu'; expected 'tanh'"),
        (lambda: OBDClassifier(classifier_net()), "of the default net"),
    ],
)
def test_an_estimator_of_another_make_is_refused(make, match, saved):
    refused(saved, make(), match)


class Renamed(nn.Module):
    """As TwoLayers, by another name."""

    def __init__(self):
        super().__init__()
        self.a, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, X):
        return self.second(torch.relu(self.a(X)))


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (classifier_net(module__hidden=9), r"first\.weight is \(8, 4\).*\(9, 4\)"),
        (classifier_net(module__dtype=torch.float64), r"of float32; expected .* of float64"),
        (classifier_net(Renamed), r"parameter a\.weight is not there"),
        (classifier_net(module__activation=nn.Tanh), "ReLU.*Tanh"),
        (classifier_net(criterion=nn.MultiMarginLoss), "criterion is CrossEntropyLoss"),
        (binary_net(), "criterion is CrossEntropyLoss"),
        (None, "of NeuralNetClassifier; expected that of this estimator's net=None"),
    ],
)
def test_another_net_is_refused_naming_what_differs(net, match, tmp_path):
    X, y = iris(np.float32)
    OBDClassifier(classifier_net(TwoLayers, max_epochs=1)).fit(X, y).save_params(tmp_path / "net")
    refused(tmp_path / "net", OBDClassifier(net), match)


def test_a_fitted_estimator_keeps_its_fit_when_a_file_is_refused(saved, tmp_path):
    estimator = copy.copy(fitted("classifier of strings")[0])
    refused(saved, estimator, "hidden_layer_sizes")


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        OBDClassifier().load_params(tmp_path / "none")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_truncated_file_is_refused(data, saved, tmp_path_factory):
    whole = saved.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "net"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refused(path, unfitted("classifier"), "fit|safetensors")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_with_a_changed_byte_is_refused(data, saved, tmp_path_factory):
    damaged = bytearray(saved.read_bytes())
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("changed") / "net"
    path.write_bytes(bytes(damaged))
    refused(path, unfitted("classifier"), "fit|safetensors")


@pytest.mark.parametrize("content", [b"", b"{}", pickle.dumps({"a": 1}), b"\xff" * 4096])
def test_a_foreign_file_is_refused(content, tmp_path):
    (tmp_path / "net").write_bytes(content)
    refused(tmp_path / "net", OBDClassifier(), "no whole safetensors file")


def test_a_safetensors_file_of_others_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "net")
    refused(tmp_path / "net", OBDClassifier(), "no sk_obd header")


def forged(saved, tmp_path, change):
    """The saved file after `change(header, tensors)`, with a digest that fits."""
    header, tensors = saving.from_bytes(saved.read_bytes(), saved)
    header = change(header, tensors) or header
    path = tmp_path / "forged"
    path.write_bytes(saving.to_bytes(header, tensors))
    return path


def put(*keys):
    """A change that sets header[keys[0]]...[keys[-2]] to keys[-1]."""

    def change(header, tensors):
        *where, last, value = keys
        for key in where:
            header = header[key]
        header[last] = value

    return change


def tensor(name, function):
    """A change of one tensor; None removes it."""

    def change(header, tensors):
        found = function(tensors.pop(name))
        if found is not None:
            tensors[name] = found

    return change


FORGERIES = {
    "newer": (put("format", 2), "format 2.*install a newer sk_obd"),
    "older": (put("format", 0), "format 0"),
    "unknown field": (put("run", "rm"), "unknown field 'run'"),
    "lacking": (lambda header, _: header.pop("layers") and None, "lacks the field 'layers'"),
    "list": (lambda header, _: [1], "header is a list"),
    "another class": (put("estimator", "OBDRegressor"), "holds a OBDRegressor"),
    "no classes": (put("classes", None), "its classes are None"),
    "labels too few": (put("classes", "n", 2), "classes has 24 bytes"),
    "label type": (put("classes", "dtype", "|O"), "classes in its header"),
    "features": (put("n_features_in", 5), "expected"),
    "huge features": (put("n_features_in", 10**40), "n_features_in in its header"),
    "huge rows": (put("row_shape", [4, 2**40]), "rows"),
    "huge shape": (put("parameters", "output.bias", "shape", [10**9]), "output.bias has shape"),
    "huge hidden": (put("default_net", "hidden_layer_sizes", [10**9]), "hidden_layer_sizes"),
    "renamed": (
        lambda header, _: header["parameters"].update(x=header["parameters"].pop("output.bias")),
        "output.bias",
    ),
    "kept row": (put("path", "kept", 10**6), "row 1000000 is kept"),
    "prunable": (put("path", "prunable", ["nothing"]), "'nothing'"),
    "columns": (put("path", "columns", ["a"]), "columns are"),
    "readers": (put("readers", ["output.weight"]), "said to read X"),
    "coding": (put("parameters", "output.weight", "mask", "runs"), "parameters in its header"),
    "values short": (tensor("values/output.weight", lambda t: t[:-1]), "a value for each alive"),
    "values gone": (tensor("values/output.weight", lambda t: None), "is missing"),
    "values in float32": (
        tensor("values/output.weight", lambda t: t.float()),
        "type torch.float32",
    ),
    "NaN": (tensor("values/hidden0.weight", lambda t: t * torch.nan), "NaN or infinity"),
    "mask": (tensor("mask/hidden0.weight", lambda t: t[:-3]), "mask/hidden0.weight does not fit"),
    "saliency": (tensor("saliency/output.weight", lambda t: t[1:]), "a value for each alive"),
    "table": (tensor("path", lambda t: t[:, 1:].clone()), "path's table"),
    "counts": (tensor("path", lambda t: t + 0.5), "no whole numbers"),
    "deleted": (tensor("deleted_at/hidden0.weight", lambda t: t[:-1]), "deleted_at/hidden0.weight"),
    "other mask": (
        lambda header, tensors: header["parameters"]["hidden0.weight"].pop("mask") and None,
        "contradicts the mask",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_file_is_refused(name, saved, tmp_path):
    change, match = FORGERIES[name]
    refused(forged(saved, tmp_path, change), unfitted("classifier"), match)


def fields(header, where=()):
    """Every place in a header."""
    for key, value in header.items() if isinstance(header, dict) else enumerate(header):
        yield (*where, key)
        if isinstance(value, dict | list) and where[:2] != ("path", "history"):
            yield from fields(value, (*where, key))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_field_of_the_header_may_be_anything(data, saved, tmp_path_factory):
    """A header with any value anywhere is taken or refused, never another error."""
    header, tensors = saving.from_bytes(saved.read_bytes(), saved)
    where = data.draw(st.sampled_from(list(fields(header))))
    value = data.draw(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5)
        | st.lists(st.integers(), max_size=3)
        | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
    )
    put(*where, value)(header, tensors)
    path = tmp_path_factory.mktemp("any") / "net"
    path.write_bytes(saving.to_bytes(header, tensors))
    estimator = unfitted("classifier")
    before = dict(vars(estimator))
    reason = None
    try:
        estimator.load_params(path)
    except ValueError as error:
        reason = str(error)
    if reason is None:
        X = fitted("classifier")[1]
        assert len(estimator.predict(X)) == len(X)
    else:
        assert str(path) in reason
        assert vars(estimator) == before


def test_a_header_that_is_no_json_is_refused(saved, tmp_path):
    from safetensors.torch import save

    _, tensors = saving.from_bytes(saved.read_bytes(), saved)
    for text in ("{", "[" * 10**5, "nothing"):
        metadata = {"sk_obd": text, "digest": saving.digest(text, tensors)}
        (tmp_path / "net").write_bytes(save(tensors, metadata=metadata))
        refused(tmp_path / "net", OBDClassifier(), "no JSON")


def test_labels_of_other_types_are_refused_when_saving(tmp_path):
    clf = copy.copy(fitted("classifier")[0])
    clf.classes_ = np.array([b"a", b"b", b"c"])
    with pytest.raises(ValueError, match="cannot be saved without pickle"):
        clf.save_params(tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_without_safetensors_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"needs safetensors.*pip install 'sk_obd\[export\]'"):
        fitted("classifier")[0].save_params(tmp_path / "net")


def test_the_header_can_be_read_by_people(saved):
    from safetensors import safe_open

    with safe_open(saved, framework="numpy") as file:
        header = json.loads(file.metadata()["sk_obd"])
    assert header["estimator"] == "OBDClassifier"
    assert header["params"]["prune_rate"] == 0.7


# -- the coding --------------------------------------------------------------------------------


@given(alive=st.lists(st.booleans(), max_size=900), density=st.sampled_from([1, 30, 400]))
def test_a_mask_comes_back_from_its_code(alive, density):
    mask = np.zeros(len(alive) * density, dtype=bool)
    mask[::density] = alive
    coding, code = encode_mask(mask)
    np.testing.assert_array_equal(decode_mask(coding, code, mask.shape), mask)


@given(st.lists(st.integers(0, 2**17), max_size=50))
def test_rows_come_back_from_their_code(rows):
    rows = np.array(rows, dtype=np.int32)
    np.testing.assert_array_equal(decode_rows(encode_rows(rows), rows.shape), rows)


def test_a_code_that_unpacks_to_more_than_its_shape_is_refused():
    coding, code = encode_mask(np.arange(10**7) == 10**6)
    with pytest.raises(ValueError, match="length"):
        decode_mask(coding, code, (10,))
    with pytest.raises(ValueError, match="length"):
        decode_rows(encode_rows(np.zeros(10**7, np.int32)), (10,))
