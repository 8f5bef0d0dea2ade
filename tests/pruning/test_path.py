import pickle

import numpy as np
import pytest
import torch

from sk_obd import OBDClassifier


@pytest.fixture(scope="module")
def fitted(iris):
    return OBDClassifier(
        prune_rate=0.9, hidden_layer_sizes=(10,), max_epochs=20, retrain_epochs=2, random_state=0
    ).fit(*iris)


def test_a_path_is_a_sequence_of_rows(fitted):
    path = fitted.path_
    assert len(path) == fitted.n_iter_ + 1
    assert path[0]["n_deleted"] == 0
    assert np.isnan(path[0]["predicted_increase"])
    assert path[-1]["n_params"] == fitted.n_params_
    assert [row["n_params"] for row in path] == [path[i]["n_params"] for i in range(len(path))]


def test_a_frame_has_a_row_an_iteration(fitted):
    frame = fitted.path_.to_frame()
    assert frame.index.name == "iteration"
    assert (frame["n_params"].diff().dropna() < 0).all()
    assert (frame["n_params"] + frame["n_deleted"].cumsum() == 83).all()


def test_at_finds_the_row_or_the_smallest_with_at_least_so_many(fitted):
    path, sizes = fitted.path_, [row["n_params"] for row in fitted.path_]
    assert fitted.at(iteration=2).n_params_ == sizes[2]
    assert fitted.at(iteration=-1).n_params_ == sizes[-1]
    assert fitted.at(n_params=sizes[3]).n_iter_ == 3
    assert fitted.at(n_params=sizes[3] + 1).n_iter_ == 2
    assert fitted.at(prune_rate=0.0).n_iter_ == 0
    assert fitted.at(prune_rate=0.9).n_iter_ == len(path) - 1
    half = fitted.at(prune_rate=0.5)
    assert path[half.n_iter_]["prune_rate"] <= 0.5 < path[half.n_iter_ + 1]["prune_rate"]


def test_a_copy_at_a_row_is_whole_and_leaves_the_estimator_alone(fitted, iris):
    X, y = iris
    before = fitted.predict_proba(X)
    early = fitted.at(iteration=1)
    assert len(early.path_) == 2
    assert early.n_params_ == sum(m.sum() for m in early.mask_.values())
    assert early.score(X, y) == fitted.path_[1]["train_score"]
    assert not hasattr(early, "saliencies_")
    assert hasattr(fitted.at(iteration=-1), "saliencies_")
    assert {int(r) for ranking in early.ranking_.values() for r in np.unique(ranking)} == {1, 2}
    assert len(early.net_.history) == sum(row["n_epochs"] for row in early.path_)
    np.testing.assert_array_equal(fitted.predict_proba(X), before)
    assert early.net_ is not fitted.net_


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_params": 1000}, r"fits n_params=1000. The kept rows are 0: 83 parameters"),
        ({"iteration": 99}, "fits iteration=99"),
        ({"iteration": -99}, "fits iteration=-99"),
        ({}, "exactly one of iteration"),
        ({"iteration": 1, "n_params": 3}, "exactly one of iteration"),
    ],
)
def test_a_row_that_is_not_there_is_an_error_that_lists_the_rows(fitted, asked, message):
    with pytest.raises(ValueError, match=message):
        fitted.at(**asked)


def test_the_store_is_at_most_six_dense_networks(fitted):
    path = fitted.path_
    parts = [part for n in path.networks.values() for part in (n.parameters, n.buffers)]
    tensors = [v for part in [*parts, path.deleted_at, path.saliency] for v in part.values()]
    # Buffers that stay the same are kept once for all rows.
    stored = sum(v.nbytes for v in {v.data_ptr(): v for v in tensors}.values())
    dense = sum(p.numel() * p.element_size() for p in fitted.net_.module_.parameters())
    assert dense < stored <= 6 * dense


def test_it_pickles_and_shows_itself(fitted):
    path = pickle.loads(pickle.dumps(fitted.path_))
    for row, expected in zip(path, fitted.path_, strict=True):
        assert row == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert all(
        torch.equal(a, b)
        for i in path.networks
        for a, b in zip(
            path.networks[i].parameters.values(),
            fitted.path_.networks[i].parameters.values(),
            strict=True,
        )
    )
    assert repr(path) == f"PruningPath({len(path)} rows, 83 to 8 parameters)"
    page = path._repr_html_()
    assert page.count("<tr") == len(path) + 1
    assert "predicted increase" in page
