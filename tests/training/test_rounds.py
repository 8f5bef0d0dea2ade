"""A round of training: zeros stay zero, rows weigh what they should, nothing else is touched."""

import os
import signal
import threading

import numpy as np
import pytest
import torch
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    GradientNormClipping,
    LRScheduler,
)
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor
from sk_obd.training.nets import start
from sk_obd.training.rounds import train_round
from tests.library.marks import slow_but
from tests.library.modules import SmallConv, TwoLayers
from tests.library.nets import OwnLossNet, PenalisedNet, classifier_net, regressor_net

OPTIMISERS = {
    "sgd with momentum": {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9, "lr": 0.05},
    "sgd with decay": {"optimizer": torch.optim.SGD, "optimizer__weight_decay": 1e-2, "lr": 0.05},
    "adam": {"optimizer": torch.optim.Adam, "optimizer__weight_decay": 1e-3},
    "adam, not fused": {"optimizer": torch.optim.Adam, "optimizer__fused": False},
    "adamw": {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": 1e-1},
    "rmsprop": {"optimizer": torch.optim.RMSprop, "optimizer__momentum": 0.9, "lr": 1e-3},
    "lbfgs": {"optimizer": torch.optim.LBFGS, "lr": 0.1, "batch_size": -1, "max_epochs": 5},
    "lbfgs with line search": {
        "optimizer": torch.optim.LBFGS,
        "optimizer__line_search_fn": "strong_wolfe",
        "lr": 1.0,
        "batch_size": -1,
        "max_epochs": 5,
    },
}


def callbacks(tmp_path):
    return {
        "schedule": [LRScheduler(policy="StepLR", step_size=2, gamma=0.5)],
        "early stopping": [EarlyStopping(patience=2)],
        "early stopping, best": [EarlyStopping(monitor="train_loss", patience=2, load_best=True)],
        "checkpoint": [Checkpoint(dirname=tmp_path, load_best=True)],
        "scoring": [EpochScoring("accuracy", lower_is_better=False, on_train=True)],
        "clipping": [GradientNormClipping(1.0)],
        "disabled": "disable",
    }


def forward_by_hand(fitted, X):
    """softmax(W2 relu(W1 x + b1) + b2) with masked weights, in numpy."""
    weights = {
        name: p.detach().numpy() * fitted.mask_[name]
        for name, p in fitted.net_.module_.named_parameters()
    }
    hidden = np.maximum(X @ weights["first.weight"].T + weights["first.bias"], 0)
    z = hidden @ weights["second.weight"].T + weights["second.bias"]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def check_deleted_are_zero(fitted, X):
    parameters = dict(fitted.net_.module_.named_parameters())
    for name, mask in fitted.mask_.items():
        assert (parameters[name].detach().numpy()[~mask] == 0.0).all()
        assert not np.signbit(parameters[name].detach().numpy()[~mask]).any()
    assert fitted.n_params_ == sum(mask.sum() for mask in fitted.mask_.values())
    assert fitted.n_params_ < sum(mask.size for mask in fitted.mask_.values()) / 2
    np.testing.assert_allclose(fitted.predict_proba(X), forward_by_hand(fitted, X), atol=1e-12)


@pytest.mark.parametrize("name", slow_but(["sgd with momentum", "adam"], OPTIMISERS))
def test_deleted_parameters_stay_zero_under_every_optimiser(name, iris):
    net = classifier_net(module__dtype=torch.float64, **OPTIMISERS[name])
    fitted = OBDClassifier(net, prune_rate=0.7, retrain_epochs=4, random_state=0).fit(*iris)
    check_deleted_are_zero(fitted, iris[0])
    assert fitted.path_[-1]["n_epochs"] == 4


@pytest.mark.parametrize("name", slow_but(["early stopping, best", "checkpoint"], callbacks(".")))
def test_deleted_parameters_stay_zero_under_every_callback(name, iris, tmp_path):
    net = classifier_net(module__dtype=torch.float64, callbacks=callbacks(tmp_path)[name])
    fitted = OBDClassifier(net, prune_rate=0.7, retrain_epochs=4, random_state=0).fit(*iris)
    check_deleted_are_zero(fitted, iris[0])


def test_zero_initialised_biases_are_alive_and_learn(iris):
    fitted = OBDClassifier(prune_rate=0.1, step=None, random_state=0, max_epochs=30).fit(*iris)
    assert fitted.mask_["hidden0.bias"].any()
    bias = fitted.net_.module_.hidden0.bias.detach().numpy()
    assert (bias[fitted.mask_["hidden0.bias"]] != 0).any()


def test_a_schedule_starts_anew_every_round(iris):
    rates = []

    class Note(Callback):
        def on_epoch_end(self, net, **kwargs):
            rates.append(net.optimizer_.param_groups[0]["lr"])

    policy = LRScheduler(policy="StepLR", step_size=1, gamma=0.1)
    net = classifier_net(callbacks=[("note", Note()), ("policy", policy)], max_epochs=3)
    OBDClassifier(net, prune_rate=0.5, step=None, retrain_epochs=3, random_state=0).fit(*iris)
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4] * 2)


