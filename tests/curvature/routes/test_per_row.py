"""Parameters without a rule."""

from __future__ import annotations

import pytest

from sk_obd.curvature import diagonal
from sk_obd.curvature.routes.per_row import PerRow
from tests.library.cases import BY_NAME


@pytest.mark.parametrize(
    "name",
    [
        *("rnn", "gru", "lstm", "time first lstm, as many steps as rows", "projected lstm"),
        *("a learned first state", "tied autoencoder", "transformer"),
    ],
)
def test_rows_without_a_rule_are_taken_together(name, monkeypatch):
    module, criterion, X, y = BY_NAME[name].make()

    def alone(*args):
        raise AssertionError("one row at a time takes ten times as long")

    monkeypatch.setattr(PerRow, "one_row", alone)
    for method in ("ggn", "fisher"):
        diagonal(module, criterion, X, y, method=method)
