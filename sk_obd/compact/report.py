"""What compacting did to each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..display.optional import require
from ..training.masks import count_alive

if TYPE_CHECKING:
    import pandas as pd

#: What each row says of a layer.
COLUMNS = ("layer", "before", "after", "left")


class CompactReport:
    """The layers of a network before and after it was made smaller.

    Attributes
    ----------
    rows : list of dict
        For each layer with parameters: "layer" (its name), "before" and "after" (the shape of its
        largest parameter), "left" (why it could not be cut, or "").
    n_params : (int, int)
        Number of parameters alive, before and after.
    n_stored : (int, int)
        Number of parameters stored, dead ones included, before and after.
    sparse : tuple of str
        Layers that are predicted with as CSR matrices.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sk_obd.compact import shrink
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> masks = {"2.weight": torch.tensor([[True, False]])}
    >>> with torch.no_grad():
    ...     net[2].weight[0, 1] = 0
    >>> _, _, report = shrink(net, masks, torch.zeros(1, 1))
    >>> report
    0: (2, 1) -> (1, 1)
    2: (1, 2) -> (1, 1)
    alive: 6 -> 4; stored: 7 -> 4
    """

    def __init__(
        self, rows: list[dict[str, Any]], n_params: tuple[int, int], n_stored: tuple[int, int]
    ):
        self.rows, self.n_params, self.n_stored = rows, n_params, n_stored
        self.sparse: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        module: nn.Module,
        masks: dict[str, torch.Tensor],
        smaller: nn.Module,
        new_masks: dict[str, torch.Tensor],
        left: dict[str, str],
    ) -> CompactReport:
        """Compare a module and its masks with the smaller module and its masks.

        Parameters
        ----------
        module, smaller : torch.nn.Module
        masks, new_masks : dict of name to bool tensor
            True = alive.
        left : dict of str
            By name of a submodule, why it was left as it is.

        Returns
        -------
        CompactReport
        """
        after = dict(smaller.named_parameters())
        rows = {}
        for name, parameter in module.named_parameters():
            layer, _, _ = name.rpartition(".")
            if layer in rows:
                continue
            # The submodules of what was left are left with it.
            reasons = [why for part, why in left.items() if f"{layer}.".startswith(f"{part}.")]
            rows[layer] = {
                "layer": layer,
                "before": tuple(parameter.shape),
                "after": tuple(after[name].shape),
                "left": "".join(reasons[:1]),
            }
        return cls(
            list(rows.values()),
            n_params=(count_alive(masks), count_alive(new_masks)),
            n_stored=(count_stored(module), count_stored(smaller)),
        )

    @classmethod
    def unchanged(
        cls, module: nn.Module, masks: dict[str, torch.Tensor], why: str
    ) -> CompactReport:
        """Report on a network that was left as it is, every layer for the same reason.

        Parameters
        ----------
        module : torch.nn.Module
        masks : dict of bool tensors
        why : str

        Returns
        -------
        CompactReport
        """
        return cls.of(module, masks, module, masks, dict.fromkeys(_layers(module), why))

    def to_frame(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame, its columns "layer", "before", "after" and "left".

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            If pandas cannot be imported.
        """
        require("pandas", task="CompactReport.to_frame", extra="plot")
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def __str__(self):
        lines = [
            f"{row['layer']}: {row['before']} -> {row['after']}"
            + (" (sparse)" if row["layer"] in self.sparse else "")
            + (f" (left: {row['left']})" if row["left"] else "")
            for row in self.rows
        ]
        alive, stored = self.n_params, self.n_stored
        lines.append(f"alive: {alive[0]} -> {alive[1]}; stored: {stored[0]} -> {stored[1]}")
        return "\n".join(lines)

    __repr__ = __str__


def count_stored(module):
    """Number of parameters of a module, dead ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def _layers(module):
    """Names of the layers with parameters of their own."""
    return {name.rpartition(".")[0] for name, _ in module.named_parameters()}
