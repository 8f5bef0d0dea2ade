"""A cache that is damaged, gone or cannot be written to costs time, and never the fit.

Ten flipped bits in each of its files, with the environment variable FULL_CHECKS=1 a hundred.
"""

import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest

import sk_obd
from sk_obd import OBDClassifier
from sk_obd.pruning.cache import IterationCache
from tests.library.settings import QUICK
from tests.pruning.test_cache import same

SETTINGS = {**QUICK, "max_epochs": 5, "prune_rate": 0.4}


def fit(iris, memory):
    """A fit, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "The dense training|.*converge", UserWarning)
        clf = OBDClassifier(memory=memory, **SETTINGS).fit(*iris)
    return clf, [w for w in caught if "cache" in str(w.message).lower()]


@pytest.fixture
def plain(iris):
    return fit(iris, None)[0]


def outputs(folder):
    return sorted(folder.rglob("output.pkl"), key=lambda file: file.stat().st_mtime_ns)


def flip_last(raw):
    # The middle of the numbers, which any pickle takes as they come.
    return raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :]


DAMAGES = {
    "a flipped bit": flip_last,
    "a cut": lambda raw: raw[: len(raw) // 3],
    "nothing": lambda raw: b"",
    "text": lambda raw: b"not a pickle at all\n",
    "zeros": lambda raw: bytes(len(raw)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_computed_again_with_one_warning(
    damage, iris, plain, tmp_path, trained, capfd
):
    fit(iris, tmp_path)
    file = outputs(tmp_path)[1]
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    trained.clear()
    capfd.readouterr()
    found, caught = fit(iris, tmp_path)
    assert trained == [1]
    assert same(found, plain, iris[0])
    (warning,) = caught
    assert warning.category is UserWarning
    assert "is damaged, or gone" in str(warning.message)
    assert warning.filename == __file__
    assert capfd.readouterr() == ("", "")
    trained.clear()
    again, caught = fit(iris, tmp_path)
    assert (trained, caught) == ([], [])
    assert same(again, plain, iris[0])


def test_an_entry_of_another_iteration_is_not_taken(iris, plain, tmp_path, trained):
    fit(iris, tmp_path)
    first, second = outputs(tmp_path)[:2]
    second.write_bytes(first.read_bytes())
    trained.clear()
    found, caught = fit(iris, tmp_path)
    assert trained == [1]
    assert len(caught) == 1
    assert same(found, plain, iris[0])


@pytest.mark.slow
def test_no_flipped_byte_changes_a_fit(iris, plain, tmp_path, rng):
    fit(iris, tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    whole = {file: file.read_bytes() for file in files}
    for file in files * (100 if os.environ.get("FULL_CHECKS") else 10):
        for other in files:
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(whole[other])
        raw = bytearray(whole[file])
        raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
        file.write_bytes(raw)
        assert same(fit(iris, tmp_path)[0], plain, iris[0])


def test_a_place_that_is_no_folder_is_a_warning(iris, plain, tmp_path):
    (tmp_path / "file").write_text("")
    found, (warning,) = fit(iris, tmp_path / "file")
    assert "nothing more is cached: NotADirectoryError" in str(warning.message)
    assert warning.filename == __file__
    assert same(found, plain, iris[0])


@pytest.mark.parametrize("place", ["open", "makedirs", "replace"])
def test_a_folder_that_cannot_be_written_to_is_a_warning(iris, plain, tmp_path, monkeypatch, place):
    """As a full disk, or one mounted to be read only: the system refuses in one of three ways."""
    memory = joblib.Memory(tmp_path, verbose=0)

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    backend = memory.store_backend
    if place == "open":
        monkeypatch.setattr(backend, "_open_item", refuse)
    elif place == "makedirs":
        monkeypatch.setattr(backend, "create_location", refuse)
    else:
        monkeypatch.setattr(backend, "_move_item", refuse)
    found, caught = fit(iris, memory)
    assert caught
    assert all("No space left on device" in str(warning.message) for warning in caught)
    assert same(found, plain, iris[0])


def test_a_folder_that_vanishes_is_at_most_a_warning(iris, plain, tmp_path, monkeypatch):
    """After each iteration the folder is gone, as where another process empties it."""
    original = IterationCache.__call__

    def vanish(cache, *args):
        found = original(cache, *args)
        shutil.rmtree(tmp_path / "cache")
        return found

    monkeypatch.setattr(IterationCache, "__call__", vanish)
    assert same(fit(iris, tmp_path / "cache")[0], plain, iris[0])


def test_an_error_of_the_training_is_raised_as_it_is(tmp_path):
    error, calls = OSError("of a callback that writes a file"), []

    def compute():
        calls.append(1)
        raise error

    cache = IterationCache(tmp_path, "key")
    with pytest.raises(OSError, match="of a callback") as raised:
        cache(0, 0, compute)
    assert raised.value is error
    assert len(calls) == 1


def test_a_value_that_cannot_be_pickled_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return lambda: 3

    cache = IterationCache(tmp_path, "key")
    with pytest.warns(UserWarning, match="nothing more is cached"):
        assert cache(0, 0, compute)() == 3
    assert len(calls) == 1


class Store:
    """A memory that is not joblib's, as scikit-learn takes them: with ``cache`` alone."""

    def __init__(self):
        self.records = {}

    def cache(self, function, ignore):
        def cached(key, compute):
            if key not in self.records:
                self.records[key] = function(key, compute)
            return self.records[key]

        return cached


def test_a_memory_that_is_not_of_joblib_is_checked_too(tmp_path):
    store = Store()
    assert IterationCache(store, "key")(0, 0, lambda: np.arange(3)).tolist() == [0, 1, 2]
    assert IterationCache(store, "key")(0, 0, lambda: 1 / 0).tolist() == [0, 1, 2]
    ((key, (seal, raw)),) = store.records.items()
    store.records[key] = seal, raw + b"x"
    with pytest.warns(UserWarning, match="is damaged, or gone"):
        assert IterationCache(store, "key")(0, 0, lambda: 7) == 7


@pytest.mark.slow
def test_a_change_in_the_code_of_the_package_makes_all_entries_stale(iris, tmp_path):
    """The key has a digest of all source files: a copy of the package with one comment more."""
    copy = tmp_path / "code"
    shutil.copytree(Path(sk_obd.__file__).parent, copy / "sk_obd")
    program = """
        from sklearn.datasets import load_iris
        from sk_obd import OBDClassifier
        from sk_obd.pruning import recipe

        original, calls = recipe.iterate, []
        recipe.iterate = lambda run, total: calls.append(total) or original(run, total)
        clf = OBDClassifier(max_epochs=2, retrain_epochs=1, random_state=0, memory="cache",
                            hidden_layer_sizes=(4,), step=None)
        clf.fit(*load_iris(return_X_y=True))
        print(len(calls))
    """

    def n_trained():
        command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
        done = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(copy)}, check=True, capture_output=True
        )
        return int(done.stdout)

    assert [n_trained(), n_trained()] == [2, 0]
    with open(copy / "sk_obd" / "training" / "rounds.py", "a") as file:
        file.write("# one more line\n")
    assert n_trained() == 2
