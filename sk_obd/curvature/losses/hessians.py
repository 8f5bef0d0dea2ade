"""The second derivative of the loss by the logits, in the four forms in which it comes.

The logits are ``(n, *shape)``. Rows never mix, so the Hessian is one block ``(*shape, *shape)`` for
each row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: Columns made at a time. Enough for wide matrix products; a loss over a thousand classes has
#: a thousand columns as large as the logits, which need not be there together.
COLUMNS_AT_ONCE = 64

#: Blocks of columns ``S`` (k, n, *shape) with their signs (k, n), or None where all are +1.
Columns = Iterator[tuple[Tensor, Tensor | None]]


class Form(ABC):
    """The Hessian of each row's loss by its logits, known in one of several forms."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """Diagonal of every row's block, (n, *shape)."""

    @abstractmethod
    def columns(self, limit: int = COLUMNS_AT_ONCE) -> Columns:
        """Blocks of at most ``limit`` columns s; all ``sign * s s^T`` add up to the Hessian."""

    @abstractmethod
    def product(self, v: Tensor) -> Tensor:
        """Product of every row's block and the row's part of ``v``, both (n, *shape)."""

    @abstractmethod
    def sample(self, generator: torch.Generator) -> Tensor:
        """One column (1, n, *shape) drawn at random, whose expected ``s s^T`` is the Hessian.

        Raises
        ------
        ValueError
            If a block has a negative eigenvalue: then there is no such column.
        """

    @abstractmethod
    def scaled(self, weight: Tensor) -> Form:
        """The form with the block of each row times its ``weight`` (n,), which is >= 0."""


def times(tensor: Tensor, weight: Tensor) -> Tensor:
    """``tensor`` (n, ...) with each row times its ``weight`` (n,), in the tensor's dtype."""
    return tensor * weight.to(tensor.dtype).reshape(-1, *[1] * (tensor.ndim - 1))


