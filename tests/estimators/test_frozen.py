"""Parameters that callbacks freeze while the network is trained."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Freezer, Initializer, ParamMapper, Unfreezer
from skorch.utils import freeze_parameter, unfreeze_parameter
from torch import nn

from sk_obd import OBDClassifier, OBDClassifierCV


class BodyAndHead(nn.Module):
    def __init__(self, frozen=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)
        self.body.requires_grad_(not frozen)

    def forward(self, X):
        return self.head(self.body(X))


class FreezeBody(Callback):
    """Freezes the body whenever it is told of `event`."""

    def __init__(self, event, epoch=1):
        self.event, self.epoch = event, epoch

    def freeze(self, net):
        net.module_.body.requires_grad_(False)

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        if self.event == "train":
            self.freeze(net)

    def on_epoch_begin(self, net, **kwargs):
        if self.event == "epoch" and len(net.history) == self.epoch:
            self.freeze(net)

    def on_batch_begin(self, net, **kwargs):
        if self.event == "batch":
            self.freeze(net)


def alternately(net):
    """Frozen in odd epochs; a training of three epochs ends in one."""
    return freeze_parameter if len(net.history) % 2 else unfreeze_parameter


FREEZERS = {
    "a pattern": lambda: [Freezer("body.*")],
    "a list of patterns": lambda: [Freezer(["body.0.weight", "body.0.bias"])],
    "a function": lambda: [Freezer(lambda name: name.startswith("body"))],
    "in a later epoch": lambda: [Freezer("body.*", at=3)],
    "by a condition": lambda: [Freezer("body.*", at=lambda net: len(net.history) == 2)],
    "a mapper": lambda: [ParamMapper("body.*", fn=freeze_parameter)],
    "a schedule": lambda: [ParamMapper("body.*", schedule=alternately)],
    "when training begins": lambda: [FreezeBody("train")],
    "in an epoch": lambda: [FreezeBody("epoch", 2)],
    "in a batch": lambda: [FreezeBody("batch")],
}


def net_with(callbacks, **settings):
    settings = {"max_epochs": 3, "lr": 0.1, "optimizer__weight_decay": 1e-2} | settings
    return NeuralNetClassifier(
        BodyAndHead, criterion=nn.CrossEntropyLoss, callbacks=callbacks, **settings
    )


def frozen_from_the_start(iris, **parameters):
    net = net_with(None, module__frozen=True)
    return OBDClassifier(net, retrain_epochs=4, random_state=0, **parameters).fit(*iris)


@pytest.fixture(scope="module", params=["obd", "taylor", "magnitude"])
def frozen(request, iris):
    """A saliency, and an estimator that is frozen from the start."""
    return request.param, frozen_from_the_start(iris, saliency=request.param)


@pytest.mark.parametrize("name", FREEZERS)
def test_what_callbacks_freeze_is_spared(name, frozen, iris):
    saliency, expected = frozen[0], frozen[1].path_
    net = net_with(FREEZERS[name]())
    clf = OBDClassifier(net, saliency=saliency, retrain_epochs=4, random_state=0).fit(*iris)
    assert clf.path_.n_prunable == expected.n_prunable == 27
    assert clf.path_.prunable == ["head.weight", "head.bias"]
    assert [row["n_params"] for row in clf.path_] == [row["n_params"] for row in expected]
    assert all(clf.mask_[name].all() for name in clf.mask_ if name.startswith("body"))
    assert (clf.saliencies_["body.0.weight"] == 0).all()


def test_frozen_weights_stay_as_they_were_in_every_iteration(iris):
    path = OBDClassifier(net_with([Freezer("body.*")]), random_state=0).fit(*iris).path_
    bodies = [path.network(i).body[0].weight for i in range(len(path))]
    assert all(torch.equal(body, bodies[0]) for body in bodies)


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda: [Freezer("body.*"), Unfreezer("body.*", at=3)],
        lambda: [Unfreezer("body.*", at=2)],
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_unfrozen_in_time_may_be_deleted(callbacks, frozen, iris):
    net = net_with(callbacks(), module__frozen=frozen)
    # Retraining is too short for the epoch of unfreezing to come again.
    clf = OBDClassifier(net, prune_rate=0.6, retrain_epochs=1, random_state=0).fit(*iris)
    assert clf.path_.n_prunable == 67
    assert not clf.mask_["body.0.weight"].all()
    assert all(p.requires_grad for p in clf.net_.module_.parameters())


def test_weights_are_initialised_by_a_callback_once_and_not_in_each_iteration(iris):
    net = net_with([Initializer("*", fn=nn.init.ones_)], lr=1e-9)
    path = OBDClassifier(net, retrain_epochs=1, random_state=0).fit(*iris).path_
    counted = [int((path.network(i).body[0].weight != 0).sum()) for i in range(len(path))]
    assert counted[0] == 32
    assert counted == sorted(counted, reverse=True)
    initial = OBDClassifier(net_with([Initializer("*", fn=nn.init.ones_)]), random_state=0)
    weight = initial.fit(*iris).net_.module_.head.weight
    assert (weight[weight != 0] - 1).abs().max() > 0.05


class Noise(Callback):
    """Adds to every weight at the beginning of each epoch; notes what each batch was given."""

    @torch.no_grad()
    def on_epoch_begin(self, net, **kwargs):
        for p in net.module_.parameters():
            p.add_(0.01)

    def on_batch_begin(self, net, **kwargs):
        SEEN.append(sum(int((p == 0).sum()) for p in net.module_.parameters()))


SEEN: list[int] = []


def test_deleted_weights_are_zero_for_every_batch_whatever_callbacks_map(iris):
    SEEN.clear()
    clf = OBDClassifier(net_with([Noise()]), step=None, retrain_epochs=3, random_state=0)
    n_deleted = clf.fit(*iris).path_.n_deleted
    assert set(SEEN) == {0, n_deleted}


def test_a_warm_start_goes_on_sparing(iris):
    clf = OBDClassifier(net_with([Freezer("body.*")]), warm_start=True, random_state=0)
    clf.fit(*iris)
    clf.set_params(prune_rate=0.8).fit(*iris)
    assert clf.path_.n_prunable == 27
    assert clf.path_.n_deleted == round(0.8 * 27)
    assert clf.mask_["body.0.weight"].all()


def test_iterations_recalled_from_a_cache_spare_the_same(iris, tmp_path):
    def fit(prune_rate):
        net = net_with([Freezer("body.*")])
        return OBDClassifier(net, prune_rate=prune_rate, random_state=0, memory=tmp_path).fit(*iris)

    first, again, further = fit(0.5), fit(0.5), fit(0.8)
    assert [row["loss"] for row in first.path_] == [row["loss"] for row in again.path_]
    assert further.path_.n_prunable == 27
    assert further.mask_["body.0.weight"].all()


def test_a_file_keeps_what_is_spared(iris, tmp_path):
    for i, callbacks in enumerate(([Freezer("body.*")], [Unfreezer("body.*")])):
        net = net_with(callbacks, module__frozen=i == 1)
        clf = OBDClassifier(net, warm_start=True, random_state=0).fit(*iris)
        clf.save_params(tmp_path / "net")
        loaded = OBDClassifier(net, warm_start=True, random_state=0).load_params(tmp_path / "net")
        assert loaded.path_.prunable == clf.path_.prunable
        loaded.set_params(prune_rate=0.8).fit(*iris)
        assert loaded.path_.n_prunable == clf.path_.n_prunable == (27, 67)[i]


def test_other_users_of_the_path_agree(iris):
    X, y = iris
    clf = OBDClassifier(net_with([Freezer("body.*")]), granularity="unit", random_state=0)
    with pytest.raises(ValueError, match="finds nothing to delete"):
        clf.fit(X, y)
    clf = OBDClassifier(net_with([Freezer("body.*")]), random_state=0).fit(X, y)
    np.testing.assert_array_equal(clf.at(iteration=0).predict(X).shape, y.shape)
    assert clf.at(iteration=0).n_params_ == 67
    searched = OBDClassifierCV(net_with([Freezer("body.*")]), cv=2, random_state=0).fit(X, y)
    assert searched.mask_["body.0.weight"].all()


def test_all_parameters_frozen_is_refused(iris):
    with pytest.raises(ValueError, match="have frozen every parameter of BodyAndHead"):
        OBDClassifier(net_with([Freezer("*")]), random_state=0).fit(*iris)
