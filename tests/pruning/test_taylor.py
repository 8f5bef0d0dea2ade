"""The terms of the expansion against full Hessians, and against closed forms."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from sk_obd import OBDClassifier, TaylorTerms, taylor_terms
from sk_obd.training.masks import all_alive
from sk_obd.training.objective import Objective
from tests.library.cases import BY_NAME, OnceSquare
from tests.library.modules import SmallConv, TwoLayers
from tests.library.nets import classifier_net

N = 12


def images(rng):
    return torch.tensor(rng.normal(size=(N, 1, 8, 8)))


def rows(rng):
    return torch.tensor(rng.normal(size=(N, 4)))


def labels(rng):
    return torch.tensor(rng.integers(0, 3, N))


def values(rng):
    return torch.tensor(rng.normal(size=(N, 3)))


def counts(rng):
    return torch.tensor(rng.poisson(2.0, size=(N, 3)).astype(float))


def bits(rng):
    return torch.tensor(rng.integers(0, 2, size=(N, 3)).astype(float))


def mlp(activation=nn.Tanh, top=nn.Identity):
    return TwoLayers(activation=activation, top=top, dtype=torch.float64)


class TinyConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=3)
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(8, 3)

    def forward(self, X):
        return self.linear(torch.tanh(self.norm(self.conv(X))).flatten(1))


CASES = {
    "tanh, cross-entropy": (mlp, nn.CrossEntropyLoss(), rows, labels),
    "ReLU, cross-entropy": (lambda: mlp(nn.ReLU), nn.CrossEntropyLoss(), rows, labels),
    "GELU, squared error": (lambda: mlp(nn.GELU), nn.MSELoss(), rows, values),
    "log-probabilities": (
        lambda: mlp(top=lambda: nn.LogSoftmax(1)),
        nn.NLLLoss(),
        rows,
        labels,
    ),
    "binary": (mlp, nn.BCEWithLogitsLoss(), rows, bits),
    "probabilities": (lambda: mlp(top=nn.Sigmoid), nn.BCELoss(), rows, bits),
    "Huber": (mlp, nn.HuberLoss(delta=0.7), rows, values),
    "counts": (mlp, nn.PoissonNLLLoss(), rows, counts),
    "convolutional": (lambda: TinyConv().double(), nn.CrossEntropyLoss(), images, labels),
}


def some_masks(module, rng, share=0.4):
    return {
        name: torch.tensor(rng.uniform(size=p.shape) > share)
        for name, p in module.named_parameters()
    }


def by_full_hessian(module, criterion, X, y, masks):
    """g . du, the diagonal's part and the whole of du . H du / 2, with every entry of H."""
    module.eval()
    names = [name for name, _ in module.named_parameters()]
    parts = [p.detach() for p in module.parameters()]
    sizes = [p.numel() for p in parts]

    def loss(flat):
        pieces = zip(names, flat.split(sizes), parts, strict=True)
        return criterion(functional_call(module, {k: f.view_as(p) for k, f, p in pieces}, (X,)), y)

    u = torch.cat([p.flatten() for p in parts])
    du = -u * torch.cat([~masks[name].flatten() for name in names])
    g, H = torch.func.grad(loss)(u), hessian(loss)(u)
    first, diagonal = (g @ du).item(), (H.diagonal() @ du.square()).item() / 2
    return first, diagonal, (du @ H @ du).item() / 2 - diagonal, (loss(u + du) - loss(u)).item()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_terms_are_those_of_the_full_hessian_and_add_up(case, weighted, rng):
    build, criterion, inputs, targets = CASES[case]
    torch.manual_seed(0)
    module, X, y = build(), inputs(rng), targets(rng)
    masks = some_masks(module, rng)
    repeats = torch.tensor(rng.integers(1, 4, N)) if weighted else torch.ones(N, dtype=torch.int64)
    found = taylor_terms(
        module,
        criterion,
        X,
        y,
        masks,
        curvature="hessian",
        sample_weight=repeats.double() if weighted else None,
    )
    expected = by_full_hessian(
        module, criterion, X.repeat_interleave(repeats, 0), y.repeat_interleave(repeats, 0), masks
    )
    terms = (found.first_order, found.diagonal, found.off_diagonal, found.actual_increase)
    np.testing.assert_allclose(terms, expected, rtol=1e-9, atol=1e-12)
    total = found.first_order + found.diagonal + found.off_diagonal + found.higher_order
    assert total == pytest.approx(found.actual_increase, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("name", BY_NAME)
def test_first_and_second_order_are_the_slopes_along_the_deletion(name, rng):
    """For every layer and loss: derivatives of E(u + t du) at t = 0, by central differences."""
    case = BY_NAME[name]
    module, criterion, X, y = case.make()
    module.eval()
    masks = some_masks(module, rng, share=0.3)
    objective = Objective(module, criterion, X, y, outputs=case.outputs)
    parameters = dict(module.named_parameters())
    start = {name: p.detach().clone() for name, p in parameters.items()}

    def along(t):
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(torch.where(masks[name], start[name], (1 - t) * start[name]))
        return objective.loss()

    h = 2e-4  # short, since ReLU and max pools have kinks
    far_below, below, here, above, far_above, end = map(along, (-2 * h, -h, 0, h, 2 * h, 1))
    along(0)
    slope = (8 * (above - below) - (far_above - far_below)) / (12 * h)
    bend = (16 * (above + below) - (far_above + far_below) - 30 * here) / (12 * h**2)
    found = taylor_terms(module, criterion, X, y, masks, outputs=case.outputs)
    scale = abs(found.diagonal) + abs(found.first_order)
    assert found.actual_increase == pytest.approx(end - here, rel=1e-9, abs=1e-13)
    assert found.first_order == pytest.approx(slope, rel=1e-6, abs=1e-8 * scale)
    second = found.diagonal + found.off_diagonal
    assert second == pytest.approx(bend / 2, rel=1e-4, abs=1e-6 * scale)
    total = found.first_order + second + found.higher_order
    assert total == pytest.approx(found.actual_increase, rel=1e-12, abs=1e-14)


def test_with_another_curvature_what_it_leaves_out_is_off_diagonal(rng):
    build, criterion, inputs, targets = CASES["tanh, cross-entropy"]
    torch.manual_seed(0)
    module, X, y = build(), inputs(rng), targets(rng)
    masks = some_masks(module, rng)
    exact, ggn = (
        taylor_terms(module, criterion, X, y, masks, curvature=kind) for kind in ("hessian", "ggn")
    )
    assert exact.diagonal != pytest.approx(ggn.diagonal, rel=1e-3)
    assert exact.diagonal + exact.off_diagonal == pytest.approx(
        ggn.diagonal + ggn.off_diagonal, rel=1e-12
    )
    assert exact.higher_order == pytest.approx(ggn.higher_order, rel=1e-9)


def quadratic(X, y):
    """A linear model at its least-squares solution."""
    module = nn.Linear(X.shape[1], 1, bias=False, dtype=torch.float64)
    solution = torch.linalg.lstsq(X, y).solution
    with torch.no_grad():
        module.weight.copy_(solution.T)
    return module


def test_a_quadratic_loss_has_nothing_of_higher_order(rng):
    X, y = torch.tensor(rng.normal(size=(30, 5))), torch.tensor(rng.normal(size=(30, 1)))
    masks = {"weight": torch.tensor([[True, False, False, True, False]])}
    found = taylor_terms(quadratic(X, y), nn.MSELoss(), X, y, masks)
    assert abs(found.higher_order) < 1e-14
    assert abs(found.first_order) < 1e-14
    assert abs(found.off_diagonal) > 1e-3


def test_orthogonal_inputs_have_nothing_off_the_diagonal(rng):
    X = torch.linalg.qr(torch.tensor(rng.normal(size=(30, 5)))).Q * 3
    y = torch.tensor(rng.normal(size=(30, 1)))
    masks = {"weight": torch.tensor([[True, False, False, True, False]])}
    found = taylor_terms(quadratic(X, y), nn.MSELoss(), X, y, masks)
    assert abs(found.off_diagonal) < 1e-14
    assert found.actual_increase == pytest.approx(found.diagonal, rel=1e-12)


def test_the_module_comes_back_as_it_was(rng):
    torch.manual_seed(0)
    module, X, y = SmallConv().double().train(), images(rng), labels(rng)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    taylor_terms(module, nn.CrossEntropyLoss(), X, y, some_masks(module, rng))
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_deleting_nothing_changes_nothing(rng):
    torch.manual_seed(0)
    module, X, y = mlp(), rows(rng), labels(rng)
    found = taylor_terms(module, nn.CrossEntropyLoss(), X, y, all_alive(module))
    assert found == TaylorTerms()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"third.weight": torch.ones(3, 3) > 0}, "'third.weight', which is not a trainable"),
        ({"first.weight": torch.ones(3, 3) > 0}, r"shape \(3, 3\).*expected \(8, 4\)"),
        ({"first.weight": torch.ones(8, 4)}, "torch.float32.*torch.bool"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, message, rng):
    with pytest.raises(ValueError, match=message):
        taylor_terms(mlp(), nn.CrossEntropyLoss(), rows(rng), labels(rng), masks)


