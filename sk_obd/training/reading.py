"""Which inputs a network still reads, and how much each matters."""

import numpy as np


def support(masks, readers, n_features):
    """True for each input that a weight alive still reads; all True where `readers` is None.

    Parameters
    ----------
    masks : dict of bool arrays
    readers : list of str or None
        Names of the weights, of shape (n_units, n_features), that read the inputs.
    n_features : int

    Returns
    -------
    bool array of shape (n_features,)
    """
    if readers is None:
        return np.ones(n_features, dtype=bool)
    return np.any([masks[name].any(axis=0) for name in readers], axis=0)


def importances(saliencies, readers):
    """Summed saliency of the weights that read each input, an array of shape (n_features,)."""
    return np.sum([saliencies[name].sum(axis=0) for name in readers], axis=0)
