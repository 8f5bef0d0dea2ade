"""A schedule that is longer than a round of retraining is told of."""

import pytest
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import LinearLR, OneCycleLR

from sk_obd import OBDClassifier
from tests.library.nets import classifier_net
from tests.library.settings import UNTRAINED


def fit(iris, retrain_epochs, **scheduler):
    net = classifier_net(
        module__n_in=4, module__n_out=3, max_epochs=6, callbacks=[LRScheduler(**scheduler)]
    )
    settings = {"prune_rate": 0.3, "step": None, "random_state": 0}
    return OBDClassifier(net, retrain_epochs=retrain_epochs, **settings).fit(*iris)


COSINE = {"policy": "CosineAnnealingLR", "T_max": 6}
ONE_CYCLE = {"policy": OneCycleLR, "max_lr": 0.01, "epochs": 6, "steps_per_epoch": 3}


@pytest.mark.parametrize(
    ("retrain_epochs", "scheduler", "message"),
    [
        (3, COSINE, r"CosineAnnealingLR \(T_max=6\) .* at most 3: .* retrain_epochs=6 or more"),
        (2, {"policy": LinearLR, "total_iters": 4}, r"LinearLR \(total_iters=4\)"),
        (2, ONE_CYCLE | {"step_every": "batch"}, r"made for 18 batches, .* at most 6"),
    ],
)
def test_a_schedule_that_never_ends_is_told_of(iris, retrain_epochs, scheduler, message):
    with pytest.warns(UserWarning, match=message):
        fit(iris, retrain_epochs, **scheduler)


@pytest.mark.filterwarnings("error", UNTRAINED)
@pytest.mark.parametrize(
    ("retrain_epochs", "scheduler"),
    [
        (6, COSINE),
        (None, COSINE),
        (0, COSINE),
        (3, {"policy": "ExponentialLR", "gamma": 0.9}),
        (3, {"policy": "CosineAnnealingLR", "T_max": 9, "step_every": "batch"}),
    ],
)
def test_others_are_not(iris, retrain_epochs, scheduler):
    fitted = fit(iris, retrain_epochs, **scheduler)
    epochs = 6 if retrain_epochs is None else retrain_epochs
    assert fitted.path_[1]["n_epochs"] == epochs
