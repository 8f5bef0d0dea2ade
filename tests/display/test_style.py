"""What all displays have in common: axes, errors, what they ask of an estimator."""

import sys

import matplotlib.pyplot as plt
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from sk_obd import OBDClassifier, OBDRegressor
from sk_obd.display import (
    IncreaseDisplay,
    LayerSaliencyDisplay,
    MaskDisplay,
    PathDisplay,
    SaliencyDisplay,
)
from tests.library.settings import UNTRAINED

DISPLAYS = [PathDisplay, IncreaseDisplay, SaliencyDisplay, MaskDisplay, LayerSaliencyDisplay]
N_PANELS = {
    PathDisplay: 2,
    IncreaseDisplay: 2,
    SaliencyDisplay: 2,
    MaskDisplay: 2,
    LayerSaliencyDisplay: 4,
}

pytestmark = pytest.mark.filterwarnings("error", UNTRAINED)


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
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=rf"{display.__name__} .*pip install 'sk_obd\[plot\]'"):
        display.from_estimator(fitted)


@pytest.mark.parametrize("display", [SaliencyDisplay, LayerSaliencyDisplay])
def test_a_copy_at_an_earlier_row_has_no_saliencies_to_draw(fitted, display):
    with pytest.raises(AttributeError, match=r"saliencies_.* at\(\.\.\.\)"):
        display.from_estimator(fitted.at(iteration=1))


@pytest.mark.parametrize("display", DISPLAYS)
def test_a_regressor_and_a_path_of_two_rows(diabetes, display):
    reg = OBDRegressor(hidden_layer_sizes=(5,), step=None, max_epochs=5, random_state=0)
    display.from_estimator(reg.fit(*diabetes)).figure_.canvas.draw()


@pytest.mark.parametrize(
    ("draw", "names"),
    [
        (lambda e: LayerSaliencyDisplay.from_estimator(e, "nope"), "hidden0.weight, hidden0.bias"),
        (lambda e: MaskDisplay.from_estimator(e, layers=["nope"]), "hidden0.weight, output.weight"),
    ],
)
def test_an_unknown_layer_is_an_error_that_lists_those_there_are(fitted, draw, names):
    with pytest.raises(ValueError, match=rf"'nope' is not a prunable.*{names}"):
        draw(fitted)
