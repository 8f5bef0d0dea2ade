"""OBDClassifier and OBDRegressor, and their function form, obd_path."""

from collections.abc import Callable, Sequence
from os import PathLike

import numpy as np
from joblib import Memory
from numpy.typing import ArrayLike
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)

from ..pruning.path import PruningPath
from .docstrings import documented
from .fit import PlainOBD
from .fitted import FittedClassifier, FittedRegressor


@documented
class OBDClassifier(FittedClassifier, PlainOBD):
    """A neural network classifier, pruned by Optimal Brain Damage.

    Trains the network, computes the second derivative h_kk of the loss for every parameter u_k,
    deletes the parameters of lowest saliency

    .. math:: s_k = h_{kk} u_k^2 / 2

    (set to zero and held there), retrains, and iterates.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
    {attributes}

    See Also
    --------
    OBDRegressor : The same for values.
    sk_obd.curvature.diagonal : h_kk as a function of its own.

    References
    ----------
    Y. LeCun, J. S. Denker, S. A. Solla, "Optimal Brain Damage", NIPS 2, 1989.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_obd import OBDClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = OBDClassifier(prune_rate=0.8, random_state=0).fit(X, y)
    >>> clf.n_params_
    161
    >>> clf.score(X, y) > 0.95
    True
    >>> clf.at(prune_rate=0.5).n_params_
    411
    """

    def __init__(
        self,
        net: NeuralNet | None = None,
        *,
        prune_rate: float = 0.5,
        step: float | None = 0.2,
        n_recomputations: int = 0,
        trust_region: float | None = None,
        granularity: str = "parameter",
        sweep: bool = False,
        saliency: str | Callable = "obd",
        curvature: str = "ggn",
        compensation: str | None = None,
        prunable: str | Sequence[str] | Callable | None = None,
        retrain_epochs: int | None = 20,
        max_loss_increase: float | None = None,
        early_stopping: bool = False,
        n_iter_no_change: int = 5,
        tol: float = 1e-3,
        validation_fraction: float = 0.1,
        scoring: str | Callable | None = None,
        class_weight: dict | str | None = None,
        hidden_layer_sizes: Sequence[int] = (100,),
        activation: str = "relu",
        learning_rate_init: float = 3e-3,
        batch_size: int | str = "auto",
        max_epochs: int = 200,
        weight_decay: float | str = "auto",
        keep_path: str = "all",
        memory: str | PathLike | Memory | None = None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            net,
            prune_rate=prune_rate,
            step=step,
            n_recomputations=n_recomputations,
            trust_region=trust_region,
            granularity=granularity,
            sweep=sweep,
            saliency=saliency,
            curvature=curvature,
            compensation=compensation,
            prunable=prunable,
            retrain_epochs=retrain_epochs,
            max_loss_increase=max_loss_increase,
            early_stopping=early_stopping,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            validation_fraction=validation_fraction,
            scoring=scoring,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            learning_rate_init=learning_rate_init,
            batch_size=batch_size,
            max_epochs=max_epochs,
            weight_decay=weight_decay,
            keep_path=keep_path,
            memory=memory,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight


@documented
class OBDRegressor(FittedRegressor, PlainOBD):
    """A neural network regressor, pruned by Optimal Brain Damage.

    Trains the network, computes the second derivative h_kk of the loss for every parameter u_k,
    deletes the parameters of lowest saliency

    .. math:: s_k = h_{kk} u_k^2 / 2

    (set to zero and held there), retrains, and iterates. The default net is trained on y
    standardised, so that the path's losses are shares of its variance; a net of your own is
    trained on y as it is.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    OBDClassifier : The same for classes.
    sk_obd.curvature.diagonal : h_kk as a function of its own.

    References
    ----------
    Y. LeCun, J. S. Denker, S. A. Solla, "Optimal Brain Damage", NIPS 2, 1989.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sk_obd import OBDRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = OBDRegressor(prune_rate=0.8, random_state=0).fit(X, y)
    >>> reg.n_params_
    240
    >>> reg.score(X, y) > 0.45
    True
    """


def obd_path(
    net: NeuralNet,
    X,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    X_val=None,
    y_val: ArrayLike | None = None,
    prune_rate: float = 0.98,
    **parameters,
) -> PruningPath:
    """Train, prune and retrain a network; the whole path, as ``lasso_path`` is to ``Lasso``.

    Parameters
    ----------
    net : skorch.NeuralNetClassifier, NeuralNetBinaryClassifier or NeuralNetRegressor
        It is copied, as by the estimators.
    X, y, sample_weight, X_val, y_val
        As for :meth:`OBDClassifier.fit`; the path's validation scores are of (X_val, y_val).
    prune_rate : float in [0, 1) or int, default=0.98
        Where the path ends.
    **parameters
        Any other parameter of :class:`OBDClassifier` or :class:`OBDRegressor`.

    Returns
    -------
    PruningPath

    Raises
    ------
    TypeError
        If `net` does not say whether it is a classifier or a regressor.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from skorch import NeuralNetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NeuralNetClassifier(
    ...     torch.nn.Linear, module__in_features=4, module__out_features=3,
    ...     criterion=torch.nn.CrossEntropyLoss, optimizer__weight_decay=1e-3, lr=0.1)
    >>> path = obd_path(net, X, y, prune_rate=6, step=2, random_state=0)
    >>> [row["n_params"] for row in path]
    [15, 13, 11, 9]
    >>> path.network(-1)
    Linear(in_features=4, out_features=3, bias=True)
    """
    if isinstance(net, NeuralNetRegressor):
        kind = OBDRegressor
    elif isinstance(net, NeuralNetClassifier | NeuralNetBinaryClassifier):
        kind = OBDClassifier
    else:
        raise TypeError(
            f"net is a {type(net).__name__}; obd_path expects a skorch NeuralNetClassifier, "
            "NeuralNetBinaryClassifier or NeuralNetRegressor. For another net, or the default "
            "one, take OBDClassifier(...).fit(X, y).path_ or OBDRegressor's."
        )
    estimator = kind(net, prune_rate=prune_rate, **parameters)
    return estimator.fit(X, y, sample_weight, X_val=X_val, y_val=y_val).path_
