"""What a fitted estimator can do: predict, go back on its path, become smaller."""

import copy
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetBinaryClassifier

from ..compact import dead_parameters
from ..compact.net import compact_net
from ..training.isolation import one_thread
from ..training.masks import count_alive
from ..training.nets import cast, class_columns, input_dtype
from ..training.probes import call_net
from .exports import ExportsMixin
from .state import N_TRIED_ROWS
from .targets import ClassTargets, ValueTargets
from .validation import check_X, passes_unchanged, refuse_several_inputs


class FittedMixin(ExportsMixin):
    """The part of the estimators that comes after ``fit``."""

    def _check_X(self, X):
        """X validated, as the module takes it."""
        if not hasattr(self, "net_"):
            check_is_fitted(self, "net_")
        if not passes_unchanged(X, self):
            refuse_several_inputs(X, None, type(self).__name__)
            X = check_X(X, self, reset=False)
        return cast(X, input_dtype(self.net_.module_, X))

    def _forward(self, method, X):
        """What the net's method of that name returns for X."""
        X = self._check_X(X)
        fitted = self._fitted
        if fitted.predictor is not None:
            return fitted.predictor(method, X, fitted.rows.single_thread)
        with one_thread(fitted.rows.single_thread):
            return getattr(fitted.net, method)(X)

    def at(
        self,
        *,
        iteration: int | None = None,
        n_params: int | None = None,
        prune_rate: float | None = None,
    ) -> Self:
        """A fitted copy with the network of an earlier row of the path, without training.

        Parameters
        ----------
        iteration : int, optional
            A row of ``path_``; 0 is the dense network.
        n_params : int, optional
            The smallest network with at least so many parameters.
        prune_rate : float, optional
            The smallest network of which at most this share is deleted.

        Returns
        -------
        estimator
            Its ``path_`` ends at that row. ``saliencies_`` and ``feature_importances_`` are
            there only where the row is the one kept by fit: others would need the data.

        Raises
        ------
        ValueError
            If the path does not go so far, or no kept row fits; it lists the rows.
        """
        check_is_fitted(self, "net_")
        row = self.path_.find(iteration=iteration, n_params=n_params, prune_rate=prune_rate)
        at_row = self._at_row(row)
        at_row._fitted = replace(
            at_row._fitted, calls=(*self._fitted.calls, f".at(iteration={row})")
        )
        return at_row

    def compact(self, backend: str = "auto", X=None) -> Self:
        """A fitted copy whose network is really smaller, with the same predictions.

        Units that no living weight connects to X are constants and are folded into the biases of
        what reads them; units that nothing living reads are removed; columns of X that nothing
        reads are not looked at (X keeps all its columns). What cannot be cut exactly is left, and
        ``compact_report_`` says so. See :func:`sk_obd.compact.shrink`.

        Parameters
        ----------
        backend : {"auto", "dense", "sparse"}, default="auto"
            What ``predict`` multiplies with: dense matrices; scipy CSR matrices for all Linear
            layers; or for many rows CSR where it was measured to be faster, here and now, and
            dense matrices elsewhere ("auto": never slower than "dense").
        X : array-like, default=None
            Rows on which the smaller network is tried and timed; None: the training rows that
            `fit` remembers (at most 5, which pickle keeps, and no other file), or after
            :meth:`load_params` made-up ones of the same shape.

        Returns
        -------
        estimator
            With ``net_``, ``mask_`` and ``n_params_`` of the smaller network, and

            - ``backend_`` : "sparse" if any layer is predicted with as a CSR matrix, or "dense";
            - ``compact_report_`` : the shapes of each layer before and after.

            Its ``path_`` has the rows, but no networks: :meth:`at` comes before `compact`.
            ``saliencies_`` and ``ranking_`` stay with the network that was pruned.

        Raises
        ------
        ValueError
            For another backend, or if the module cannot take made-up rows: give X then.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sk_obd import OBDClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = OBDClassifier(prune_rate=0.9, random_state=0).fit(X, y)
        >>> small = clf.compact()
        >>> (small.predict(X) == clf.predict(X)).all()
        np.True_
        >>> small.compact_report_.n_stored[1] < small.compact_report_.n_stored[0] / 4
        True
        """
        check_is_fitted(self, "net_")
        masks = {name: torch.from_numpy(mask) for name, mask in self.mask_.items()}
        found = compact_net(
            self.net_,
            masks,
            self._rows_to_try("compact", X),
            backend,
            single_thread=self._fitted.rows.single_thread,
        )
        small = copy.copy(self)
        for name in ("saliencies_", "ranking_"):
            # They belong to parameters that are no longer there.
            small.__dict__.pop(name, None)
        small._fitted = replace(
            self._fitted,
            net=found.net,
            predictor=found.predictor,
            calls=(*self._fitted.calls, ".compact()"),
        )
        small.net_, small.path_ = found.net, self.path_.without_networks()
        small.mask_ = {name: mask.numpy() for name, mask in found.masks.items()}
        small.n_params_ = count_alive(found.masks)
        small.backend_ = "sparse" if found.report.sparse else "dense"
        small.compact_report_ = found.report
        return small

    def dead_parameters(self) -> dict[str, np.ndarray]:
        """Parameters that are alive to no effect; :meth:`compact` leaves them out.

        They belong to a unit that nothing living reads, or that no living weight connects to X.
        See :func:`sk_obd.compact.dead_parameters`.

        Returns
        -------
        dict of bool arrays
            Shaped as in ``mask_``: True where dead. All False where the network cannot be traced.
        """
        check_is_fitted(self, "net_")
        masks = {name: torch.from_numpy(mask) for name, mask in self.mask_.items()}
        module = self.net_.module_
        rows = self._fitted.rows.sample(module, 3).to(self.net_.device)
        dead = dead_parameters(module, masks, rows, self.path_.prunable)
        return {name: mask.cpu().numpy() for name, mask in dead.items()}

    def _rows_to_try(self, task, X):
        """Rows on which a method tries the network: the user's, remembered or made-up ones."""
        if X is not None:
            X = self._check_X(X)
            return torch.from_numpy(X.toarray()) if sparse.issparse(X) else X
        rows, module = self._fitted.rows, self.net_.module_
        X = rows.sample(module, N_TRIED_ROWS)
        if rows.examples is None:
            try:
                call_net(self.net_, X.to(self.net_.device))
            except ValueError as error:
                raise ValueError(
                    f"{task} tries the network on made-up rows of random numbers, since this "
                    "estimator remembers no training rows (it was loaded from a file), and "
                    f"{type(module).__name__} cannot take them. Give a few rows as X=. ({error})"
                ) from error
        return X


class FittedClassifier(ClassifierMixin, FittedMixin):
    """Predicts class labels."""

    classes_: np.ndarray
    _targets_class = ClassTargets

    def predict(self, X) -> np.ndarray:
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
        return self._fitted.targets.decode(codes)

    def predict_proba(self, X) -> np.ndarray:
        """Class probabilities, columns ordered as ``classes_``.

        The net's ``predict_nonlinearity`` makes probabilities of what its module returns.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        proba = self._forward("predict_proba", X)
        wide = proba.ndim == 2 and proba.shape[1] > 1
        return proba if wide else class_columns(torch.from_numpy(proba)).numpy()

    def predict_log_proba(self, X) -> np.ndarray:
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


class FittedRegressor(RegressorMixin, FittedMixin):
    """Predicts values."""

    _targets_class = ValueTargets

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X) -> np.ndarray:
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
        return self._fitted.targets.decode(y)
