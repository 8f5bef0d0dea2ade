"""What goes as a whole: units, channels, inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor
from sk_obd.pruning.groups import groups_of, lowest_groups, units
from sk_obd.training.probes import probe
from tests.library.modules import SmallConv
from tests.library.nets import classifier_net

QUICK = {"max_epochs": 20, "retrain_epochs": 3, "random_state": 0}

LAYERS = {
    "linear": (nn.Linear(3, 4), (2, 3)),
    "no bias": (nn.Linear(3, 4, bias=False), (2, 3)),
    "over positions": (nn.Linear(3, 4), (2, 5, 3)),
    "conv1d": (nn.Conv1d(2, 4, 2), (2, 2, 5)),
    "conv2d in groups": (nn.Conv2d(4, 6, 2, groups=2), (2, 4, 3, 3)),
    "conv3d": (nn.Conv3d(1, 3, 2), (2, 1, 3, 3, 3)),
    "transposed": (nn.ConvTranspose2d(2, 3, 2), (2, 2, 3, 3)),
    "transposed in groups": (nn.ConvTranspose1d(4, 6, 2, groups=2), (2, 4, 3)),
}


class Before(nn.Module):
    """A layer with another after it."""

    def __init__(self, layer, X):
        super().__init__()
        self.layer = layer
        self.last = nn.Linear(layer(X).flatten(1).shape[1], 2)

    def forward(self, X):
        return self.last(self.layer(X).flatten(1))


@pytest.mark.parametrize("case", LAYERS)
def test_a_units_parameters_are_those_that_its_output_depends_on(case):
    """By autograd: the derivative of each unit's output, at random inputs, says which they are."""
    layer, shape = LAYERS[case]
    torch.manual_seed(0)
    X = torch.rand(shape) + 0.1
    module = Before(layer, X)
    found = units(module, probe(module, X).inner_layers)
    assert set(found) == {f"layer.{name}" for name, _ in layer.named_parameters()}
    axis = 1 if isinstance(layer, nn.modules.conv._ConvNd) else -1
    for unit in range(layer(X).shape[axis]):
        total = layer(X).select(axis, unit).sum()
        gradients = torch.autograd.grad(total, list(layer.parameters()))
        for (name, _), gradient in zip(layer.named_parameters(), gradients, strict=True):
            assert torch.equal(found[f"layer.{name}"] == unit, gradient != 0)


def test_tied_layers_are_spared():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    module[1].weight = module[0].weight
    with pytest.raises(ValueError, match="granularity='unit' finds nothing to delete"):
        groups_of(module, ["0.weight", "0.bias"], "unit", probe(module, torch.rand(2, 4)))


@given(data=st.data(), n_groups=st.integers(1, 6), size=st.integers(1, 12))
def test_whole_groups_go_in_the_order_of_cost_per_parameter(data, n_groups, size):
    draw = data.draw
    ids = np.array(draw(st.lists(st.integers(0, n_groups - 1), min_size=size, max_size=size)))
    saliency = np.array(draw(st.lists(st.integers(-5, 50), min_size=size, max_size=size)), float)
    alive = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    n_delete = draw(st.integers(0, size))
    gone = lowest_groups(
        {"w": torch.tensor(saliency)},
        {"w": torch.tensor(alive)},
        {"w": torch.tensor(ids)},
        n_delete,
    )["w"].numpy()
    assert not (gone & ~alive).any()
    groups = {i: (ids == i) & alive for i in set(ids[alive])}
    went = [i for i in groups if gone[groups[i]].all()]
    assert gone.sum() == sum(groups[i].sum() for i in went)
    cost = {i: saliency[of].mean() for i, of in groups.items()}
    stayed = [i for i in groups if i not in went]
    assert all(cost[i] <= cost[j] + 1e-4 for i in went for j in stayed)
    if groups:
        assert went
        order = sorted(groups, key=lambda i: (round(cost[i], 9), i))
        totals = np.cumsum([groups[i].sum() for i in order])
        assert abs(gone.sum() - n_delete) == abs(totals - n_delete).min()


