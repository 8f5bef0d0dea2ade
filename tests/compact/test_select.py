"""Columns of X that are left out, and when they are read all the same."""

import pytest
import torch
from torch import nn

from sk_obd.compact import SelectColumns
from sk_obd.compact.select import COPY, with_all_columns


def selecting(n_kept, n_out, *layers, bias=True):
    torch.manual_seed(0)
    index = torch.randperm(30)[:n_kept].sort().values
    return nn.Sequential(
        SelectColumns(index), nn.Linear(n_kept, n_out, bias=bias), *layers
    ).double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [(), (nn.ReLU(), nn.Linear(8, 3))])
def test_where_few_columns_are_left_out_all_are_read(layers, bias):
    module = selecting(28, 8, *layers, bias=bias).eval()
    before = {name: p.clone() for name, p in module.named_parameters()}
    wide = with_all_columns(module, 30)
    X = torch.randn(7, 30, dtype=torch.float64)
    torch.testing.assert_close(wide(X), module(X), rtol=1e-13, atol=1e-13)
    names = [name for name, _ in module.named_children()]
    assert [name for name, _ in wide.named_children()] == names[1:]
    assert wide[0].weight.shape == (8, 30)
    assert not wide.training
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name])


@pytest.mark.parametrize(
    "module",
    [
        selecting(3, 8),
        selecting(28, COPY * 28),
        nn.Sequential(SelectColumns(torch.arange(28)), nn.ReLU(), nn.Linear(28, 2)),
        nn.Sequential(nn.Linear(30, 2)),
        nn.Linear(30, 2),
        nn.Sequential(SelectColumns(torch.arange(28))),
    ],
)
def test_where_many_are_or_other_layers_read_them_the_module_stays(module):
    assert with_all_columns(module, 30) is module
