"""What the tests of all exports have in common."""

import numpy as np
import pytest

from tests.library.fitted import CASES, predictions
from tests.library.marks import slow_but

#: Some that differ in kind, for the quick tests.
SOME = ["classifier of strings", "regressor of three", "convolution"]
every_case = pytest.mark.parametrize("name", slow_but(SOME, CASES))


def close(found, estimator, X, tolerance):
    """Found predictions are the estimator's: labels exactly, numbers to a share of the largest."""
    expected = predictions(estimator, X)
    if len(expected) == 2:
        np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(
        found[-1], expected[-1], rtol=0, atol=tolerance * max(1, np.abs(expected[-1]).max())
    )
    assert found[-1].dtype == expected[-1].dtype