@pytest.mark.parametrize("saliency", ["obd", "magnitude", "taylor"])
def test_units_die_whole_and_the_output_layer_is_spared(digits, saliency):
    X, y = digits
    clf = OBDClassifier(
        granularity="unit",
        saliency=saliency,
        prune_rate=0.7,
        hidden_layer_sizes=(30, 20),
        **QUICK,
    ).fit(X, y)
    for layer, width in (("hidden0", 64), ("hidden1", 30)):
        alive = clf.mask_[f"{layer}.weight"].sum(axis=1)
        assert set(alive) <= {0, width}
        np.testing.assert_array_equal(alive > 0, clf.mask_[f"{layer}.bias"])
    assert clf.mask_["output.weight"].all()
    deleted = sum((~m).sum() for m in clf.mask_.values())
    n_prunable = 64 * 30 + 30 + 30 * 20 + 20
    assert abs(deleted - 0.7 * n_prunable) <= 65 / 2
    assert clf.path_[-1]["prune_rate"] == deleted / n_prunable
    total = sum(row["n_deleted"] for row in clf.path_)
    assert total == deleted


def test_channels_of_a_convolution_die_whole(digits):
    X, y = digits
    clf = OBDClassifier(
        classifier_net(SmallConv), granularity="unit", prune_rate=0.5, retrain_epochs=2
    ).fit(X.reshape(-1, 1, 8, 8).astype(np.float32), y)
    alive = clf.mask_["conv.weight"].reshape(4, -1).sum(axis=1)
    assert sorted(alive) == [0, 0, 9, 9]
    assert clf.mask_["linear.weight"].all()
    assert clf.mask_["norm.weight"].all()


def test_inputs_are_dropped_whole(diabetes):
    X, y = diabetes
    reg = OBDRegressor(granularity="input", prune_rate=0.6, **QUICK).fit(X, y)
    alive = reg.mask_["hidden0.weight"].sum(axis=0)
    assert sorted(alive) == [0] * 6 + [100] * 4
    np.testing.assert_array_equal(reg.support_, alive > 0)
    assert reg.mask_["hidden0.bias"].all()


def test_a_trust_region_and_parts_go_with_groups(digits):
    X, y = digits
    clf = OBDClassifier(
        granularity="unit",
        prune_rate=0.6,
        step=0.1,
        trust_region=0.3,
        n_recomputations=1,
        hidden_layer_sizes=(30,),
        **QUICK,
    ).fit(X, y)
    assert set(clf.mask_["hidden0.weight"].sum(axis=1)) == {0, 64}
    for row in clf.path_.rows[1:]:
        total = sum(row[k] for k in ("first_order", "diagonal", "off_diagonal", "higher_order"))
        assert total == pytest.approx(row["actual_increase"], rel=1e-9, abs=1e-13)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (OBDClassifier(granularity="row"), "granularity='row'; expected one of 'parameter'"),
        (OBDClassifier(granularity="unit", hidden_layer_sizes=()), "no Linear or convolutional"),
        (OBDClassifier(granularity="unit", prunable="output"), "finds nothing to delete"),
        (OBDClassifier(granularity="input", prunable="bias"), "finds nothing to delete"),
    ],
)
def test_where_there_are_no_groups_the_error_says_so(estimator, message, iris):
    with pytest.raises(ValueError, match=message):
        estimator.fit(*iris)


def test_units_are_refused_where_folds_must_visit_the_same_sizes():
    with pytest.raises(TypeError, match="granularity"):
        OBDClassifierCV(granularity="unit")


def test_an_input_layer_that_is_no_linear_one_has_no_inputs_to_drop(digits):
    X, y = digits
    net = classifier_net(SmallConv)
    with pytest.raises(ValueError, match="X enters something other than Linear layers"):
        OBDClassifier(net, granularity="input").fit(X.reshape(-1, 1, 8, 8), y)
