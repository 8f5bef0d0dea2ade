"""Each counterpart in NumPy gives what torch's operation of that name gives for the arguments."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from sk_obd.export import numpy_file
from sk_obd.export.aten import COUNTERPARTS

assert numpy_file  # whose import registers all

draw = torch.Generator().manual_seed(0)


def some(*shape):
    """Normal numbers."""
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


x, y, square = some(3, 4, 5), some(3, 4, 5), some(3, 4, 4)
m, v, c, positive = some(4, 5), some(5), some(4), some(4).abs() + 0.2
line, image, volume = some(3, 4, 9), some(3, 4, 7, 6), some(2, 4, 5, 6, 4)
yes, no = x > 0, y > 0.3
i = torch.tensor([2, 0, 2])
order = x.argsort(1)
numbers = torch.tensor([[-7, 7, 3], [-2, 5, 4]])


def recurrent(gates, states, layers=1, both=False, biased=True, first=True, projected=0):
    """Arguments of a recurrent layer of 5 inputs and 3 units."""
    n, ways, out = 3, 2 if both else 1, projected or 3
    params = []
    for k in range(layers):
        for _ in range(ways):
            params += [some(gates * 3, 5 if k == 0 else out * ways), some(gates * 3, out)]
            params += [some(gates * 3), some(gates * 3)] if biased else []
            params += [some(projected, 3)] if projected else []
    h = [some(layers * ways, n if first else 4, s) for s in (out, 3)[:states]]
    hx = h if states == 2 else h[0]
    rows = some(3, 4, 5) if first else some(6, 4, 5)
    return (rows, hx, params, biased, layers, 0.0, False, both, first)


def every_recurrent(gates, states=1):
    return [
        recurrent(gates, states),
        recurrent(gates, states, layers=2, both=True),
        recurrent(gates, states, biased=False, first=False),
    ]


PLAIN = (
    "abs",
    "asinh",
    "atan",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "isfinite",
    "isinf",
    "isnan",
    "neg",
    "reciprocal",
    "sign",
    "sin",
    "sinh",
    "square",
    "tan",
    "tanh",
    "trunc",
    "relu",
    "relu6",
    "sigmoid",
    "log_sigmoid",
    "silu",
    "mish",
    "selu",
    "hardsigmoid",
    "hardswish",
    "clone",
    "alias",
    "detach",
    "lift_fresh_copy",
    "contiguous",
    "numpy_T",
)
OF_POSITIVE = ("log", "log10", "log1p", "log2", "sqrt", "rsqrt", "lgamma")
OF_TWO = (
    "atan2",
    "copysign",
    "eq",
    "fmod",
    "ge",
    "gt",
    "hypot",
    "le",
    "logaddexp",
    "logical_and",
    "logical_or",
    "logical_xor",
    "lt",
    "maximum",
    "minimum",
    "mul",
    "ne",
    "remainder",
    "floor_divide",
)
DROPPED = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")

#: By name in COUNTERPARTS: (positional arguments, or a dict of keyword arguments at their end).
CASES = {
    **{name: [(x,)] for name in PLAIN},
    **{name: [(x.abs() + 0.1,)] for name in OF_POSITIVE},
    **{name: [(x, y)] for name in OF_TWO},
    **{name: [(x, 0.5, False)] for name in DROPPED},
    "acos": [(x.tanh(),)],
    "acosh": [(x.abs() + 1.1,)],
    "asin": [(x.tanh(),)],
    "atanh": [(x.tanh(),)],
    "bitwise_and": [(yes, no), (numbers, 3)],
    "bitwise_not": [(yes,), (numbers,)],
    "bitwise_or": [(yes, no)],
    "bitwise_xor": [(yes, no)],
    "logical_not": [(yes,), (x,)],
    "add": [(x, y), (x, 2, {"alpha": 3}), (numbers, numbers)],
    "sub": [(x, y), (x, y, {"alpha": 3})],
    "rsub": [(x, y), (x, 1, {"alpha": 3})],
    "div": [
        (x, y),
        (x, 3),
        (x, 0.3, {"rounding_mode": "floor"}),
        (x, 0.3, {"rounding_mode": "trunc"}),
        (numbers, 2, {"rounding_mode": "trunc"}),
        (numbers, 2, {"rounding_mode": "floor"}),
    ],
    "pow": [(x, 3), (x.abs(), y), (2, x), (x.abs(), 0.5)],
    "round": [(x,), (x, {"decimals": 1})],
    "clamp": [(x, -0.3), (x, None, 0.4), (x, -0.3, 0.4), (x, y, y + 1)],
    "clamp_min": [(x, 0.1), (x, y)],
    "clamp_max": [(x, 0.1), (x, y)],
    "where.self": [(yes, x, y)],
    "where.ScalarOther": [(yes, x, 2.0)],
    "where.ScalarSelf": [(yes, 1.0, x)],
    "masked_fill": [(x, yes, 2.0), (x, yes, torch.tensor(3.0))],
    "hardtanh": [(x,), (x, -0.5, 0.7)],
    "gelu": [(x,), (x, {"approximate": "tanh"})],
    "softplus": [(x,), (x, 2, 1), (20 * x,)],
    "leaky_relu": [(x,), (x, 0.3)],
    "rrelu": [(x,), (x, 0.1, 0.5, False)],
    "prelu": [(x, c), (x, c[:1]), (m, v)],
    "elu": [(x,), (x, 2), (x, 2, 3, 0.5)],
    "celu": [(x,), (x, 2.0)],
    "threshold": [(x, 0.1, -0.3), (x, 0.1, 2)],
    "hardshrink": [(x,), (x, 0.2)],
    "softshrink": [(x,), (x, 0.2)],
    "softmax": [(x, 1), (100 * x, -1)],
    "_softmax": [(x, 1, False)],
    "log_softmax": [(x, 1), (100 * x, -1)],
    "_log_softmax": [(x, 1, False)],
    # Shapes.
    "_to_copy": [(x, {"dtype": torch.float32}), (x,), (yes, {"dtype": torch.int64})],
    "flatten": [(image,), (image, 1), (image, 1, -2)],
    "unflatten": [(x, 1, [2, 2]), (x, -2, [4, 1])],
    "reshape": [(x, [3, -1])],
    "view": [(x, [3, -1])],
    "_unsafe_view": [(x, [3, -1])],
    "squeeze": [(x[:, :1],), (x[:, :1], 1), (x[:, :1], 2), (x[:1, :1], [0, 1, 2])],
    "unsqueeze": [(x, 1), (x, -1)],
    "permute": [(x, [2, 0, 1])],
    "transpose": [(x, 0, -1)],
    "t": [(m,)],
    "mT": [(x,)],
    "expand": [(x[:, :1], [3, 4, -1]), (v, [2, 5])],
    "repeat": [(x, [1, 2, 3]), (v, [2, 1, 2])],
    "flip": [(x, [1, 2])],
    "roll": [(x, [1, -2], [1, 2]), (x, [3])],
    "cat": [([x, y],), ([x, y], 1), ([x, y], -1)],
    "stack": [([x, y],), ([x, y], -1)],
    "split.Tensor": [(x, 2), (x, 2, 1), (x, 3, -1), (x, 9, 1)],
    "split_with_sizes": [(x, [1, 3], 1)],
    "unbind": [(x,), (x, -1)],
    "select": [(x, 1, 2), (x, -1, -2)],
    "slice": [(x,), (x, 1, 1), (x, 2, -3, -1), (x, 1, 0, 2**63 - 1, 2)],
    "index_select": [(x, 1, i)],
    "index": [(x, [None, i]), (x, [i, None, i]), (x, [yes])],
    "gather": [(x, 1, order[:, :2]), (x, -1, order[:2, :3] % 3)],
    "slice_scatter": [(x, y[:, 1:3], 1, 1, 3), (x, y[:, ::2], 1, 0, 4, 2)],
    "select_scatter": [(x, y[:, 0], 1, 2)],
    "index_put": [(x, [None, i[:2]], y[:, :2]), (x, [i], y[:, :1], True), (x, [yes], y[0, 0, 0])],
    "scatter.src": [(x, 1, order, y), (x, -2, order[:2, :3, 1:], y)],
    "scatter.value": [(x, 1, order[:, :2], 3.0)],
    "diagonal": [(x, 1, 1, 2), (x,)],
    "unfold": [(x, 2, 3, 1), (x, -2, 2, 2)],
    "tril": [(x,), (x, 1)],
    "triu": [(x,), (x, -1)],
    "sym_size.int": [(x, 1)],
    "full": [([2, 3], 1.5, {"dtype": torch.float64}), ([2], 3)],
    "zeros": [([2, 3], {"dtype": torch.int64}), ([2],)],
    "ones": [([2, 3], {"dtype": torch.bool}), ([2],)],
    "full_like": [(x, 2), (x, True, {"dtype": torch.bool})],
    "scalar_tensor": [(2.5, {"dtype": torch.float64}), (1,)],
    "arange": [(4,), (1, 5), (0, 8, 3), (3, {"dtype": torch.float64})],
    "copy": [(x, v), (x, numbers[0, 0])],
    # Reductions.
    "mean": [(x,), (x, [1]), (x, [1, 2], True)],
    "sum": [(x,), (x, [1]), (x, [-1], True), (yes, [1])],
    "prod": [(x,), (x, 1), (x, -1, True)],
    "amax": [(x,), (x, [1]), (x, [1, 2], True)],
    "amin": [(x,), (x, [1]), (x, [1, 2], True)],
    "any": [(no,), (no, 1), (no, [1, 2], True)],
    "all": [(no,), (no, 1), (no, [1, 2], True)],
    "var.correction": [(x,), (x, [1]), (x, [1, 2], {"correction": 0, "keepdim": True})],
    "var_mean.correction": [(x, [1]), (x, [1], {"correction": 0, "keepdim": True})],
    "linalg_vector_norm": [
        *((x, p, [1]) for p in (1, 2, 3, 0, float("inf"), -float("inf"))),
        (x, 2, None, True),
    ],
    "logsumexp": [(x, [1]), (100 * x, [1, 2], True)],
    "_cdist_forward": [(x, y[:, :3], p, None) for p in (1.0, 2.0, 3.0)],
    "cumsum": [(x, 1)],
    "cumprod": [(x, -1)],
    "argmax": [(x,), (x, 1), (x, -1, True)],
    "argmin": [(x,), (x, 1), (x, -1, True)],
    "max.default": [(x,)],
    "max.dim": [(x, 1), (x, -1, True)],
    "min.default": [(x,)],
    "min.dim": [(x, 1), (x, -1, True)],
    "sort": [(x,), (x, 1, True)],
    "topk": [(x, 2), (x, 3, 1, False)],
    "bucketize.Tensor": [(x, v.sort()[0]), (v, v.sort()[0], {"right": True})],
    "matmul": [(x, m.T), (m, v), (v, v), (x, y.mT)],
    "mm.default": [(m, m.T)],
    "bmm.default": [(x, y.mT)],
    "mv": [(m, v)],
    "dot": [(v, v)],
    "addmm.default": [(m, square[0], m), (m, square[0], m, {"beta": 2, "alpha": 3})],
    "baddbmm.default": [(x, square, y, {"beta": 2, "alpha": 3})],
    "addmv": [(c, m, v, {"beta": 2})],
    "einsum.default": [("nij, nkj -> nik", [x, y]), ("...i,ji", [x, m]), ("nii->n", [square])],
    # Layers.
    "linear": [(x, m, c), (x, m)],
    "bilinear": [(m, m, some(2, 5, 5), some(2)), (x, y, some(2, 5, 5))],
    "embedding": [(m, i), (m, numbers % 4, 0)],
    "_native_batch_norm_legit_no_training": [
        (image, c, c, c, positive, 0.1, 1e-3),
        (x, None, c, c, positive, 0.1, 1e-3),
        (m, None, None, v, v.abs(), 0.1, 1e-5),
    ],
    "_native_batch_norm_legit.no_stats": [(image, c, c, True, 0.1, 1e-3)],
    "group_norm": [(image, 2, c, c), (x, 4), (x[..., 0], 2, None, None, 1e-2)],
    "instance_norm": [
        (image, c, c, None, None, True, 0.1, 1e-5, False),
        (x, None, None, c, positive, False, 0.1, 1e-5, False),
    ],
    "layer_norm": [(x, [5], v, v), (x, [4, 5]), (x, [5], v, None, 1e-2)],
    "rms_norm": [(x, [5], v), (x, [4, 5]), (x, [5], None, 1e-2)],
    "scaled_dot_product_attention": [
        (x, y, y),
        (x, y, y, {"scale": 0.3}),
        (x, y, y, None, 0.0, True),
        (x, y[:, :3], y[:, :3], square[:, :, :3]),
        (x, y, y, square > 0.5),
        (some(2, 4, 3, 5), some(2, 2, 3, 5), some(2, 2, 3, 5), {"enable_gqa": True}),
    ],
    "lstm": [*every_recurrent(4, 2), recurrent(4, 2, layers=2, projected=2)],
    "gru": every_recurrent(3),
    "rnn_tanh": every_recurrent(1),
    "rnn_relu": every_recurrent(1),
    # Convolutions, pads, pools and resizing.
    "conv1d": [
        (line, some(6, 4, 3), some(6), [2], [1], [2]),
        (line, some(6, 2, 2), None, [1], "same", [2], 2),
        (line, some(6, 4, 2), None, [1], "valid"),
    ],
    "conv2d": [(image, some(2, 4, 3, 2), some(2), [2, 1], [1, 0], [1, 2])],
    "conv3d": [(volume, some(4, 1, 2, 3, 1), some(4), [1], [1], [1], 4)],
    "conv_transpose1d": [(line, some(4, 3, 3), some(6), [2], [1], [1], 2)],
    "conv_transpose2d": [
        (image, some(4, 2, 3, 2), some(2), [2, 1], [1, 0]),
        (image, some(4, 2, 2, 2), None, [1], [3], [1], 1, [2]),
    ],
    "conv_transpose3d": [(volume, some(4, 2, 2, 1, 3))],
    "constant_pad_nd": [(image, [1, 2]), (image, [0, 1, -1, 2], 0.5)],
    "pad": [
        (image, [1, 2, 0, 1], mode, *value)
        for mode, value in (
            *(("constant", (0.3,)), ("constant", ()), ("reflect", ())),
            *(("replicate", ()), ("circular", ())),
        )
    ]
    + [(line, [-1, 2]), (line, [2, -3, 1, 0])],
    "max_pool1d": [(line, [2]), (line, [3], [2], [1], [2], True)],
    "max_pool2d": [(image, [2]), (image, [3, 2], [1, 2], [1, 0], [2, 1]), (image, [3], [2], [1])],
    "max_pool3d": [(volume, [2], [2], [1], [1], True)],
    "avg_pool1d": [(line, [2]), (line, [3], [2], [1], True, False)],
    "avg_pool2d": [
        (image, [3, 2], [], [1], True),
        (image, [3], [2], [1], True, False),
        (image, [2], [], [0], False, True, 3),
    ],
    "avg_pool3d": [(volume, [2]), (volume, [3], [2], [1], True), (volume, [2, 3, 1], [1])],
    "adaptive_avg_pool1d": [(line, [4])],
    "adaptive_avg_pool2d": [(image, [3, 4])],
    "adaptive_avg_pool3d": [(volume, [1, 4, 3])],
    "adaptive_max_pool1d": [(line, [4])],
    "adaptive_max_pool2d": [(image, [3, 4])],
    "adaptive_max_pool3d": [(volume, [1, 4, 3])],
    **{
        f"{name}{d}d.vec": [(t, size, None), (t, None, [1.7] * d), (t, None, [2.0] * d)]
        for name in ("upsample_nearest", "_upsample_nearest_exact")
        for d, t, size in ((1, line, [7]), (2, image, [3, 9]), (3, volume, [2, 3, 7]))
    },
    **{
        f"upsample_{name}.vec": [
            (t, s, align, f)
            for align in (True, False)
            for s, f in ((size, None), (None, [1.7] * len(size)), ([1] * len(size), None))
        ]
        for name, t, size in (
            *(("linear1d", line, [7]), ("bilinear2d", image, [3, 9])),
            ("trilinear3d", volume, [2, 3, 7]),
        )
    },
}

#: Arguments of torch that have no meaning in NumPy.
IGNORED = {"layout", "device", "pin_memory", "memory_format", "non_blocking", "out_int32"}


def as_numpy(value):
    """An argument as the written program gives it."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, torch.dtype):
        return getattr(np, str(value).removeprefix("torch."))
    return [as_numpy(v) for v in value] if isinstance(value, list) else value


