"""Looking into a module leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sk_obd.curvature.hooks import evaluating, first_input, first_output, hooked, trainable


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))


def n_hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_hooks_see_each_call_and_are_removed():
    module, seen = net(), []

    def hook(layer, args, kwargs, output):
        seen.append((layer, args[0].shape, kwargs, output.shape))

    with hooked([module[0], module[2]], hook):
        module(torch.zeros(5, 2))
        assert n_hooks(module) == 2
    module(torch.zeros(5, 2))
    assert seen == [(module[0], (5, 2), {}, (5, 3)), (module[2], (5, 3), {}, (5, 1))]
    assert n_hooks(module) == 0


def test_what_a_hook_returns_goes_on():
    module = nn.Linear(2, 1)
    with hooked([module], lambda layer, args, kwargs, output: output + 1):
        high = module(torch.zeros(1, 2))
    assert torch.equal(high, module(torch.zeros(1, 2)) + 1)


def test_hooks_before_a_call_change_its_arguments():
    module = nn.Linear(2, 1)
    with hooked([module], lambda layer, args, kwargs: ((args[0] + 1,), kwargs), before=True):
        moved = module(torch.zeros(1, 2))
    assert torch.equal(moved, module(torch.ones(1, 2)))
    assert n_hooks(module) == 0


@pytest.mark.parametrize("before", [False, True])
def test_an_error_leaves_no_hook(before):
    module = net()

    def hook(*args):
        raise KeyError

    with pytest.raises(KeyError), hooked(module.modules(), hook, before=before):
        module(torch.zeros(1, 2))
    assert n_hooks(module) == 0


def test_an_error_while_hooks_are_put_in_place_leaves_none():
    module = net()

    def layers():
        yield module[0]
        raise KeyError

    with pytest.raises(KeyError), hooked(layers(), print):
        pass
    assert n_hooks(module) == 0


def test_other_hooks_stay():
    module = nn.Linear(2, 1)
    module.register_forward_hook(lambda *args: None)
    with hooked([module], lambda *args: None):
        assert n_hooks(module) == 2
    assert n_hooks(module) == 1


@pytest.mark.parametrize("error", [False, True])
def test_every_submodule_has_its_own_mode_back(error):
    module = net()
    module.eval()[1].train()
    before = [m.training for m in module.modules()]
    try:
        with evaluating(module):
            assert not any(m.training for m in module.modules())
            if error:
                raise KeyError
    except KeyError:
        pass
    assert [m.training for m in module.modules()] == before


def test_first_tensors():
    assert first_input((1, 2), {"x": 3}) == 1
    assert first_input((), {"x": 3, "y": 4}) == 3
    assert first_output((5, 6)) == 5
    assert first_output([5, 6]) == [5, 6]
    assert first_output(5) == 5


def test_trainable_parameters_by_name():
    module = net()
    module[0].bias.requires_grad_(False)
    assert list(trainable(module)) == ["0.weight", "2.weight", "2.bias"]
    assert trainable(module)["2.bias"] is module[2].bias
