"""Dead parameters are found and swept away, and no output changes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sk_obd.compact import dead_parameters, sweep
from tests.library.marks import slow_but
from tests.library.networks import NETWORKS, SOME, build, close, densities, prune


@pytest.mark.parametrize("name", slow_but(SOME, NETWORKS))
@settings(max_examples=5, deadline=None, derandomize=True)
@given(density=densities, seed=st.integers(0, 10**6))
def test_sweeping_dead_parameters_changes_no_output(name, density, seed):
    module, X = build(name, seed)
    masks = prune(module, density, seed)
    found = dead_parameters(module, masks, X[:3])
    swept = copy.deepcopy(module)
    after = sweep(swept, masks, X[:3])
    close(swept(X), module(X))
    for key, mask in after.items():
        # Exactly the dead ones go; none comes back.
        assert torch.equal(masks[key] & ~found[key], mask)
        assert not (found[key] & ~masks[key]).any()
        assert (dict(swept.named_parameters())[key][~mask] == 0).all()
    assert not any(mask.any() for mask in dead_parameters(swept, after, X[:3]).values())


@pytest.mark.parametrize("name", slow_but(SOME, NETWORKS))
@settings(max_examples=5, deadline=None, derandomize=True)
@given(density=densities, seed=st.integers(0, 10**6), share=st.sampled_from([0.3, 0.6, 0.9]))
def test_what_may_not_go_stays_and_what_is_frozen_keeps_its_value(name, density, seed, share):
    module, X = build(name, seed)
    masks = prune(module, density, seed)
    draw = torch.Generator().manual_seed(seed)
    prunable = []
    for key, parameter in module.named_parameters():
        parameter.requires_grad_(bool(torch.rand(1, generator=draw) < share))
        if parameter.requires_grad and torch.rand(1, generator=draw) < share:
            prunable.append(key)
    swept = copy.deepcopy(module)
    after = sweep(swept, masks, X[:3], prunable)
    close(swept(X), module(X))
    before = dict(module.named_parameters())
    for key, parameter in swept.named_parameters():
        assert not (after[key] & ~masks[key]).any()
        assert (parameter[~after[key]] == 0).all()
        if key not in prunable:
            assert torch.equal(after[key], masks[key])
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[key])
    assert not any(mask.any() for mask in dead_parameters(swept, after, X[:3], prunable).values())
