"""A fitted estimator saved to a file, loaded from one, and written as a program."""

from os import PathLike
from typing import Self

from sklearn.utils.validation import check_is_fitted

from .. import export
from ..export import params_file
from .state import FEATURES, Fitted, StateMixin


class ExportsMixin(StateMixin):
    """Files of a fitted estimator.

    ``_rows_to_try(task, X)`` of the estimator are rows on which a program is tried.
    """

    def save_params(self, path: str | PathLike) -> None:
        """Save the fitted network to a file, without pickle.

        A safetensors file: the values of what is alive, the masks as bits, the buffers, the
        classes (or the scale of y), the path's table, a JSON header, and a checksum of all this.
        The module's code, ``saliencies_``, ``ranking_``, the networks of other rows and the
        training rows that `fit` remembers are not in it.

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

        What was changed in the file since it was saved is told by its checksum, and the file is
        not loaded. Whatever its header says, no network is made of more than eight parameters for
        each byte of the file.

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
        OSError
            If the file is not there, or cannot be read.
        ValueError
            If the file is damaged, changed or foreign, or was saved with another net. The message
            names the file, and says what differs and what to do; the estimator is left as it was.

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
            blank_module=self._blank_module if self.net is None else None,
        )
        draft = self._draft()
        vars(draft).update(found.features)
        draft._become(Fitted(found.net, found.rows, found.targets), found.path)
        # Which parameter went when is not in the file.
        del draft.ranking_
        self._take_over(draft)
        return self

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
        are stored without what is deleted. Linear, convolutional, recurrent, attention, norm,
        pooling, padding, resizing and embedding layers, and torch's elementwise functions,
        reductions and changes of shape have a counterpart; other operations are taken apart into
        these where torch can.

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
            If the network does something that has no counterpart in NumPy here, and the message
            then names the operation and the layer; if it changes its buffers in ``forward``; or if
            the program predicts something else. :meth:`to_onnx` takes more.
        """
        export.to_numpy(self._source("to_numpy", X), path)
