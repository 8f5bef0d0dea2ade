import numpy as np
import pytest

from sk_obd.display import SaliencyDisplay
from tests.library.settings import UNTRAINED

pytestmark = pytest.mark.filterwarnings("error", UNTRAINED)


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
