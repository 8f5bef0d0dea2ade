"""Any skorch network: classes, instances, trained, lazy, sized by callbacks, conv, tuples."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics import accuracy_score
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Checkpoint, EarlyStopping, EpochScoring, InputShapeSetter
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor
from sk_obd.training.nets import monitors_validation
from tests.library.marks import slow_but
from tests.library.modules import Lazy, SmallConv, SoftmaxTop, Squeezed, TwoLayers, TwoOutputs
from tests.library.nets import (
    PenalisedNet,
    SizedByData,
    TupleNet,
    binary_net,
    classifier_net,
    regressor_net,
)

QUICK = {"prune_rate": 0.6, "retrain_epochs": 20, "random_state": 0}

CLASSIFIERS = {
    "module class": lambda: classifier_net(),
    "module instance": lambda: classifier_net(TwoLayers()),
    "lazy layers": lambda: classifier_net(Lazy),
    "sized by skorch": lambda: classifier_net(
        callbacks=[InputShapeSetter(param_name="n_in")], module__n_in=1
    ),
    "sized by the user": lambda: classifier_net(callbacks=[SizedByData()], module__n_in=1),
    "softmax and NLLLoss": lambda: NeuralNetClassifier(
        TwoLayers, module__top=SoftmaxTop, lr=0.1, iterator_train__shuffle=True
    ),
    "log-softmax and NLLLoss": lambda: NeuralNet(
        TwoLayers,
        criterion=nn.NLLLoss,
        module__top=lambda: nn.LogSoftmax(dim=1),
        predict_nonlinearity=torch.exp,
        lr=0.1,
    ),
    "penalty in get_loss": lambda: PenalisedNet(
        TwoLayers, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=1e-2
    ),
    "tuple of outputs": lambda: TupleNet(
        TwoOutputs,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-2,
    ),
    "float64": lambda: classifier_net(module__dtype=torch.float64),
    "early stopping": lambda: classifier_net(callbacks=[EarlyStopping(patience=3)]),
}


@pytest.mark.parametrize(
    "name",
    slow_but(["module class", "module instance", "lazy layers", "sized by skorch"], CLASSIFIERS),
)
def test_any_classifiers_net_is_trained_pruned_and_predicts(name, iris):
    X, y = iris
    labels = np.array(["setosa", "versicolor", "virginica"])[y]
    net = CLASSIFIERS[name]()
    net.set_params(max_epochs=100, batch_size=32, optimizer__weight_decay=1e-2)
    fitted = OBDClassifier(net, **QUICK).fit(X, labels)
    assert fitted.score(X, labels) > 0.9
    assert fitted.path_[-1]["prune_rate"] == pytest.approx(0.6, abs=0.01)
    proba = fitted.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(fitted.classes_[proba.argmax(axis=1)], fitted.predict(X))
    np.testing.assert_allclose(fitted.predict_log_proba(X), np.log(proba))


@pytest.mark.slow
@pytest.mark.parametrize("module", [TwoLayers, Squeezed])
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_a_binary_net_keeps_its_threshold(module, threshold, cancer):
    X, y = cancer
    labels = np.array(["benign", "malignant"])[1 - y]
    fitted = OBDClassifier(binary_net(module, threshold=threshold), **QUICK).fit(X, labels)
    proba = fitted.predict_proba(X)
    assert proba.shape == (len(y), 2)
    expected = fitted.classes_[(proba[:, 1] > threshold).astype(int)]
    np.testing.assert_array_equal(fitted.predict(X), expected)
    assert accuracy_score(labels, fitted.predict(X)) > 0.9


@pytest.mark.parametrize("module", [TwoLayers, Squeezed])
def test_a_regressors_net_takes_y_of_one_dimension(module, diabetes):
    X, y = diabetes
    fitted = OBDRegressor(regressor_net(module), **QUICK).fit(X, y)
    assert fitted.predict(X).shape == y.shape
    assert fitted.score(X, y) > 0.4


def test_several_targets(diabetes):
    X, y = diabetes
    Y = np.column_stack([y, -2 * y + 3, X[:, 2]])
    for net in (None, regressor_net(module__n_out=3, max_epochs=60)):
        fitted = OBDRegressor(net, **QUICK).fit(X, Y)
        assert fitted.predict(X).shape == Y.shape
        assert fitted.score(X, Y) > 0.4


@pytest.mark.slow
def test_csr_input_gives_what_dense_input_gives(digits):
    X, y = digits
    dense = OBDClassifier(max_epochs=10, **QUICK).fit(X, y)
    rows = sparse.csr_array(X)
    fitted = OBDClassifier(max_epochs=10, **QUICK).fit(rows, y)
    np.testing.assert_allclose(fitted.predict_proba(rows), dense.predict_proba(X), rtol=1e-9)
    np.testing.assert_array_equal(fitted.predict(X), fitted.predict(rows))
    for name, mask in fitted.mask_.items():
        np.testing.assert_array_equal(mask, dense.mask_[name])


@pytest.mark.slow
def test_images_for_a_convolutional_net(digits):
    X, y = digits
    images = X.reshape(-1, 1, 8, 8)
    fitted = OBDClassifier(classifier_net(SmallConv, max_epochs=30), **QUICK).fit(images, y)
    assert fitted.score(images, y) > 0.9
    assert not fitted.mask_["conv.weight"].all()
    assert fitted.support_.all()
    assert not hasattr(fitted, "feature_importances_")


def test_integers_stay_integers_for_an_embedding(rng):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(20, 6)
            self.linear = nn.Linear(6, 2)

        def forward(self, X):
            return self.linear(self.words(X).mean(1))

    X = rng.integers(0, 20, (200, 5))
    y = (X < 5).sum(1) > 1
    fitted = OBDClassifier(classifier_net(Words, max_epochs=60, lr=3e-2), **QUICK).fit(X, y)
    assert fitted.score(X, y) > 0.9
    assert not fitted.mask_["words.weight"].all()


def test_a_trained_net_goes_on_from_its_weights_also_when_cloned(iris):
    X, y = iris
    net = classifier_net(module__n_in=4, verbose=0)
    net.fit(X.astype(np.float32), y)
    weights = {k: v.clone() for k, v in net.module_.state_dict().items()}
    estimator = OBDClassifier(net, **QUICK).set_params(net__max_epochs=0)
    for fitted in (estimator.fit(X, y), clone(estimator).fit(X, y)):
        dense = fitted.at(iteration=0).net_.module_.state_dict()
        assert all(torch.equal(dense[k], weights[k]) for k in weights)
    assert all(torch.equal(net.module_.state_dict()[k], weights[k]) for k in weights)


def test_a_net_that_was_fitted_here_may_be_given_again(iris):
    first = OBDClassifier(classifier_net(callbacks__print_log=None), **QUICK).fit(*iris)
    again = OBDClassifier(first.net_, prune_rate=0.8, retrain_epochs=5, random_state=0)
    again.set_params(net__max_epochs=0).fit(*iris)
    np.testing.assert_array_equal(
        again.at(iteration=0).predict_proba(iris[0]), first.predict_proba(iris[0])
    )


def test_parameters_of_an_instance_reach_it_through_a_search(iris):
    estimator = OBDClassifier(classifier_net(TwoLayers()), **QUICK)
    fitted = clone(estimator).set_params(net__module__hidden=5).fit(*iris)
    assert fitted.mask_["first.weight"].shape == (5, 4)


def test_a_validation_split_is_used_only_where_a_callback_looks_at_it(iris, tmp_path):
    looks = [
        EarlyStopping(),
        Checkpoint(dirname=tmp_path),
        EpochScoring("accuracy"),
        ("named", EarlyStopping(monitor="valid_acc", lower_is_better=False)),
    ]
    for callback in looks:
        assert monitors_validation(classifier_net(callbacks=[callback]))
    for callback in [
        EarlyStopping(monitor="train_loss"),
        EpochScoring("accuracy", on_train=True),
        InputShapeSetter(),
    ]:
        assert not monitors_validation(classifier_net(callbacks=[callback]))
    seen = []

    class Counts(TwoLayers):
        def forward(self, X):
            if self.training:
                seen.append(len(X))
            return super().forward(X)

    OBDClassifier(classifier_net(Counts), prune_rate=0).fit(*iris)
    assert sum(seen) == 15 * 150
    seen.clear()
    OBDClassifier(classifier_net(Counts, callbacks=[EarlyStopping()]), prune_rate=0).fit(*iris)
    assert sum(seen) % 120 == 0


def test_two_arrays_of_weights_of_a_shared_parameter_are_one(iris):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(4, 4)
            self.decode = nn.Linear(4, 4)
            self.decode.weight = self.encode.weight
            self.out = nn.Linear(4, 3)

        def forward(self, X):
            return self.out(torch.tanh(self.decode(torch.tanh(self.encode(X)))))

    fitted = OBDClassifier(classifier_net(Tied, max_epochs=60), **QUICK).fit(*iris)
    assert "decode.weight" not in fitted.mask_
    assert fitted.n_params_ == 39 - round(0.6 * 39)
    assert fitted.net_.module_.decode.weight is fitted.net_.module_.encode.weight
    assert fitted.score(*iris) > 0.8


REFUSED = {
    "a module": (lambda: TwoLayers(), TypeError, r"NeuralNetClassifier\(TwoLayers, criterion="),
    "a module class": (lambda: TwoLayers, TypeError, "skorch net"),
    "a regressor's net": (lambda: NeuralNetRegressor(TwoLayers), TypeError, "NeuralNetClassifier"),
    "a string": (lambda: "mlp", TypeError, "expects a skorch net"),
    "too few outputs": (lambda: classifier_net(module__n_out=2), ValueError, "last layer 3 wide"),
    "too many outputs": (lambda: classifier_net(module__n_out=5), ValueError, "last layer 3 wide"),
    "wrong inputs": (lambda: classifier_net(module__n_in=7), ValueError, "could not compute"),
    "one output for three classes": (
        lambda: classifier_net(module__n_out=1, criterion=nn.BCEWithLogitsLoss),
        ValueError,
        "two classes",
    ),
    "a criterion of three inputs": (
        lambda: classifier_net(criterion=nn.TripletMarginLoss),
        ValueError,
        "TripletMarginLoss",
    ),
    "batch norm that mixes rows": (
        lambda: classifier_net(
            lambda: nn.Sequential(
                nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3)
            )
        ),
        ValueError,
        "track_running_stats",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_net_that_cannot_work_is_refused_before_training(name, iris):
    make, error, message = REFUSED[name]
    estimator = OBDClassifier(make())
    with pytest.raises(error, match=message):
        estimator.fit(*iris)
    assert not hasattr(estimator, "net_")


def test_a_classifiers_net_is_refused_by_the_regressor(iris):
    with pytest.raises(TypeError, match=r"OBDRegressor\(NeuralNetRegressor"):
        OBDRegressor(classifier_net()).fit(*iris)
    with pytest.raises(TypeError, match=r"OBDRegressor\(NeuralNetRegressor\(TwoLayers"):
        OBDRegressor(TwoLayers()).fit(*iris)
