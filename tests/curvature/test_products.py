"""Products of the Hessian with a vector."""

from __future__ import annotations

import pytest
import torch

from sk_obd.curvature import diagonal, hessian_vector_product
from tests.curvature.comparison import error
from tests.library.cases import BY_NAME, SOME


@pytest.mark.parametrize("name", [*SOME, "tied autoencoder", "nll on probabilities", "attention"])
def test_hessian_vector_product_is_the_column_it_should_be(name):
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    exact = diagonal(module, criterion, X, y, method="hessian", outputs=case.outputs)
    for name, value in list(exact.items())[:3]:
        at = int(value.abs().argmax())
        unit = torch.zeros_like(value)
        unit.view(-1)[at] = 1
        product = hessian_vector_product(
            module, criterion, X, y, {name: unit}, outputs=case.outputs, batch_size=2
        )
        torch.testing.assert_close(
            product[name].view(-1)[at], value.view(-1)[at], rtol=1e-10, atol=1e-14
        )
        assert list(product) == list(exact)


def test_weighted_products_are_those_of_repeated_rows():
    module, criterion, X, y = BY_NAME["conv2d"].make()
    vectors = {name: torch.ones_like(p) for name, p in module.named_parameters()}
    weights, rows = torch.tensor([2.0, 0.0, 1.0]), [0, 0, 2]
    one = hessian_vector_product(module, criterion, X, y, vectors, sample_weight=weights)
    two = hessian_vector_product(module, criterion, X[rows], y[rows], vectors)
    assert error(one, two) <= 1e-12


def test_vectors_are_checked():
    module, criterion, X, y = BY_NAME["mse"].make()
    with pytest.raises(ValueError, match="'nothing'"):
        hessian_vector_product(module, criterion, X, y, {"nothing": torch.ones(1)})
    with pytest.raises(ValueError, match=r"shape \(1,\), expected \(5,\)"):
        hessian_vector_product(module, criterion, X, y, {"0.bias": torch.ones(1)})
