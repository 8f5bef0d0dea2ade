"""Diagonal second derivatives of a network's loss: exact, for any torch module.

>>> import torch
>>> from sk_obd.curvature import diagonal
>>> module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
>>> X, y = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
>>> h = diagonal(module, torch.nn.CrossEntropyLoss(), X, y)
>>> list(h)
['0.weight', '0.bias', '2.weight', '2.bias']
"""

from .diagonal import METHODS, diagonal
from .layers.layer_rule import register_rule
from .losses.registry import resolve
from .oracle import dense_diagonal
from .products import hessian_vector_product

__all__ = [
    "METHODS",
    "dense_diagonal",
    "diagonal",
    "hessian_vector_product",
    "register_rule",
    "resolve",
]
