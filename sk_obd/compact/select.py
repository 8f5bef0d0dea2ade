"""The columns of X that a network still reads."""

from collections import OrderedDict

import torch
from torch import nn

#: Multiplications of a Linear layer that take as long as copying one number out of X: 13 to 25 by
#: measurement in torch (2,000 rows of 64 and 256 columns, one thread), many more in onnxruntime.
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

    def __init__(self, index):
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, X):
        return X.index_select(1, self.index)

    def extra_repr(self):
        return f"{len(self.index)} columns"


def with_all_columns(module, n_columns):
    """The module as it predicts fastest: where few columns are left out, reading them costs less
    than copying the others.

    Parameters
    ----------
    module : torch.nn.Module
        Changed where it is ``Sequential(SelectColumns, Linear, ...)``, else returned as it is.
    n_columns : int
        Of X.

    Returns
    -------
    torch.nn.Module
        The Linear layer has a weight of 0 for each column that was not selected.
    """
    children = list(module.named_children())
    in_line = type(module).forward is nn.Sequential.forward and len(children) > 1
    if not in_line or [type(layer) for _, layer in children[:2]] != [SelectColumns, nn.Linear]:
        return module
    (_, select), (name, linear) = children[:2]
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
