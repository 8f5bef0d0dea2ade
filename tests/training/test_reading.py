import torch

from sk_obd.training.reading import importances, support


def test_an_input_is_read_while_any_weight_of_it_is_alive():
    masks = {
        "a.weight": torch.tensor([[True, False, False], [False, False, False]]).numpy(),
        "b.weight": torch.tensor([[False, False, True]]).numpy(),
    }
    assert support(masks, ["a.weight", "b.weight"], 3).tolist() == [True, False, True]
    assert support(masks, None, 3).tolist() == [True] * 3
    saliency = {name: mask * 2.0 for name, mask in masks.items()}
    assert importances(saliency, ["a.weight", "b.weight"]).tolist() == [2.0, 0.0, 2.0]
