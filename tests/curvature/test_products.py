"""Products of the Hessian, and of the Gauss-Newton matrix, with a vector."""

from __future__ import annotations

import pytest
import torch
from torch.nn import CrossEntropyLoss

from sk_obd.curvature import diagonal, gauss_newton, ggn_vector_product, hessian_vector_product
from sk_obd.curvature.gauss_newton import GaussNewton
from sk_obd.curvature.losses.registry import loss_of
from tests.curvature.comparison import error
from tests.curvature.dense import apart, flat, gauss_newton_matrix
from tests.library.cases import BY_NAME, SOME, OnceSquare


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


# -- the Gauss-Newton matrix -----------------------------------------------------------------------


def random_vectors(module):
    """A vector for every trainable parameter, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in module.named_parameters()
        if p.requires_grad
    }


@pytest.mark.parametrize("name", BY_NAME)
def test_ggn_vector_product_is_that_of_the_whole_matrix(name):
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    vectors = random_vectors(module)
    product = ggn_vector_product(
        module, criterion, X, y, vectors, outputs=case.outputs, batch_size=2
    )
    G = gauss_newton_matrix(module, criterion, X, y, outputs=case.outputs)
    assert error(product, apart(G @ flat(vectors), vectors)) <= 1e-10


def test_a_weighted_ggn_product_is_that_of_repeated_rows():
    for name in ("conv2d", "mlp Tanh"):
        module, criterion, X, y = BY_NAME[name].make()
        vectors = random_vectors(module)
        weights = torch.tensor([2.0, 0.0, 1.0] + [0.0] * (len(X) - 3))
        rows = [0, 0, 2]
        one = ggn_vector_product(module, criterion, X, y, vectors, sample_weight=weights)
        two = ggn_vector_product(module, criterion, X[rows], y[rows], vectors)
        assert error(one, two) <= 1e-12


def test_a_ggn_product_with_a_part_of_a_vector_takes_the_rest_for_zero():
    module, criterion, X, y = BY_NAME["mlp Tanh"].make()
    vectors = random_vectors(module)
    some = {"2.weight": vectors["2.weight"]}
    whole = {n: v if n in some else torch.zeros_like(v) for n, v in vectors.items()}
    one = ggn_vector_product(module, criterion, X, y, some)
    assert error(one, ggn_vector_product(module, criterion, X, y, whole)) == 0


def test_products_at_parameters_that_have_changed_are_those_of_the_new_ones():
    module, criterion, X, y = BY_NAME["residual"].make()
    parameters, vectors = dict(module.named_parameters()), random_vectors(module)
    rows = X, y, torch.ones(len(X), dtype=torch.float64)
    matrix = GaussNewton(module, loss_of(criterion), parameters, lambda: [rows])
    matrix.product(vectors)
    with torch.no_grad():
        for p in parameters.values():
            p.mul_(1.5)
    again = matrix.product(vectors)
    assert error(again, ggn_vector_product(module, criterion, X, y, vectors)) <= 1e-14
    assert matrix.n_products == 2


@pytest.mark.parametrize("name", ["residual", "mlp ReLU"])
def test_rows_that_are_too_many_to_keep_are_run_anew_for_every_product(name, monkeypatch):
    module, criterion, X, y = BY_NAME[name].make()
    vectors = random_vectors(module)
    kept = ggn_vector_product(module, criterion, X, y, vectors)
    monkeypatch.setattr(gauss_newton, "KEPT_BYTES", 0)
    assert error(ggn_vector_product(module, criterion, X, y, vectors), kept) <= 1e-14


def test_a_product_in_float32_keeps_the_small_curvature_of_sure_classes():
    form = CrossEntropyLoss()
    logits = torch.tensor([[30.0, 0.0, -3.0], [0.0, 40.0, 1.0]])
    v, y = torch.tensor([[1.0, 2.0, -1.0], [0.5, 3.0, 1.0]]), torch.tensor([0, 1])
    product = loss_of(form).form(logits, y).product(v)
    exact = loss_of(form).form(logits.double(), y).product(v.double())
    torch.testing.assert_close(product.double(), exact, rtol=1e-5, atol=0)


def test_what_rows_share_has_no_ggn_product():
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4, track_running_stats=False)
    ).double()
    X, y = torch.randn(5, 3, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="statistics of the batch"):
        ggn_vector_product(module, torch.nn.MSELoss(), X, y, {})


class Distances(torch.nn.Module):
    """Up to torch 2.13, ``cdist`` can be differentiated only once."""

    def __init__(self):
        super().__init__()
        self.centres = torch.nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3))

    def forward(self, X):
        return torch.cdist(X, self.centres)


class Once(torch.nn.Module):
    """A function whose part torch leaves out of second derivatives without a word."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4).double()

    def forward(self, X):
        return OnceSquare.apply(self.layer(X))


def test_distances_have_the_ggn_product_of_the_whole_matrix_or_are_refused_by_name():
    X, y = torch.randn(5, 3, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
    module, criterion = Distances(), torch.nn.MSELoss()
    vectors = random_vectors(module)
    G = gauss_newton_matrix(module, criterion, X, y)
    said = ""
    try:
        product = ggn_vector_product(module, criterion, X, y, vectors)
        assert error(product, apart(G @ flat(vectors), vectors)) <= 1e-10
    except RuntimeError as refusal:
        said = str(refusal)
    assert not said or "write that step with other operations" in said


def test_what_can_be_differentiated_once_has_no_ggn_product():
    X, y = torch.randn(5, 3, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        ggn_vector_product(Once(), torch.nn.MSELoss(), X, y, {})
