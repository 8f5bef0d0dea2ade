"""Linear layers as CSR matrices."""

import torch
from torch import nn

from sk_obd.compact.sparse import SparseLinear, linear_inputs, with_sparse


def test_a_csr_layer_multiplies_as_a_dense_one(rng):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False)).double()
    X = torch.from_numpy(rng.normal(size=(30, 6)))
    assert list(linear_inputs(module, X)) == ["0", "2"]
    with torch.inference_mode():
        for names in (["0"], ["2"], ["0", "2"]):
            changed = with_sparse(module, names)
            assert all(isinstance(changed.get_submodule(name), SparseLinear) for name in names)
            torch.testing.assert_close(changed(X), module(X), rtol=1e-12, atol=1e-12)
