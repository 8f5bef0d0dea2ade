"""From a fitted estimator to one whose network is smaller."""

import copy

import torch

from ..training.masks import count_alive
from ..training.nets import PREDICTION_ROWS, with_module
from .predictor import fastest_predictor
from .shrink import shrink

BACKENDS = ("auto", "dense", "sparse")


def compact_estimator(estimator, backend):
    """A fitted copy of an estimator with a smaller network, for BaseOBD.compact."""
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}; expected one of {', '.join(map(repr, BACKENDS))}.")
    net, X = estimator.net_, _made_up_rows(estimator._row_shape, estimator._row_dtype)
    masks = {name: torch.from_numpy(mask) for name, mask in estimator.mask_.items()}
    module, masks, report = shrink(net.module_, masks, X[:3].to(net.device))
    fitted = copy.copy(estimator)
    for name in ("saliencies_", "ranking_"):
        # They belong to parameters that are no longer there.
        fitted.__dict__.pop(name, None)
    fitted.net_ = with_module(net, module.eval())
    fitted.path_ = estimator.path_.without_networks()
    fitted.mask_ = {name: mask.numpy() for name, mask in masks.items()}
    fitted.n_params_ = count_alive(masks)
    fitted._predictor = fastest_predictor(fitted.net_, X, backend, estimator._single_thread)
    names = () if fitted._predictor is None else fitted._predictor.sparse
    report.sparse = tuple(names)
    fitted.backend_ = "sparse" if names else "dense"
    fitted.compact_report_ = report
    return fitted


def _made_up_rows(shape, dtype):
    """A block of rows to trace and measure with: normal numbers, or zeros for an Embedding."""
    rows = torch.zeros((PREDICTION_ROWS, *shape), dtype=getattr(torch, dtype))
    if rows.is_floating_point():
        rows.normal_(generator=torch.Generator().manual_seed(0))
    return rows
