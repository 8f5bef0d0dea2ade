"""What a fitted estimator has and can do: predict, go back on its path, be saved and exported."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from typing import Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet, NeuralNetBinaryClassifier
from skorch.history import History

from .. import export
from ..compact import CompactReport, dead_parameters
from ..compact.net import compact_net
from ..compact.predictor import FastPredictor
from ..export import params_file
from ..pruning.path import PruningPath
from ..training import reading
from ..training.carrying import carried
from ..training.isolation import one_thread
from ..training.masks import count_alive
from ..training.nets import cast, class_columns, duplicate, input_dtype
from ..training.probes import RowsSeen, call_net
from .targets import ClassTargets, ValueTargets
from .validation import check_X, passes_unchanged, refuse_several_inputs

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


class FittedMixin:
    """The part of the estimators that comes after ``fit``.

    ``_starting_net(rows, targets)`` of the estimator is its net started, for a file to be loaded.
    """

    net: NeuralNet | None
    _starting_net: Callable

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

    # -- becoming fitted -----------------------------------------------------------------------

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

    # -- predicting ----------------------------------------------------------------------------

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

    def save_params(self, path: str | PathLike) -> None:
        """Save the fitted network to a file, without pickle.

        A safetensors file: the values of what is alive, the masks as compressed bits, the
        buffers, the classes (or the scale of y), the path's table, and a JSON header. The
        module's code, ``saliencies_``, ``ranking_``, the networks of other rows and the training
        rows that `fit` remembers are not in it.

        Parameters
        ----------
        path : str or path
            Replaced if it is there; complete, or left as it was.

        Raises
        ------
        ImportError
            Without safetensors (``pip install 'sk_obd[export]'``).
        ValueError
            If the class labels are neither numbers nor text.
        """
        check_is_fitted(self, "net_")
        features = {name: getattr(self, name) for name in FEATURES if hasattr(self, name)}
        params_file.save(path, self._fitted, self.path_, features)

    def load_params(self, path: str | PathLike) -> Self:
        """Become fitted by a file of :meth:`save_params`; loading runs no code from it.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        self
            Fitted as at the time of saving, but for ``saliencies_``, ``feature_importances_``
            and ``ranking_``, which would need the data or are not in the file.

        Raises
        ------
        ImportError
            Without safetensors.
        ValueError
            If the file is damaged or foreign, or was saved with another net, naming what
            differs; the estimator is left as it was.

        Examples
        --------
        >>> import os, tempfile
        >>> from sklearn.datasets import load_iris
        >>> from sk_obd import OBDClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = OBDClassifier(max_epochs=20, retrain_epochs=2, random_state=0).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.save_params(os.path.join(folder, "iris.safetensors"))
        ...     copy = OBDClassifier().load_params(os.path.join(folder, "iris.safetensors"))
        >>> bool((copy.predict(X) == clf.predict(X)).all()), copy.n_params_ == clf.n_params_
        (True, True)
        """
        found = params_file.load(
            path,
            type(self)._targets_class,
            self._starting_net,
            owner=type(self).__name__,
            default_net=self.net is None,
        )
        draft = self._draft()
        vars(draft).update(found.features)
        draft._become(Fitted(found.net, found.rows, found.targets), found.path)
        # Which parameter went when is not in the file.
        del draft.ranking_
        self._take_over(draft)
        return self

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

    def _source(self, task, X):
        """This estimator as the exports see it, with rows to compare predictions on."""
        check_is_fitted(self, "net_")
        X = self._rows_to_try(task, X).numpy()
        return export.Source(self, self._fitted.rows, self._fitted.targets, X)

    def to_onnx(self, path: str | PathLike, *, X=None) -> None:
        """Write the predictor as an ONNX file, checked in onnxruntime.

        Its input is ``X`` of shape (n, ...), any number n of rows; its outputs are ``label`` (the
        user's own labels) and ``probabilities``, or ``variable`` for a regressor.

        Parameters
        ----------
        path : str or path-like
        X : array-like, default=None
            A few rows on which to compare with this estimator; None: the training rows that
            `fit` remembers, or after :meth:`load_params` made-up ones of the same shape.

        Raises
        ------
        ImportError
            If onnx, onnxscript or onnxruntime is missing (``pip install 'sk_obd[export]'``).
        ValueError
            If the network cannot be exported, or predicts something else in onnxruntime.
        """
        export.to_onnx(self._source("to_onnx", X), path)

    def to_torch(self, path: str | PathLike, *, X=None) -> None:
        """Save the predictor as a program of ``torch.export``, which needs only torch.

        ``torch.export.load(path).module()(X)`` returns (codes, probabilities), the codes indices
        into the classes, or the values of a regressor. It takes the place of TorchScript, which
        torch has deprecated.

        Parameters
        ----------
        path : str or path-like
        X : array-like, default=None
            A few rows on which to compare with this estimator; None: the training rows that
            `fit` remembers, or after :meth:`load_params` made-up ones of the same shape.

        Raises
        ------
        ValueError
            If torch cannot export the network, or the program predicts something else.
        """
        export.to_torch(self._source("to_torch", X), path)

    def to_numpy(self, path: str | PathLike, *, X=None) -> None:
        """Write the predictor as a Python file that needs nothing but NumPy.

        The file has functions ``predict(X)`` and, for a classifier, ``predict_proba(X)``. Weights
        are stored without what is deleted.

        Parameters
        ----------
        path : str or path-like
            Of a ``.py`` file.
        X : array-like, default=None
            A few rows on which to compare with this estimator; None: the training rows that
            `fit` remembers, or after :meth:`load_params` made-up ones of the same shape.

        Raises
        ------
        ValueError
            If the network does something that has no counterpart in NumPy here; it names the
            layer. :meth:`to_onnx` takes more.
        """
        export.to_numpy(self._source("to_numpy", X), path)


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
