"""A skorch net whose network is smaller, and how it predicts fastest."""

from typing import NamedTuple

import torch
from skorch import NeuralNet

from ..training.nets import PREDICTION_ROWS, with_module
from ..training.probes import RowsSeen
from .predictor import FastPredictor, fastest_predictor
from .report import CompactReport
from .shrink import shrink

BACKENDS = ("auto", "dense", "sparse")

#: Rows on which the smaller network is compared with the one that it comes from.
N_COMPARED_ROWS = 3


class Compacted(NamedTuple):
    """A smaller net, its masks, how it predicts, and what became of each layer."""

    net: NeuralNet
    masks: dict[str, torch.Tensor]
    predictor: FastPredictor | None
    report: CompactReport


def compact_net(net: NeuralNet, masks: dict, rows: RowsSeen, backend: str) -> Compacted:
    """Make the network of a trained net smaller, and choose how to predict with it.

    Parameters
    ----------
    net : skorch.NeuralNet
        Left as it is. Deleted parameters are 0.
    masks : dict of name to bool tensor
        True = alive.
    rows : RowsSeen
        Of the X that it was fitted to.
    backend : {"auto", "dense", "sparse"}

    Raises
    ------
    ValueError
        For another backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}; expected one of {', '.join(map(repr, BACKENDS))}.")
    X = rows.made_up(net.module_, PREDICTION_ROWS)
    module, masks, report = shrink(net.module_, masks, X[:N_COMPARED_ROWS].to(net.device))
    smaller = with_module(net, module.eval())
    predictor = fastest_predictor(smaller, X, backend, rows.single_thread)
    report.sparse = () if predictor is None else tuple(predictor.sparse)
    return Compacted(smaller, masks, predictor, report)
