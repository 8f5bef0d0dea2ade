"""The pruning path: what each deletion was predicted to cost, what it cost, what was left."""

import copy
import math

import torch

from ..display import PathDisplay
from ..display.optional import require
from ..display.table import path_table
from .rows import COLUMNS, find_row
from .snapshot import Snapshot, spread


class PruningPath:
    """The rows of a pruning path and the networks at them.

    A sequence of rows (dicts): ``path[0]`` is the dense network, ``path[i]`` the network after
    iteration i. All losses are of the training rows, in eval mode, without penalty, in float64.

    ==================== =====================================================================
    n_params             parameters alive
    prune_rate           share of the prunable parameters deleted so far
    n_deleted            deleted in this iteration (with ``sweep``: and swept away, which is free)
    predicted_increase   sum of their saliencies (NaN where the saliency is not a loss); with
                         a compensation what the quadratic models on its way say of it
    actual_increase      increase of the training loss by deleting them and by the compensation,
                         before retraining
    first_order          the four terms it is the sum of (see :func:`sk_obd.taylor_terms`): what
    diagonal             the gradient says, the diagonal of the curvature in use, the rest of the
    off_diagonal         exact second derivative, and all that is left. The last three are NaN
    higher_order         where the saliency knows no curvature
    n_products           products with the Gauss-Newton matrix for the compensation (NaN without);
                         each costs 1.3 to 2 gradients of the training loss
    damping              the share by which the survivors' curvatures were raised in it; for
                         ``compensation="layer"`` the ridge (NaN without)
    loss                 training loss after retraining
    train_score          score on the training rows
    validation_score     score on the validation rows (NaN without)
    n_epochs             epochs trained in this iteration
    gradient_norm        norm of the loss' gradient in the parameters alive
    negative_curvature   share of h_kk < 0 among the trainable parameters alive (NaN where the
                         kind of curvature cannot be negative): at a minimum it is 0
    fit_time             seconds (in the run that computed it, where it comes from a cache)
    ==================== =====================================================================

    Parameters
    ----------
    module : torch.nn.Module
        Whose parameters the path is about.
    prunable : list of str
        Names of the parameters that may be deleted.
    groups : dict of int64 tensors, default=None
        Which of them go together; None: each on its own.
    keep : {"all", "last"}, default="all"
        Which networks of the path are kept.

    Attributes
    ----------
    rows : list of dict
        The rows, as ``path[i]`` gives them.
    kept : int
        Row of the network that the estimator holds (not the last where a stop rule went on).
    n_prunable : int
        How many parameters may be deleted.
    uncompensated : list of str
        Prunable parameters whose survivors ``compensation="layer"`` leaves as they are.
    history : list of dict
        skorch's records of all epochs, each with its ``iteration``, the row of the path.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_obd import OBDClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> path = OBDClassifier(prune_rate=0.5, step=None, random_state=0).fit(X, y).path_
    >>> len(path), path[0]["n_params"], path[1]["n_params"]
    (2, 803, 401)
    """

    def __init__(self, module, prunable, *, groups=None, keep="all"):
        self.module = module
        self.keep = keep
        # Parameters that callbacks of the net froze (False) or unfroze (True) for good.
        self.flags: dict[str, bool] = {}
        self.uncompensated: list[str] = []
        self.kept = 0
        self.rows: list[dict] = []
        self.history: list[dict] = []
        self.networks: dict[int, Snapshot] = {}
        self.saliency: dict[str, torch.Tensor] | None = None
        # The row at which each parameter was deleted, 0 where it is alive: masks of every row,
        # and the ranking, in one number per parameter.
        self.deleted_at = {
            name: torch.zeros(p.shape, dtype=torch.int32) for name, p in module.named_parameters()
        }
        self.choose(prunable, groups)

    def choose(self, prunable, groups=None, *, flags=None):
        """Say which parameters may be deleted from here on.

        Parameters
        ----------
        prunable : list of str
            Names of the parameters that may be deleted.
        groups : dict of int64 tensors, default=None
            Which of them go together; None: each on its own.
        flags : dict of bool, default=None
            Parameters that callbacks of the net froze (False) or unfroze (True).
        """
        self.prunable, self.groups = list(prunable), groups
        self.n_prunable = sum(self.deleted_at[name].numel() for name in self.prunable)
        self.flags = self.flags | (flags or {})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    @property
    def n_deleted(self) -> int:
        """Number of parameters deleted so far."""
        return sum(int((at > 0).sum()) for at in self.deleted_at.values())

    @property
    def n_deleted_before(self) -> int:
        """Number of parameters deleted before the last iteration that deleted any."""
        numbers = [row["n_deleted"] for row in self.rows if row["n_deleted"]]
        return self.n_deleted - (numbers[-1] if numbers else 0)

    def masks(self, row: int | None = None) -> dict[str, torch.Tensor]:
        """Masks at a row of the path.

        Parameters
        ----------
        row : int, default=None
            None: the last.

        Returns
        -------
        dict of bool tensors
            By name, an entry for every parameter: True where alive.
        """
        row = len(self.rows) if row is None else range(len(self.rows))[row]
        return {name: (at == 0) | (at > row) for name, at in self.deleted_at.items()}

    def append(self, found, row, *, kept=True):
        """Add an iteration as a row.

        Parameters
        ----------
        found : Iteration
        row : dict
            What was measured, with the scores.
        kept : bool, default=True
            Whether the estimator would hold its network.
        """
        i = len(self.rows)
        for name, chosen in found.gone.items():
            self.deleted_at[name][chosen.cpu()] = i
        self.rows.append({column: row[column] for column in COLUMNS})
        self.history += [{**epoch, "iteration": i} for epoch in found.epochs]
        if kept:
            self.kept, self.saliency = i, found.saliency
            if self.keep == "last":
                self.networks.clear()
        if kept or self.keep == "all":
            last = next(reversed(self.networks.values()), None)
            self.networks[i] = found.network if last is None else found.network.sharing(last)

    def saliencies(self) -> dict[str, torch.Tensor] | None:
        """Saliencies of the network kept.

        Returns
        -------
        dict of tensors or None
            By name, 0 where deleted; None where they are not known.
        """
        if self.saliency is None:
            return None
        masks = self.masks(self.kept)
        return {name: spread(alive, masks[name]) for name, alive in self.saliency.items()}

    def ranking(self) -> dict[str, torch.Tensor]:
        """When each parameter was deleted, as scikit-learn's RFE ranks features.

        Returns
        -------
        dict of int tensors
            By name: 1 where alive at the kept row; the larger, the earlier deleted.
        """
        return {
            name: torch.where((at == 0) | (at > self.kept), 1, self.kept - at + 2)
            for name, at in self.deleted_at.items()
        }

    def move_into(self, module):
        """Put the kept network into a module, which is the path's own from then on.

        Parameters
        ----------
        module : torch.nn.Module
        """
        self.load(self.kept, module)
        self.module = module

    def load(self, row, module):
        """Put the parameters and buffers of a row's network into a module, in place.

        Parameters
        ----------
        row : int
        module : torch.nn.Module
        """
        row = range(len(self.rows))[row]
        self.networks[row].load(module, self.masks(row))

    def network(self, row: int) -> torch.nn.Module:
        """Module with the parameters of a row, a copy in eval mode.

        Parameters
        ----------
        row : int

        Returns
        -------
        torch.nn.Module

        Raises
        ------
        ValueError
            If the network of that row was not kept; it lists the rows.
        """
        module = copy.deepcopy(self.module)
        self.load(self.find(iteration=row), module)
        return module.eval()

    def find(
        self,
        *,
        iteration: int | None = None,
        n_params: int | None = None,
        prune_rate: float | None = None,
    ) -> int:
        """Find the row of a network that was kept; give one of the three.

        Parameters
        ----------
        iteration : int, optional
            That row; negative numbers count from the end.
        n_params : int, optional
            The smallest network with at least so many parameters.
        prune_rate : float, optional
            The smallest network of which at most this share is deleted.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If not exactly one of the three is given, the path does not go so far, or no kept row
            fits; it lists the rows.
        """
        wanted = {"iteration": iteration, "n_params": n_params, "prune_rate": prune_rate}
        return find_row(self, wanted)

    def cut(self, row):
        """Cut the path after a row.

        Parameters
        ----------
        row : int

        Returns
        -------
        PruningPath
            A new one, which shares the networks' tensors with this one.
        """
        new = object.__new__(PruningPath)
        new.prunable, new.n_prunable, new.keep = self.prunable, self.n_prunable, self.keep
        new.module, new.groups, new.flags = self.module, self.groups, self.flags
        new.uncompensated = self.uncompensated
        new.rows = self.rows[: row + 1]
        new.kept = row
        new.saliency = self.saliency if row == self.kept else None
        new.history = [epoch for epoch in self.history if epoch["iteration"] <= row]
        new.networks = {i: network for i, network in self.networks.items() if i <= row}
        new.deleted_at = {
            name: torch.where(at > row, 0, at) for name, at in self.deleted_at.items()
        }
        return new

    @classmethod
    def restored(cls, module, prunable, *, rows, kept, masks, network, flags, uncompensated=()):
        """Make a path of what a file holds.

        Which parameter went when is not in a file: all that are deleted went at the kept row.

        Parameters
        ----------
        module : torch.nn.Module
        prunable : list of str
        rows : list of dict
            The cells of each row by column; what is missing or None becomes NaN.
        kept : int
            The kept row.
        masks : dict of bool tensors
            Of the network kept.
        network : Snapshot
        flags : dict of bool
            Parameters that callbacks of the net froze (False) or unfroze (True).
        uncompensated : sequence of str, default=()
            Prunable parameters that ``compensation="layer"`` left as they were.

        Returns
        -------
        PruningPath
        """
        path = cls(module, prunable)
        path.flags, path.uncompensated = dict(flags), list(uncompensated)
        path.rows = [
            {c: math.nan if row.get(c) is None else row[c] for c in COLUMNS} for row in rows
        ]
        path.kept, path.networks = kept, {kept: network}
        for name, mask in masks.items():
            path.deleted_at[name][~mask] = kept
        return path

    def without_networks(self):
        """Keep only the rows up to the kept one, without networks, masks and saliencies.

        Returns
        -------
        PruningPath
            A new one.
        """
        new = self.cut(self.kept)
        new.networks, new.deleted_at, new.saliency = {}, {}, None
        return new

    def continued_as(self, fresh):
        """Adopt `fresh`'s module, prunable parameters and `keep`, to continue this path.

        Parameters
        ----------
        fresh : PruningPath
            The path of a fit that would begin anew.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `fresh` is of another network.
        """
        if not self.networks:
            raise ValueError(
                "warm_start=True goes on from the networks of the path, and compact() keeps none. "
                "Go on with the estimator that was compacted, prune the smaller network as a new "
                "net=clf.net_, or fit anew with warm_start=False."
            )
        shapes = [{k: tuple(at.shape) for k, at in p.deleted_at.items()} for p in (self, fresh)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"warm_start=True goes on with a network of parameters {shapes[0]}, and the "
                f"estimator's net now has {shapes[1]}. Fit anew with warm_start=False."
            )
        self.prunable, self.n_prunable, self.keep = fresh.prunable, fresh.n_prunable, fresh.keep
        self.module, self.groups = fresh.module, fresh.groups
        self.uncompensated = fresh.uncompensated
        return self

    def to_frame(self):
        """The rows as a pandas DataFrame, its index the iteration.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            If pandas cannot be imported.
        """
        require("pandas", task="PruningPath.to_frame", extra="plot")
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(COLUMNS)).rename_axis("iteration")

    def plot(self, *, ax=None, **kwargs) -> PathDisplay:
        """Score and loss against the number of parameters left.

        Parameters
        ----------
        ax : Axes or sequence of two Axes, optional
        **kwargs
            For :meth:`sk_obd.display.PathDisplay.plot`.

        Returns
        -------
        sk_obd.display.PathDisplay
        """
        return PathDisplay.from_path(self, ax=ax, **kwargs)

    def __repr__(self):
        if not self.rows:
            return "PruningPath(empty)"
        first, last = self.rows[0]["n_params"], self.rows[-1]["n_params"]
        return f"PruningPath({len(self)} rows, {first} to {last} parameters)"

    def _repr_html_(self):
        return path_table(self)
