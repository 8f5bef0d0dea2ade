"""What autograd's graph says about a computation: its leaves, its operations, its max pools.

Nodes are named as torch prints them, without "Backward0" and without a dimension such as "2D".
A table that lacks a name costs time only: the map is then probed with numbers, or a route is taken
that asks for less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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

#: Operations of two numbers, one of each input. They are elementwise where no input is broadcast.
PAIRWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Where", "Maximum", "Minimum"})

#: Operations that are piecewise linear in each input, the others held fixed.
PIECEWISE_LINEAR = (
    VIEWS
    | {"Addmm", "Mm", "Bmm", "Baddbmm", "Addbmm", "Linear", "Embedding"}
    | {"Convolution", "MkldnnConvolution", "CudnnConvolution"}
    | {"Relu", "LeakyRelu", "Hardtanh", "Threshold", "Clamp"}
    | {"Add", "Sub", "Neg", "Mul", "Div", "Where", "Mean", "Sum", "Max", "Amax"}
    | {"MaxPoolWithIndices", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool"}
    | {"T", "Transpose", "Permute", "Expand", "AsStrided", "Flip", "Roll", "Index"}
    | {"Cat", "Stack", "Split", "SplitWithSizes", "Unbind", "Slice", "Select"}
    | {"ConstantPadNd", "ReflectionPad", "ReplicationPad", "UpsampleNearest"}
)

#: Batch norms, which are linear in eval mode.
BATCH_NORMS = frozenset({"NativeBatchNorm", "CudnnBatchNorm"})

#: The two inputs of these operations that are multiplied with each other, by their place.
FACTORS = {
    **dict.fromkeys(("Mul", "Mm", "Bmm", "Linear", *BATCH_NORMS), (0, 1)),
    **dict.fromkeys(("Convolution", "MkldnnConvolution", "CudnnConvolution"), (0, 1)),
    **dict.fromkeys(("Addmm", "Baddbmm", "Addbmm"), (1, 2)),
}


def plain_name(node: Node) -> str:
    """Name of an operation without what torch adds to it.

    ``"AddmmBackward0"`` -> ``"Addmm"``, ``"MaxPool2DWithIndicesBackward0"`` ->
    ``"MaxPoolWithIndices"``.
    """
    return re.sub(r"Backward\d*$|\dD", "", node.name()).replace("_", "")


def is_leaf(node: Node) -> bool:
    """Whether the node stands for a leaf, such as a parameter, and not for an operation."""
    return hasattr(node, "variable")


def leaf_of(node: Any) -> Tensor:
    """The leaf that a node stands for."""
    return node.variable


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
    found: dict[Tensor, int] = {}
    stack: list[Any] = [tensor.grad_fn]
    seen = set(stack)
    while stack:
        for after, _ in stack.pop().next_functions:
            if after is None:
                continue
            if hasattr(after, "variable"):
                found[after.variable] = found.get(after.variable, 0) + 1
            elif after not in seen:
                seen.add(after)
                stack.append(after)
    return found


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
    """Whether only operations known to be elementwise lie behind the tensor.

    None of them makes fewer numbers of its inputs, and broadcasting an input makes more. So where
    each leaf has as many numbers as the tensor, nothing has been broadcast.
    """
    assert tensor.grad_fn is not None
    for node in nodes(tensor.grad_fn):
        if is_leaf(node):
            if leaf_of(node).numel() != tensor.numel():
                return False
        elif plain_name(node) not in ELEMENTWISE and plain_name(node) not in PAIRWISE:
            return False
    return True


def piecewise_linear(
    tensor: Tensor, tops: Iterable[tuple[str, ...]] = (), dimension: int = 1
) -> bool:
    """Whether the tensor is piecewise linear in every leaf, the other leaves held fixed.

    Where two things are multiplied, they must not depend on the same leaf. The last operations are
    skipped where they are one of ``tops``, a sequence of names beginning with the last; those that
    go over a dimension must go over ``dimension``.
    """
    start = below(tensor, tops, dimension)
    if start is None:
        return True
    behind: dict[Node, int] = {}  # which leaves: a bit for each
    bits = 0
    for node in inputs_first(start):
        if is_leaf(node):
            behind[node], bits = 1 << bits, bits + 1
            continue
        reads = [0 if before is None else behind[before] for before, _ in node.next_functions]
        if not linear_step(node, reads):
            return False
        behind[node] = 0
        for leaf in reads:
            behind[node] |= leaf
    return True


def below(tensor: Tensor, tops: Iterable[tuple[str, ...]], dimension: int) -> Node | None:
    """The last node of the tensor's graph, or the one below the first of ``tops`` that fits."""
    for top in tops:
        node: Any = tensor.grad_fn
        for name in top:
            fits = node is not None and not is_leaf(node) and plain_name(node) == name
            if not fits or saved_dimension(node, tensor.ndim) not in (None, dimension):
                break
            node = node.next_functions[0][0]
        else:
            return node
    return tensor.grad_fn


def saved_dimension(node: Any, ndim: int) -> int | None:
    """The dimension that an operation such as softmax goes over, of ``ndim``; None for others."""
    dimension = getattr(node, "_saved_dim", None)
    if not isinstance(dimension, int) or not ndim:
        return None
    # torch keeps -1 as an unsigned number.
    return (dimension - 2**64 if dimension > 2**63 else dimension) % ndim


def inputs_first(start: Node) -> Iterator[Node]:
    """The node ``start`` and every node behind it, each once and after all that it reads."""
    stack: list[tuple[Any, bool]] = [(start, False)]
    seen = set()
    while stack:
        node, read = stack.pop()
        if read:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((before, False) for before, _ in node.next_functions if before is not None)


def linear_step(node: Any, reads: list[int]) -> bool:
    """Whether an operation is piecewise linear in every leaf.

    ``reads`` are the leaves, as bits, that each of its inputs depends on.
    """
    name = plain_name(node)
    if name in BATCH_NORMS:
        if node._saved_training:
            return False
    elif name not in PIECEWISE_LINEAR:
        return False
    if name == "Div":
        return not any(reads[1:])
    if name not in FACTORS:
        return True
    one, two = FACTORS[name]
    # A number in a tensor's place is not among what was read.
    return two >= len(reads) or not reads[one] & reads[two]
