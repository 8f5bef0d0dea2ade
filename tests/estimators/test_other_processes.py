"""Nets of modules that cannot be imported, in other processes: as from a script or a notebook."""

import copy
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from torch import nn

from sk_obd import OBDClassifier
from tests.library.nets import TwoLayers

SCRIPT = """
import warnings
import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.model_selection import GridSearchCV, cross_validate
from skorch import NeuralNetClassifier
from torch import nn
from sk_obd import OBDClassifier, OBDClassifierCV

class Loss(nn.CrossEntropyLoss):
    pass

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))

def predict(clf, X):
    return clf.predict_proba(X)

if __name__ == "__main__":
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    def make(module):
        return NeuralNetClassifier(
            module, criterion=Loss, lr=0.1, max_epochs=2, verbose=0, train_split=None,
            optimizer__weight_decay=1e-3)
    trained = make(Net).fit(X, y)
    for net in (trained, make(Net), make(Net())):
        clf = OBDClassifier(net, retrain_epochs=1, random_state=0)
        grid = {"prune_rate": [0.3, 0.6]}
        one, two = (GridSearchCV(clf, grid, cv=2, n_jobs=n).fit(X, y) for n in (1, 2))
        np.testing.assert_allclose(
            one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])
        found = cross_validate(clf, X, y, cv=2, n_jobs=2, return_estimator=True)
        fitted = found["estimator"][0]
        assert fitted.net_ is fitted._fitted.net
        fitted.predict(X)
        small = fitted.compact()
        for proba in Parallel(2)(delayed(predict)(small, X) for _ in range(2)):
            np.testing.assert_allclose(proba, small.predict_proba(X), atol=1e-6)
        OBDClassifierCV(net, retrain_epochs=1, cv=2, n_jobs=2, random_state=0).fit(X, y)
    print("all right")
"""


@pytest.mark.slow
def test_a_net_of_a_script_is_searched_in_two_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, timeout=500
    )
    assert done.stdout == "all right\n", done.stderr[-2000:]


@pytest.fixture
def fitted(iris):
    net = NeuralNetClassifier(TwoLayers, criterion=nn.CrossEntropyLoss, lr=0.1, max_epochs=3)
    net.set_params(optimizer__weight_decay=1e-3, verbose=0)
    net.fit(iris[0].astype(np.float32), iris[1])
    return OBDClassifier(net, retrain_epochs=1, random_state=0).fit(*iris)


@pytest.mark.parametrize("smaller", [False, True])
def test_pickle_and_copies_keep_one_net_with_its_weights_and_history(fitted, smaller, iris):
    X, _ = iris
    fitted = fitted.compact() if smaller else fitted
    for copied in (
        pickle.loads(pickle.dumps(fitted)),
        copy.deepcopy(fitted),
        copy.copy(fitted),
    ):
        assert type(copied.net_) is NeuralNetClassifier
        assert copied.net_ is copied._fitted.net
        if smaller:
            assert copied._fitted.predictor.net is copied.net_
        np.testing.assert_array_equal(copied.predict_proba(X), fitted.predict_proba(X))
        assert copied.net.history == fitted.net.history
        assert torch.equal(copied.net.module_.first.weight, fitted.net.module_.first.weight)
        copied.net.partial_fit(X.astype(np.float32), iris[1])
    # The last, a shallow copy, shares its net.
    assert copied.net is fitted.net
