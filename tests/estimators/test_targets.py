"""Class and value targets: learnt, encoded, decoded, kept in a file."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sk_obd.estimators.targets import ClassTargets, ValueTargets

LABELS = st.one_of(
    st.lists(st.integers(-5, 5), min_size=2, max_size=20),
    st.lists(st.text(max_size=4), min_size=2, max_size=20),
    st.lists(st.booleans(), min_size=2, max_size=20),
)


def through_a_file(targets):
    """What comes back from a file's JSON header and arrays."""
    header, arrays = targets.to_file()
    return type(targets).from_file(json.loads(json.dumps(header)), arrays)


@given(LABELS)
def test_labels_come_back_from_their_codes_and_from_a_file(labels):
    y = np.array(labels)
    rows = np.arange(len(y))
    targets = ClassTargets.learn(y, rows, None, standardise=True)
    codes = targets.encode(y).numpy()
    assert set(codes) == set(range(targets.n_outputs))
    np.testing.assert_array_equal(targets.decode(codes), y)
    if targets.n_outputs > 1:
        np.testing.assert_array_equal(through_a_file(targets).classes, targets.classes)
        assert through_a_file(targets).classes.dtype == targets.classes.dtype


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 3)])
def test_values_are_standardised_by_their_weighted_mean_and_spread_and_come_back(rng, shape):
    y, weights = rng.normal(5, 3, size=shape), rng.uniform(size=30)
    rows = np.arange(5, 30)
    targets = ValueTargets.learn(y, rows, weights[rows], standardise=True)
    encoded = targets.encode(y).numpy()
    w = weights[rows] / weights[rows].sum()
    np.testing.assert_allclose(w @ encoded[rows], 0, atol=1e-12)
    np.testing.assert_allclose(w @ encoded[rows] ** 2, 1)
    np.testing.assert_allclose(targets.decode(encoded), y)
    assert targets.decode(encoded).shape == shape
    assert targets.n_outputs == int(np.prod(shape[1:]))
    again = through_a_file(targets)
    np.testing.assert_array_equal(again.mean, targets.mean)
    np.testing.assert_array_equal(again.scale, targets.scale)


def test_values_for_a_users_net_stay_as_they_are(rng):
    y = rng.normal(5, 3, size=20)
    targets = ValueTargets.learn(y, np.arange(20), None, standardise=False)
    np.testing.assert_array_equal(targets.encode(y).numpy(), y)


def test_a_constant_column_has_the_scale_one():
    targets = ValueTargets.learn(np.full(9, 7.0), np.arange(9), None, standardise=True)
    assert targets.scale == 1
    assert (targets.encode(np.full(9, 7.0)) == 0).all()


def test_of_the_whole_y_classes_are_known_and_means_are_not():
    assert list(ClassTargets.of_all(np.array(["b", "a", "b"])).classes) == ["a", "b"]
    assert ValueTargets.of_all(np.zeros(3)) is None


def test_balanced_classes_have_equal_weights_in_all():
    y = np.array([0, 0, 0, 1])
    targets = ClassTargets(np.array([0, 1]))
    weights = targets.weigh(y, None, class_weight="balanced", owner="Net")
    assert weights[:3].sum() == weights[3:].sum()
    doubled = targets.weigh(y, np.full(4, 2.0), class_weight="balanced", owner="Net")
    np.testing.assert_allclose(doubled, 2 * weights)
    with pytest.raises(ValueError, match=r"Net needs rows of at least two classes.*found one"):
        targets.weigh(y, None, class_weight={0: 1, 1: 0}, owner="Net")
