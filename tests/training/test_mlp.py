from itertools import pairwise

import numpy as np
import pytest
import torch

from sk_obd.training.mlp import ACTIVATIONS, MLP, default_net


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(), (5,), (6, 4)])
def test_sized_from_features_outputs_and_hidden_layers(activation, sizes):
    module = MLP(3, 2, sizes, activation)
    assert module(torch.randn(7, 3, dtype=torch.float64)).shape == (7, 2)
    widths = [3, *sizes, 2]
    expected = sum((a + 1) * b for a, b in pairwise(widths))
    assert sum(p.numel() for p in module.parameters()) == expected


def test_weights_start_within_glorots_bound_and_biases_at_zero():
    layer = MLP(30, 2, (50,)).hidden0
    bound = (6 / 80) ** 0.5
    assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert (layer.bias == 0).all()


@pytest.mark.parametrize(("total", "expected"), [(100.0, 1e-2), (400.0, 1e-2), (4000.0, 1e-3)])
def test_automatic_weight_decay_falls_with_the_weight_of_the_data(total, expected):
    net = default_net(
        "classifier",
        mean_and_scale=(np.zeros(2), np.ones(2)),
        n_outputs=2,
        sum_of_weights=total,
        n_rows=500,
        dtype=torch.float64,
        hidden_layer_sizes=(3,),
        activation="relu",
        learning_rate_init=1e-3,
        batch_size="auto",
        max_epochs=2,
        weight_decay="auto",
    )
    assert net.optimizer__weight_decay == pytest.approx(expected)
    assert net.batch_size == 200
