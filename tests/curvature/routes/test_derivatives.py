"""Columns pulled back together or one by one."""

from __future__ import annotations

import torch

from sk_obd.curvature.routes.derivatives import backward, probe_like


class Reluctant(torch.autograd.Function):
    """A square that torch cannot differentiate for several columns at once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * float(gradient.sum()) / float(gradient.numel())


def test_columns_are_pulled_back_to_each_input_and_none_is_zero():
    a, b, spare = (torch.randn(3, requires_grad=True) for _ in range(3))
    S = torch.randn(5, 3)
    to_a, to_b, to_spare = backward(a * b, [a, b, spare], S)
    torch.testing.assert_close(to_a, S * b)
    torch.testing.assert_close(to_b, S * a)
    assert to_spare is None


def test_what_torch_cannot_batch_goes_column_by_column():
    a = torch.randn(3, requires_grad=True)
    S = torch.ones(4, 3) * torch.arange(1.0, 5).unsqueeze(1)
    (to_a,) = backward(Reluctant.apply(a), [a], S)
    torch.testing.assert_close(to_a, S * 2 * a)


def test_probes_are_the_same_at_every_call_and_away_from_zero():
    like = torch.zeros(100, dtype=torch.float32)
    probe = probe_like(like)
    assert torch.equal(probe, probe_like(like))
    assert probe.dtype == torch.float32
    assert 0.5 <= probe.min() < probe.max() <= 1.5
