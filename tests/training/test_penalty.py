"""What a net trains with besides its criterion, seen through its optimiser and its get_loss."""

import pytest
import torch
from skorch import NeuralNetClassifier
from torch import nn

from sk_obd.training.penalty import decays_of, penalty_of
from tests.library.modules import TwoLayers
from tests.library.nets import PenalisedNet

ROWS, TARGETS = torch.randn(2, 4), torch.tensor([0, 1])
STRENGTH = 0.03


class Smooth(NeuralNetClassifier):
    """A penalty that is not quadratic, so that its Hessian depends on the parameters."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        return loss + sum(written(w) for w in self.module_.parameters())


def written(w):
    """The penalty of :class:`Smooth`, by hand."""
    return STRENGTH * (w.square() + 1e-2).sqrt().sum()


def started(net_class=NeuralNetClassifier, **settings):
    """An initialised net in float64."""
    settings = {"criterion": nn.CrossEntropyLoss, "batch_size": 8, "max_epochs": 1} | settings
    torch.manual_seed(0)
    net = net_class(TwoLayers, module__n_in=4, module__n_out=2, **settings).initialize()
    net.module_.double()
    return net


def penalty(net, gradient=None):
    parameters = dict(net.module_.named_parameters())
    gradient = gradient or {name: torch.zeros_like(p) for name, p in parameters.items()}
    rows = ROWS.double()
    return penalty_of(net, rows, TARGETS, decays=decays_of(net), n_terms=8, gradient=gradient)


def check_against(found, net, function):
    """Value, gradient and products are those of a function of the parameters, by autograd."""
    parameters = dict(net.module_.named_parameters())
    value = sum(function(name, p) for name, p in parameters.items())
    slopes = torch.autograd.grad(value, list(parameters.values()), create_graph=True)
    vectors = {name: torch.randn_like(p) for name, p in parameters.items()}
    along = sum((s * v).sum() for s, v in zip(slopes, vectors.values(), strict=True))
    seconds = torch.autograd.grad(along, list(parameters.values()))
    assert found.value() == pytest.approx(value.item(), rel=1e-12)
    gradient, product = found.gradient(), found.product(vectors)
    for name, slope, second in zip(parameters, slopes, seconds, strict=True):
        torch.testing.assert_close(gradient[name], slope.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(product[name], second, rtol=1e-8, atol=1e-10)


COUPLED = [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad]


@pytest.mark.parametrize("optimizer", COUPLED)
def test_weight_decay_that_enters_the_gradient_is_an_l2_penalty(optimizer):
    net = started(optimizer=optimizer, optimizer__weight_decay=STRENGTH)
    check_against(penalty(net), net, lambda name, p: STRENGTH / 2 * p.square().sum())


def test_groups_of_parameters_have_decays_of_their_own():
    groups = [("*.bias", {"weight_decay": 0.0})]
    net = started(optimizer__weight_decay=STRENGTH, optimizer__param_groups=groups)
    check_against(
        penalty(net), net, lambda name, p: STRENGTH / 2 * p.square().sum() * ("bias" not in name)
    )


def test_without_decay_there_is_no_penalty():
    found = penalty(started())
    assert found.value() == 0
    assert not any(slope.any() for slope in found.gradient().values())


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": torch.optim.AdamW},
        {"optimizer": torch.optim.Adam, "optimizer__decoupled_weight_decay": True},
    ],
)
def test_decoupled_decay_is_as_strong_as_the_gradient_says(settings):
    if "optimizer__decoupled_weight_decay" in settings:
        pytest.importorskip("torch", minversion="2.7")
    net = started(optimizer__weight_decay=0.5, **settings)
    gradient = {name: -0.01 * p.detach() for name, p in net.module_.named_parameters()}
    found = penalty(net, gradient).decay
    assert list(found.values()) == pytest.approx([0.01] * len(found), rel=1e-12)
    uphill = {name: -slope for name, slope in gradient.items()}
    assert set(penalty(net, uphill).decay.values()) == {0.0}


def test_what_get_loss_adds_is_seen_with_its_derivatives():
    net = started(Smooth)
    check_against(penalty(net), net, lambda name, p: written(p))


def test_both_penalties_add_up():
    net = started(Smooth, optimizer__weight_decay=0.1)
    check_against(penalty(net), net, lambda name, p: written(p) + 0.05 * p.square().sum())


def test_an_l1_penalty_has_a_gradient_and_no_hessian():
    net = started(PenalisedNet, strength=STRENGTH)
    check_against(
        penalty(net), net, lambda name, p: STRENGTH * p.abs().sum() + 0 * p.square().sum()
    )


class Norms(NeuralNetClassifier):
    """Group lasso: the norm of the weights into each unit, which has a kink where they are 0."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        return loss + STRENGTH * self.module_.first.weight.norm(dim=1).sum()


def test_a_norm_at_zero_adds_no_second_derivatives():
    net = started(Norms)
    weight = net.module_.first.weight
    with torch.no_grad():
        weight[2] = 0
    found = penalty(net)
    vectors = {name: torch.randn_like(p) for name, p in net.module_.named_parameters()}
    product, u, v = found.product(vectors), weight.detach(), vectors["first.weight"]
    length = u.norm(dim=1, keepdim=True)
    unit = u / length
    expected = STRENGTH * (v - unit * (unit * v).sum(1, keepdim=True)) / length
    expected[2] = 0
    torch.testing.assert_close(product["first.weight"], expected, rtol=1e-10, atol=1e-12)


class Reduces(Smooth):
    """Averages the rows itself."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        return super().get_loss(y_pred, y_true, X=X, training=training).mean()


def test_rows_that_get_loss_averages_itself_are_no_part_of_the_penalty():
    net = started(Reduces, criterion__reduction="none")
    check_against(penalty(net), net, lambda name, p: written(p))


def test_a_criterion_that_sums_over_a_batch_makes_the_penalty_weigh_less():
    net = started(Smooth, criterion__reduction="sum", optimizer__weight_decay=0.1)
    check_against(penalty(net), net, lambda name, p: (written(p) + 0.05 * p.square().sum()) / 8)


def test_what_depends_on_the_rows_is_not_a_penalty():
    class Hidden(NeuralNetClassifier):
        def get_loss(self, y_pred, y_true, X=None, training=False):
            loss = super().get_loss(y_pred, y_true, X=X, training=training)
            return loss + 0.1 * y_pred.square().mean()

    with pytest.raises(ValueError, match=r"Hidden.get_loss .* depends on the rows"):
        penalty(started(Hidden))


def test_modules_that_change_their_input_do_not_change_the_rows():
    class Halves(TwoLayers):
        def forward(self, X):
            return super().forward(X.div_(2))

    rows = ROWS.clone()
    net = Smooth(Halves, module__n_in=4, module__n_out=2, criterion=nn.CrossEntropyLoss)
    net.initialize()
    found = penalty_of(net, rows, TARGETS, decays=decays_of(net), n_terms=8, gradient={})
    assert found.value() > 0
    assert torch.equal(rows, ROWS)
