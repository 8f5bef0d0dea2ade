"""The rows of a pruning path: their columns, and which row a size stands for."""

import numpy as np

#: What a deletion did to the loss: NaN in the row of the dense network.
INCREMENTS = (
    "predicted_increase",
    "actual_increase",
    "first_order",
    "diagonal",
    "off_diagonal",
    "higher_order",
)

#: What the move of the survivors took: NaN where there was none.
MOVES = ("n_products", "damping")

#: A row an iteration; row 0 is the dense network.
COLUMNS = (
    "n_params",
    "prune_rate",
    "n_deleted",
    *INCREMENTS,
    *MOVES,
    "loss",
    "train_score",
    "validation_score",
    "n_epochs",
    "gradient_norm",
    "negative_curvature",
    "fit_time",
)


def find_row(path, wanted):
    """The last row of a path whose network was kept and is as wanted.

    Parameters
    ----------
    path : PruningPath
    wanted : dict
        ``iteration``, ``n_params`` and ``prune_rate``, one of them not None.

    Raises
    ------
    ValueError
        If not exactly one is given, the path does not go so far, or no kept row fits; it lists the
        rows.
    """
    given = {name: value for name, value in wanted.items() if value is not None}
    if len(given) != 1:
        shown = [f"{name}={value}" for name, value in given.items()] or "none"
        raise ValueError(f"Give exactly one of iteration, n_params and prune_rate; got {shown}.")
    if not path.networks:
        raise ValueError(
            "This path has no networks: compact() keeps only the rows. Take an earlier "
            "network from the estimator that was compacted, and compact that."
        )
    ((name, value),) = given.items()
    deleted = np.cumsum([row["n_deleted"] for row in path.rows])
    if name == "iteration":
        fits = [i for i in range(len(path)) if i in (value, value + len(path))]
    elif name == "n_params":
        refuse_beyond(path, f"n_params={value}", value < path.rows[-1]["n_params"])
        fits = [i for i, row in enumerate(path.rows) if row["n_params"] >= value]
    else:
        most = round(value * path.n_prunable)
        refuse_beyond(path, f"prune_rate={value}", most > deleted[-1])
        fits = [i for i, total in enumerate(deleted) if total <= most]
    fits = [i for i in fits if i in path.networks]
    if not fits:
        rows = ", ".join(
            f"{i}: {path.rows[i]['n_params']} parameters "
            f"(prune rate {path.rows[i]['prune_rate']:.3f})"
            for i in sorted(path.networks)
        )
        raise ValueError(
            f"No kept row of the path fits {name}={value}. The kept rows are {rows}."
            + (" keep_path='all' keeps every row." if path.keep == "last" else "")
        )
    return fits[-1]


def refuse_beyond(path, wanted, beyond):
    """Raise ValueError where the path ends before what is wanted."""
    if beyond:
        last = path.rows[-1]
        raise ValueError(
            f"{wanted} lies beyond the end of the path, which has {last['n_params']} "
            f"parameters there (prune rate {last['prune_rate']:.3f}). Fit with a larger "
            "prune_rate; warm_start=True goes on from here."
        )
