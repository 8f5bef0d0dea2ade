import pytest
import torch
from torch import nn

from sk_obd.training.masks import all_alive, count_alive, held_at_zero, prunable_names, zero_deleted


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.PReLU(), nn.Linear(4, 2))


def test_by_default_normalisation_and_prelu_are_spared(module):
    assert prunable_names(module) == ["0.weight", "0.bias", "3.weight", "3.bias"]


@pytest.mark.parametrize(
    ("prunable", "names"),
    [
        (r"^3\.", ["3.weight", "3.bias"]),
        (["3.bias", "0.weight"], ["0.weight", "3.bias"]),
        (lambda name, p: p.ndim == 2, ["0.weight", "3.weight"]),
        ("1", ["1.weight", "1.bias"]),
    ],
)
def test_the_user_may_say_what_is_prunable(module, prunable, names):
    assert prunable_names(module, prunable) == names


def test_frozen_parameters_are_not_prunable(module):
    module[0].weight.requires_grad_(False)
    assert "0.weight" not in prunable_names(module)
    with pytest.raises(ValueError, match=r"'0.weight', which is not a trainable"):
        prunable_names(module, ["0.weight"])


def test_deleted_parameters_become_positive_zero(module):
    masks = all_alive(module)
    masks["0.weight"][1] = False
    with torch.no_grad():
        module[0].weight[1] = torch.tensor([-1.0, torch.inf, torch.nan])
    zero_deleted(module, masks)
    assert (module[0].weight[1] == 0).all()
    assert not torch.signbit(module[0].weight[1]).any()
    assert count_alive(masks) == sum(p.numel() for p in module.parameters()) - 3


def test_gradients_and_steps_leave_zeros_alone_and_the_hooks_go_away(module):
    masks = all_alive(module)
    masks["3.weight"][0] = False
    zero_deleted(module, masks)
    kept = module[3].weight[1].detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    def step():
        optimizer.zero_grad()
        module(torch.randn(8, 3)).square().sum().backward()
        gradient = module[3].weight.grad.clone()
        optimizer.step()
        return gradient

    with held_at_zero(module, [optimizer], masks):
        assert (step()[0] == 0).all()
        assert (module[3].weight[0] == 0).all()
        assert not torch.equal(module[3].weight[1], kept)
    assert (step()[0] != 0).any()
    assert (module[3].weight[0] != 0).any()
