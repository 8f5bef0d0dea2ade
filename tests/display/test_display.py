import builtins
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from torch import nn

from sk_obd import OBDClassifier, OBDRegressor
from sk_obd.display import (
    IncreaseDisplay,
    LayerSaliencyDisplay,
    MaskDisplay,
    PathDisplay,
    SaliencyDisplay,
)
from sk_obd.display.increase import TERMS
from sk_obd.display.mask import unread_units
from tests.library.nets import SmallConv, classifier_net

mpl.use("Agg")
import matplotlib.pyplot as plt

DISPLAYS = [PathDisplay, IncreaseDisplay, SaliencyDisplay, MaskDisplay, LayerSaliencyDisplay]
N_PANELS = {
    PathDisplay: 2,
    IncreaseDisplay: 2,
    SaliencyDisplay: 2,
    MaskDisplay: 2,
    LayerSaliencyDisplay: 4,
}

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def fitted(iris):
    """A classifier whose path has Taylor terms of its own making: they add up."""
    clf = OBDClassifier(
        prune_rate=0.9, hidden_layer_sizes=(10,), max_epochs=20, retrain_epochs=2, random_state=0
    ).fit(*iris)
    rng = np.random.default_rng(0)
    for row in clf.path_.rows:
        weights = rng.normal(size=4)
        weights /= weights.sum()
        row |= {t: row["actual_increase"] * w for t, w in zip(TERMS, weights, strict=True)}
    return clf


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def column(estimator, name, rows=slice(None)):
    return [row[name] for row in estimator.path_][rows]


# -- what all have in common -------------------------------------------------------------------


@pytest.mark.parametrize("display", DISPLAYS)
def test_it_draws_on_a_figure_of_its_own(fitted, display):
    drawn = display.from_estimator(fitted)
    assert plt.get_fignums() == [drawn.figure_.number]
    assert drawn.ax_.figure is drawn.figure_
    assert len(drawn.axes_) == N_PANELS[display]
    drawn.figure_.canvas.draw()


@pytest.mark.parametrize("display", DISPLAYS)
def test_it_shares_out_the_place_of_an_axes(fitted, display):
    figure, (left, right) = plt.subplots(1, 2)
    drawn = display.from_estimator(fitted, ax=right)
    assert drawn.figure_ is figure
    assert len(plt.get_fignums()) == 1
    assert left.axison
    figure.canvas.draw()
    place = right.get_position()
    for axes in drawn.axes_:
        inner = axes.get_position()
        assert place.x0 - 0.01 <= inner.x0 < inner.x1 <= place.x1 + 0.01


@pytest.mark.parametrize("display", DISPLAYS)
def test_it_draws_on_the_axes_given(fitted, display):
    figure, axes = plt.subplots(1, N_PANELS[display])
    drawn = display.from_estimator(fitted, ax=axes)
    assert list(drawn.axes_) == list(axes)
    assert drawn.figure_ is figure
    with pytest.raises(ValueError, match=rf"draws {N_PANELS[display]} panels .* given 3 axes"):
        drawn.plot(ax=[*axes, axes[0]][:3] if len(axes) != 3 else axes[:1])


@pytest.mark.parametrize("display", DISPLAYS)
def test_it_wants_a_fitted_obd_estimator(iris, display):
    with pytest.raises(NotFittedError):
        display.from_estimator(OBDClassifier())
    other = LogisticRegression().fit(*iris)
    with pytest.raises(TypeError, match=rf"{display.__name__}.* got LogisticRegression"):
        display.from_estimator(other)


