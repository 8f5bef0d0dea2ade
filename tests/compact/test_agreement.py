"""What a tracer misreads is found out."""

import pytest
import torch
from torch import nn

from sk_obd.compact import check_traceable, shrink
from sk_obd.compact.agreement import agree
from sk_obd.compact.flow import NotTraced
from tests.library.modules import Branching, ChangedInPlace, mlp
from tests.library.networks import NETWORKS, build, prune, stored


class Peeking(nn.Sequential):
    """A tracer goes another way than rows do."""

    def forward(self, X):
        return super().forward(X) * (1 if isinstance(X, torch.Tensor) else 2)


REFUSED = {
    "Branching": (Branching(9), "cannot trace"),
    "ChangedInPlace": (ChangedInPlace(), "changed in place"),
    "Peeking": (Peeking(mlp(9, 6, 3)), "does not return what the network returns"),
}


@pytest.mark.parametrize("name", [*NETWORKS, "Peeking"])
def test_what_cannot_be_swept_is_told_beforehand(name):
    if name in REFUSED:
        module, why = REFUSED[name]
        with pytest.raises(NotTraced, match=why):
            check_traceable(module, torch.ones(2, 9))
    else:
        module, X = build(name, 0)
        check_traceable(module, X[:3])


def test_what_a_tracer_misreads_is_left():
    module = Peeking(mlp(9, 6, 3))
    masks = prune(module, 0.2, 0)
    smaller, new_masks, report = shrink(module, masks, torch.ones(2, 9))
    assert "did not agree" in report.rows[0]["left"]
    assert stored(smaller) == stored(module)
    assert all(torch.equal(new_masks[key], masks[key]) for key in masks)


class Shifted(nn.Module):
    """Adds a number to some outputs that may be infinite or undefined."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, X):
        return torch.stack([X.log(), X + self.shift])


def test_outputs_that_are_not_finite_agree_only_with_themselves():
    X = torch.tensor([-1.0, 0.0, 2.0])
    assert agree(Shifted(0), Shifted(0), X)
    assert not agree(Shifted(0), Shifted(0.5), X)
