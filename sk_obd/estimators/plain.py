"""OBDClassifier and OBDRegressor, and their function form, obd_path."""

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor

from ..training.nets import class_targets, value_targets
from .base import BaseOBD
from .docstrings import ATTRIBUTES, PARAMETERS

CLASS_WEIGHT = """
    class_weight : dict, "balanced" or None, default=None
        Weights of classes by label, multiplied into ``sample_weight``."""


class OBDClassifier(ClassifierMixin, BaseOBD):
    __doc__ = f"""A neural network classifier, pruned by Optimal Brain Damage.

    Trains the network, computes the second derivative h_kk of the loss for every parameter u_k,
    deletes the parameters of lowest saliency

    .. math:: s_k = h_{{kk}} u_k^2 / 2

    (set to zero and held there), retrains, and iterates.
    {
        PARAMETERS.format(
            stratified=", stratified",
            class_weight=CLASS_WEIGHT,
        )
    }
    Attributes
    ----------
    classes_ : array of shape (n_classes,){ATTRIBUTES}
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

    _kind = "classifier"
    _classes = None  # all classes, where y may lack some (a fold's rows); None: those of y

    def __init__(
        self,
        net=None,
        *,
        prune_rate=0.5,
        step=0.2,
        n_recomputations=0,
        trust_region=None,
        granularity="parameter",
        sweep=False,
        saliency="obd",
        curvature="ggn",
        prunable=None,
        retrain_epochs=20,
        max_loss_increase=None,
        early_stopping=False,
        n_iter_no_change=5,
        tol=1e-3,
        validation_fraction=0.1,
        scoring=None,
        class_weight=None,
        hidden_layer_sizes=(100,),
        activation="relu",
        learning_rate_init=3e-3,
        batch_size="auto",
        max_epochs=200,
        weight_decay="auto",
        keep_path="all",
        memory=None,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
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

    def _check_y(self, y):
        check_classification_targets(y)
        return column_or_1d(y, warn=True)

    def _n_outputs(self):
        return len(self.classes_)

    def _learn_targets(self, y, y_train, sample_weight, resume):
        classes = np.unique(y)
        if resume and not np.isin(classes, self.classes_).all():
            unknown = np.setdiff1d(classes, self.classes_)
            raise ValueError(
                f"warm_start=True goes on from a fit to classes {self.classes_}, and y contains "
                f"{unknown} as well. Fit anew with warm_start=False."
            )
        if not resume:
            self.classes_ = classes if self._classes is None else self._classes
        weights = sample_weight
        if self.class_weight is not None:
            balance = compute_sample_weight(self.class_weight, y_train)
            weights = balance if weights is None else balance * weights
        present = np.unique(y_train if weights is None else y_train[weights > 0])
        if len(present) < 2:
            raise ValueError(
                f"{type(self).__name__} needs rows of at least two classes (with positive weight) "
                f"to learn from; found one class: {present[0]!r}."
            )
        return weights

    def _encode(self, y):
        return torch.from_numpy(np.searchsorted(self.classes_, y))

    def _some_targets(self):
        return np.array([0, len(self.classes_) - 1])

    def _learnt_of_targets(self):
        return {"classes": self.classes_}

    def _restore_targets(self, learnt):
        self.classes_ = learnt["classes"]

    def _shape_targets(self, net, output, y):
        return class_targets(net, output, y, len(self.classes_))

    def predict(self, X):
        """Class labels.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        # A binary net has a threshold of its own.
        binary = isinstance(getattr(self, "net_", None), NeuralNetBinaryClassifier)
        codes = self._forward("predict", X) if binary else self.predict_proba(X).argmax(axis=1)
        return self.classes_[codes.astype(np.intp)]

    def predict_proba(self, X):
        """Class probabilities, columns ordered as ``classes_``.

        The net's ``predict_nonlinearity`` makes probabilities of what its module returns.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._forward("predict_proba", X)

    def predict_log_proba(self, X):
        """Logarithm of :meth:`predict_proba`; -inf where a probability is 0.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))


class OBDRegressor(RegressorMixin, BaseOBD):
    __doc__ = f"""A neural network regressor, pruned by Optimal Brain Damage.

    Trains the network, computes the second derivative h_kk of the loss for every parameter u_k,
    deletes the parameters of lowest saliency

    .. math:: s_k = h_{{kk}} u_k^2 / 2

    (set to zero and held there), retrains, and iterates. The default net is trained on y
    standardised, so that the path's losses are shares of its variance; a net of your own is
    trained on y as it is.
    {PARAMETERS.format(stratified="", class_weight="")}
    Attributes
    ----------{ATTRIBUTES}
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

    _kind = "regressor"

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _check_y(self, y):
        y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y", estimator=self)
        if y.ndim > 2 or y.ndim == 0:
            raise ValueError(f"y has {y.ndim} dimensions; expected (n,) or (n, n_outputs).")
        return y.astype(np.float64, copy=False)

    def _n_outputs(self):
        return self._y_mean.size

    def _learn_targets(self, y, y_train, sample_weight, resume):
        if resume:
            if y.shape[1:] != self._y_mean.shape:
                raise ValueError(
                    f"warm_start=True goes on from a fit to y of shape (n, *{self._y_mean.shape}), "
                    f"and y has shape {y.shape}. Fit anew with warm_start=False."
                )
            return sample_weight
        self._y_mean, self._y_scale = np.zeros(y.shape[1:]), np.ones(y.shape[1:])
        if self.net is None:
            # A user's net is trained on y as it is: its criterion and scale are the user's.
            self._y_mean = np.asarray(np.average(y_train, axis=0, weights=sample_weight))
            spread = np.average((y_train - self._y_mean) ** 2, axis=0, weights=sample_weight)
            self._y_scale = np.where(spread > 0, np.sqrt(spread), 1.0)
        return sample_weight

    def _encode(self, y):
        return torch.from_numpy((y - self._y_mean) / self._y_scale)

    def _some_targets(self):
        return np.zeros((2, *self._y_mean.shape))

    def _learnt_of_targets(self):
        return {"mean": np.asarray(self._y_mean), "scale": np.asarray(self._y_scale)}

    def _restore_targets(self, learnt):
        self._y_mean, self._y_scale = learnt["mean"], learnt["scale"]

    def _shape_targets(self, net, output, y):
        return value_targets(net, output, y)

    def predict(self, X):
        """Predicted values.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            As many dimensions as the y of fit.
        """
        y = self._forward("predict", X)
        y = y.reshape(len(y), *self._y_mean.shape)
        return y * self._y_scale + self._y_mean


def obd_path(
    net, X, y, *, sample_weight=None, X_val=None, y_val=None, prune_rate=0.98, **parameters
):
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
