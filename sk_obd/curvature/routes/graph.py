"""What autograd's graph says about a computation: its leaves, its operations, its max pools.

Nodes are named as torch prints them, without "Backward0" and without a dimension such as "2D".
A table that lacks a name costs time only: the map is then probed with numbers, or a route is taken
that asks for less.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

#: Operations that only give numbers another shape.
VIEWS = frozenset({"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Clone", "Alias"})

#: Operations whose slope is 0 or 1.
SWITCHES = VIEWS | {"Relu"}

#: Operations in which every number of the output depends on one number of the input.
ELEMENTWISE = (
    VIEWS
    | {"Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "Mish", "Softplus"}
    | {"Tanh", "Sigmoid", "LogSigmoid", "Hardtanh", "Hardswish", "Hardsigmoid"}
    | {"Threshold", "Softshrink", "Hardshrink"}
    | {"Exp", "Log", "Sqrt", "Sin", "Cos", "Abs", "Neg", "Clamp"}
)

#: Operations that are piecewise linear in each input, the others held fixed.
PIECEWISE_LINEAR = (
    VIEWS
    | {"Addmm", "Mm", "Bmm", "Baddbmm", "Addbmm", "Linear", "Embedding"}
    | {"Convolution", "MkldnnConvolution", "CudnnConvolution"}
    | {"Relu", "LeakyRelu", "Hardtanh", "Threshold", "Clamp"}
    | {"Add", "Sub", "Neg", "Mean", "Sum", "Max", "Amax"}
    | {"MaxPoolWithIndices", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool"}
    | {"T", "Transpose", "Permute", "Expand", "AsStrided", "Flip", "Roll", "Index"}
    | {"Cat", "Stack", "Split", "SplitWithSizes", "Unbind", "Slice", "Select"}
    | {"ConstantPadNd", "ReflectionPad", "ReplicationPad", "UpsampleNearest"}
)

#: Batch norms, which are linear in eval mode.
BATCH_NORMS = frozenset({"NativeBatchNorm", "CudnnBatchNorm"})


def plain_name(node: Node) -> str:
    """Name of an operation without what torch adds to it.

    ``"AddmmBackward0"`` -> ``"Addmm"``, ``"MaxPool2DWithIndicesBackward0"`` ->
    ``"MaxPoolWithIndices"``.
    """
    return re.sub(r"Backward\d*$|\dD", "", node.name()).replace("_", "")


def is_leaf(node: Node) -> bool:
    """Whether the node stands for a leaf, such as a parameter, and not for an operation."""
    return hasattr(node, "variable")


def nodes(start: Node) -> Iterator[Node]:
    """The node ``start`` and every node behind it, each once."""
    stack = [start]
    seen = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                stack.append(after)


def leaves(tensor: Tensor) -> dict[Tensor, int]:
    """The leaves a tensor depends on, each with the number of edges into it."""
    if tensor.grad_fn is None:
        return {tensor: 1} if tensor.requires_grad else {}
    edges: Counter[Any] = Counter(
        after
        for node in nodes(tensor.grad_fn)
        for after, _ in node.next_functions
        if after is not None and is_leaf(after)
    )
    return {node.variable: count for node, count in edges.items()}


def path_between(z: Tensor, x: Tensor) -> list[Node] | None:
    """The nodes from x back to the leaf z; None if any of them has several inputs."""
    node: Any = x.grad_fn
    found: list[Node] = []
    while node is not None and not is_leaf(node):
        found.append(node)
        behind = [before for before, _ in node.next_functions if before is not None]
        node = behind[0] if len(behind) == 1 else None
    return None if node is None or node.variable is not z else found


# -- max pools, by what torch saved of them; it has no public names for that -----------------------


def is_max_pool(node: Node) -> bool:
    """Whether the node is a max pool that knows which numbers it passed on."""
    return plain_name(node) == "MaxPoolWithIndices"


def pooled_from(pool: Any) -> tuple[Tensor, Tensor]:
    """What a max pool read, and the position in its plane of each number that it passed on."""
    return pool._saved_self, pool._saved_result1


def windows_apart(pool: Any) -> bool:
    """Whether no two windows of a max pool overlap."""
    kernel = pool._saved_kernel_size
    stride = pool._saved_stride or kernel
    return all(d == 1 for d in pool._saved_dilation) and all(
        k <= s for k, s in zip(kernel, stride, strict=True)
    )


# -- what kind of map it is ------------------------------------------------------------------------


def elementwise(tensor: Tensor) -> bool:
    """Whether only operations known to be elementwise lie behind the tensor."""
    assert tensor.grad_fn is not None
    return all(is_leaf(node) or plain_name(node) in ELEMENTWISE for node in nodes(tensor.grad_fn))


def piecewise_linear(tensor: Tensor, harmless_top: frozenset[str] = frozenset()) -> bool:
    """Whether the tensor is piecewise linear in every leaf that is used once.

    Its last operations are skipped as long as they are named in ``harmless_top``.
    """
    start = tensor.grad_fn
    while start is not None and plain_name(start) in harmless_top:
        start = start.next_functions[0][0]
    return start is None or all(map(linear_step, nodes(start)))


def linear_step(node: Any) -> bool:
    """Whether the node is a leaf or an operation that is piecewise linear."""
    if is_leaf(node):
        return True
    if plain_name(node) in BATCH_NORMS:
        return not node._saved_training
    return plain_name(node) in PIECEWISE_LINEAR
