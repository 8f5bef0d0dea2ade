import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sk_obd import OBDClassifier
from sk_obd.curvature import diagonal
from sk_obd.pruning.saliency import lowest, lowest_places, saliencies
from tests.curvature.dense import flat, gauss_newton_matrix
from tests.library.settings import QUICK


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    data=st.data(),
)
@settings(deadline=None)
def test_what_goes_is_never_above_what_stays(values, data):
    cut = data.draw(st.integers(0, len(values)))
    alive = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    )
    n = data.draw(st.integers(0, int(alive.sum())))
    s = torch.tensor(values, dtype=torch.float64)
    saliency = {"b": s[:cut], "a": s[cut:]}
    masks = {"b": alive[:cut], "a": alive[cut:]}
    gone = lowest(saliency, masks, ["b", "a"], n)
    gone = torch.cat([gone["b"], gone["a"]])
    assert int(gone.sum()) == n
    assert not (gone & ~alive).any()
    stays = alive & ~gone
    if gone.any() and stays.any():
        slack = 2.0**-19 * s[gone].max().abs()
        assert s[gone].max() <= s[stays].min() + slack


@given(keys=st.lists(st.sampled_from([0.0, -1.0, 2.0, 2.5, np.inf, -np.inf]), max_size=30))
def test_the_lowest_places_are_the_first_of_a_stable_order(keys):
    keys = np.array(keys)
    for n in range(len(keys) + 2):
        order = [i for i in np.argsort(keys, kind="stable") if keys[i] < np.inf]
        expected = np.isin(np.arange(len(keys)), order[:n])
        assert (lowest_places(keys, n) == expected).all()


def test_ties_go_by_name_and_index_whatever_the_rounding():
    one = 1.0 + 2.0**-40
    saliency = {"w": torch.tensor([one, 1.0, 2.0]).double(), "b": torch.tensor([one, 1.0]).double()}
    masks = {k: torch.ones_like(s, dtype=torch.bool) for k, s in saliency.items()}
    gone = lowest(saliency, masks, ["w", "b"], 3)
    assert gone["b"].tolist() == [True, True]
    assert gone["w"].tolist() == [True, False, False]


def test_each_criterion_is_its_formula():
    u = {"w": torch.tensor([[2.0, -3.0]])}
    h = {"w": torch.tensor([[1.0, 0.5]])}
    g = {"w": torch.tensor([[0.1, -0.2]])}
    known = {
        "curvature": h,
        "gradient": g,
        "penalty_gradient": {"w": torch.tensor([[0.5, -1.0]])},
        "inverse": {"w": torch.tensor([[0.25, 0.0]])},
    }

    def found(kind):
        increase = torch.tensor([[7.0, 8.0]])
        return saliencies(kind, u, **known, increase=lambda name: increase)["w"].tolist()[0]

    assert found("obd") == [2.0, 2.25]
    assert found("taylor") == pytest.approx([1.8, 1.65])
    assert found("obd-decay") == [2.0 + 1.0, 2.25 + 3.0]
    assert found("obs") == [8.0, 0.0]  # where there is no inverse, nothing is alive
    assert found("magnitude") == [2.0, 3.0]
    assert found("deletion") == [7.0, 8.0]
    assert found(lambda p, c: {"w": p["w"] * c["w"]}) == [2.0, -1.5]
    torch.manual_seed(0)
    first = found("random")
    torch.manual_seed(0)
    assert found("random") == first
    assert all(0 <= s < 1 for s in first)


def trained(iris, **settings):
    """A fit with a known weight decay, and the network in float64."""
    settings = QUICK | {"prune_rate": 0.4, "weight_decay": 0.02} | settings
    fitted = OBDClassifier(**settings).fit(iris[0].astype(np.float64), iris[1])
    return fitted, {n: p.detach() for n, p in fitted.net_.module_.named_parameters()}


def test_with_weight_decay_obd_decay_is_its_closed_form(iris):
    fitted, u = trained(iris, saliency="obd-decay")
    h = diagonal(fitted.net_.module_, nn.CrossEntropyLoss(), *rows(iris))
    for name, saliency in fitted.saliencies_.items():
        expected = (0.02 + h[name] / 2) * u[name].square()
        np.testing.assert_allclose(saliency, expected, rtol=1e-8, atol=1e-12)


def test_obs_is_that_of_the_dense_matrix_of_what_is_alive(iris):
    fitted, u = trained(iris, saliency="obs")
    G = gauss_newton_matrix(fitted.net_.module_, nn.CrossEntropyLoss(), *rows(iris))
    alive = flat({n: torch.tensor(m) for n, m in fitted.mask_.items()})
    H = G[alive][:, alive] + 0.02 * torch.eye(int(alive.sum()), dtype=torch.float64)
    expected = flat(u)[alive].square() / (2 * torch.linalg.inv(H).diagonal())
    got = flat({n: torch.tensor(s) for n, s in fitted.saliencies_.items()})
    torch.testing.assert_close(got[alive], expected, rtol=1e-4, atol=1e-10)
    assert not got[~alive].any()


def rows(iris):
    return torch.tensor(iris[0]), torch.tensor(iris[1])


def test_at_a_minimum_of_the_trained_loss_obd_decay_predicts_what_obd_does_not(digits):
    """Small steps, well trained: the loss rises along the gradient, which the decay holds up."""
    settings = {"hidden_layer_sizes": (16,), "max_epochs": 400, "retrain_epochs": 40}
    settings |= {"prune_rate": 0.3, "step": 0.05, "weight_decay": 0.01, "random_state": 0}
    off = {}
    for saliency in ("obd", "obd-decay"):
        path = OBDClassifier(saliency=saliency, **settings).fit(*digits).path_.rows[1:]
        actual = sum(row["actual_increase"] for row in path)
        off[saliency] = abs(sum(row["predicted_increase"] for row in path) - actual) / actual
    assert off["obd-decay"] < off["obd"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "returned nothing for 'w'"),
        ({"w": torch.ones(3)}, r"shape \(3,\) .*expected finite values of shape \(2,\)"),
        ({"w": torch.tensor([1.0, torch.nan])}, "1 values not finite"),
    ],
)
def test_a_callable_that_answers_badly_is_told(answer, message):
    with pytest.raises(ValueError, match=message):
        saliencies(lambda p, c: answer, {"w": torch.ones(2)})
