"""The second derivative of the loss at the logits, in the three forms it comes in.

Each form answers for a batch of ``n`` rows with logits of shape ``(n, *shape)``; rows never mix,
so the Hessian is one ``(*shape, *shape)`` block a row. All of them give

- ``diagonal()``: the diagonal of that block, shaped like the logits;
- ``columns()``: blocks of columns ``s`` of shape ``(k, n, *shape)`` with signs (``None`` or ``(k,
n)``) such
  that the sum of ``sign * s s^T`` over all of them is the Hessian;
- ``sample(generator)``: one random column with the Hessian as its expected outer product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Columns = Iterator[tuple[Tensor, Tensor | None]]


@dataclass
class Categorical:
    """``scale * (diag(p) - p p^T)`` over dimension 1, one block a position.

    Its square root has C - 1 columns, ``s_j = sqrt(scale * p_j q_j / q_{j-1}) (e_j - r_j)``, where
    ``q_j`` is the sum of the probabilities after ``j`` and ``r_j = p / q_j`` their distribution.
    Nothing in it is a difference of nearly equal numbers, so in float32 a class near probability 1
    keeps its small curvature.
    """

    p: Tensor  # (n, C, *positions)
    scale: Tensor  # (n, *positions), >= 0

    @property
    def width(self) -> int:
        return (self.p.shape[1] - 1) * self.p[0, 0].numel()

    def others(self) -> Tensor:
        """1 - p of every class, as the sum of the others."""
        after = self.p.flip(1).cumsum(1).flip(1)
        before = self.p.cumsum(1)
        rest = torch.zeros_like(self.p)
        rest[:, :-1] += after[:, 1:]
        rest[:, 1:] += before[:, :-1]
        return rest

    def diagonal(self) -> Tensor:
        return self.scale.unsqueeze(1) * self.p * self.others()

    def columns(self, limit: int = 64) -> Columns:
        p, last = self.p, self.p.shape[1] - 1
        tail = p.flip(1).cumsum(1).flip(1)
        before, after = tail[:, :-1], tail[:, 1:]
        share = p[:, :-1] / torch.where(before > 0, before, 1.0)
        size = (self.scale.unsqueeze(1) * share * after).sqrt()
        fall = size / torch.where(after > 0, after, 1.0)
        size, fall = (t.transpose(0, 1).unsqueeze(2) for t in (size, fall))
        positions = p[0, 0].numel()
        whole = max(1, limit // positions)
        for start in range(0, last, whole):
            stop = min(last, start + whole)
            later = torch.ones(stop - start, p.shape[1], dtype=p.dtype, device=p.device)
            later = later.triu_(start + 1).view(-1, 1, p.shape[1], *[1] * (p.ndim - 2))
            block = (p * later).mul_(-fall[start:stop])
            block[:, :, start:stop].diagonal(dim1=0, dim2=2).copy_(
                size[start:stop].squeeze(2).movedim(0, -1)
            )
            if positions == 1:
                yield block, None
            else:
                yield from self.spread(block, max(1, limit // len(block)))

    def spread(self, block: Tensor, limit: int) -> Columns:
        """The columns of each position on their own, ``limit`` positions at a time."""
        flat = block.flatten(3)
        for start in range(0, flat.shape[3], limit):
            chosen = torch.arange(start, min(flat.shape[3], start + limit), device=flat.device)
            alone = flat.new_zeros(len(chosen), *flat.shape)
            at = torch.arange(len(chosen), device=flat.device)
            alone[at, ..., chosen] = flat[..., chosen].movedim(-1, 0)
            yield alone.flatten(0, 1).reshape(-1, *self.p.shape), None

    def sample(self, generator: torch.Generator) -> Tensor:
        shape = self.scale.shape
        u = torch.rand(shape, generator=generator, dtype=torch.float64).to(self.p.device)
        total = self.p.double().cumsum(1)
        drawn = (total < (u * total[:, -1]).unsqueeze(1)).sum(1).clamp_(max=self.p.shape[1] - 1)
        hot = torch.zeros_like(self.p).scatter_(1, drawn.unsqueeze(1), 1.0)
        column = torch.where(hot > 0, self.others(), -self.p)
        return (column * self.scale.sqrt().unsqueeze(1)).unsqueeze(0)


@dataclass
class Separable:
    """``diag(d)``: every element of the output has its own term in the loss."""

    d: Tensor  # (n, *shape), any sign

    @property
    def width(self) -> int:
        return self.d[0].numel()

    def diagonal(self) -> Tensor:
        return self.d

    def columns(self, limit: int = 64) -> Columns:
        flat = self.d.flatten(1) if self.d.ndim > 1 else self.d.unsqueeze(1)
        root = flat.abs().sqrt()
        negative = bool((flat < 0).any())
        for start in range(0, flat.shape[1], limit):
            part = root[:, start : start + limit]
            k = part.shape[1]
            block = flat.new_zeros(k, *flat.shape)
            block[:, :, start : start + k].diagonal(dim1=0, dim2=2).copy_(part)
            signs = flat[:, start : start + k].sign().T if negative else None
            yield block.reshape(k, *self.d.shape), signs

    def sample(self, generator: torch.Generator) -> Tensor:
        if (self.d < 0).any():
            raise ValueError(
                "the loss has negative second derivatives at the outputs, which have no sampled "
                "square root; "
                'use method="ggn"'
            )
        u = torch.rand(self.d.shape, generator=generator, dtype=torch.float64).to(self.d.device)
        return (self.d.sqrt() * torch.where(u < 0.5, -1.0, 1.0).to(self.d.dtype)).unsqueeze(0)


@dataclass
class Dense:
    """Any symmetric block ``H`` a row, over all elements of the row's output."""

    H: Tensor  # (n, D, D)
    shape: torch.Size  # of the logits

    @property
    def width(self) -> int:
        return self.H.shape[-1]

    def diagonal(self) -> Tensor:
        return self.H.diagonal(dim1=1, dim2=2).reshape(self.shape)

    def columns(self, limit: int = 64) -> Columns:
        values, vectors = torch.linalg.eigh(self.H)
        columns = (vectors * values.abs().sqrt().unsqueeze(1)).permute(2, 0, 1)
        signs = values.sign().T if (values < 0).any() else None
        for start in range(0, len(columns), limit):
            part = slice(start, start + limit)
            yield columns[part].reshape(-1, *self.shape), None if signs is None else signs[part]

    def sample(self, generator: torch.Generator) -> Tensor:
        values, vectors = torch.linalg.eigh(self.H)
        slack = 100 * torch.finfo(values.dtype).eps * values.abs().amax(1, keepdim=True)
        if (values < -slack).any():
            raise ValueError(
                "the loss is not convex in the outputs, so it has no sampled square root; "
                'use method="ggn"'
            )
        u = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values.device)
        signs = torch.where(u < 0.5, -1.0, 1.0).to(values.dtype)
        column = (vectors @ (signs * values.clamp(min=0).sqrt()).unsqueeze(2)).squeeze(2)
        return column.reshape(1, *self.shape)


@dataclass
class One:
    """``s s^T``: a single column."""

    s: Tensor

    def diagonal(self) -> Tensor:
        return self.s.square()

    def columns(self, limit: int = 64) -> Columns:
        yield self.s.unsqueeze(0).clone(), None


Form = Categorical | Separable | Dense | One


def scaled(form: Form, weight: Tensor) -> Form:
    """The form with each row's block times ``weight`` (n,)."""

    def times(tensor: Tensor) -> Tensor:
        return tensor * weight.to(tensor.dtype).reshape(-1, *[1] * (tensor.ndim - 1))

    if isinstance(form, Categorical):
        return Categorical(form.p, times(form.scale))
    if isinstance(form, Separable):
        return Separable(times(form.d))
    return Dense(times(form.H), form.shape)