def test_every_counterpart_is_tried():
    assert set(CASES) == set(COUNTERPARTS)


@pytest.mark.parametrize("name", CASES)
def test_a_counterpart_gives_what_torch_gives(name):
    packet, _, overload = name.partition(".")
    operation = getattr(torch.ops.aten, packet)
    operation = getattr(operation, overload) if overload else operation
    for case in CASES[name]:
        args, kwargs = (case[:-1], case[-1]) if isinstance(case[-1], dict) else (case, {})
        before = as_numpy([*args])
        found = COUNTERPARTS[name](*before, **{k: as_numpy(v) for k, v in kwargs.items()})
        expected = operation(*args, **kwargs)
        if not isinstance(expected, tuple | list):
            found, expected = [found], [expected]
        assert isinstance(found, tuple | list)
        # Some of torch's have further results, which nothing reads.
        for f, e in zip(found, expected, strict=False):
            np.testing.assert_allclose(f, np.asarray(e), rtol=1e-12, atol=1e-12, err_msg=str(args))


@pytest.mark.parametrize("name", [n for n, f in COUNTERPARTS.items() if inspect.isfunction(f)])
def test_a_counterpart_takes_all_arguments_of_torchs_operation(name):
    """Programs leave out arguments that have torch's default value."""
    packet, _, overload = name.partition(".")
    operation = getattr(torch.ops.aten, packet)
    signature = inspect.signature(COUNTERPARTS[name])
    for each in [overload] if overload else operation.overloads():
        schema = getattr(operation, each)._schema
        first = schema.arguments[0].type.isSubtypeOf(torch._C.TensorType.get())
        if not first or any(a.is_out for a in schema.arguments) or "Dimname" in str(schema):
            continue
        positional = [a for a in schema.arguments if not a.kwarg_only]
        keywords = [a.name for a in schema.arguments if a.kwarg_only and a.name not in IGNORED]
        required = [a for a in positional if not a.has_default_value()]
        signature.bind(*required)
        signature.bind(*positional, **dict.fromkeys(keywords))