def test_callbacks_that_size_or_load_the_module_do_not_undo_earlier_rounds(iris, tmp_path):
    class Spoil(Callback):
        def on_train_begin(self, net, **kwargs):
            with torch.no_grad():
                for p in net.module_.parameters():
                    p.fill_(7.0)

    net = start(classifier_net(callbacks=[Spoil()], module__n_in=4), *iris)
    with torch.no_grad():
        for p in net.module_.parameters():
            p.fill_(0.5)
    X = torch.tensor(iris[0], dtype=torch.float32)
    seen = []
    net.module_.register_forward_pre_hook(
        lambda m, args: seen.append(m.first.weight.detach().clone())
    )
    train_round(net, X, torch.tensor(iris[1]), epochs=1)
    assert (seen[0] == 0.5).all()


def test_weight_two_is_the_row_twice_in_the_same_batches(iris):
    X, y = iris
    weights = np.random.default_rng(0).integers(0, 3, len(y))
    settings = {"prune_rate": 0.6, "retrain_epochs": 3, "random_state": 0, "step": 0.5}

    def net():
        return classifier_net(
            module__dtype=torch.float64, batch_size=-1, iterator_train__shuffle=False
        )

    weighted = OBDClassifier(net(), **settings).fit(X, y, sample_weight=weights)
    repeated = OBDClassifier(net(), **settings).fit(np.repeat(X, weights, 0), np.repeat(y, weights))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6)
    for name, mask in weighted.mask_.items():
        np.testing.assert_array_equal(mask, repeated.mask_[name])
    for weighted_row, repeated_row in zip(weighted.path_, repeated.path_, strict=True):
        assert weighted_row["loss"] == pytest.approx(repeated_row["loss"], rel=1e-8)


def test_class_weight_is_the_criterions_own_class_weight(iris):
    X, y = iris
    ours = {0: 1.0, 1: 4.0, 2: 0.5}
    settings = {"prune_rate": 0.5, "step": None, "retrain_epochs": 3, "random_state": 0}
    by_rows = OBDClassifier(
        classifier_net(module__dtype=torch.float64), class_weight=ours, **settings
    ).fit(X, y)
    by_criterion = OBDClassifier(
        classifier_net(
            module__dtype=torch.float64,
            criterion__weight=torch.tensor(list(ours.values()), dtype=torch.float64),
        ),
        **settings,
    ).fit(X, y)
    np.testing.assert_allclose(by_rows.predict_proba(X), by_criterion.predict_proba(X), rtol=1e-6)


def test_row_weights_and_class_weights_of_the_criterion_and_ignored_rows_together(rng):
    """One batch, against the loss written out."""
    X = torch.tensor(rng.normal(size=(12, 4)))
    y = torch.tensor(rng.integers(0, 3, 12))
    y[3] = -100
    class_weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    w = torch.tensor(rng.uniform(0.5, 2, 12))
    net = start(
        classifier_net(
            module__dtype=torch.float64,
            criterion__weight=class_weights,
            optimizer=torch.optim.SGD,
            lr=0.0,
            batch_size=-1,
        ),
        X.numpy(),
        y.numpy(),
    )
    history = train_round(net, X, y, epochs=1, sample_weight=w)
    log_p = torch.log_softmax(net.module_(X), 1)
    rows = [i for i in range(12) if i != 3]
    each = torch.stack([-class_weights[y[i]] * log_p[i, y[i]] for i in rows])
    norm = torch.stack([class_weights[y[i]] for i in rows])
    expected = (w[rows] * each).sum() / (w[rows] * norm).sum()
    assert history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-12)
    assert net.criterion_.reduction == "mean"
    assert not net.criterion_._forward_hooks


def test_a_penalty_of_the_user_is_trained_on_and_weighted_rows_keep_it(iris):
    X, y = iris
    weights = np.where(y == 0, 3.0, 1.0)

    def size_of_weights(strength):
        net = PenalisedNet(
            TwoLayers,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=1e-2,
            max_epochs=30,
            strength=strength,
        )
        fitted = OBDClassifier(net, prune_rate=0.3, retrain_epochs=5, random_state=0)
        fitted.fit(X, y, sample_weight=weights)
        return sum(float(p.detach().abs().sum()) for p in fitted.net_.module_.parameters())

    assert size_of_weights(3e-2) < 0.7 * size_of_weights(0.0)


def test_weights_that_cannot_reach_the_loss_are_refused(iris):
    X, y = iris
    weights = np.linspace(1, 2, len(y))
    own = OwnLossNet(TwoLayers, criterion=nn.CrossEntropyLoss, max_epochs=2)
    with pytest.raises(ValueError, match="does not call criterion_"):
        OBDClassifier(own).fit(X, y, sample_weight=weights)
    unreduced = classifier_net(criterion__reduction="none")
    with pytest.raises(ValueError, match="reduction='none'"):
        OBDClassifier(unreduced).fit(X, y, sample_weight=weights)
    loader = classifier_net(iterator_train__pin_memory=False)
    with pytest.raises(ValueError, match="iterator_train"):
        OBDClassifier(loader).fit(X, y, sample_weight=weights)
    fitted = OBDClassifier(loader, retrain_epochs=5, random_state=0).fit(X, y)
    assert fitted.score(X, y) > 0.8


