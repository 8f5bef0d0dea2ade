"""One rule a layer type: what torch's own layers do with columns at their outputs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layer_rule import LIMIT, Rule, outer_squares, register_rule, squares


class LinearRule(Rule):
    def pull(self, layer, x, G):
        n, k = len(x), len(G)
        x, G = x.reshape(n, -1, x.shape[-1]), G.reshape(k, n, -1, G.shape[-1])
        return {"weight": torch.einsum("knpo,npi->knoi", G, x), "bias": G.sum(2)}

    def contract(self, layer, x, A, B=None, signs=None):
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


def windows(layer: nn.Module, x: Tensor) -> Tensor:
    """What every output position of a convolution reads: (m, groups, channels / groups * kernel,
    positions).
    """
    if isinstance(layer.padding, str):
        total = [
            dil * (k - 1) if layer.padding == "same" else 0
            for dil, k in zip(layer.dilation, layer.kernel_size, strict=True)
        ]
        pads = [(t // 2, t - t // 2) for t in total]
    else:
        pads = [(p, p) for p in layer.padding]
    pads = [side for pair in reversed(pads) for side in pair]
    if any(pads):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, pads, mode=mode)
    x = x.contiguous()
    sizes = [
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


class ConvRule(Rule):
    """weight (out, in / groups, *kernel): the columns times the windows of the input."""

    def parts(self, layer, x, G):
        left = G.reshape(*G.shape[:2], layer.groups, layer.out_channels // layer.groups, -1)
        return left, windows(layer, x)[None].mT

    def pull(self, layer, x, G):
        left, right = self.parts(layer, x, G)
        return {
            "weight": (left @ right).reshape(*G.shape[:2], *layer.weight.shape),
            "bias": G.flatten(3).sum(3),
        }

    def contract(self, layer, x, A, B=None, signs=None):
        left, right = self.parts(layer, x, A)
        other = None if B is None else self.parts(layer, x, B)
        weight = outer_squares(left, right, other, signs).reshape(layer.weight.shape)
        bias = squares(A.flatten(3).sum(3), None if B is None else B.flatten(3).sum(3), signs)
        return {"weight": weight, "bias": bias.sum(0)}

    def contract_chosen(self, layer, x, S, where, signs=None):
        """As contract, for columns S (k, n, out, m) at the positions ``where`` (n, out, m) of each
        channel and 0 elsewhere, as a max pool leaves them.
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

    def parts(self, layer, x, G):
        k, n = G.shape[:2]
        wide = windows(layer, G.flatten(0, 1))
        return x.reshape(1, n, layer.groups, -1, wide.shape[-1]), wide.reshape(
            k, n, *wide.shape[1:]
        ).mT


class EmbeddingRule(Rule):
    """weight (words, d): a row's positions with the same word are summed, then squared."""

    def pull(self, layer, x, G):
        k, n = G.shape[:2]
        words, G = x.reshape(n, -1), G.reshape(k, n, -1, G.shape[-1])
        if layer.padding_idx is not None:
            G = G * (words != layer.padding_idx)[..., None]
        out = G.new_zeros(k, n, *layer.weight.shape)
        return {"weight": out.scatter_add_(2, words[None, ..., None].expand_as(G), G)}

    def contract(self, layer, x, A, B=None, signs=None):
        n = len(x)
        words = x.reshape(n, -1)
        first = (words.unsqueeze(2) == words.unsqueeze(1)).to(torch.uint8).argmax(2)
        kept = None if layer.padding_idx is None else words != layer.padding_idx

        def gathered(G):
            G = G.reshape(len(G), n, -1, G.shape[-1])
            if kept is not None:
                G = G * kept[..., None]
            return torch.zeros_like(G).scatter_add_(2, first[None, ..., None].expand_as(G), G)

        E = squares(gathered(A), None if B is None else gathered(B), signs)
        weight = E.new_zeros(layer.weight.shape)
        return {"weight": weight.index_add_(0, words.flatten(), E.flatten(0, 1))}


class NormRule(Rule):
    """weight * normalised + bias, where ``normalised(layer, x)`` is the layer without its
    parameters.
    """

    def __init__(self, normalised, by_channel):
        self.normalised, self.by_channel = normalised, by_channel

    def accepts(self, layer):
        return not (
            isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None
        )

    def pull(self, layer, x, G):
        shared = G * self.normalised(layer, x)
        if self.by_channel:
            return {
                "weight": shared.flatten(3).sum(3) if G.ndim > 3 else shared,
                "bias": G.flatten(3).sum(3) if G.ndim > 3 else G,
            }
        shape = (*G.shape[:2], -1, *layer.normalized_shape)
        return {"weight": shared.reshape(shape).sum(2), "bias": G.reshape(shape).sum(2)}


def prelu(layer, x, G):
    shared = G * x.clamp(max=0)
    if layer.num_parameters == 1:
        return {"weight": shared.flatten(2).sum(2, keepdim=True)}
    return {"weight": shared.flatten(3).sum(3) if G.ndim > 3 else shared}


def batch_norm(layer, x):
    return F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)


def instance_norm(layer, x):
    own = layer.running_mean is None
    return F.instance_norm(
        x, layer.running_mean, layer.running_var, use_input_stats=own, eps=layer.eps
    )


for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
    register_rule(kind, ConvRule())
for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
    register_rule(kind, ConvTransposeRule())
for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
    register_rule(kind, NormRule(batch_norm, True))
for kind in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d):
    register_rule(kind, NormRule(instance_norm, True))
register_rule(
    nn.GroupNorm, NormRule(lambda layer, x: F.group_norm(x, layer.num_groups, eps=layer.eps), True)
)
register_rule(
    nn.LayerNorm,
    NormRule(lambda layer, x: F.layer_norm(x, layer.normalized_shape, eps=layer.eps), False),
)
register_rule(nn.PReLU, Rule(prelu))
register_rule(nn.Linear, LinearRule())
register_rule(nn.Embedding, EmbeddingRule())
