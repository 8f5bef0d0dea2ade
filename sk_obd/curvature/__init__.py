"""Diagonal second derivatives of a network's loss: exact, for any torch module.

>>> import torch
>>> from sk_obd.curvature import diagonal
>>> module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
>>> X, y = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
>>> h = diagonal(module, torch.nn.CrossEntropyLoss(), X, y)
>>> list(h)
['0.weight', '0.bias', '2.weight', '2.bias']

**Conventions.** Shapes are written with ``n`` rows of a batch, ``k`` columns taken together, ``g``
groups of a convolution, ``p`` positions that share a parameter (pixels, time steps), in this order:
``(k, n, g, ..., p)``. Rows never mix.

========  ======================================================================================
``u``     a parameter; ``h`` is what is wanted, the second derivative of the loss by it. At a layer,
          ``h`` and ``D`` are second derivatives by the numbers of its output.
``x, z``  a layer's input ``(n, ...)`` and output ``(n, ...)``. Where ``f`` follows the layer, the
          next layer reads ``x = f(z)``.
``g``     a first derivative of the loss: ``gradient`` at the logits, ``delta`` at a layer's input.
``H``     the Hessian of each row's loss by its logits, in one of the forms of ``losses.hessians``.
``S``     columns of a square root of ``H``, ``(k, n, *logits)``: with their ``signs`` ``(k, n)``
          (None for +1), ``sum_k sign s s^T = H``. Also what has become of them further down.
``G``     such columns pulled back to a layer's output, ``(k, n, *z)``.
``J``     the Jacobian of the logits by the parameters, or of a map by what it reads. With it,
          Gauss-Newton is ``diag(J^T H J) = sum of sign (J^T s)**2``.
``w``     weights of the rows, ``(n,)``.
========  ======================================================================================

**Which route is taken when.** Each method tries the quickest that the module allows, batch by
batch, and remembers in ``Problem`` which ones it does not.

1. ``routes.dense_chain``: all trainable parameters are weights and biases of Linear layers, each
   called once, with only elementwise maps between them. Columns and residuals go down by matrix
   products (``methods.ggn_dense``, ``hessian``, ``recursion``).
2. ``routes.layer_chain``: every layer with trainable parameters has a rule (``layers.registry``)
   that knows all of them, reads nothing but the layer before, and has the rows of X as its rows.
   Columns go down layer by layer (``methods.ggn_layers``, ``recursion_shared``). "hessian" takes
   this route where the logits are piecewise linear in every parameter, so that it is Gauss-Newton.
3. ``routes.any_module``: layers with a rule that are called once and keep rows apart get their
   columns from one batched backward pass; the parameters of all others go by ``routes.per_row``.
   "hessian" differentiates twice instead, unless the logits are piecewise linear in every
   parameter. "recursion" refuses such modules.

**No route rests on an assumption.** What a route needs is read off each batch's own graph: on which
leaves a layer's output depends and how often on each, whether the layer was called with its own
parameters, whether all that is multiplied depends on different parameters, whether an operation
broadcasts. Hooks of this package see what a layer gives before hooks of a user do, so that the
latter count as part of what follows. Rows are tried out: a few drawn from all of X, together and
each alone. What torch computes for many rows at once is confirmed by one ordinary backward pass.
At last ``check`` compares the whole with plain autograd on two rows.

**Parts**, each of which imports only those behind it: ``diagonal``, ``products``, ``inverse`` and
``oracle``; ``gauss_newton`` and ``check``; ``boundary`` (arguments, batches, eval mode);
``methods``; ``problem``; ``routes``; ``layers``; ``losses``; ``hooks``.
"""

from .diagonal import METHODS, diagonal
from .layers.registry import register_rule
from .oracle import dense_diagonal
from .products import ggn_vector_product, hessian_vector_product

__all__ = [
    "METHODS",
    "dense_diagonal",
    "diagonal",
    "ggn_vector_product",
    "hessian_vector_product",
    "register_rule",
]