def test_a_loss_that_becomes_nan_is_an_error_that_says_what_to_do(iris):
    net = classifier_net(optimizer=torch.optim.SGD, lr=1e12)
    with pytest.raises(ValueError, match=r"training loss became .*learning rate"):
        OBDClassifier(net, random_state=0).fit(*iris)


class InterruptAt(TwoLayers):
    """Ctrl-C in a forward pass, after so many."""

    left = 0

    def forward(self, X):
        if self.training:
            type(self).left -= 1
            if type(self).left == 0:
                os.kill(os.getpid(), signal.SIGINT)
        return super().forward(X)


@pytest.fixture
def interrupted(iris, ctrl_c):
    """A fit to 0.9 stopped by Ctrl-C in its second retraining."""
    X, y = iris
    InterruptAt.left = 15 * 3 + 2 * 3 + 2
    fitted = OBDClassifier(
        classifier_net(InterruptAt), prune_rate=0.9, retrain_epochs=2, random_state=0
    )
    with pytest.raises(KeyboardInterrupt):
        fitted.fit(X, y)
    return fitted


def test_ctrl_c_leaves_the_last_good_network_and_is_raised_again(interrupted, iris):
    X, y = iris
    InterruptAt.left = 0
    same = OBDClassifier(
        classifier_net(InterruptAt), prune_rate=0.9, retrain_epochs=2, random_state=0
    ).fit(X, y)
    assert interrupted.n_iter_ == 1
    np.testing.assert_array_equal(
        interrupted.predict_proba(X), same.at(iteration=1).predict_proba(X)
    )
    assert interrupted.n_params_ == same.path_[1]["n_params"]
    for name, saliency in interrupted.saliencies_.items():
        assert (saliency[~interrupted.mask_[name]] == 0).all()


def test_after_ctrl_c_generators_threads_and_the_handler_are_as_they_were(iris, ctrl_c):
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    InterruptAt.left = 5
    with pytest.raises(KeyboardInterrupt):
        OBDClassifier(classifier_net(InterruptAt), random_state=0).fit(*iris)
    assert signal.getsignal(signal.SIGINT) is ctrl_c
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_a_callback_that_ends_a_round_is_no_interrupt(iris):
    net = classifier_net(callbacks=[EarlyStopping("train_loss", patience=1, threshold=1e9)])
    fitted = OBDClassifier(net, prune_rate=0.5, retrain_epochs=9, random_state=0).fit(*iris)
    assert [row["n_epochs"] for row in fitted.path_] == [2] * len(fitted.path_)


def test_threads_are_the_users_again_after_an_error(iris):
    threads = torch.get_num_threads()
    seen = []

    class Fails(TwoLayers):
        def forward(self, X):
            if self.training:
                seen.append(torch.get_num_threads())
                raise RuntimeError("no")
            return super().forward(X)

    with pytest.raises(RuntimeError, match="no"):
        OBDClassifier(classifier_net(Fails)).fit(*iris)
    assert seen == [1]
    assert torch.get_num_threads() == threads


def test_fits_in_threads_of_one_process_are_as_alone(iris):
    X, y = iris

    def fit():
        return OBDClassifier(classifier_net(), retrain_epochs=2, random_state=0).fit(X, y)

    alone = fit().predict_proba(X)
    found = [None, None]
    state = torch.get_rng_state()
    threads = torch.get_num_threads()

    def work(i):
        found[i] = fit().predict_proba(X)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for proba in found:
        np.testing.assert_array_equal(proba, alone)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_fused_optimiser_is_used_unless_the_user_chose(iris):
    assert start(classifier_net(), *iris).optimizer_.defaults["fused"]
    chosen = classifier_net(optimizer__foreach=True)
    assert not start(chosen, *iris).optimizer_.defaults["fused"]
    assert (
        "fused"
        not in start(classifier_net(optimizer=torch.optim.RMSprop), *iris).optimizer_.defaults
    )


def test_dropout_and_batch_norm_are_measured_in_eval_mode(digits):
    X, y = digits
    images = X.reshape(-1, 1, 8, 8)
    net = classifier_net(SmallConv, max_epochs=8)
    fitted = OBDClassifier(net, prune_rate=0.4, retrain_epochs=3, random_state=0).fit(images, y)
    assert not fitted.net_.module_.training
    module = fitted.net_.module_.double()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(module(torch.tensor(images)), torch.tensor(y))
    assert fitted.path_[-1]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert fitted.mask_["norm.weight"].all()


def test_the_regressors_penalty_free_loss_is_the_mean_squared_error(diabetes):
    X, y = diabetes
    net = regressor_net(optimizer__weight_decay=1e-2, module__dtype=torch.float64)
    fitted = OBDRegressor(net, prune_rate=0.5, retrain_epochs=3, random_state=0).fit(X, y)
    assert fitted.path_[-1]["loss"] == pytest.approx(np.mean((fitted.predict(X) - y) ** 2))
