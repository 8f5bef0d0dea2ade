"""What a fitted estimator has, and how it comes by it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from skorch import NeuralNet
from skorch.history import History

from ..compact import CompactReport
from ..compact.predictor import FastPredictor
from ..pruning.path import PruningPath
from ..training import reading
from ..training.carrying import carried
from ..training.masks import count_alive
from ..training.nets import duplicate
from ..training.probes import RowsSeen
from .targets import ClassTargets, ValueTargets

#: What scikit-learn's validation notes of X.
FEATURES = ("n_features_in_", "feature_names_in_")

#: Rows on which a smaller or exported network is tried, where the user gives none: training rows
#: that fit remembers, or made-up ones.
N_TRIED_ROWS = 5


@dataclass(frozen=True)
class Fitted:
    """What a fitted estimator predicts with; its public attributes follow from it and the path."""

    net: NeuralNet
    rows: RowsSeen
    targets: ClassTargets | ValueTargets
    #: Of a compacted network; None: the net predicts by itself.
    predictor: FastPredictor | None = None
    #: The calls that made this network of the one that fit has left, as code.
    calls: tuple[str, ...] = ()

    def __getstate__(self):
        return {name: carried(value) for name, value in vars(self).items()}

    def __setstate__(self, state):
        vars(self).update(state)


def is_learnt(name):
    """Whether an attribute is what a fit leaves, and neither a parameter nor a user's setting."""
    return name == "_fitted" or (name.endswith("_") and not name.startswith("_"))


class StateMixin:
    """The attributes of a fitted estimator, and the one place where it becomes fitted.

    For a file to be loaded, ``_starting_net(rows, targets)`` of the estimator is its net started,
    and ``_blank_module(rows, targets)`` the default network's module without numbers.
    """

    net: NeuralNet | None
    _starting_net: Callable
    _blank_module: Callable

    net_: NeuralNet
    path_: PruningPath
    mask_: dict[str, np.ndarray]
    saliencies_: dict[str, np.ndarray]
    ranking_: dict[str, np.ndarray]
    support_: np.ndarray
    feature_importances_: np.ndarray
    n_params_: int
    n_iter_: int
    n_features_in_: int
    backend_: str
    compact_report_: CompactReport
    _fitted: Fitted
    #: What the estimator's y is: ClassTargets or ValueTargets.
    _targets_class: type

    def _draft(self, keep=()):
        """A copy with the same parameters that has learnt nothing but the attributes to `keep`.

        A fit works on such a draft, and has :meth:`_take_over` take it over when there is a network
        to hold: an error before leaves the estimator as it was.
        """
        draft = copy.copy(self)
        for name in self._learnt().keys() - set(keep):
            delattr(draft, name)
        return draft

    def _take_over(self, other):
        """Have what `other` has learnt, and nothing of an earlier fit, file or compact()."""
        learnt = other._learnt()
        for name in self._learnt():
            delattr(self, name)
        vars(self).update(learnt)

    def _learnt(self):
        """The attributes that a fit, a file or compact() has left."""
        return {name: value for name, value in vars(self).items() if is_learnt(name)}

    def _become(self, fitted, path):
        """Be fitted with the network that `path` keeps, put into the net of `fitted`.

        This is the one place that makes an estimator fitted. It takes away whatever was learnt
        before, except for the features of X.
        """
        self._take_over(self._draft(keep=FEATURES))
        net = fitted.net
        path.move_into(net.module_)
        net.module_.eval()
        net.initialize_optimizer()
        net.history_ = History(path.history)
        masks = path.masks(path.kept)
        self._fitted = fitted
        self.net_, self.path_, self.n_iter_ = net, path, path.kept
        self.n_params_ = count_alive(masks)
        self.mask_ = {name: mask.numpy() for name, mask in masks.items()}
        self.ranking_ = {name: ranking.numpy() for name, ranking in path.ranking().items()}
        readers = fitted.rows.readers
        self.support_ = reading.support(self.mask_, readers, self.n_features_in_)
        vars(self).update(fitted.targets.fitted_attributes())
        saliency = path.saliencies()
        if saliency is None:
            return
        self.saliencies_ = {
            name: saliency[name].cpu().numpy() if name in saliency else np.zeros(mask.shape)
            for name, mask in self.mask_.items()
        }
        if readers is not None:
            self.feature_importances_ = reading.importances(self.saliencies_, readers)

    def _at_row(self, row, path=None):
        """This estimator as it would be if fit had ended at a row of its path."""
        path = self.path_ if path is None else path
        at_row = self._draft(keep=FEATURES)
        net = duplicate(self._fitted.net)
        at_row._become(replace(self._fitted, net=net, predictor=None), path.cut(row))
        return at_row

    def __repr__(self, N_CHAR_MAX=700):
        # scikit-learn's, and the calls of at() and compact() behind it.
        calls = self._fitted.calls if hasattr(self, "_fitted") else ()
        return super().__repr__(N_CHAR_MAX) + "".join(calls)
