"""No draw of another thread changes a fit, and nothing but a fit's own generators moves."""

import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sk_obd import OBDClassifier, OBDClassifierCV
from tests.library.nets import classifier_net
from tests.library.settings import QUICK


def own_net():
    return classifier_net(module__n_in=4, module__n_out=3, max_epochs=4)


@pytest.mark.parametrize("net", [None, own_net()], ids=["default", "own"])
@pytest.mark.parametrize("saliency", ["obd", "random"])
def test_a_fit_beside_a_thread_that_draws_is_the_fit_alone(iris, net, saliency):
    settings = QUICK if net is None else {"retrain_epochs": 2, "random_state": 0}

    def fit():
        estimator = OBDClassifier(net, prune_rate=0.8, saliency=saliency, **settings)
        return estimator.fit(*iris).predict_proba(iris[0])

    alone, ended = fit(), threading.Event()

    def draw():
        while not ended.is_set():
            torch.rand(3)
            np.random.rand()  # noqa: NPY002

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        beside = [fit() for _ in range(2)]
    finally:
        ended.set()
        thread.join()
    assert all(np.array_equal(alone, other) for other in beside)


def doings(iris):
    fitted = OBDClassifier(**QUICK).fit(*iris)
    return {
        "fit": lambda: OBDClassifier(**QUICK).fit(*iris),
        "a CV fit": lambda: OBDClassifierCV(cv=2, prune_rate=0.5, **QUICK).fit(*iris),
        "at": lambda: fitted.at(iteration=0),
        "compact": lambda: fitted.compact("dense"),
        "clone of a trained net": lambda: clone(OBDClassifier(fitted.net_)),
        "predict": lambda: fitted.predict(iris[0]),
    }


def test_the_users_generator_does_not_move(iris):
    for name, do in doings(iris).items():
        before = torch.get_rng_state()
        do()
        assert torch.equal(before, torch.get_rng_state()), name
