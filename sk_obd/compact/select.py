"""The columns of X that a network still reads."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

#: So many multiplications of a Linear layer take as long as copying one number out of X: measured
#: 13 to 25 in torch (2,000 rows of 64 and 256 columns, one thread), many more in onnxruntime.
COPY = 24


class SelectColumns(nn.Module):
    """Pass on some columns of a matrix.

    Parameters
    ----------
    index : tensor of int64
        The columns, in order.

    Examples
    --------
    >>> import torch
    >>> SelectColumns(torch.tensor([0, 2]))(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[1., 3.]])
    """

    index: torch.Tensor

    def __init__(self, index: torch.Tensor):
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Select the columns.

        Parameters
        ----------
        X : tensor of shape (n_rows, n_columns)

        Returns
        -------
        tensor of shape (n_rows, len(index))
        """
        return X.index_select(1, self.index)

    def extra_repr(self) -> str:
        """Say in a module's repr how many columns there are.

        Returns
        -------
        str
        """
        return f"{len(self.index)} columns"


def with_all_columns(module: nn.Module, n_columns: int) -> nn.Module:
    """The module without SelectColumns, where few columns are left out and it predicts faster.

    Reading a few columns more then costs less than copying the others.

    Parameters
    ----------
    module : torch.nn.Module
        Only a ``Sequential(SelectColumns, Linear, ...)`` is changed (in a copy).
    n_columns : int
        Number of columns of X.

    Returns
    -------
    torch.nn.Module
        The Linear layer has a weight of 0 for each column that was not selected. The module
        itself, where nothing is to be changed.
    """
    children = list(module.named_children())
    in_line = type(module).forward is nn.Sequential.forward and len(children) > 1
    if not in_line or [type(layer) for _, layer in children[:2]] != [SelectColumns, nn.Linear]:
        return module
    select: Any = children[0][1]
    name: str = children[1][0]
    linear: Any = children[1][1]
    n_kept = len(select.index)
    if (n_columns - n_kept) * linear.out_features > COPY * n_kept:
        return module
    wide = nn.utils.skip_init(
        nn.Linear,
        n_columns,
        linear.out_features,
        bias=linear.bias is not None,
        dtype=linear.weight.dtype,
        device=linear.weight.device,
    )
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, select.index] = linear.weight
        if linear.bias is not None:
            wide.bias.copy_(linear.bias)
    parts = OrderedDict([(name, wide), *children[2:]])
    return nn.Sequential(parts).train(module.training)