@dataclass
class Categorical(Form):
    """``scale * (diag(p) - p p^T)`` over dimension 1, one block for each position.

    Its square root has C - 1 columns, ``s_j = sqrt(scale * p_j q_j / q_{j-1}) (e_j - r_j)``, where
    ``q_j`` is the sum of the probabilities after ``j`` and ``r_j = p / q_j`` their distribution.
    Nothing in it is a difference of nearly equal numbers, so in float32 a class near probability 1
    keeps its small curvature.

    These are the columns of the Cholesky factor of a multinomial covariance (Tanabe and Sagae
    1992, J. R. Stat. Soc. B 54, 211-219). ``p_j / q_{j-1}`` are the fractions of stick-breaking,
    which writes a draw among C classes as C - 1 binary ones (Linderman, Johnson and Adams 2015,
    Dependent multinomial models made easy).

    Attributes
    ----------
    p : Tensor of shape (n, C, *positions)
        Probabilities.
    scale : Tensor of shape (n, *positions)
        Weights of the positions, >= 0.
    """

    p: Tensor
    scale: Tensor

    def others(self) -> Tensor:
        """``1 - p`` of every class (n, C, *positions), as the sum of the others."""
        after = self.p.flip(1).cumsum(1).flip(1)
        before = self.p.cumsum(1)
        rest = torch.zeros_like(self.p)
        rest[:, :-1] += after[:, 1:]
        rest[:, 1:] += before[:, :-1]
        return rest

    def diagonal(self) -> Tensor:
        return self.scale.unsqueeze(1) * self.p * self.others()

    def columns(self, limit: int = COLUMNS_AT_ONCE) -> Columns:
        p, last = self.p, self.p.shape[1] - 1
        tail = p.flip(1).cumsum(1).flip(1)
        before, after = tail[:, :-1], tail[:, 1:]
        share = p[:, :-1] / torch.where(before > 0, before, 1.0)
        size = (self.scale.unsqueeze(1) * share * after).sqrt()
        fall = size / torch.where(after > 0, after, 1.0)
        size, fall = (t.transpose(0, 1).unsqueeze(2) for t in (size, fall))
        positions = p[0, 0].numel()
        classes_at_once = max(1, limit // positions)
        for start in range(0, last, classes_at_once):
            stop = min(last, start + classes_at_once)
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
        """Columns of each position on their own, ``limit`` positions at a time."""
        flat = block.flatten(3)
        for start in range(0, flat.shape[3], limit):
            some = torch.arange(start, min(flat.shape[3], start + limit), device=flat.device)
            apart = flat.new_zeros(len(some), *flat.shape)
            at = torch.arange(len(some), device=flat.device)
            apart[at, ..., some] = flat[..., some].movedim(-1, 0)
            yield apart.flatten(0, 1).reshape(-1, *self.p.shape), None

    def product(self, v: Tensor) -> Tensor:
        # The block has the constants in its null space. Counted from the likeliest class, nothing
        # is a difference of nearly equal numbers.
        v = v - v.gather(1, self.p.argmax(1, keepdim=True))
        return self.scale.unsqueeze(1) * self.p * (v - (self.p * v).sum(1, keepdim=True))

    def sample(self, generator: torch.Generator) -> Tensor:
        shape = self.scale.shape
        u = torch.rand(shape, generator=generator, dtype=torch.float64).to(self.p.device)
        total = self.p.double().cumsum(1)
        drawn = (total < (u * total[:, -1]).unsqueeze(1)).sum(1).clamp_(max=self.p.shape[1] - 1)
        hot = torch.zeros_like(self.p).scatter_(1, drawn.unsqueeze(1), 1.0)
        column = torch.where(hot > 0, self.others(), -self.p)
        return (column * self.scale.sqrt().unsqueeze(1)).unsqueeze(0)

    def scaled(self, weight: Tensor) -> Categorical:
        return Categorical(self.p, times(self.scale, weight))


@dataclass
class Separable(Form):
    """``diag(d)``: every element of the output has a term of its own in the loss.

    Attributes
    ----------
    d : Tensor of shape (n, *shape)
        Second derivatives of the terms, of any sign.
    """

    d: Tensor

    def diagonal(self) -> Tensor:
        return self.d

    def columns(self, limit: int = COLUMNS_AT_ONCE) -> Columns:
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

    def product(self, v: Tensor) -> Tensor:
        return self.d * v

    def sample(self, generator: torch.Generator) -> Tensor:
        if (self.d < 0).any():
            raise ValueError(
                "the loss has negative second derivatives at the outputs, which do not have a "
                'sampled square root; use method="ggn"'
            )
        signs = random_signs(self.d.shape, self.d, generator)
        return (self.d.sqrt() * signs).unsqueeze(0)

    def scaled(self, weight: Tensor) -> Separable:
        return Separable(times(self.d, weight))


@dataclass
class Dense(Form):
    """Any symmetric block over all D elements of a row's output.

    Attributes
    ----------
    H : Tensor of shape (n, D, D)
    shape : torch.Size
        Shape of the logits, (n, *shape) with D elements in each row.
    """

    H: Tensor
    shape: torch.Size

    def diagonal(self) -> Tensor:
        return self.H.diagonal(dim1=1, dim2=2).reshape(self.shape)

    def columns(self, limit: int = COLUMNS_AT_ONCE) -> Columns:
        values, vectors = torch.linalg.eigh(self.H)
        columns = (vectors * values.abs().sqrt().unsqueeze(1)).permute(2, 0, 1)
        signs = values.sign().T if (values < 0).any() else None
        for start in range(0, len(columns), limit):
            part = slice(start, start + limit)
            yield columns[part].reshape(-1, *self.shape), None if signs is None else signs[part]

    def product(self, v: Tensor) -> Tensor:
        return (self.H @ v.reshape(len(v), -1, 1)).reshape(self.shape)

    def sample(self, generator: torch.Generator) -> Tensor:
        values, vectors = torch.linalg.eigh(self.H)
        # A zero eigenvalue may come out as a negative one as small as rounding makes it.
        rounding = 100 * torch.finfo(values.dtype).eps * values.abs().amax(1, keepdim=True)
        if (values < -rounding).any():
            raise ValueError(
                "the loss is not convex in the outputs, so it does not have a sampled square "
                'root; use method="ggn"'
            )
        signs = random_signs(values.shape, values, generator)
        column = (vectors @ (signs * values.clamp(min=0).sqrt()).unsqueeze(2)).squeeze(2)
        return column.reshape(1, *self.shape)

    def scaled(self, weight: Tensor) -> Dense:
        return Dense(times(self.H, weight), self.shape)


@dataclass
class RankOne(Form):
    """``s s^T``: a single column.

    Attributes
    ----------
    s : Tensor of shape (n, *shape)
    """

    s: Tensor

    def diagonal(self) -> Tensor:
        return self.s.square()

    def columns(self, limit: int = COLUMNS_AT_ONCE) -> Columns:
        # A copy, since whoever asks for columns may change them in place.
        yield self.s.unsqueeze(0).clone(), None

    def product(self, v: Tensor) -> Tensor:
        along = (self.s * v).reshape(len(v), -1).sum(1)
        return times(self.s, along)

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.s.unsqueeze(0).clone()

    def scaled(self, weight: Tensor) -> RankOne:
        return RankOne(times(self.s, weight.to(self.s.dtype).sqrt()))


@dataclass
class Moved(Form):
    """A form with its first dimension behind the rows at another place in the logits.

    Attributes
    ----------
    form : Form
    dimension : int
        Where the logits (n, *shape) have the form's dimension 1.
    """

    form: Form
    dimension: int

    def diagonal(self) -> Tensor:
        return self.form.diagonal().movedim(1, self.dimension)

    def columns(self, limit: int = COLUMNS_AT_ONCE) -> Columns:
        for S, signs in self.form.columns(limit):
            yield S.movedim(2, self.dimension + 1), signs

    def product(self, v: Tensor) -> Tensor:
        return self.form.product(v.movedim(self.dimension, 1)).movedim(1, self.dimension)

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.form.sample(generator).movedim(2, self.dimension + 1)

    def scaled(self, weight: Tensor) -> Moved:
        return Moved(self.form.scaled(weight), self.dimension)


def random_signs(shape: torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    """+1 or -1 with equal chance, drawn in float64 whatever the dtype of ``like``."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64).to(like.device)
    return torch.where(u < 0.5, -1.0, 1.0).to(like.dtype)
