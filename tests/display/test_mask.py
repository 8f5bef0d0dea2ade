import numpy as np
import pytest
import torch
from torch import nn

from sk_obd import OBDClassifier
from sk_obd.compact import dead_parameters
from sk_obd.display import MaskDisplay
from tests.library.modules import Bottleneck, SmallConv
from tests.library.nets import classifier_net
from tests.library.settings import UNTRAINED

pytestmark = pytest.mark.filterwarnings("error", UNTRAINED)


def test_masks_are_drawn_with_dead_units_and_inputs(fitted):
    drawn = MaskDisplay.from_estimator(fitted, input_shape=(2, 2))
    first, last = fitted.mask_["hidden0.weight"], fitted.mask_["output.weight"]
    np.testing.assert_array_equal(drawn.images_["hidden0.weight"].get_array(), first)
    np.testing.assert_array_equal(drawn.images_["output.weight"].get_array(), last)
    dead = ~first.any(axis=1) | ~last.any(axis=0)
    unread = ~first[~dead].any(axis=0)
    np.testing.assert_array_equal(drawn.dead_units_["hidden0.weight"], dead)
    np.testing.assert_array_equal(drawn.dead_inputs_["hidden0.weight"], unread)
    np.testing.assert_array_equal(
        drawn.dead_images_["hidden0.weight"].get_array(), dead[:, None] | unread
    )
    np.testing.assert_array_equal(drawn.input_image_.get_array(), fitted.support_.reshape(2, 2))


def test_a_unit_or_input_is_dead_where_nothing_is_alive_to_any_effect():
    mask = np.array([[True, False, False], [False, False, False], [True, True, False]])
    dead = np.array([[True, False, False], [False, False, False], [False, True, False]])
    drawn = MaskDisplay(masks={"w": mask}, dead={"w": dead}).plot()
    assert list(drawn.dead_units_["w"]) == [True, True, False]
    assert list(drawn.dead_inputs_["w"]) == [False, True, True]
    expected = [[True, True, True], [True, True, True], [False, True, True]]
    np.testing.assert_array_equal(drawn.dead_images_["w"].get_array(), expected)
    assert "dead: 2 units, 2 inputs" in drawn.ax_.get_title(loc="left")
    # Without `dead`, what is empty by itself.
    drawn = MaskDisplay(masks={"w": mask}).plot()
    assert list(drawn.dead_units_["w"]) == [False, True, False]
    assert list(drawn.dead_inputs_["w"]) == [False, False, True]


def damage(clf, deleted):
    """Delete more of a fitted classifier: `deleted` by name is an index of the parameter."""
    parameters = dict(clf.net_.module_.named_parameters())
    for name, index in deleted.items():
        clf.mask_[name][index] = False
        with torch.no_grad():
            parameters[name][index] = 0
    return clf


@pytest.fixture
def make(digits, rng):
    """A function that fits a net, which is not pruned yet, to rows of a shape."""

    def fit(module, *shape):
        X = rng.normal(size=(90, *shape)).astype(np.float32)
        net = classifier_net(module, max_epochs=1)
        return OBDClassifier(net, prune_rate=0).fit(X, np.arange(90) % 3)

    return fit


def convolutional():
    inner = nn.Sequential(nn.ReLU(), nn.Flatten())
    return nn.Sequential(nn.Conv2d(1, 3, 2), inner, nn.Linear(12, 3))


def test_a_channel_that_nothing_reads_is_dead_through_flattening(make):
    clf = damage(make(convolutional(), 1, 3, 3), {"2.weight": np.s_[:, 4:8]})
    drawn = MaskDisplay.from_estimator(clf)
    assert list(drawn.dead_units_["0.weight"]) == [False, True, False]
    assert not drawn.dead_units_["2.weight"].any()
    # The network does not change with that channel: the claim, checked.
    module, X = clf.net_.module_, torch.ones(1, 1, 3, 3)
    with torch.no_grad():
        before = module(X)
        module[0].weight[1] += 1
        assert torch.equal(module(X), before)