@pytest.mark.parametrize("display", DISPLAYS)
def test_without_matplotlib_the_error_says_what_to_install(fitted, display, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'sk_obd\[plot\]'"):
        display.from_estimator(fitted)


@pytest.mark.parametrize("display", [SaliencyDisplay, LayerSaliencyDisplay])
def test_a_copy_at_an_earlier_row_has_no_saliencies_to_draw(fitted, display):
    with pytest.raises(AttributeError, match=r"saliencies_.* at\(\.\.\.\)"):
        display.from_estimator(fitted.at(iteration=1))


@pytest.mark.parametrize("display", DISPLAYS)
def test_a_regressor_and_a_path_of_two_rows(diabetes, display):
    reg = OBDRegressor(hidden_layer_sizes=(5,), step=None, max_epochs=5, random_state=0)
    display.from_estimator(reg.fit(*diabetes)).figure_.canvas.draw()


# -- PathDisplay -------------------------------------------------------------------------------


def test_the_path_is_drawn_as_its_rows_say(fitted):
    drawn = PathDisplay.from_estimator(fitted)
    assert set(drawn.lines_) == {"training", "loss"}
    for key, name in (("training", "train_score"), ("loss", "loss")):
        np.testing.assert_array_equal(drawn.lines_[key].get_xdata(), column(fitted, "n_params"))
        np.testing.assert_array_equal(drawn.lines_[key].get_ydata(), column(fitted, name))
    assert set(drawn.kept_line_.get_xdata()) == {fitted.n_params_}
    assert set(drawn.dense_line_.get_ydata()) == {fitted.path_[0]["train_score"]}
    assert drawn.ax_.get_xlim()[0] > drawn.ax_.get_xlim()[1]
    assert drawn.ax_.get_ylabel() == "accuracy"
    assert drawn.fill_between_ is None
    assert fitted.path_.plot().lines_["loss"].get_ydata() == pytest.approx(column(fitted, "loss"))


def test_the_validation_score_is_drawn_where_there_is_one(iris):
    X, y = iris
    clf = OBDClassifier(hidden_layer_sizes=(5,), max_epochs=5, scoring="neg_log_loss")
    clf.fit(X[::2], y[::2], X_val=X[1::2], y_val=y[1::2])
    drawn = PathDisplay.from_estimator(clf)
    expected = column(clf, "validation_score")
    np.testing.assert_array_equal(drawn.lines_["validation"].get_ydata(), expected)
    assert set(drawn.dense_line_.get_ydata()) == {expected[0]}
    assert drawn.ax_.get_ylabel() == "neg log loss"


def test_a_cross_validation_is_drawn_with_its_band(fitted):
    sizes = np.array([83, 40, 8, 4])
    folds = np.array([[0.9, 0.92, 0.8, 0.5], [0.94, 0.9, 0.9, 0.6]])
    results = {"n_params": sizes, "mean_test_score": folds.mean(0), "std_test_score": folds.std(0)}
    drawn = PathDisplay.from_path(fitted.path_, cv_results=results, name="OBD")
    line = drawn.lines_["cross-validation"]
    np.testing.assert_array_equal(line.get_xdata(), sizes)
    np.testing.assert_array_equal(line.get_ydata(), folds.mean(0))
    band = drawn.fill_between_.get_paths()[0].vertices
    for size, low, high in zip(sizes, folds.min(0), folds.max(0), strict=True):
        # Of two folds, mean and standard deviation give back the two.
        of_size = band[band[:, 0] == size, 1]
        assert (of_size.min(), of_size.max()) == pytest.approx((low, high))
    assert set(drawn.dense_line_.get_ydata()) == {folds.mean(0)[0]}
    assert line.get_label() == "OBD, cross-validation"
    assert drawn.axes_[0].get_xlim() == drawn.axes_[1].get_xlim()


def test_a_path_of_the_dense_network_alone_is_drawn(iris):
    clf = OBDClassifier(prune_rate=0, hidden_layer_sizes=(5,), max_epochs=3).fit(*iris)
    PathDisplay.from_estimator(clf).figure_.canvas.draw()
    with pytest.raises(ValueError, match="nothing was deleted"):
        IncreaseDisplay.from_estimator(clf)


# -- IncreaseDisplay ---------------------------------------------------------------------------


def test_increases_are_drawn_as_the_rows_say(fitted):
    drawn = IncreaseDisplay.from_estimator(fitted)
    rest = slice(1, None)
    for key in ("predicted", "actual"):
        line = drawn.lines_[key]
        np.testing.assert_array_equal(line.get_xdata(), range(1, len(fitted.path_)))
        np.testing.assert_array_equal(line.get_ydata(), column(fitted, f"{key}_increase", rest))


def test_bars_are_the_signed_shares_of_the_terms_and_add_up_to_the_sum(fitted):
    drawn = IncreaseDisplay.from_estimator(fitted)
    assert set(drawn.bars_) == set(TERMS)
    for i, row in enumerate(fitted.path_.rows[1:]):
        size = sum(abs(row[name]) for name in TERMS)
        patches = {name: bars[i] for name, bars in drawn.bars_.items()}
        for name, patch in patches.items():
            assert patch.get_height() == pytest.approx(row[name] / size)
        ends = [p.get_y() + p.get_height() for p in patches.values()]
        assert max([*ends, 0]) - min([*ends, 0]) == pytest.approx(1)
        assert drawn.sum_.get_ydata()[i] == pytest.approx(row["actual_increase"] / size)


def test_a_criterion_that_predicts_nothing_has_no_prediction_drawn(fitted):
    path = fitted.path_.cut(3)
    path.rows = [row | dict.fromkeys((*TERMS, "predicted_increase"), math.nan) for row in path.rows]
    drawn = IncreaseDisplay.from_path(path)
    assert set(drawn.lines_) == {"actual"}
    assert drawn.bars_ == {}
    drawn.figure_.canvas.draw()


# -- SaliencyDisplay and LayerSaliencyDisplay --------------------------------------------------


def test_histograms_count_what_is_alive_and_bars_its_share(fitted):
    drawn = SaliencyDisplay.from_estimator(fitted, bins=12)
    names = fitted.path_.prunable
    for patch, name in zip(drawn.bars_, names, strict=True):
        assert patch.get_width() == pytest.approx(fitted.mask_[name].mean())
    for row, name in enumerate(names):
        alive = fitted.saliencies_[name][fitted.mask_[name]]
        if not len(alive):
            assert name not in drawn.histograms_
            continue
        values, edges, baseline = drawn.histograms_[name].get_data()
        heights = baseline - values
        assert baseline == pytest.approx(row + 0.3)
        counts = np.histogram(np.log10(alive[alive > 0]), edges[-13:])[0]
        expected = counts if len(heights) == 12 else [(alive <= 0).sum(), 0, *counts]
        np.testing.assert_allclose(heights, 0.9 * np.array(expected) / max(expected))
    assert [t.get_text() for t in drawn.ax_.get_yticklabels()] == names


def test_saliencies_that_are_not_positive_have_a_bin_of_their_own():
    saliencies = {"w": np.array([0.0, -1.0, 1e-3, 1.0, 0.0])}
    masks = {"w": np.array([True, True, True, True, False])}
    drawn = SaliencyDisplay(saliencies=saliencies, masks=masks, bins=2).plot()
    values, edges, baseline = drawn.histograms_["w"].get_data()
    np.testing.assert_allclose((baseline - values) / 0.9, [1, 0, 0.5, 0.5])
    assert list(edges[-3:]) == [-3, -1.5, 0]
    assert drawn.ax_.get_xticklabels()[0].get_text() == "≤ 0"


def test_a_layer_shows_its_saliencies_and_their_sums(fitted):
    drawn = LayerSaliencyDisplay.from_estimator(fitted, "output.weight")
    expected = fitted.saliencies_["output.weight"]
    image = drawn.image_.get_array()
    np.testing.assert_array_equal(image.filled(0), expected)
    assert image.mask[~fitted.mask_["output.weight"]].all()
    np.testing.assert_allclose(drawn.input_sums_.get_data().values, expected.sum(axis=0))
    np.testing.assert_allclose(drawn.unit_sums_.get_data().values, expected.sum(axis=1))
    assert LayerSaliencyDisplay.from_estimator(fitted).layer == "hidden0.weight"


def test_a_large_layer_is_drawn_in_blocks(rng):
    saliencies, mask = rng.random((450, 30)), rng.random((450, 30)) < 0.5
    drawn = LayerSaliencyDisplay(saliencies=saliencies, mask=mask, layer="w").plot()
    expected = np.where(mask, saliencies, 0).reshape(150, 3, 30).sum(axis=1)
    np.testing.assert_allclose(drawn.image_.get_array().filled(0), expected)


@pytest.mark.parametrize(
    ("draw", "names"),
    [
        (lambda e: LayerSaliencyDisplay.from_estimator(e, "nope"), "hidden0.weight, hidden0.bias"),
        (lambda e: MaskDisplay.from_estimator(e, layers=["nope"]), "hidden0.weight, output.weight"),
    ],
)
def test_an_unknown_layer_is_an_error_that_lists_those_there_are(fitted, draw, names):
    with pytest.raises(ValueError, match=rf"'nope' is no prunable.*{names}"):
        draw(fitted)


# -- MaskDisplay -------------------------------------------------------------------------------


def test_masks_are_drawn_with_dead_units_and_inputs(fitted):
    drawn = MaskDisplay.from_estimator(fitted, input_shape=(2, 2))
    first, last = fitted.mask_["hidden0.weight"], fitted.mask_["output.weight"]
    np.testing.assert_array_equal(drawn.images_["hidden0.weight"].get_array(), first)
    np.testing.assert_array_equal(drawn.images_["output.weight"].get_array(), last)
    dead = ~first.any(axis=1) | ~last.any(axis=0)
    np.testing.assert_array_equal(drawn.dead_units_["hidden0.weight"], dead)
    np.testing.assert_array_equal(drawn.dead_inputs_["hidden0.weight"], ~fitted.support_)
    np.testing.assert_array_equal(
        drawn.dead_images_["hidden0.weight"].get_array(), dead[:, None] | ~fitted.support_
    )
    np.testing.assert_array_equal(drawn.input_image_.get_array(), fitted.support_.reshape(2, 2))


def test_a_unit_is_dead_without_inputs_or_without_outputs():
    mask = np.array([[True, False], [False, False], [True, True]])
    drawn = MaskDisplay(masks={"w": mask}, unread={"w": np.array([True, False, False])}).plot()
    assert list(drawn.dead_units_["w"]) == [True, True, False]
    expected = [[True, True], [True, True], [False, False]]
    np.testing.assert_array_equal(drawn.dead_images_["w"].get_array(), expected)
    assert "dead: 2 units" in drawn.ax_.get_title(loc="left")


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


def test_units_that_the_next_layer_never_reads_are_found_through_flattening():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(12, 2), nn.Softmax(-1)
    )
    masks = {name: np.ones(tuple(p.shape), dtype=bool) for name, p in net.named_parameters()}
    masks["2.weight"][:, 4:8] = False
    found = unread_units(net, masks)
    assert {name: list(units) for name, units in found.items()} == {
        "0.weight": [False, True, False]
    }
    # The network does not change with that unit: the claim, checked.
    X = torch.ones(1, 1, 3, 3)
    with torch.no_grad():
        net[2].weight *= torch.from_numpy(masks["2.weight"])
        before = net(X)
        net[0].weight[1] += 1
        assert torch.equal(net(X), before)


# -- the table ---------------------------------------------------------------------------------


def test_a_long_table_folds_around_the_row_kept(fitted):
    path = fitted.path_.cut(len(fitted.path_) - 1)
    path.rows, path.kept = path.rows * 9, 50
    page = path._repr_html_()
    assert page.count('class="folded"') == 2
    assert "iterations 5 to 48" in page
    assert '<tr class="kept"><th scope="row">▸ 50</th>' in page
    assert "validation score" not in page
    assert f">{path[50]['n_params']:,}</td>" in page
