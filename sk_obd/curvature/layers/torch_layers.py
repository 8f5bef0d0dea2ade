"""The rules of torch's own layers: what each does with columns at its output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from .layer_rule import LIMIT, Rule, outer_squares, squares


def over_positions(G: Tensor) -> Tensor:
    """Columns (k, n, channels, *positions) summed over positions: (k, n, channels)."""
    return G.flatten(3).sum(3) if G.ndim > 3 else G


class LinearRule(Rule[nn.Linear]):
    """weight (out, in): the columns times the input, at each position."""

    def keeps_rows(self, layer: nn.Linear, x: Tensor) -> bool:
        return x.ndim > 1

    def pull(self, layer: nn.Linear, x: Tensor, G: Tensor) -> dict[str, Tensor]:
        n, k = len(x), len(G)
        x, G = x.reshape(n, -1, x.shape[-1]), G.reshape(k, n, -1, G.shape[-1])
        return {"weight": torch.einsum("knpo,npi->knoi", G, x), "bias": G.sum(2)}

    def contract(
        self,
        layer: nn.Linear,
        x: Tensor,
        A: Tensor,
        B: Tensor | None = None,
        signs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        if x.ndim == 2:
            E = squares(A, B, signs)
            return {"weight": E.T @ x.square(), "bias": E.sum(0)}
        n, k = len(x), len(A)
        x = x.reshape(1, n, 1, -1, x.shape[-1])
        A = A.reshape(k, n, 1, -1, A.shape[-1])
        B = B if B is None else B.reshape(A.shape)
        total = outer_squares(A.mT, x, None if B is None else (B.mT, x), signs)
        bias = squares(A.sum(3), None if B is None else B.sum(3), signs)
        return {"weight": total[0], "bias": bias.sum((0, 1))}


def windows(layer: _ConvNd, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """What each output position of a convolution reads of x (m, channels, *positions).

    The result has shape (m, groups, channels / groups * kernel, positions). ``sizes`` are the
    positions of the output, by default all that x has room for.
    """
    if isinstance(layer.padding, str):
        total = [
            dil * (k - 1) if layer.padding == "same" else 0
            for dil, k in zip(layer.dilation, layer.kernel_size, strict=True)
        ]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(p, p) for p in layer.padding]
    pads = [side for pair in reversed(sides) for side in pair]
    if any(pads):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, pads, mode=mode)
    x = x.contiguous()
    sizes = sizes or [
        (s - dil * (k - 1) - 1) // st + 1
        for s, k, st, dil in zip(
            x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True
        )
    ]
    strides = x.stride()
    view = x.as_strided(
        (*x.shape[:2], *layer.kernel_size, *sizes),
        (
            *strides[:2],
            *(s * dil for s, dil in zip(strides[2:], layer.dilation, strict=True)),
            *(s * st for s, st in zip(strides[2:], layer.stride, strict=True)),
        ),
    )
    return view.reshape(len(x), layer.groups, -1, math.prod(sizes))


class ConvRule(Rule[_ConvNd]):
    """weight (out, in / groups, *kernel): the columns times the windows of the input."""

    def keeps_rows(self, layer: _ConvNd, x: Tensor) -> bool:
        return x.ndim == layer.weight.ndim  # one dimension less is a single row to torch

    def parts(self, layer: _ConvNd, x: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of the weight's columns: (k | 1, n, g, a, p) and (k | 1, n, g, p, b)."""
        left = G.reshape(*G.shape[:2], layer.groups, layer.out_channels // layer.groups, -1)
        return left, windows(layer, x)[None].mT

    def pull(self, layer: _ConvNd, x: Tensor, G: Tensor) -> dict[str, Tensor]:
        left, right = self.parts(layer, x, G)
        return {
            "weight": (left @ right).reshape(*G.shape[:2], *layer.weight.shape),
            "bias": over_positions(G),
        }

    def contract(
        self,
        layer: _ConvNd,
        x: Tensor,
        A: Tensor,
        B: Tensor | None = None,
        signs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        left, right = self.parts(layer, x, A)
        other = None if B is None else self.parts(layer, x, B)
        weight = outer_squares(left, right, other, signs).reshape(layer.weight.shape)
        bias = squares(over_positions(A), None if B is None else over_positions(B), signs)
        return {"weight": weight, "bias": bias.sum(0)}

    def contract_pooled(
        self, layer: _ConvNd, x: Tensor, S: Tensor, where: Tensor, signs: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As :meth:`contract`, for columns that are 0 but at a few positions of each channel.

        ``S`` (k, n, out, m) holds their values at the positions ``where`` (n, out, m), as a max
        pool of m windows leaves them. Not for transposed convolutions.
        """
        k, n, out, m = S.shape
        channel = torch.arange(out, device=x.device).div(out // layer.groups, rounding_mode="floor")
        reads = layer.weight[0].numel()
        total = S.new_zeros(out, reads)
        step = max(1, LIMIT // (out * m * reads))
        for some in (slice(start, start + step) for start in range(0, n, step)):
            read = windows(layer, x[some]).mT
            rows, _, positions, _ = read.shape
            first = torch.arange(rows, device=x.device).unsqueeze(1) * layer.groups + channel
            at = where[some] + (first * positions).unsqueeze(2)
            right = read.reshape(-1, reads).index_select(0, at.flatten()).view(-1, m, reads)
            left = S[:, some].permute(1, 2, 0, 3).reshape(-1, k, m)
            J = torch.bmm(left, right).square_().view(rows, out, k, reads)
            if signs is not None:
                J *= signs[:, some].T[:, None, :, None]
            total += J.sum((0, 2))
        bias = squares(S.sum(3), None, signs).sum(0)
        return {"weight": total.view(layer.weight.shape), "bias": bias}


class ConvTransposeRule(ConvRule):
    """weight (in, out / groups, *kernel): the input times the windows of the columns."""

    def parts(self, layer: _ConvNd, x: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        k, n = G.shape[:2]
        # With output_padding the output may have room for more windows than the input has numbers.
        wide = windows(layer, G.flatten(0, 1), x.shape[2:])
        left = x.reshape(1, n, layer.groups, -1, wide.shape[-1])
        return left, wide.reshape(k, n, *wide.shape[1:]).mT


class EmbeddingRule(Rule[nn.Embedding]):
    """weight (words, d): columns of a row's positions with one word are summed, then squared."""

    def pull(self, layer: nn.Embedding, x: Tensor, G: Tensor) -> dict[str, Tensor]:
        k, n = G.shape[:2]
        words, G = x.reshape(n, -1), G.reshape(k, n, -1, G.shape[-1])
        if layer.padding_idx is not None:
            G = G * (words != layer.padding_idx)[..., None]
        out = G.new_zeros(k, n, *layer.weight.shape)
        return {"weight": out.scatter_add_(2, words[None, ..., None].expand_as(G), G)}

    def contract(
        self,
        layer: nn.Embedding,
        x: Tensor,
        A: Tensor,
        B: Tensor | None = None,
        signs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        n = len(x)
        words = x.reshape(n, -1)
        first = (words.unsqueeze(2) == words.unsqueeze(1)).to(torch.uint8).argmax(2)
        kept = None if layer.padding_idx is None else words != layer.padding_idx

        def gathered(G: Tensor) -> Tensor:
            """(k, n, p, d), all of a word at its first position in the row."""
            G = G.reshape(len(G), n, -1, G.shape[-1])
            if kept is not None:
                G = G * kept[..., None]
            return torch.zeros_like(G).scatter_add_(2, first[None, ..., None].expand_as(G), G)

        E = squares(gathered(A), None if B is None else gathered(B), signs)
        weight = E.new_zeros(layer.weight.shape)
        return {"weight": weight.index_add_(0, words.flatten(), E.flatten(0, 1))}


class ChannelNormRule(Rule[nn.Module]):
    """weight * normalised + bias, a weight for each channel, which is dimension 1 of the output.

    ``normalised(layer, x)`` is the layer without its parameters.
    """

    def __init__(self, normalised: Callable[..., Tensor]):
        self.normalised = normalised

    def accepts(self, layer: nn.Module) -> bool:
        # Without running statistics batch norm reads the other rows, also in eval mode.
        return not (isinstance(layer, _BatchNorm) and layer.running_mean is None)

    def keeps_rows(self, layer: nn.Module, x: Tensor) -> bool:
        if not isinstance(layer, _InstanceNorm):
            return x.ndim > 1
        return x.ndim > layer._get_no_batch_dim()  # with fewer it is a single row to torch

    def pull(self, layer: nn.Module, x: Tensor, G: Tensor) -> dict[str, Tensor]:
        weight = over_positions(G * self.normalised(layer, x))
        return {"weight": weight, "bias": over_positions(G)}


class LayerNormRule(Rule[nn.LayerNorm]):
    """weight * normalised + bias, a weight for each of the last numbers of the output."""

    def keeps_rows(self, layer: nn.LayerNorm, x: Tensor) -> bool:
        return x.ndim > len(layer.normalized_shape)

    def pull(self, layer: nn.LayerNorm, x: Tensor, G: Tensor) -> dict[str, Tensor]:
        weight = G * F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
        shape = (*G.shape[:2], -1, *layer.normalized_shape)
        return {"weight": weight.reshape(shape).sum(2), "bias": G.reshape(shape).sum(2)}


def batch_norm(layer: _BatchNorm, x: Tensor) -> Tensor:
    """Batch norm in eval mode, without weight and bias."""
    return F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)


def instance_norm(layer: nn.InstanceNorm1d, x: Tensor) -> Tensor:
    """Instance norm (of any dimension) in eval mode, without weight and bias."""
    own = layer.running_mean is None
    return F.instance_norm(
        x, layer.running_mean, layer.running_var, use_input_stats=own, eps=layer.eps
    )


def group_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group norm without weight and bias."""
    return F.group_norm(x, layer.num_groups, eps=layer.eps)


def prelu(layer: nn.PReLU, x: Tensor, G: Tensor) -> dict[str, Tensor]:
    """The pull of PReLU: its weight is the slope below 0, one for all numbers or for a channel."""
    weight = G * x.clamp(max=0)
    if layer.num_parameters == 1:
        return {"weight": weight.flatten(2).sum(2, keepdim=True)}
    return {"weight": over_positions(weight)}
