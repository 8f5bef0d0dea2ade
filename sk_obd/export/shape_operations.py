"""Torch's changes of shape, choices and sums in NumPy, argument for argument.

Each function takes the arguments of torch's own (``aten``) operation. Its source is copied into
exported files (see `aten`).
"""

import math

import numpy as np

from .aten import aten


@aten(
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "contiguous",
    "clone",
    "alias",
    "detach",
    "detach_",
    "lift_fresh_copy",
    "_assert_tensor_metadata",
)
def same(x, *_, **__):
    return x


@aten("to", "_to_copy")
def to(x, dtype=None, *_):
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


@aten("cat")
def cat(tensors, dim=0):
    return np.concatenate(tensors, axis=dim)


@aten("stack")
def stack(tensors, dim=0):
    return np.stack(tensors, axis=dim)


@aten("mean")
def mean(x, dim=None, keepdim=False, dtype=None):
    return x.mean(axis=tuple(dim or ()) or None, keepdims=keepdim)


@aten("sum")
def sum_(x, dim=None, keepdim=False, dtype=None):
    return x.sum(axis=tuple(dim or ()) or None, keepdims=keepdim)


@aten("matmul", "mm")
def matmul(x, y):
    return x @ y


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


@aten("getitem")
def getitem(x, index):
    return x[index]


@aten("sym_size")
def sym_size(x, dim):
    return x.shape[dim]


@aten("argmax")
def argmax(x, dim=None, keepdim=False):
    return x.argmax(axis=dim, keepdims=keepdim)


@aten("bmm")
def bmm(x, y):
    return x @ y


@aten("addmm")
def addmm(x, a, b, beta=1, alpha=1):
    return beta * x + alpha * (a @ b)


@aten("einsum")
def einsum(equation, operands, path=None):
    return np.einsum(equation, *operands)


@aten("linalg_vector_norm")
def vector_norm(x, ord=2, dim=None, keepdim=False, dtype=None):
    axes = None if dim is None else tuple(dim)
    if ord == np.inf:
        return abs(x).max(axis=axes, keepdims=keepdim)
    return (abs(x) ** ord).sum(axis=axes, keepdims=keepdim) ** (1 / ord)


@aten("amax")
def amax(x, dim=(), keepdim=False):
    return x.max(axis=tuple(dim) or None, keepdims=keepdim)


@aten("amin")
def amin(x, dim=(), keepdim=False):
    return x.min(axis=tuple(dim) or None, keepdims=keepdim)


@aten("max")
def max_(x, dim=None, keepdim=False):
    if isinstance(dim, np.ndarray):
        return np.maximum(x, dim)
    if dim is None:
        return x.max()
    return x.max(axis=dim, keepdims=keepdim), x.argmax(axis=dim, keepdims=keepdim)


@aten("min")
def min_(x, dim=None, keepdim=False):
    if isinstance(dim, np.ndarray):
        return np.minimum(x, dim)
    if dim is None:
        return x.min()
    return x.min(axis=dim, keepdims=keepdim), x.argmin(axis=dim, keepdims=keepdim)


@aten("var")
def var(x, dim=None, unbiased=None, keepdim=False, correction=1):
    ddof = correction if unbiased is None else int(unbiased)
    return x.var(axis=tuple(dim or ()) or None, ddof=ddof, keepdims=keepdim)


@aten("std")
def std(x, dim=None, unbiased=None, keepdim=False, correction=1):
    return np.sqrt(var(x, dim, unbiased, keepdim, correction))


@aten("cumsum")
def cumsum(x, dim, dtype=None):
    return x.cumsum(axis=dim)


@aten("split", "split_with_sizes")
def split(x, sizes, dim=0):
    n = x.shape[dim]
    ends = range(sizes, n, sizes) if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    return np.split(x, list(ends), axis=dim)


@aten("chunk")
def chunk(x, chunks, dim=0):
    return split(x, -(-x.shape[dim] // chunks), dim)


@aten("unbind")
def unbind(x, dim=0):
    return list(np.moveaxis(x, dim, 0))


@aten("expand")
def expand(x, sizes, implicit=False):
    new = len(sizes) - x.ndim
    shape = [x.shape[i - new] if size == -1 else size for i, size in enumerate(sizes)]
    return np.broadcast_to(x, shape)


@aten("repeat")
def repeat(x, repeats):
    return np.tile(x, repeats)


@aten("flip")
def flip(x, dims):
    return np.flip(x, axis=tuple(dims))


@aten("roll")
def roll(x, shifts, dims=()):
    return np.roll(x, shifts, axis=tuple(dims) or None)


@aten("one_hot")
def one_hot(x, num_classes):
    return (x[..., None] == np.arange(num_classes)).astype(np.int64)


@aten("gather")
def gather(x, dim, index, sparse_grad=False):
    return np.take_along_axis(x, index, axis=dim)


@aten("full")
def full(size, value, dtype=None):
    return np.full(size, value, dtype=dtype)


@aten("zeros")
def zeros(size, dtype=np.float32):
    return np.zeros(size, dtype=dtype)


@aten("ones")
def ones(size, dtype=np.float32):
    return np.ones(size, dtype=dtype)


@aten("full_like")
def full_like(x, value, dtype=None):
    return np.full_like(x, value, dtype=dtype)


@aten("zeros_like")
def zeros_like(x, dtype=None):
    return np.zeros_like(x, dtype=dtype)


@aten("ones_like")
def ones_like(x, dtype=None):
    return np.ones_like(x, dtype=dtype)


@aten("arange")
def arange(*ends, dtype=None):
    return np.arange(*ends, dtype=dtype)


@aten("scalar_tensor")
def scalar_tensor(value, dtype=None):
    return np.asarray(value, dtype=dtype)


@aten("tril")
def tril(x, diagonal=0):
    return np.tril(x, diagonal)


@aten("triu")
def triu(x, diagonal=0):
    return np.triu(x, diagonal)


@aten("prod")
def prod(x, dim=None, keepdim=False, dtype=None):
    return x.prod(axis=dim, keepdims=keepdim)


@aten("any")
def any_(x, dim=None, keepdim=False):
    return x.astype(bool).any(axis=tuple(dim) if isinstance(dim, list) else dim, keepdims=keepdim)


@aten("all")
def all_(x, dim=None, keepdim=False):
    return x.astype(bool).all(axis=tuple(dim) if isinstance(dim, list) else dim, keepdims=keepdim)


@aten("sort")
def sort(x, dim=-1, descending=False):
    at = np.argsort(-x if descending else x, axis=dim, kind="stable")
    return np.take_along_axis(x, at, axis=dim), at


@aten("topk")
def topk(x, k, dim=-1, largest=True, sorted=True):
    values, at = sort(x, dim, largest)
    return values.take(range(k), axis=dim), at.take(range(k), axis=dim)
