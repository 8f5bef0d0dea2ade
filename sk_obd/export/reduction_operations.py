"""Torch's sums, extremes, orders and products of matrices in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import numpy as np

from .aten import aten

# -- sums and extremes -------------------------------------------------------------------------


def axes(dim):
    """Axes as NumPy takes them; none named are all."""
    return dim if isinstance(dim, int) else tuple(dim) if dim else None


@aten("mean")
def mean(x, dim=None, keepdim=False, dtype=None):
    return x.mean(axis=axes(dim), keepdims=keepdim)


@aten("sum")
def sum_(x, dim=None, keepdim=False, dtype=None):
    return x.sum(axis=axes(dim), keepdims=keepdim)


@aten("prod")
def prod(x, dim=None, keepdim=False, dtype=None):
    return x.prod(axis=axes(dim), keepdims=keepdim)


@aten("amax")
def amax(x, dim=(), keepdim=False):
    return x.max(axis=axes(dim), keepdims=keepdim)


@aten("amin")
def amin(x, dim=(), keepdim=False):
    return x.min(axis=axes(dim), keepdims=keepdim)


@aten("any")
def any_(x, dim=None, keepdim=False):
    return x.any(axis=axes(dim), keepdims=keepdim)


@aten("all")
def all_(x, dim=None, keepdim=False):
    return x.all(axis=axes(dim), keepdims=keepdim)


@aten("var.correction")
def var(x, dim=None, correction=1, keepdim=False):
    correction = 1 if correction is None else correction
    return x.var(axis=axes(dim), ddof=correction, keepdims=keepdim)


@aten("var_mean.correction")
def var_mean(x, dim=None, correction=1, keepdim=False):
    return var(x, dim, correction, keepdim), mean(x, dim, keepdim)


@aten("linalg_vector_norm")
def linalg_vector_norm(x, ord=2, dim=None, keepdim=False, dtype=None):
    x = np.abs(x)
    if np.isinf(ord):
        return (x.max if ord > 0 else x.min)(axis=axes(dim), keepdims=keepdim)
    if ord == 0:
        return (x != 0).sum(axis=axes(dim), keepdims=keepdim)
    return (x**ord).sum(axis=axes(dim), keepdims=keepdim) ** (1 / ord)


@aten("logsumexp")
def logsumexp(x, dim, keepdim=False):
    top = x.max(axis=axes(dim), keepdims=True)
    total = np.log(np.exp(x - top).sum(axis=axes(dim), keepdims=True)) + top
    return total if keepdim else total.squeeze(axis=axes(dim))


@aten("_cdist_forward")
def cdist(x, y, p, compute_mode):
    return linalg_vector_norm(x[..., :, None, :] - y[..., None, :, :], p, -1)


@aten("cumsum")
def cumsum(x, dim, dtype=None):
    return x.cumsum(axis=dim)


@aten("cumprod")
def cumprod(x, dim, dtype=None):
    return x.cumprod(axis=dim)


# -- orders ------------------------------------------------------------------------------------


@aten("argmax")
def argmax(x, dim=None, keepdim=False):
    return x.argmax(axis=dim, keepdims=keepdim)


@aten("argmin")
def argmin(x, dim=None, keepdim=False):
    return x.argmin(axis=dim, keepdims=keepdim)


@aten("max.default", "max.dim")
def max_(x, dim=None, keepdim=False):
    if dim is None:
        return x.max()
    return x.max(axis=dim, keepdims=keepdim), x.argmax(axis=dim, keepdims=keepdim)


@aten("min.default", "min.dim")
def min_(x, dim=None, keepdim=False):
    if dim is None:
        return x.min()
    return x.min(axis=dim, keepdims=keepdim), x.argmin(axis=dim, keepdims=keepdim)


@aten("sort")
def sort(x, dim=-1, descending=False, stable=True):
    order = np.argsort(-x if descending else x, axis=dim, stable=True)
    return np.take_along_axis(x, order, axis=dim), order


@aten("topk")
def topk(x, k, dim=-1, largest=True, sorted=True):
    return [part.take(range(k), axis=dim) for part in sort(x, dim, largest)]


@aten("bucketize.Tensor")
def bucketize(x, boundaries, out_int32=False, right=False):
    return np.searchsorted(boundaries, x, side="right" if right else "left")


# -- products of matrices ----------------------------------------------------------------------


@aten("matmul", "mm.default", "bmm.default", "mv", "dot")
def matmul(x, y):
    return x @ y


@aten("addmm.default", "baddbmm.default", "addmv")
def addmm(x, y, z, beta=1, alpha=1):
    return beta * x + alpha * (y @ z)


@aten("einsum.default")
def einsum(equation, tensors, path=None):
    return np.einsum(equation, *tensors, optimize=True)
