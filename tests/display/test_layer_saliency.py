import numpy as np
import pytest

from sk_obd.display import LayerSaliencyDisplay
from tests.library.settings import UNTRAINED

pytestmark = pytest.mark.filterwarnings("error", UNTRAINED)


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
