import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sk_obd.pruning.saliency import lowest, saliencies


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

    def found(kind):
        return saliencies(
            kind, u, curvature=h, gradient=g, increase=lambda name: torch.tensor([[7.0, 8.0]])
        )["w"].tolist()[0]

    assert found("obd") == [2.0, 2.25]
    assert found("taylor") == pytest.approx([1.8, 1.65])
    assert found("magnitude") == [2.0, 3.0]
    assert found("deletion") == [7.0, 8.0]
    assert found(lambda p, c: {"w": p["w"] * c["w"]}) == [2.0, -1.5]
    torch.manual_seed(0)
    first = found("random")
    torch.manual_seed(0)
    assert found("random") == first
    assert all(0 <= s < 1 for s in first)


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