def test_what_a_constant_unit_feeds_is_dead(make):
    """The next layer reads a unit without inputs: a constant, which its bias can take over."""
    clf = damage(make(convolutional(), 1, 3, 3), {"0.weight": np.s_[2]})
    drawn = MaskDisplay.from_estimator(clf)
    assert list(drawn.dead_units_["0.weight"]) == [False, False, True]
    assert list(drawn.dead_inputs_["2.weight"]) == [False] * 8 + [True] * 4
    assert clf.mask_["2.weight"].all()


def test_dead_units_of_any_network_are_found(make):
    clf = damage(make(Bottleneck(), 9), {"back.weight": np.s_[:, 1], "inner.weight": np.s_[3]})
    drawn = MaskDisplay.from_estimator(clf)
    assert list(drawn.dead_units_["inner.weight"]) == [False, True, False, True, False]
    assert list(drawn.dead_inputs_["back.weight"]) == [False, True, False, True, False]
    assert not drawn.dead_units_["first.weight"].any()


def test_the_picture_shows_what_would_be_swept(fitted, iris):
    masks = {name: torch.from_numpy(mask) for name, mask in fitted.mask_.items()}
    X = torch.from_numpy(iris[0][:3])
    found = dead_parameters(fitted.net_.module_, masks, X, fitted.path_.prunable)
    drawn = MaskDisplay.from_estimator(fitted)
    for name, mask in drawn.dead.items():
        np.testing.assert_array_equal(mask, found[name].numpy())
        left = fitted.mask_[name] & ~mask
        np.testing.assert_array_equal(drawn.dead_units_[name], ~left.any(axis=1))
        np.testing.assert_array_equal(drawn.dead_inputs_[name], ~left.any(axis=0))


def test_an_input_shape_that_does_not_fit_is_refused(fitted):
    with pytest.raises(ValueError, match=r"input_shape=\(8, 8\) does not fit the 4 columns"):
        MaskDisplay.from_estimator(fitted, input_shape=(8, 8))


@pytest.mark.parametrize("shape", [(4, 1, 2, 3), (5, 1, 3), (3, 2, 2, 2), (2, 3, 2, 2, 2)])
def test_every_weight_of_a_kernel_is_in_the_picture_once(rng, shape):
    mask = rng.random(shape) < 0.5
    drawn = MaskDisplay(masks={"w": mask}).plot()
    page = drawn.images_["w"].get_array().filled(np.nan)
    assert np.isfinite(page).sum() == mask.size
    assert np.nansum(page) == mask.sum()
    if shape == (3, 2, 2, 2):
        np.testing.assert_array_equal(page[3:5, 3:5], mask[1, 1])


def test_many_kernels_are_drawn_as_their_density(rng):
    mask = rng.random((100, 90, 3, 3)) < 0.3
    drawn = MaskDisplay(masks={"w": mask}).plot()
    np.testing.assert_allclose(drawn.images_["w"].get_array(), mask.mean(axis=(2, 3)))


def test_a_network_with_convolutions_is_drawn(digits):
    X, y = digits
    X = X[:200].reshape(-1, 1, 8, 8).astype(np.float32)
    clf = OBDClassifier(classifier_net(SmallConv, max_epochs=2), retrain_epochs=1, random_state=0)
    drawn = MaskDisplay.from_estimator(clf.fit(X, y[:200]))
    assert set(drawn.images_) == {"conv.weight", "linear.weight"}
    drawn.figure_.canvas.draw()


def test_units_of_a_transposed_convolution_are_its_outputs(digits):
    X, y = digits
    net = nn.Sequential(nn.ConvTranspose2d(1, 5, 2), nn.Flatten(), nn.Linear(405, 10))
    clf = OBDClassifier(classifier_net(net, max_epochs=1), retrain_epochs=1, random_state=0)
    clf.fit(X[:200].reshape(-1, 1, 8, 8).astype(np.float32), y[:200])
    drawn = MaskDisplay.from_estimator(clf)
    expected = ~clf.mask_["0.weight"].any(axis=(0, 2, 3))
    np.testing.assert_array_equal(drawn.dead_units_["0.weight"], expected)
