"""Files of save_params: what goes in comes out, and what does not fit is refused."""

import pickle
import re
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor
from tests.export.checks import SOME
from tests.export.mutations import altered
from tests.library.fitted import CASES, fitted, predictions, unfitted
from tests.library.marks import slow_but
from tests.library.nets import classifier_net

QUICK = {"prune_rate": 0.6, "step": 0.4, "retrain_epochs": 1, "random_state": 0}
SMALL = {"hidden_layer_sizes": (8,), "max_epochs": 5}


@pytest.fixture(params=slow_but(SOME, CASES))
def saved(request, tmp_path):
    """(the estimator as constructed, fitted, the file, X)"""
    estimator, X = fitted(request.param)
    estimator.save_params(tmp_path / "net.safetensors")
    return unfitted(request.param), estimator, tmp_path / "net.safetensors", X


def same(a, b, X, times=True):
    for one, other in zip(predictions(a, X), predictions(b, X), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    for name in ("classes_", "support_", "n_features_in_", "n_params_", "n_iter_"):
        if hasattr(a, name):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert np.asarray(getattr(a, name)).dtype == np.asarray(getattr(b, name)).dtype
    assert a.mask_.keys() == b.mask_.keys()
    assert all((a.mask_[k] == b.mask_[k]).all() for k in a.mask_)
    for one, other in zip(a.path_, b.path_, strict=True):
        ignored = {} if times else {"fit_time": 0}
        assert one | ignored == pytest.approx(other | ignored, rel=0, abs=0, nan_ok=True)
    for one, other in zip(
        a.net_.module_.state_dict().values(), b.net_.module_.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
    return True


def test_a_loaded_estimator_is_the_saved_one(saved):
    estimator, original, file, X = saved
    loaded = estimator.load_params(file)
    assert same(loaded, original, X)
    for name in ("saliencies_", "feature_importances_", "ranking_"):
        assert not hasattr(loaded, name)


def test_a_loaded_estimator_can_be_made_smaller_and_exported(saved, tmp_path):
    estimator, original, file, X = saved
    small = estimator.load_params(file).compact()
    for one, other in zip(predictions(small, X), predictions(original, X), strict=True):
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(one, other)
    small.to_numpy(tmp_path / "net.py")


def test_a_pickled_one_is_too(saved):
    _, original, _, X = saved
    assert same(pickle.loads(pickle.dumps(original)), original, X)


def test_training_goes_on_from_a_file(iris, tmp_path):
    X, y = iris
    settings = {**SMALL, **QUICK}
    OBDClassifier(**settings).fit(X, y).save_params(tmp_path / "net")
    loaded = OBDClassifier(**settings).load_params(tmp_path / "net")
    further = loaded.set_params(warm_start=True, prune_rate=0.8).fit(X, y)
    straight = OBDClassifier(**settings).fit(X, y)
    straight.set_params(warm_start=True, prune_rate=0.8).fit(X, y)
    assert same(further, straight, X, times=False)


def test_of_other_rows_the_file_has_the_table_alone(iris, tmp_path):
    clf = OBDClassifier(**SMALL, **QUICK).fit(*iris)
    clf.save_params(tmp_path / "net")
    loaded = OBDClassifier(**SMALL).load_params(tmp_path / "net")
    assert loaded.at(iteration=-1).n_params_ == clf.n_params_
    with pytest.raises(ValueError, match="No kept row of the path fits iteration=0"):
        loaded.at(iteration=0)


def test_column_names_are_kept(tmp_path, iris):
    pd = pytest.importorskip("pandas")
    X, y = pd.DataFrame(iris[0], columns=list("abcd")), iris[1]
    OBDClassifier(**SMALL, **QUICK).fit(X, y).save_params(tmp_path / "net")
    loaded = OBDClassifier(**SMALL).load_params(tmp_path / "net")
    assert list(loaded.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(X[list("dcba")])


def test_a_file_of_a_network_at_95_percent_is_an_eighth_of_the_dense_one(tmp_path, digits):
    X, y = digits
    clf = OBDClassifier(
        hidden_layer_sizes=(300, 100),
        prune_rate=0.95,
        step=None,
        max_epochs=2,
        retrain_epochs=0,
        random_state=0,
    ).fit(X.astype(np.float32), y)
    clf.save_params(tmp_path / "small")
    torch.save(clf.net_.module_.state_dict(), tmp_path / "dense")
    assert (tmp_path / "small").stat().st_size < (tmp_path / "dense").stat().st_size / 8


# -- what is refused -------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, iris):
    clf = OBDClassifier(**SMALL, **QUICK).fit(*iris)
    clf.save_params(tmp_path / "net")
    return tmp_path / "net"


def refused(estimator, file, match):
    before = dict(vars(estimator))
    with pytest.raises(ValueError, match=match) as raised:
        estimator.load_params(file)
    assert str(raised.value).startswith(repr(str(file)))
    assert vars(estimator) == before
    return True


@pytest.mark.parametrize(
    ("estimator", "match"),
    [
        (OBDRegressor(**SMALL), "holds a classifier, and OBDRegressor is a regressor"),
        (OBDClassifier(hidden_layer_sizes=(9,)), r"'hidden0.weight' is \[\[8, 4\].*\[\[9, 4\]"),
        (OBDClassifier(hidden_layer_sizes=(8, 8)), "'hidden1.weight' is None in the file"),
        (OBDClassifier(classifier_net()), "'first.weight' is None in the file.*TwoLayers"),
    ],
)
def test_a_file_of_another_network_is_refused(file, estimator, match):
    assert refused(estimator, file, match)


def test_every_truncation_is_refused(file):
    raw = file.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(20, len(raw), len(raw) // 40), len(raw) - 1]:
        file.write_bytes(raw[:length])
        assert refused(OBDClassifier(**SMALL), file, "is not a file of save_params, or is damaged")


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04" * 99, bytes(range(256)) * 40, b"{}" * 99])
def test_foreign_files_are_refused(tmp_path, raw):
    (tmp_path / "foreign").write_bytes(raw)
    assert refused(
        OBDClassifier(), tmp_path / "foreign", "is not a file of save_params, or is damaged"
    )


def test_another_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "other")
    assert refused(OBDClassifier(), tmp_path / "other", "no 'sk_obd' entry")


def test_a_file_that_is_not_there_is_an_ordinary_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        OBDClassifier().load_params(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        OBDClassifier().load_params(tmp_path)


def widened(header):
    header["n_features_in"] = 10**6
    header["row_shape"] = [10**6]


def swollen(header):
    header["n_features_in"], header["row_shape"] = 10**5, [10**5]
    header["parameters"]["hidden0.weight"][0] = [8, 10**5]


HEADERS = {
    "newer": (lambda h: h.update(format=99), "has format 99.*reads up to 2"),
    "no format": (lambda h: h.pop("format"), "its format is None"),
    "not JSON": (lambda h: "{", "is not JSON"),
    "no object": (lambda h: "[1, 2]", "not a JSON object"),
    "deep": (lambda h: "[" * 100_000, "is not JSON"),
    "no rows": (lambda h: h.update(rows=[]), "damaged"),
    "text in rows": (lambda h: h["rows"][0].__setitem__(0, "x"), "has 'x' in n_params"),
    "numbers without end": (
        lambda h: h["rows"][0].__setitem__(0, 10**400),
        "has 1000.*0000 in n_params",
    ),
    "fewer alive": (lambda h: h["rows"][-1].__setitem__(0, 3), "3 parameters are alive by"),
    "short row": (lambda h: h["rows"][0].pop(), "other columns"),
    "row that is not there": (lambda h: h.update(kept=77), "lacks row 77"),
    "negative row": (lambda h: h.update(kept=-1), "lacks row -1"),
    "no features": (lambda h: h.update(n_features_in=0), "n_features_in is 0"),
    "absurd features": (lambda h: h.update(n_features_in=10**30), "n_features_in is 10"),
    "rows of another shape": (lambda h: h.update(row_shape=[5]), "rows are of"),
    "rows of no shape": (lambda h: h.update(row_shape=[4, -1]), "rows have shape"),
    "rows of no type": (lambda h: h.update(row_dtype="object"), "rows are of"),
    "many features": (widened, r"rows have shape \[1000000\], too large for"),
    "many weights": (swollen, "is not one of 800000 parameters"),
    "other features": (lambda h: h.update(n_features_in=5), "rows are of"),
    "names": (lambda h: h.update(feature_names_in=["a"]), "1 feature names for 4"),
    "classes": (lambda h: h["classes"].update(values=[1, 1, 2]), "different labels"),
    "one class": (lambda h: h["classes"].update(values=[1]), "different labels"),
    "class type": (lambda h: h["classes"].update(dtype="V8"), "classes are of type"),
    "class type of old": (lambda h: h["classes"].update(dtype="a"), "classes are of type 'a'"),
    "wide classes": (
        lambda h: h["classes"].update(dtype="<U100000000", values=["a", "b", "c"]),
        "far wider than their text",
    ),
    "class numbers without end": (
        lambda h: h["classes"].update(values=[1, 2, 10**400]),
        "damaged: OverflowError",
    ),
    "class objects": (
        lambda h: h["classes"].update(dtype="|O", values=[[1], 2, 3]),
        "not numbers or text",
    ),
    "readers": (lambda h: h.update(readers=["x"]), "layers that read X"),
    "missing": (lambda h: h.pop("classes"), "damaged"),
    "parameters": (lambda h: h.update(parameters=[]), "damaged"),
    "renamed": (
        lambda h: h["parameters"].update(other=h["parameters"].pop("hidden0.bias")),
        "damaged: KeyError: 'mask/other'",
    ),
    "a pattern": (lambda h: h.update(prunable="(a+)+$"), r"prunable is '\(a\+\)\+\$'"),
    "prunable": (lambda h: h.update(prunable=["nothing"]), "not a trainable parameter"),
    "uncompensated": (
        lambda h: h.update(uncompensated=["nothing"]),
        r"uncompensated is \['nothing'",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_cannot_be_is_refused(file, case):
    change, match = HEADERS[case]
    altered(file, change_header=change)
    assert refused(OBDClassifier(**SMALL), file, match)


def set_nan(tensors):
    tensors["alive/hidden0.weight"][0] = np.nan


def shorten(tensors):
    tensors["alive/hidden0.weight"] = tensors["alive/hidden0.weight"][1:].clone()


def retype(tensors):
    tensors["alive/hidden0.weight"] = tensors["alive/hidden0.weight"].float()


def bomb(tensors):
    raw = zlib.compress(bytes(50_000_000), 9)
    tensors["mask/hidden0.weight"] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def garble(tensors):
    tensors["mask/hidden0.weight"] = torch.zeros(9, dtype=torch.uint8)


TENSORS = {
    "NaN": (set_nan, "NaN or infinity in 'hidden0.weight'"),
    "too few values": (shorten, "damaged"),
    "another type": (retype, "float32.*float64"),
    "a mask that swells": (bomb, "is not one of 32 parameters"),
    "a mask that is none": (garble, "is not one of 32 parameters"),
    "one missing": (lambda t: t.pop("mask/output.bias"), "damaged: KeyError: 'mask/output.bias'"),
    "one too many": (
        lambda t: t.update(extra=torch.zeros(1)),
        "'extra', which the network does not have",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_numbers_that_cannot_be_are_refused(file, case):
    change, match = TENSORS[case]
    altered(file, change_tensors=change)
    assert refused(OBDClassifier(**SMALL), file, match)


def test_what_no_refit_reaches_is_still_named_after_loading(tmp_path, iris):
    module = nn.Sequential(nn.Linear(4, 6), nn.PReLU(), nn.Linear(6, 3))
    settings = {"compensation": "layer", "prunable": ".", "retrain_epochs": 1, "random_state": 0}
    clf = OBDClassifier(classifier_net(module, max_epochs=2), **settings).fit(*iris)
    clf.save_params(tmp_path / "clf.safetensors")
    loaded = OBDClassifier(classifier_net(module), **settings)
    loaded.load_params(tmp_path / "clf.safetensors")
    assert loaded.path_.uncompensated == clf.path_.uncompensated == ["1.weight"]


def test_a_compacted_network_is_saved_before(tmp_path, iris):
    clf = OBDClassifier(**SMALL, **QUICK).fit(*iris)
    with pytest.raises(ValueError, match="Save the estimator that was compacted"):
        clf.compact().save_params(tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_what_is_not_fitted_cannot_be_saved(tmp_path):
    with pytest.raises(NotFittedError):
        OBDClassifier().save_params(tmp_path / "net")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_without_safetensors_the_error_says_what_to_install():
    code = """
        import sys
        sys.modules["safetensors"] = None
        from sk_obd import OBDClassifier
        try:
            OBDClassifier().load_params("file")
        except ImportError as error:
            assert "pip install 'sk_obd[export]'" in str(error)
        else:
            raise AssertionError
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_weights_that_were_changed_are_not_loaded(file):
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert refused(OBDClassifier(**SMALL), file, "its checksum is another")


def test_a_file_whose_checksum_was_taken_away_is_not_loaded(file):
    altered(file, with_checksum=False)
    assert refused(OBDClassifier(**SMALL), file, "it has no checksum")


def test_labels_of_a_type_wider_than_they_are_keep_their_text(tmp_path, iris):
    X, y = (part[::5] for part in iris)
    clf = OBDClassifier(**SMALL, **QUICK).fit(X, np.array(list("abc"), dtype="U100000")[y])
    clf.save_params(tmp_path / "net")
    assert (tmp_path / "net").stat().st_size < 10_000
    loaded = OBDClassifier(**SMALL).load_params(tmp_path / "net")
    np.testing.assert_array_equal(loaded.predict(X), clf.predict(X))
    assert loaded.classes_.dtype == "<U1"


# -- files of earlier versions ---------------------------------------------------------------------

FILES = Path(__file__).parent / "files"


def test_files_written_before_the_rooms_of_the_package_were_built_still_load():
    """With the default networks of iris and diabetes, four hidden units, half of them deleted."""
    expected = np.load(FILES / "predictions.npz")
    clf = OBDClassifier(hidden_layer_sizes=(4,)).load_params(FILES / "classifier.safetensors")
    X = load_iris().data[::30]
    np.testing.assert_allclose(clf.predict_proba(X), expected["classifier"], rtol=1e-12)
    assert list(clf.classes_) == ["setosa", "versicolor", "virginica"]
    assert clf.n_params_ == 17
    reg = OBDRegressor(hidden_layer_sizes=(4,)).load_params(FILES / "regressor.safetensors")
    X = load_diabetes().data[::100]
    np.testing.assert_allclose(reg.predict(X), expected["regressor"], rtol=1e-12)
    assert len(reg.path_) == reg.n_iter_ + 1


def test_a_file_without_checksum_holds_no_more_than_its_bytes_allow(tmp_path):
    """Masks of zeros, compressed: the header tells of a network ten thousand times the file."""
    file = tmp_path / "net"
    file.write_bytes((FILES / "classifier.safetensors").read_bytes())
    n = 2**15

    def tensors(found):
        raw = zlib.compress(bytes(4 * n // 8), 9)
        found["mask/hidden0.weight"] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        found["alive/hidden0.weight"] = found["alive/hidden0.weight"][:0].clone()

    def header(found):
        found["n_features_in"], found["row_shape"] = n, [n]
        found["parameters"]["hidden0.weight"][0] = [4, n]

    altered(file, header, tensors, with_checksum=False)
    assert refused(OBDClassifier(hidden_layer_sizes=(4,)), file, "alive by its table")

    def larger(found):
        header(found)
        found["parameters"]["hidden0.weight"][0] = [64, n]

    altered(file, larger, tensors, with_checksum=False)
    assert refused(OBDClassifier(hidden_layer_sizes=(64,)), file, "too few for 2097")
