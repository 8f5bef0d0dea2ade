"""Which loss a criterion is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sk_obd.curvature import diagonal
from sk_obd.curvature.losses.registry import loss_of
from tests.library.cases import BY_NAME, cosh


def test_functions_of_torch_are_their_losses():
    module, _, X, y = BY_NAME["weighted classes"].make()
    expected = diagonal(module, nn.CrossEntropyLoss(), X, y)
    for name, value in diagonal(module, F.cross_entropy, X, y).items():
        assert torch.equal(value, expected[name])


def test_a_subclass_with_its_own_forward_is_not_taken_for_its_parent():
    class Focal(nn.CrossEntropyLoss):
        def forward(self, output, target):
            ce = F.cross_entropy(output, target, reduction="none")
            value = (1 - (-ce).exp()) ** 2 * ce
            return value if self.reduction == "none" else value.mean()

    assert type(loss_of(Focal())) is type(loss_of(cosh))


@pytest.mark.parametrize(
    "criterion",
    [nn.TripletMarginLoss(), nn.GaussianNLLLoss(), nn.CTCLoss(), nn.CosineEmbeddingLoss()],
)
def test_criteria_of_more_than_output_and_target_are_refused(criterion):
    with pytest.raises(
        ValueError, match=rf"{type(criterion).__name__} cannot be called as .*Wrap it"
    ):
        loss_of(criterion)


def test_outputs_that_contradict_the_criterion_are_refused():
    with pytest.raises(ValueError, match="outputs='proba' does not fit CrossEntropyLoss"):
        loss_of(nn.CrossEntropyLoss(), outputs="proba")


def test_classes_are_refused():
    with pytest.raises(ValueError, match=r"MSELoss\(\)"):
        loss_of(nn.MSELoss)
