"""Which inputs a network still reads, and how much each matters."""

import numpy as np
import torch
from torch import nn

from .nets import evaluating


def reading_layers(module, X):
    """Names of the weights of the Linear layers that read X, or None where anything else does.

    Parameters
    ----------
    module : torch.nn.Module
    X : tensor of shape (n_rows, ...)

    Returns
    -------
    list of str or None
        None unless X has two dimensions and enters nothing but Linear layers.
    """
    if X.ndim != 2 or not X.is_floating_point():
        return None
    names = {id(p): name for name, p in module.named_parameters()}
    readers = []

    def note(layer, inputs, output):
        # Dropout in eval mode and flattening pass X on as it is.
        if inputs and inputs[0].data_ptr() == X.data_ptr() and inputs[0].shape == X.shape:
            readers.append(layer)

    X = X.detach().clone().requires_grad_()
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        with evaluating(module), torch.enable_grad():
            output = module(X)
    finally:
        for handle in handles:
            handle.remove()
    output = output[0] if isinstance(output, tuple) else output
    # Every way by which X enters the graph must be one of the layers seen.
    if not readers or times_used(output, X) != len(readers):
        return None
    found = [names.get(id(layer.weight)) for layer in readers]
    return None if None in found else found


def times_used(output, leaf):
    """How often `leaf` enters the autograd graph of `output`."""
    count, seen, todo = 0, set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for parent, _ in node.next_functions:
            if getattr(parent, "variable", None) is leaf:
                count += 1
            else:
                todo.append(parent)
    return count


def support(masks, readers, n_features):
    """True for each input that a weight alive still reads; all True where `readers` is None."""
    if readers is None:
        return np.ones(n_features, dtype=bool)
    return np.any([masks[name].any(axis=0) for name in readers], axis=0)


def importances(saliencies, readers):
    """Summed saliency of the weights that read each input."""
    return np.sum([saliencies[name].sum(axis=0) for name in readers], axis=0)
