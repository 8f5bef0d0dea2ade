"""A path as a table, and that all who describe its columns agree."""

import re

import pytest

from sk_obd import PruningPath
from sk_obd.display import table
from sk_obd.pruning import rows
from tests.library.settings import UNTRAINED

pytestmark = pytest.mark.filterwarnings("error", UNTRAINED)


def test_a_long_table_folds_around_the_row_kept(fitted):
    path = fitted.path_.cut(len(fitted.path_) - 1)
    path.rows, path.kept = path.rows * 9, 50
    page = path._repr_html_()
    assert page.count('class="folded"') == 2
    assert "iterations 5 to 48" in page
    assert '<tr class="kept"><th scope="row">▸ 50</th>' in page
    assert "validation score" not in page
    assert f">{path[50]['n_params']:,}</td>" in page


def test_the_table_and_the_documentation_have_the_columns_of_a_path():
    assert tuple(table.COLUMNS) == rows.COLUMNS
    assert set(rows.INCREMENTS) <= set(rows.COLUMNS)
    entries = PruningPath.__doc__.split("=" * 20 + " ")[1:-1]
    documented = re.findall(r"^    (\w+) {2,}\S", "".join(entries), re.MULTILINE)
    assert tuple(documented) == rows.COLUMNS
