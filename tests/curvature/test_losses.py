"""Rows over normalisers is torch's mean; forms are what autograd gives; criteria are left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sk_obd.curvature import diagonal
from sk_obd.curvature.losses.registry import resolve
from tests.library.cases import BY_NAME, CASES, cosh, mlp

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def output_of(case):
    module, criterion, X, y = case.make()
    return criterion, module.eval()(X).detach(), y


@CASE
def test_rows_over_normalisers_is_the_mean(case):
    criterion, output, y = output_of(case)
    loss = resolve(criterion, case.outputs)
    loss.eps = 0.0
    mean = loss.rows(output, y).sum() / loss.normalisers(output, y).sum()
    expected = criterion(
        output.log() if isinstance(criterion, nn.NLLLoss) and case.outputs else output, y
    )
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=0)


@CASE
def test_columns_and_gradient_are_autograds_derivatives_at_the_logits(case):
    criterion, output, y = output_of(case)
    loss = resolve(criterion, case.outputs)
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
    loss, many = resolve(criterion, BY_NAME[name].outputs), 5000
    a = loss.logits(output)[:1].repeat(many, *[1] * (output.ndim - 1))
    form = loss.form(a, y[:1].repeat(many, *[1] * (y.ndim - 1)))
    mean = form.sample(torch.Generator().manual_seed(0))[0].square().mean(0)
    expected = form.diagonal()[0]
    assert ((mean - expected).abs() / expected.max()).max() < 0.1


def test_the_criterion_is_never_called_or_changed():
    module, criterion, X, y = BY_NAME["weighted classes"].make()
    expected = diagonal(module, criterion, X, y)

    def refuse(*_):
        raise AssertionError("called")

    criterion.reduction = "none"
    criterion.register_forward_hook(refuse)
    criterion.register_forward_pre_hook(refuse)
    got = diagonal(module, criterion, X, y)
    assert criterion.reduction == "none"
    assert len(criterion._forward_hooks) == len(criterion._forward_pre_hooks) == 1
    for name, value in expected.items():
        assert torch.equal(got[name], value)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("name", ["weighted classes", "mse", "gaussian of fixed variance"])
def test_the_criterions_own_reduction_does_not_matter(name, reduction):
    module, criterion, X, y = BY_NAME[name].make()
    expected = diagonal(module, criterion, X, y)
    criterion.reduction = reduction
    for key, value in diagonal(module, criterion, X, y).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-12, atol=0)


def test_rows_take_double_outputs_with_single_weights():
    loss = resolve(nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0])))
    rows = loss.rows(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1]))
    assert rows.dtype == torch.float64
    assert rows.tolist() == pytest.approx([0.5 * 0.6931471805599453, 2 * 0.6931471805599453])


def test_probabilities_carry_skorchs_eps_in_the_rows_alone():
    loss = resolve(nn.NLLLoss(), outputs="proba")
    p, y = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([1])
    assert loss.rows(p, y).item() == pytest.approx(36.0437, abs=1e-3)
    loss.eps = 1e-3
    assert loss.rows(p, y).item() == pytest.approx(6.9078, abs=1e-3)


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

    assert type(resolve(Focal())) is type(resolve(cosh))


@pytest.mark.parametrize(
    "criterion",
    [nn.TripletMarginLoss(), nn.GaussianNLLLoss(), nn.CTCLoss(), nn.CosineEmbeddingLoss()],
)
def test_criteria_of_more_than_output_and_target_are_refused(criterion):
    with pytest.raises(
        ValueError, match=rf"{type(criterion).__name__} cannot be called as .*Wrap it"
    ):
        resolve(criterion)


def test_a_sum_over_rows_without_reduction_is_refused():
    def total(output, target):
        return (output - target).square().sum()

    module, _, X, y = BY_NAME["mse"].make()
    with pytest.raises(ValueError, match=r"total gives .* mean over single rows"):
        diagonal(module, total, X, y)


def test_targets_that_would_be_broadcast_are_refused():
    module, X = nn.Linear(2, 1), torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"shape \(3, 1\) but the targets have shape \(3,\)"):
        diagonal(module, nn.MSELoss(), X, torch.zeros(3))


@pytest.mark.parametrize("outputs", [None, "proba"])
def test_outputs_that_are_no_probabilities_are_refused(outputs):
    module, X = mlp(2, 3, 2), torch.randn(3, 2)
    with pytest.raises(ValueError, match="not to 1"):
        diagonal(module, nn.NLLLoss(), X, torch.tensor([0, 1, 0]), outputs=outputs)


def test_outputs_that_contradict_the_criterion_are_refused():
    with pytest.raises(ValueError, match="outputs='proba' does not fit CrossEntropyLoss"):
        resolve(nn.CrossEntropyLoss(), outputs="proba")


def test_classes_are_refused():
    with pytest.raises(ValueError, match=r"MSELoss\(\)"):
        resolve(nn.MSELoss)
