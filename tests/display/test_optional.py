import sys

import pytest

from sk_obd.display.optional import require
from tests.library.fitted import fitted


def test_all_that_is_missing_is_named_and_nothing_else(monkeypatch):
    require("math", "json", task="counting", extra="plot")
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(ImportError, match=r"counting needs json and no_such, .*sk_obd\[plot\]"):
        require("math", "json", "no_such", task="counting", extra="plot")


def test_a_path_without_pandas_says_what_to_install(monkeypatch):
    estimator, _ = fitted("classifier")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"PruningPath.to_frame needs pandas.*sk_obd\[plot\]"):
        estimator.path_.to_frame()
