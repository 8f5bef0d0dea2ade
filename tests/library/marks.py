"""Which cases of a long list are run each time, and which only with the slow tests."""

import pytest


def slow_but(quick, cases):
    """The cases for `pytest.mark.parametrize`: all but those in `quick` are marked as slow."""
    missing = [case for case in quick if case not in cases]
    assert not missing, f"{missing} are not among the cases"
    return [pytest.param(case, marks=() if case in quick else pytest.mark.slow) for case in cases]
