"""How far two results of `diagonal` are apart."""

from __future__ import annotations


def error(got, expected):
    """The largest difference of a tensor, relative to its largest entry; the worst tensor."""
    assert list(got) == list(expected)
    worst = 0.0
    for name, value in expected.items():
        assert got[name].shape == value.shape
        assert got[name].dtype == value.dtype
        scale = value.abs().max().item()
        gap = (got[name] - value).abs().max().item()
        worst = max(worst, gap / scale if scale else gap)
    return worst
