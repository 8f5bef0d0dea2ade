"""What autograd's graph says about a computation: its leaves, its operations, how often a leaf is
used.
"""

from __future__ import annotations

import re
from collections import Counter

import torch
from torch import Tensor

VIEWS = frozenset(["View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Clone", "Alias"])
#: Operations whose slope is 0 or 1.
SWITCHES = VIEWS | {"Relu"}

ELEMENTWISE = VIEWS | frozenset(
    [
        "Relu",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Celu",
        "Gelu",
        "Silu",
        "Mish",
        "Tanh",
        "Sigmoid",
        "Softplus",
        "LogSigmoid",
        "Hardtanh",
        "Hardswish",
        "Hardsigmoid",
        "Threshold",
        "Softshrink",
        "Hardshrink",
        "Exp",
        "Log",
        "Sqrt",
        "Sin",
        "Cos",
        "Abs",
        "Neg",
        "Clamp",
    ]
)
PIECEWISE_LINEAR = frozenset(
    "Addmm Mm Bmm Baddbmm Linear T Transpose Permute View UnsafeView "
    "ReshapeAlias Squeeze "
    "Unsqueeze Clone Alias Relu LeakyRelu Hardtanh Threshold Clamp Add Sub Neg Convolution "
    "MaxPoolWithIndices "
    "AvgPool AdaptiveAvgPool AdaptiveMaxPool Mean Sum Cat Stack Split Slice Select Expand "
    "Constantpad "
    "Embedding Dropout Amax Max Index AsStrided  Chunk Unbind Flip Roll "
    "ReflectionPad ReplicationPad UpsampleNearest ThAddmm Addbmm MkldnnConvolution "
    "CudnnConvolution "
    "SplitWithSizes".lower().split()
)


ONCE = ("torch::autograd::Error", "Error")


def plain_name(node) -> str:
    """``"AddmmBackward0"`` -> ``"Addmm"``, ``"MaxPool2DWithIndicesBackward0"`` ->
    ``"MaxPoolWithIndices"``.
    """
    return re.sub(r"Backward\d*$", "", node.name()).replace("_", "")


def nodes(start):
    """The node ``start`` and every node behind it, once."""
    stack = [start]
    seen = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                stack.append(after)


def refuse_once_differentiable(tensors) -> None:
    """RuntimeError where derivatives came from a function that can be differentiated once.

    torch marks such a function's derivative by a node that raises when it is reached, but
    ``autograd.grad`` does not reach it, and leaves its part out.
    """
    for tensor in tensors:
        if tensor is None or tensor.grad_fn is None:
            continue
        if any(node.name() in ONCE for node in nodes(tensor.grad_fn)):
            raise RuntimeError(
                "the network holds a function marked once_differentiable, which has no second "
                "derivative"
            )


def refuse_once_differentiable_map(z: Tensor, x: Tensor) -> None:
    """The same for a map z -> x. Its derivative must depend on something for torch to mark it."""
    marked = torch.ones_like(x, requires_grad=True)
    refuse_once_differentiable(
        torch.autograd.grad(x, z, marked, create_graph=True, allow_unused=True)
    )


def leaves(tensor: Tensor) -> dict[Tensor, int]:
    """The leaves a tensor depends on, each with the number of edges into it."""
    if tensor.grad_fn is None:
        return {tensor: 1} if tensor.requires_grad else {}
    edges = Counter(
        after
        for node in nodes(tensor.grad_fn)
        for after, _ in node.next_functions
        if after is not None and hasattr(after, "variable")
    )
    return {node.variable: count for node, count in edges.items()}


def line(z: Tensor, x: Tensor) -> list | None:
    """The operations from x back to z, where each has but one before it."""
    node, found = x.grad_fn, []
    while node is not None and not hasattr(node, "variable"):
        found.append(node)
        behind = [before for before, _ in node.next_functions if before is not None]
        node = behind[0] if len(behind) == 1 else None
    return None if node is None or node.variable is not z else found


def is_max_pool(node) -> bool:
    return plain_name(node).startswith("MaxPool") and plain_name(node).endswith("WithIndices")


def chosen_by(pool) -> tuple[Tensor, Tensor]:
    """What a max pool read, and the position in its plane of each number it chose.

    torch has no public name for what an operation saved.
    """
    return pool._saved_self, pool._saved_result1


def windows_apart(pool) -> bool:
    """Whether no two windows of a max pool overlap (by what torch saved, as above)."""
    kernel = pool._saved_kernel_size
    stride = pool._saved_stride or kernel
    return all(d == 1 for d in pool._saved_dilation) and all(
        k <= s for k, s in zip(kernel, stride, strict=True)
    )


def elementwise(tensor: Tensor) -> bool:
    """Whether only operations known to be elementwise lie behind the tensor."""
    behind = nodes(tensor.grad_fn)
    return all(hasattr(n, "variable") or plain_name(n) in ELEMENTWISE for n in behind)


def piecewise_linear(tensor: Tensor, top: frozenset[str] = frozenset()) -> bool:
    """Whether the tensor, before operations named in ``top``, is piecewise linear in every leaf
    used once.
    """
    start = tensor.grad_fn
    while start is not None and plain_name(start) in top:
        start = start.next_functions[0][0]
    return start is None or all(map(linear_step, nodes(start)))


def linear_step(node) -> bool:
    if hasattr(node, "variable"):
        return True
    name = re.sub(r"\dd", "", plain_name(node).lower())
    if name in ("nativebatchnorm", "cudnnbatchnorm"):
        return not node._saved_training
    return name in PIECEWISE_LINEAR
