"""A skorch net whose network is smaller, and how it predicts fastest."""

from typing import NamedTuple

import torch
from skorch import NeuralNet

from ..training.nets import PREDICTION_ROWS, with_module
from ..training.probes import repeated
from .predictor import FastPredictor, fastest_predictor
from .report import CompactReport
from .shrink import shrink

BACKENDS = ("auto", "dense", "sparse")

#: Least rows on which the smaller network is compared with the one that it comes from.
N_COMPARED_ROWS = 3


class Compacted(NamedTuple):
    """A smaller net, its masks, how it predicts, and what became of each layer."""

    net: NeuralNet
    masks: dict[str, torch.Tensor]
    predictor: FastPredictor | None
    report: CompactReport


def compact_net(
    net: NeuralNet, masks: dict, X: torch.Tensor, backend: str, *, single_thread: bool
) -> Compacted:
    """Make the network of a trained net smaller, and choose how to predict with it.

    Parameters
    ----------
    net : skorch.NeuralNet
        Left as it is. Deleted parameters are 0.
    masks : dict of name to bool tensor
        True = alive.
    X : tensor of shape (n_rows, ...)
        Rows as the module takes them, to try the networks on.
    backend : {"auto", "dense", "sparse"}
    single_thread : bool
        Whether predictions use one thread only.

    Raises
    ------
    ValueError
        For another backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}; expected one of {', '.join(map(repr, BACKENDS))}.")
    few = repeated(X, max(N_COMPARED_ROWS, min(len(X), PREDICTION_ROWS)))
    module, masks, report = shrink(net.module_, masks, few.to(net.device))
    smaller = with_module(net, module.eval())
    block = repeated(X, PREDICTION_ROWS)
    predictor = fastest_predictor(smaller, block, backend, single_thread)
    report.sparse = () if predictor is None else tuple(predictor.sparse)
    return Compacted(smaller, masks, predictor, report)
