"""A path as an HTML table for notebooks, light or dark."""

from __future__ import annotations

import html
import math
from typing import Any

#: For each column of a path: its head, what it is, and how a number in it is written.
COLUMNS = {
    "n_params": ("parameters", "parameters alive", "{:,}"),
    "prune_rate": ("pruned", "share of the prunable parameters deleted so far", "{:.1%}"),
    "n_deleted": ("deleted", "parameters deleted in this iteration", "{:,}"),
    "predicted_increase": (
        "predicted increase",
        "sum of the deleted saliencies: by how much the loss was predicted to rise",
        "{:.2e}",
    ),
    "actual_increase": (
        "actual increase",
        "by how much the training loss rose when they were deleted, before retraining",
        "{:.2e}",
    ),
    "first_order": (
        "first order",
        "term of the actual increase: gradient times change; not 0 where there is no minimum",
        "{:.2e}",
    ),
    "diagonal": (
        "diagonal",
        "term of the actual increase: the diagonal of the Hessian, what OBD predicts",
        "{:.2e}",
    ),
    "off_diagonal": (
        "off-diagonal",
        "term of the actual increase: interactions of the parameters deleted",
        "{:.2e}",
    ),
    "higher_order": (
        "higher order",
        "term of the actual increase: the rest; not 0 where the loss is not quadratic",
        "{:.2e}",
    ),
    "n_products": (
        "products",
        "products with the curvature that the compensation of the survivors took",
        "{:,}",
    ),
    "damping": (
        "damping",
        "by how much of itself the survivors' curvature was raised for their compensation",
        "{:.1e}",
    ),
    "loss": ("loss", "training loss after retraining", "{:#.4g}"),
    "train_score": ("train score", "score on the training rows", "{:.4f}"),
    "validation_score": ("validation score", "score on the validation rows", "{:.4f}"),
    "n_epochs": ("epochs", "epochs trained in this iteration", "{:,}"),
    "gradient_norm": (
        "gradient norm",
        "norm of the gradient by the parameters alive: 0 at a minimum",
        "{:.2e}",
    ),
    "negative_curvature": (
        "negative curvature",
        "share of negative second derivatives: 0 at a minimum",
        "{:.1%}",
    ),
    "fit_time": ("seconds", "time that the iteration took", "{:.2f}"),
}

#: Colours are those of the page, or a trace of grey over its background.
STYLE = """
.sk-obd-path { overflow-x: auto; color: inherit; }
.sk-obd-path table { border-collapse: collapse; margin: 0; font-size: 0.9em; color: inherit;
  font-variant-numeric: tabular-nums; border: none; }
.sk-obd-path caption { text-align: left; padding: 0 0 0.4em; color: inherit; white-space: nowrap; }
.sk-obd-path th, .sk-obd-path td { text-align: right; padding: 0.2em 0.5em; border: none;
  color: inherit; background: transparent; white-space: nowrap; }
.sk-obd-path thead th { vertical-align: bottom; white-space: normal; font-weight: 600;
  border-bottom: 1px solid currentColor; cursor: help; }
.sk-obd-path tbody th { font-weight: normal; }
.sk-obd-path tbody tr { background: transparent; }
.sk-obd-path tbody tr:hover { background: rgba(128, 128, 128, 0.12); }
.sk-obd-path tbody tr.kept { background: rgba(128, 128, 128, 0.22); }
.sk-obd-path tr.kept th, .sk-obd-path tr.kept td { font-weight: bold; }
.sk-obd-path tr.folded td { text-align: left; opacity: 0.7; }
"""


def path_table(path: Any, *, most: int = 20, ends: int = 5) -> str:
    """The rows of a path as HTML.

    The row kept is marked, and columns of NaN only are left out.

    Parameters
    ----------
    path : PruningPath
    most : int, default=20
        The number of rows shown without folding.
    ends : int, default=5
        The number of rows shown at the beginning and at the end of a longer path; the row kept is
        shown too.

    Returns
    -------
    str
    """
    names = [name for name in COLUMNS if any(not math.isnan(row[name]) for row in path)]
    head = "".join(
        f'<th scope="col" title="{html.escape(COLUMNS[name][1])}">'
        f"{html.escape(COLUMNS[name][0])}</th>"
        for name in names
    )
    body, before = [], -1
    for i in shown_rows(len(path), path.kept, most, ends):
        if i > before + 1:
            body.append(
                f'<tr class="folded"><td colspan="{len(names) + 1}">⋮ iterations {before + 1} to '
                f"{i - 1}: to_frame() has them</td></tr>"
            )
        cells = "".join(f"<td>{written(path[i].get(name), name)}</td>" for name in names)
        kept = ' class="kept"' if i == path.kept else ""
        body.append(f'<tr{kept}><th scope="row">{"▸ " if kept else ""}{i}</th>{cells}</tr>')
        before = i
    return (
        f'<div class="sk-obd-path"><style>{STYLE}</style><table>'
        f"<caption>{html.escape(repr(path))}; ▸ the network kept</caption>"
        f'<thead><tr><th scope="col" title="0 is the dense network">iteration</th>{head}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def shown_rows(n: int, kept: int, most: int, ends: int) -> list[int]:
    """Which rows a table of a path of n rows shows.

    Examples
    --------
    >>> shown_rows(3, 2, 20, 5)
    [0, 1, 2]
    >>> shown_rows(100, 50, 20, 2)
    [0, 1, 49, 50, 51, 98, 99]
    """
    if n <= most:
        return list(range(n))
    wanted = {*range(ends), *range(kept - 1, kept + 2), *range(n - ends, n)}
    return sorted(i for i in wanted if 0 <= i < n)


def written(value: float | None, name: str) -> str:
    """A number as a cell of the column `name` shows it; an empty text for NaN."""
    if value is None or math.isnan(value):
        return ""
    return COLUMNS[name][2].format(value).replace("-", "−")
