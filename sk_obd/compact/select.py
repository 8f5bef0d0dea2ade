"""The columns of X that a network still reads."""

from torch import nn


class Select(nn.Module):
    """Pass on some columns of a matrix.

    Parameters
    ----------
    index : tensor of int64
        The columns, in order.

    Examples
    --------
    >>> import torch
    >>> Select(torch.tensor([0, 2]))(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[1., 3.]])
    """

    def __init__(self, index):
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, X):
        return X.index_select(1, self.index)

    def extra_repr(self):
        return f"{len(self.index)} columns"