@pytest.mark.parametrize("n_recomputations", [0, 2])
def test_a_paths_terms_add_up_and_are_those_of_the_public_function(iris, n_recomputations):
    X, y = iris
    net = classifier_net(
        module__dtype=torch.float64, module__activation=nn.Tanh, optimizer__weight_decay=1e-3
    )
    fitted = OBDClassifier(
        net,
        prune_rate=0.8,
        step=0.3,
        n_recomputations=n_recomputations,
        curvature="hessian",
        retrain_epochs=3,
        random_state=0,
    ).fit(X, y)
    for i, row in enumerate(fitted.path_.rows[1:]):
        total = sum(row[k] for k in ("first_order", "diagonal", "off_diagonal", "higher_order"))
        assert total == pytest.approx(row["actual_increase"], rel=1e-10, abs=1e-14)
        assert row["diagonal"] == pytest.approx(row["predicted_increase"], rel=1e-12)
        after = fitted.at(iteration=i + 1)
        module = fitted.path_.network(i)
        found = taylor_terms(module, nn.CrossEntropyLoss(), X, y, after.mask_, curvature="hessian")
        assert found.actual_increase == pytest.approx(row["actual_increase"], rel=1e-9, abs=1e-14)
        if not n_recomputations:
            assert found.first_order == pytest.approx(row["first_order"], rel=1e-9, abs=1e-14)
            assert found.off_diagonal == pytest.approx(row["off_diagonal"], rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("saliency", ["magnitude", "random", "deletion"])
def test_a_saliency_without_curvature_has_the_first_order_term_alone(iris, saliency):
    X, y = iris
    fitted = OBDClassifier(
        hidden_layer_sizes=(4,), saliency=saliency, max_epochs=5, retrain_epochs=1, random_state=0
    ).fit(X, y)
    row = fitted.path_[1]
    assert np.isfinite([row["first_order"], row["actual_increase"]]).all()
    assert np.isnan([row["diagonal"], row["off_diagonal"], row["higher_order"]]).all()


class OnceDifferentiable(TwoLayers):
    def forward(self, X):
        return self.second(OnceSquare.apply(self.first(X)))


def test_a_loss_that_cannot_be_differentiated_twice_is_still_pruned(iris):
    X, y = iris
    clf = OBDClassifier(
        classifier_net(OnceDifferentiable, lr=1e-3), retrain_epochs=1, random_state=0
    )
    with pytest.warns(UserWarning, match="cannot be differentiated twice"):
        clf.fit(X, y)
    row = clf.path_[1]
    assert np.isfinite([row["first_order"], row["diagonal"]]).all()
    assert np.isnan([row["off_diagonal"], row["higher_order"]]).all()


@pytest.mark.slow
@pytest.mark.parametrize("reason", [{"weight_decay": 1e-2}, {"max_epochs": 15}])
def test_the_gradients_term_mends_what_a_penalty_or_an_early_stop_does(digits, reason):
    """There the loss is not at a minimum of its own; "taylor" predicts with that term."""
    X, y = digits
    fitted = OBDClassifier(
        step=0.02, retrain_epochs=5, hidden_layer_sizes=(16,), random_state=0, **reason
    ).fit(X, y)
    frame = fitted.path_.to_frame().iloc[1:]
    obd = (frame["actual_increase"] - frame["diagonal"]).abs().sum()
    taylor = (frame["actual_increase"] - frame["diagonal"] - frame["first_order"]).abs().sum()
    assert taylor < obd / 2
