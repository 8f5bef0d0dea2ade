import math

import numpy as np
import pytest

from sk_obd.display import IncreaseDisplay
from sk_obd.display.increase import TERMS
from tests.display.rows import column
from tests.library.settings import UNTRAINED

pytestmark = pytest.mark.filterwarnings("error", UNTRAINED)


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
    n_shared = 0
    for i, row in enumerate(fitted.path_.rows[1:]):
        size = sum(abs(row[name]) for name in TERMS)
        patches = {name: bars[i] for name, bars in drawn.bars_.items()}
        if size == 0:
            # Nothing but saliencies of zero was deleted: there are no shares.
            assert all(patch.get_height() == 0 for patch in patches.values())
            assert np.isnan(drawn.sum_.get_ydata()[i])
            continue
        n_shared += 1
        for name, patch in patches.items():
            assert patch.get_height() == pytest.approx(row[name] / size)
        ends = [p.get_y() + p.get_height() for p in patches.values()]
        assert max([*ends, 0]) - min([*ends, 0]) == pytest.approx(1)
        assert drawn.sum_.get_ydata()[i] == pytest.approx(row["actual_increase"] / size)
    assert n_shared > 3


def test_a_criterion_that_predicts_nothing_has_no_prediction_drawn(fitted):
    path = fitted.path_.cut(3)
    path.rows = [row | dict.fromkeys((*TERMS, "predicted_increase"), math.nan) for row in path.rows]
    drawn = IncreaseDisplay.from_path(path)
    assert set(drawn.lines_) == {"actual"}
    assert drawn.bars_ == {}
    drawn.figure_.canvas.draw()
