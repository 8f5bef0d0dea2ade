"""The first layer of the default network: X standardised by numbers that stay as they are."""

import copy

import numpy as np
import torch
from scipy import sparse
from sklearn.utils import gen_batches
from torch import nn

#: Rows that are read at a time.
BLOCK = 4096


class Standardise(nn.Module):
    """``(X - mean) / scale``, a column at a time.

    Parameters
    ----------
    mean, scale : array of shape (n_columns,)
    dtype : torch.dtype, default=torch.float64

    Examples
    --------
    >>> Standardise([1.0, 0.0], [2.0, 1.0])(torch.tensor([[5.0, 5.0]]))
    tensor([[2., 5.]], dtype=torch.float64)
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean, scale, dtype=torch.float64):
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=dtype))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=dtype))

    def forward(self, X):
        """The columns of X, standardised."""
        return (X - self.mean) / self.scale

    def extra_repr(self):
        """Say how many columns there are."""
        return f"{len(self.mean)} columns"


def mean_and_scale(X, weights=None):
    """Weighted mean and standard deviation of each column of X.

    Rows are read in dense blocks, so that a CSR matrix gives the very numbers of the array. The
    scale of a constant column is 1.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_columns)
    weights : ndarray of shape (n_rows,), default=None

    Returns
    -------
    mean, scale : float64 ndarrays of shape (n_columns,)
    """
    n_rows = X.shape[0]
    weights = np.ones(n_rows) if weights is None else weights

    def blocks():
        for rows in gen_batches(n_rows, BLOCK):
            block = X[rows].toarray() if sparse.issparse(X) else X[rows]
            yield weights[rows], np.ascontiguousarray(block, dtype=np.float64)

    # Divided by a power of two, which changes no digit, squares neither overflow nor vanish.
    low = np.min([x.min(axis=0) for _, x in blocks()], axis=0)
    high = np.max([x.max(axis=0) for _, x in blocks()], axis=0)
    unit = np.ldexp(1.0, np.frexp(np.maximum(-low, high))[1] - 1)
    mean = np.sum([w @ (x / unit) for w, x in blocks()], axis=0) / weights.sum()
    variance = np.sum([w @ (x / unit - mean) ** 2 for w, x in blocks()], axis=0) / weights.sum()
    scale = np.sqrt(variance)
    varies = (low < high) & (scale > 10 * np.finfo(np.float64).eps * np.abs(mean))
    return mean * unit, np.where(varies, scale * unit, 1.0)


def folded(module, masks=None):
    """The module without its first layer, where this is a Standardise before a Linear layer.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is; returned as it is where there is nothing to fold.
    masks : dict of bool tensors, default=None
        A bias that takes over a mean is alive from then on.

    Returns
    -------
    module : torch.nn.Module
        The layers keep their names.
    masks : dict of bool tensors or None
    """
    names = [name for name, _ in module.named_children()]
    in_line = type(module).forward is nn.Sequential.forward and len(names) > 1
    if not in_line or [type(module[i]) for i in (0, 1)] != [Standardise, nn.Linear]:
        return module, masks
    if module[1].bias is None:
        return module, masks
    module = copy.deepcopy(module)
    first, linear = module[0], module[1]
    with torch.no_grad():
        weight = linear.weight.double() / first.scale.double()
        shift = weight @ first.mean.double()
        linear.weight.copy_(weight)
        linear.bias.copy_(linear.bias.double() - shift)
    # Not del module[0], which gives the other layers new names.
    delattr(module, names[0])
    if masks is not None:
        name = f"{names[1]}.bias"
        masks = masks | {name: masks[name] | (shift != 0).cpu()}
    return module, masks
