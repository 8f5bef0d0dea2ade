"""Forms are what autograd gives."""

from __future__ import annotations

import pytest
import torch

from sk_obd.curvature.losses.registry import loss_of
from tests.library.cases import BY_NAME, CASES

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def output_of(case):
    module, criterion, X, y = case.make()
    return criterion, module.eval()(X).detach(), y


@CASE
def test_columns_and_gradient_are_autograds_derivatives_at_the_logits(case):
    criterion, output, y = output_of(case)
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
    criterion, output, y = output_of(BY_NAME[name])
    loss, many = loss_of(criterion, BY_NAME[name].outputs), 5000
    a = loss.logits(output)[:1].repeat(many, *[1] * (output.ndim - 1))
    form = loss.form(a, y[:1].repeat(many, *[1] * (y.ndim - 1)))
    mean = form.sample(torch.Generator().manual_seed(0))[0].square().mean(0)
    expected = form.diagonal()[0]
    assert ((mean - expected).abs() / expected.max()).max() < 0.1
