"""How much goes in each iteration."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sk_obd.pruning.schedule import LARGEST_SHARE, advance, parts, schedule, trusted_step

shares = st.floats(0.01, 0.99)


@given(
    n=st.integers(1, 10_000),
    rate=st.floats(0, 0.999),
    step=st.one_of(shares, st.integers(1, 500), st.none()),
)
def test_a_schedule_rises_to_its_target(n, rate, step):
    totals = schedule(n, rate, step)
    assert all(a < b for a, b in zip([0, *totals], totals, strict=False))
    assert (totals[-1] if totals else 0) == round(rate * n)


@given(
    n=st.integers(1, 10_000),
    rates=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)).map(sorted),
    step=st.one_of(shares, st.integers(1, 500)),
)
def test_a_shorter_schedule_is_the_beginning_of_a_longer_one(n, rates, step):
    short, long = (schedule(n, rate, step) for rate in rates)
    assert short[:-1] == long[: max(0, len(short) - 1)]


@given(n=st.integers(1, 10_000), more=st.integers(0, 50))
def test_parts_are_equal_and_none_is_empty(n, more):
    found = parts(n, more)
    assert sum(found) == n
    assert len(found) == min(n, more + 1)
    assert min(found) >= 1
    assert max(found) - min(found) <= 1


def row(error, loss=1.0, predicted=0.0):
    return {
        "n_deleted": 1,
        "loss": loss,
        "predicted_increase": predicted,
        "actual_increase": predicted + error,
    }


@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_shrinks_by_the_root_of_the_error_and_grows_alike(sign):
    assert trusted_step(0.2, [row(0)], 0.1) == 0.2
    assert trusted_step(0.2, [row(0), row(sign * 0.1)], 0.1) == pytest.approx(0.2)
    assert trusted_step(0.2, [row(0), row(sign * 0.2)], 0.1) == pytest.approx(0.2 / 2**0.5)
    assert trusted_step(0.2, [row(0), row(sign * 0.05)], 0.1) == pytest.approx(0.2 * 2**0.5)
    assert trusted_step(0.1, [row(0), row(sign * 99)], 0.1) == pytest.approx(0.05)
    assert trusted_step(0.1, [row(0), row(0)], 0.1) == pytest.approx(0.2)


def test_the_error_is_seen_against_the_loss_before_and_the_prediction():
    assert trusted_step(0.2, [row(0, loss=2), row(0.2, loss=9)], 0.1) == pytest.approx(0.2)
    assert trusted_step(0.2, [row(0), row(0.3, predicted=2.0)], 0.1) == pytest.approx(0.2)
    assert trusted_step(0.2, [row(0, loss=-2), row(0.2)], 0.1) == pytest.approx(0.2)


@given(
    step=st.one_of(shares, st.integers(1, 500)),
    errors=st.lists(st.floats(-1e6, 1e6), max_size=60),
    left=st.integers(1, 10_000),
)
def test_every_trusted_step_makes_progress_within_bounds(step, errors, left):
    found = trusted_step(step, [row(0), *map(row, errors)], 0.1)
    assert type(found) is type(step)
    assert advance(left, 0, found) >= 1
    if errors and isinstance(step, float):
        assert 0 < found <= LARGEST_SHARE


def test_a_row_that_deleted_nothing_says_nothing_of_the_step():
    trained_only = {"n_deleted": 0, "loss": 1.0}
    assert trusted_step(0.2, [row(0), trained_only], 0.1) == 0.2
