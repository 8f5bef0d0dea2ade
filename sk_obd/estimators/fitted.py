"""What a fitted estimator has and can do: predict, go back on its path, be saved and exported."""

import copy

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.history import History

from .. import export
from ..compact import dead_parameters
from ..compact.estimator import compact_estimator
from ..export import params_file
from ..training import reading
from ..training.isolation import one_thread
from ..training.masks import count_alive
from ..training.nets import cast, duplicate, input_dtype
from .validation import X_RULES, passes_unchanged, refuse_mapping


class FittedMixin:
    """The part of the estimators that comes after ``fit``."""

    def _settle(self, net, path):
        """Make `path.kept` the fitted network."""
        for name in ("backend_", "compact_report_", "_predictor"):
            self.__dict__.pop(name, None)
        path.load(path.kept, net.module_)
        path.module = net.module_
        net.module_.eval()
        net.initialize_optimizer()
        net.history_ = History(path.history)
        self.net_ = net
        self.path_ = path
        self.n_iter_ = path.kept
        masks = path.masks(path.kept)
        self.n_params_ = count_alive(masks)
        self.mask_ = {name: mask.numpy() for name, mask in masks.items()}
        self.ranking_ = {name: ranking.numpy() for name, ranking in path.ranking().items()}
        self.support_ = reading.support(self.mask_, self._readers, self.n_features_in_)
        self._set_saliencies(path.saliencies())

    def _set_saliencies(self, saliency):
        """Set saliencies_ and what is computed from them; without, unset them."""
        for name in ("saliencies_", "feature_importances_"):
            self.__dict__.pop(name, None)
        if saliency is None:
            return
        self.saliencies_ = {
            name: saliency[name].cpu().numpy() if name in saliency else np.zeros(mask.shape)
            for name, mask in self.mask_.items()
        }
        if self._readers is not None:
            self.feature_importances_ = reading.importances(self.saliencies_, self._readers)

    def _check_X(self, X):
        if not hasattr(self, "net_"):
            check_is_fitted(self, "net_")
        if not passes_unchanged(X, self):
            refuse_mapping(X, type(self).__name__)
            X = validate_data(self, X, reset=False, **X_RULES)
        return cast(X, input_dtype(self.net_.module_, X))

    def _forward(self, method, X):
        """What the net's method of that name returns for X."""
        X = self._check_X(X)
        predictor = self.__dict__.get("_predictor")
        if predictor is not None:
            return predictor(method, X, self._single_thread)
        with one_thread(self._single_thread):
            return getattr(self.net_, method)(X)

    def at(self, *, iteration=None, n_params=None, prune_rate=None):
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
            If no kept row fits; it lists the rows.
        """
        check_is_fitted(self, "net_")
        row = self.path_.find(iteration=iteration, n_params=n_params, prune_rate=prune_rate)
        return self._fitted_copy(self.net_, self.path_, row)

    def _fitted_copy(self, net, path, row):
        """This estimator as it would be if fit had ended at a row of `path`."""
        fitted = copy.copy(self)
        fitted._settle(duplicate(net), path.cut(row))
        return fitted

    def compact(self, backend="auto"):
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

        Returns
        -------
        estimator
            With ``net_``, ``mask_`` and ``n_params_`` of the smaller network, and

            - ``backend_`` : "sparse" if any layer is predicted with as a CSR matrix, or "dense";
            - ``compact_report_`` : the shapes of each layer before and after.

            Its ``path_`` has the rows, but no networks: :meth:`at` comes before `compact`.
            ``saliencies_`` and ``ranking_`` stay with the network that was pruned.

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
        return compact_estimator(self, backend)

    def _dead_parameters(self):
        """By name, bool arrays: True where a parameter is alive to no effect."""
        masks = {name: torch.from_numpy(mask) for name, mask in self.mask_.items()}
        # Only their shape and type matter; zeros are valid indices of any Embedding too.
        rows = torch.zeros((3, *self._row_shape), dtype=getattr(torch, self._row_dtype))
        dead = dead_parameters(
            self.net_.module_, masks, rows.to(self.net_.device), self.path_.prunable
        )
        return {name: mask.cpu().numpy() for name, mask in dead.items()}

    def save_params(self, path):
        """Save the fitted network to a file, without pickle.

        A safetensors file: the values of what is alive, the masks as compressed bits, the
        buffers, the classes (or the scale of y), the path's table, and a JSON header. The
        module's code, ``saliencies_``, ``ranking_`` and the networks of other rows are not in it.

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
        params_file.save(self, path)

    def load_params(self, path):
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
        params_file.load(self, path)
        return self

    def to_onnx(self, path, *, X=None):
        """Write the predictor as an ONNX file, checked in onnxruntime.

        Its input is ``X`` of shape (n, ...), any number n of rows; its outputs are ``label`` (the
        user's own labels) and ``probabilities``, or ``variable`` for a regressor.

        Parameters
        ----------
        path : str or path-like
        X : array-like, default=None
            A few rows on which to compare with this estimator; None: made-up ones of the same
            shape.

        Raises
        ------
        ImportError
            If onnx, onnxscript or onnxruntime is missing (``pip install 'sk_obd[export]'``).
        ValueError
            If the network cannot be exported, or predicts something else in onnxruntime.
        """
        export.to_onnx(self, path, X)

    def to_torch(self, path, *, X=None):
        """Save the predictor as a program of ``torch.export``, which needs torch alone.

        ``torch.export.load(path).module()(X)`` returns (codes, probabilities), the codes indices
        into the classes, or the values of a regressor. It takes the place of TorchScript, which
        torch has deprecated.

        Parameters
        ----------
        path : str or path-like
        X : array-like, default=None
            A few rows on which to compare with this estimator; None: made-up ones of the same
            shape.

        Raises
        ------
        ValueError
            If torch cannot export the network, or the program predicts something else.
        """
        export.to_torch(self, path, X)

    def to_numpy(self, path, *, X=None):
        """Write the predictor as a Python file that needs nothing but NumPy.

        The file has functions ``predict(X)`` and, for a classifier, ``predict_proba(X)``. Weights
        are stored without what is deleted.

        Parameters
        ----------
        path : str or path-like
            Of a ``.py`` file.
        X : array-like, default=None
            A few rows on which to compare with this estimator; None: made-up ones of the same
            shape.

        Raises
        ------
        ValueError
            If the network does something that has no counterpart in NumPy here; it names the
            layer. :meth:`to_onnx` takes more.
        """
        export.to_numpy(self, path, X)
