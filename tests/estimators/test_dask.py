"""Folds and grids go to other processes through joblib's Dask backend, and come back the same.

Two worker processes on the loopback interface stand for a cluster.
"""

import logging
from contextlib import contextmanager

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sk_obd import OBDClassifier, OBDClassifierCV
from tests.library.settings import TRAINED

pytestmark = pytest.mark.slow
distributed = pytest.importorskip("distributed")

SETTINGS = TRAINED | {"step": 0.5}


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            protocol="tcp",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
            death_timeout=60,
        ) as cluster,
        distributed.Client(cluster, timeout=60) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        yield client


@contextmanager
def on(client):
    """Send joblib's work to the cluster, and see that it came there."""
    with distributed.get_task_stream(client) as stream, joblib.parallel_config("dask"):
        yield
    assert {task["worker"] for task in stream.data} <= set(client.nthreads())
    assert len(stream.data) > 0


def assert_same(here, there, X):
    for key in here.cv_results_:
        if "time" not in key:
            np.testing.assert_array_equal(here.cv_results_[key], there.cv_results_[key])
    np.testing.assert_array_equal(here.predict_proba(X), there.predict_proba(X))


def test_folds_on_a_cluster_give_the_local_result(client, iris):
    X, y = iris
    here = OBDClassifierCV(cv=3, **SETTINGS).fit(X, y)
    with on(client):
        there = OBDClassifierCV(cv=3, **SETTINGS).fit(X, y)
    assert_same(here, there, X)


def test_a_grid_search_on_a_cluster_gives_the_local_result(client, iris):
    X, y = iris
    search = GridSearchCV(OBDClassifier(**SETTINGS), {"prune_rate": [0.0, 0.8]}, cv=3)
    here = clone(search).fit(X, y)
    with on(client):
        there = search.fit(X, y)
    assert_same(here, there, X)
