"""Torch's changes of shape, choices and new tensors in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import math

import numpy as np

from .aten import aten

# -- the same numbers --------------------------------------------------------------------------


@aten(
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "feature_alpha_dropout",
    "contiguous",
    "clone",
    "alias",
    "detach",
    "lift_fresh_copy",
)
def same(x, *_, **__):
    return x


@aten("_to_copy")
def to(x, dtype=None):
    return x if dtype is None else x.astype(dtype, copy=False)


@aten("flatten")
def flatten(x, start_dim=0, end_dim=-1):
    first, last = start_dim % x.ndim, end_dim % x.ndim
    shape = x.shape
    return x.reshape(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


@aten("unflatten")
def unflatten(x, dim, sizes):
    dim = dim % x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


@aten("reshape", "view", "_unsafe_view")
def reshape(x, shape):
    return x.reshape(shape)


@aten("squeeze")
def squeeze(x, dim=None):
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return x.squeeze(axis=tuple(d for d in dims if x.shape[d] == 1))


@aten("unsqueeze")
def unsqueeze(x, dim):
    return np.expand_dims(x, dim)


@aten("permute")
def permute(x, dims):
    return x.transpose(dims)


@aten("transpose")
def transpose(x, dim0, dim1):
    return x.swapaxes(dim0, dim1)


@aten("numpy_T", "t")
def matrix_transpose(x):
    return x.T


@aten("mT")
def mT(x):
    return x.swapaxes(-1, -2)


@aten("expand")
def expand(x, size, implicit=False):
    kept = (1,) * (len(size) - x.ndim) + x.shape
    return np.broadcast_to(x, [k if s == -1 else s for s, k in zip(size, kept, strict=True)])


@aten("repeat")
def repeat(x, repeats):
    return np.tile(x, repeats)


@aten("flip")
def flip(x, dims):
    return np.flip(x, dims)


@aten("roll")
def roll(x, shifts, dims=()):
    return np.roll(x, shifts, dims or None)


# -- several tensors ---------------------------------------------------------------------------


@aten("cat")
def cat(tensors, dim=0):
    return np.concatenate(tensors, axis=dim)


@aten("stack")
def stack(tensors, dim=0):
    return np.stack(tensors, axis=dim)


@aten("split.Tensor")
def split(x, split_size, dim=0):
    return np.split(x, range(split_size, x.shape[dim], split_size), axis=dim)


@aten("split_with_sizes")
def split_with_sizes(x, sizes, dim=0):
    return np.split(x, np.cumsum(sizes)[:-1], axis=dim)


@aten("unbind")
def unbind(x, dim=0):
    return list(np.moveaxis(x, dim, 0))


# -- parts of a tensor -------------------------------------------------------------------------


@aten("select")
def select(x, dim, index):
    return x.take(index, axis=dim)


@aten("slice")
def slice_(x, dim=0, start=None, end=None, step=1):
    cut = [slice(None)] * x.ndim
    cut[dim] = slice(start, end, step)
    return x[tuple(cut)]


@aten("index_select")
def index_select(x, dim, index):
    return x.take(index, axis=dim)


@aten("index")
def index(x, indices):
    return x[tuple(slice(None) if i is None else i for i in indices)]


@aten("gather")
def gather(x, dim, index, sparse_grad=False):
    shape = list(index.shape)
    shape[dim] = x.shape[dim]
    return np.take_along_axis(x[tuple(map(slice, shape))], index, axis=dim)


@aten("slice_scatter")
def slice_scatter(x, source, dim=0, start=None, end=None, step=1):
    x = x.copy()
    slice_(x, dim, start, end, step)[...] = source
    return x


@aten("select_scatter")
def select_scatter(x, source, dim, index):
    x = x.copy()
    np.moveaxis(x, dim, 0)[index] = source
    return x


@aten("index_put")
def index_put(x, indices, values, accumulate=False):
    x, at = x.copy(), tuple(slice(None) if i is None else i for i in indices)
    if accumulate:
        np.add.at(x, at, values)
    else:
        x[at] = values
    return x


@aten("scatter.src", "scatter.value")
def scatter(x, dim, index, source):
    x = x.copy()
    if isinstance(source, np.ndarray):
        source = source[tuple(map(slice, index.shape))]
    part = x[tuple(slice(None if a == dim % x.ndim else n) for a, n in enumerate(index.shape))]
    np.put_along_axis(part, index, source, axis=dim)
    return x


@aten("diagonal")
def diagonal(x, offset=0, dim1=0, dim2=1):
    return np.diagonal(x, offset, dim1, dim2)


@aten("unfold")
def unfold(x, dim, size, step):
    cut = np.lib.stride_tricks.sliding_window_view(x, size, axis=dim)
    return slice_(cut, dim % x.ndim, step=step)


@aten("tril")
def tril(x, diagonal=0):
    return np.tril(x, diagonal)


@aten("triu")
def triu(x, diagonal=0):
    return np.triu(x, diagonal)


@aten("sym_size.int")
def sym_size(x, dim):
    return x.shape[dim]


# -- new tensors -------------------------------------------------------------------------------


@aten("full")
def full(size, value, dtype=None):
    return np.full(size, value, dtype)


@aten("zeros")
def zeros(size, dtype=np.float32):
    return np.zeros(size, dtype)


@aten("ones")
def ones(size, dtype=np.float32):
    return np.ones(size, dtype)


@aten("full_like")
def full_like(x, value, dtype=None):
    return np.full_like(x, value, dtype)


@aten("scalar_tensor")
def scalar_tensor(x, dtype=np.float32):
    return np.asarray(x, dtype)


@aten("arange")
def arange(*ends, dtype=None):
    return np.arange(*ends, dtype=dtype)


@aten("copy")
def copy(x, source, non_blocking=False):
    return np.broadcast_to(source, x.shape).astype(x.dtype)
