"""Forms are what autograd gives."""

from __future__ import annotations

import pytest
import torch

from sk_obd.curvature.losses.hessians import Categorical, Dense, Form, RankOne, Separable
from sk_obd.curvature.losses.registry import loss_of
from tests.library.cases import BY_NAME, CASES

F64 = torch.float64
CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@CASE
def test_columns_and_gradient_are_autograds_derivatives_at_the_logits(case):
    criterion, output, y = case.judged()
    loss = loss_of(criterion, case.outputs)
    a = loss.logits(output)
    form = loss.form(a, y)
    size = a[0].numel()
    H = torch.zeros(len(a), size, size, dtype=a.dtype)
    for S, signs in form.columns(limit=2):
        S = S.flatten(2) if S.ndim > 2 else S.unsqueeze(2)
        H += torch.einsum(
            "kn,kni,knj->nij", S.new_ones(S.shape[:2]) if signs is None else signs, S, S
        )
    for i in range(len(a)):
        target = y[i : i + 1]

        def row(flat, target=target):
            return loss.rows_at(flat.view(1, *a.shape[1:]), target).sum()

        flat = a[i].flatten().requires_grad_()
        expected = torch.autograd.functional.hessian(row, flat)
        torch.testing.assert_close(H[i], expected, rtol=1e-9, atol=1e-12)
        slope = torch.autograd.grad(row(flat), flat)[0]
        torch.testing.assert_close(
            loss.gradient(a[i : i + 1].detach(), target).flatten(), slope, rtol=1e-9, atol=1e-12
        )
    expected = H.diagonal(dim1=1, dim2=2).reshape(a.shape)
    torch.testing.assert_close(form.diagonal(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["weighted classes", "dense labels", "bce", "mse", "divergence", "soft margin"]
)
def test_the_samples_average_to_the_diagonal(name):
    criterion, output, y = BY_NAME[name].judged()
    loss, many = loss_of(criterion, BY_NAME[name].outputs), 5000
    a = loss.logits(output)[:1].repeat(many, *[1] * (output.ndim - 1))
    form = loss.form(a, y[:1].repeat(many, *[1] * (y.ndim - 1)))
    mean = form.sample(torch.Generator().manual_seed(0))[0].square().mean(0)
    expected = form.diagonal()[0]
    assert ((mean - expected).abs() / expected.max()).max() < 0.1


def random(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=F64) + 0.1


def symmetric(n, size):
    A = random(n, size, size) - 0.5
    return A + A.mT


FORMS = {
    "categorical": lambda: Categorical(random(4, 3).softmax(1), random(4)),
    "categorical at positions": lambda: Categorical(random(4, 3, 2).softmax(1), random(4, 2)),
    "separable": lambda: Separable(random(4, 3) - 0.5),
    "dense": lambda: Dense(symmetric(4, 6), torch.Size((4, 3, 2))),
    "rank one": lambda: RankOne(random(4, 3) - 0.5),
    "rank one at positions": lambda: RankOne(random(4, 3, 2) - 0.5),
}


def hessian(form):
    """The blocks (n, D, D) that the columns of a form add up to."""
    total = 0
    for S, signs in form.columns(limit=2):
        S = S.flatten(2)
        signs = torch.ones(S.shape[:2], dtype=F64) if signs is None else signs
        total = total + torch.einsum("kn,kni,knj->nij", signs, S, S)
    return total


@pytest.mark.parametrize("name", FORMS)
def test_the_columns_add_up_to_a_block_with_the_diagonal(name):
    form = FORMS[name]()
    assert isinstance(form, Form)
    block = hessian(form).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(form.diagonal().flatten(1), block, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_scaled_row_by_row(name, dtype):
    form, weight = FORMS[name](), torch.tensor([2.0, 0.0, 1.0, 0.25], dtype=dtype)
    before = hessian(form)
    scaled = form.scaled(weight)
    assert type(scaled) is type(form)
    expected = before * weight.to(F64).view(-1, 1, 1)
    torch.testing.assert_close(hessian(scaled), expected, rtol=1e-12, atol=1e-14)
    diagonal = form.diagonal().flatten(1) * weight.to(F64).view(-1, 1)
    torch.testing.assert_close(scaled.diagonal().flatten(1), diagonal, rtol=1e-12, atol=1e-14)
    assert torch.equal(hessian(form), before)


def test_the_sample_of_a_single_column_is_that_column():
    form = RankOne(random(4, 3))
    assert torch.equal(form.sample(torch.Generator())[0], form.s)


def test_columns_of_a_single_column_may_be_changed():
    form = RankOne(random(4, 3))
    (block, _), *rest = form.columns()
    block.zero_()
    assert form.s.all()
    assert not rest


@pytest.mark.parametrize(
    ("form", "message"),
    [(Separable(-random(2, 3)), "negative second"), (Dense(-symmetric(2, 3), (2, 3)), "convex")],
)
def test_what_is_not_convex_has_no_samples(form, message):
    with pytest.raises(ValueError, match=message):
        form.sample(torch.Generator())
