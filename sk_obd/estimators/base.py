"""What all estimators share: scikit-learn's plumbing, and the net that they start from."""

from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length

from ..training.carrying import carried
from ..training.isolation import isolated_generators
from ..training.mlp import MLP, default_net
from ..training.nets import check_net, duplicate, start
from ..training.standardise import mean_and_scale
from .parameters import check_parameters, names_where, refuse_settings_beside_net
from .progress import CallbackSupportMixin
from .validation import (
    check_X,
    refuse_several_inputs,
)

#: From where a step of fit warns to the line that called fit.
USERS_FRAME = 5


class BaseOBD(CallbackSupportMixin, BaseEstimator):
    """scikit-learn's plumbing, and the net that an estimator starts from.

    A subclass has the methods of :class:`~sk_obd.estimators.fitted.FittedMixin`, and says by
    ``_targets_class`` what its y is.
    """

    def set_params(self, **params) -> Self:
        """Set parameters; those named ``net__...`` reach the skorch net.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For ``net__...`` where net is None.
        """
        deep = sorted(name for name in params if name.startswith("net__"))
        if deep and params.get("net", self.net) is None:
            raise ValueError(
                f"{deep[0]} was set, but net=None: there is no skorch net to receive it. Give "
                "net=NeuralNetClassifier(...) (or Regressor), or set the default network's own "
                "parameters: hidden_layer_sizes, activation, learning_rate_init, batch_size, "
                "max_epochs, weight_decay."
            )
        return super().set_params(**params)

    def __sklearn_clone__(self):
        # scikit-learn clones a net without its weights. An already trained net is part of what
        # the user asked for, also inside a grid search.
        cloned = super().__sklearn_clone__()
        if getattr(self.net, "initialized_", False):
            cloned.net = duplicate(self.net)
        return cloned

    def __getstate__(self):
        state = super().__getstate__()
        return {name: carried(value) for name, value in state.items()}

    def __copy__(self):
        # Not by the state above, which is for pickle.
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.three_d_array = True
        return tags

    def _check_own_parameters(self):
        check_parameters(self)
        if self.net is not None:
            check_net(self.net, self._targets_class.kind, type(self).__name__)
            refuse_settings_beside_net(self)

    def _check_X_y(self, X, y, reset):
        refuse_several_inputs(X, y, type(self).__name__)
        X = check_X(X, self, reset=reset)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        y = self._targets_class.check(y, self)
        check_consistent_length(X, y)
        return X, y

    def _own_net(self, X, targets, weights):
        """The net of the user, or the default one for such an X, targets and row weights."""
        if self.net is not None:
            return self.net
        if X.ndim != 2:
            raise ValueError(
                f"X has shape {tuple(X.shape)}; the default network takes tables of shape "
                "(n_samples, n_features). Reshape X, or give a net for rows of several dimensions."
            )
        return default_net(
            targets.kind,
            mean_and_scale=mean_and_scale(X, weights),
            n_outputs=targets.n_outputs,
            sum_of_weights=X.shape[0] if weights is None else float(weights.sum()),
            n_rows=X.shape[0],
            dtype=default_dtype(X.dtype),
            **{name: getattr(self, name) for name in names_where(default_net=True)},
        )

    def _starting_net(self, rows, targets):
        """A started net for the recorded shape and type of rows, without data (for load_params)."""
        X = np.broadcast_to(np.zeros((), dtype=rows.dtype), (2, *rows.shape))
        with isolated_generators():
            # What the file says of its rows may be wrong: none are made to be passed through.
            return start(self._own_net(X, targets, None), X, targets.examples(), fuse=False)

    def _blank_module(self, rows, targets):
        """The default network's module with shapes and types, and without numbers."""
        with torch.device("meta"):
            return MLP(
                rows.shape[0],
                targets.n_outputs,
                tuple(self.hidden_layer_sizes),
                dtype=default_dtype(rows.dtype),
            )


def default_dtype(dtype):
    """The type in which the default network computes for X of a type."""
    return torch.float32 if np.dtype(dtype) == np.float32 else torch.float64
