"""Whatever is changed in a file of save_params, it is told, and nothing large is made of it.

Some hundred changes, with the environment variable FULL_CHECKS=1 (set by ``.ci/run full``) 10,000.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris

from sk_obd import OBDClassifier
from tests.export.mutations import damaged_bytes, damaged_header, parts, written
from tests.library.fitted import fitted, predictions, unfitted

CHANGES = 10_000 if os.environ.get("FULL_CHECKS") else 150
FILES = Path(__file__).parent / "files"
NETS = ["classifier of strings", "regressor of three", "regressor's net"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """For each net its bytes."""
    folder, found = tmp_path_factory.mktemp("saved"), {}
    for name in NETS:
        fitted(name)[0].save_params(folder / "net")
        found[name] = (folder / "net").read_bytes()
    return found


def loaded(estimator, file):
    """The estimator with what the file holds, or None where it was refused as it should be."""
    before = dict(vars(estimator))
    try:
        return estimator.load_params(file)
    except ValueError as error:
        message = str(error)
        assert message.startswith(repr(str(file))), message
        assert any(word in message for word in ("Get an intact copy", "Load it with", "Install"))
        assert vars(estimator) == before
        return None


@pytest.mark.parametrize("net", NETS)
def test_bytes_that_were_changed_are_told_or_do_not_matter(net, saved, tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "net"
    estimator, X = fitted(net)
    expected, n_refused = predictions(estimator, X[:9]), 0
    for _ in range(CHANGES):
        file.write_bytes(damaged_bytes(saved[net], rng))
        found = loaded(unfitted(net), file)
        n_refused += found is None
        if found is not None:
            for one, other in zip(predictions(found, X[:9]), expected, strict=True):
                np.testing.assert_array_equal(one, other)
    assert n_refused > 0.9 * CHANGES


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("net", NETS)
def test_a_header_with_a_new_checksum_is_refused_or_makes_an_estimator(net, saved, tmp_path):
    """Who writes a header anew may choose what is predicted, and nothing else."""
    rng, file = np.random.default_rng(1), tmp_path / "net"
    X = fitted(net)[1][:9]
    header, tensors = parts(saved[net])
    for _ in range(CHANGES):
        file.write_bytes(written(damaged_header(header, rng), tensors))
        found = loaded(unfitted(net), file)
        if found is not None:
            assert all(len(values) == len(X) for values in predictions(found, X))
            assert found.n_params_ == found.path_[found.n_iter_]["n_params"]


def test_changes_in_a_file_from_before_the_checksum_do_no_harm(tmp_path):
    rng, file = np.random.default_rng(2), tmp_path / "net"
    raw, X = (FILES / "classifier.safetensors").read_bytes(), load_iris().data[:9]
    header, tensors = parts(raw)
    for i in range(CHANGES):
        changed = damaged_bytes(raw, rng)
        if i % 2:
            changed = written(damaged_header(header, rng), tensors, with_checksum=False)
        file.write_bytes(changed)
        found = loaded(OBDClassifier(hidden_layer_sizes=(4,)), file)
        assert found is None or len(found.predict(X)) == len(X)


SMALL_MEMORY = """
    import json, resource, sys
    from sk_obd import OBDClassifier
    from tests.export.mutations import parts, written
    import torch

    file = sys.argv[1]
    OBDClassifier(hidden_layer_sizes=(4,)).load_params(file)
    header, tensors = parts(open(file, "rb").read())
    n = 2**24

    def wide(header, tensors):
        header["classes"].update(dtype="<U100000000", values=list("abc"))

    def many_features(header, tensors):
        header["n_features_in"], header["row_shape"] = n, [n]

    def many_weights(header, tensors):
        many_features(header, tensors)
        header["parameters"]["hidden0.weight"][0] = [4, n]
        tensors["mask/hidden0.weight"] = torch.zeros(4, dtype=torch.uint8)

    def large_rows(header, tensors):
        header["row_shape"] = [4, 2048, 2048]

    def many_units(header, tensors):
        header["parameters"]["hidden0.weight"][0] = [n, 4]

    def compressed(header, tensors):
        import zlib
        many_weights(header, tensors)
        header["format"] = 1
        bits = bytearray(zlib.compress(bytes(4 * n // 8), 9))
        tensors["mask/hidden0.weight"] = torch.frombuffer(bits, dtype=torch.uint8)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for change in (wide, many_features, many_weights, large_rows, many_units, compressed):
        h, t = json.loads(json.dumps(header)), dict(tensors)
        change(h, t)
        open(file, "wb").write(written(h, t))
        try:
            OBDClassifier(hidden_layer_sizes=(4,)).load_params(file)
        except ValueError as error:
            assert str(error).startswith(repr(file)), error
        else:
            raise AssertionError(f"{change.__name__} was loaded")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 20_000, f"{change.__name__}: {grown} kB more"
"""


def test_a_small_file_takes_little_memory_whatever_it_says(tmp_path):
    X, y = load_iris(return_X_y=True)
    clf = OBDClassifier(hidden_layer_sizes=(4,), max_epochs=2, retrain_epochs=1, random_state=0)
    clf.fit(X, y).save_params(tmp_path / "net")
    command = [sys.executable, "-c", textwrap.dedent(SMALL_MEMORY), str(tmp_path / "net")]
    subprocess.run(command, check=True)
