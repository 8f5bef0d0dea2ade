"""The first layer of the default network: X standardised by numbers that stay as they are."""

import copy

import numpy as np
import torch
from scipy import sparse
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from torch import nn


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
    """Weighted mean and standard deviation of each column of X, as ``StandardScaler`` has them.

    The mean of a CSR matrix is taken for 0, which keeps its zeros. The scale of a constant column
    is 1.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_columns)
    weights : ndarray of shape (n_rows,), default=None

    Returns
    -------
    mean, scale : float64 ndarrays of shape (n_columns,)
    """
    dense = not sparse.issparse(X)
    # Squares of the largest and the smallest numbers would not be finite, or 0.
    largest = MaxAbsScaler().fit(X).scale_.astype(np.float64)
    extreme = (largest > 1e100) | (largest < 1e-100)
    unit = np.where(extreme, largest, 1.0)
    if extreme.any():
        X = X / unit if dense else X @ sparse.diags_array(1 / unit)
    scaler = StandardScaler(with_mean=dense).fit(X, sample_weight=weights)
    mean = scaler.mean_ * unit if dense else np.zeros(X.shape[1])
    return mean, scaler.scale_ * unit


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
