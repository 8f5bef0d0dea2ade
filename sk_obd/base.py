"""What the classifier and the regressor share: from X and y to a pruned network and back."""

import copy

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.history import History

from . import inputs
from .compact import compact_estimator
from .data import X_RULES, as_kwarg, check_weights, passes_unchanged, refuse_mapping, unequal
from .isolation import isolated_generators, one_thread, seed_generators
from .masks import count_alive, prunable_names
from .modules import default_net
from .networks import (
    cast,
    check_criterion,
    check_net,
    duplicate,
    input_dtype,
    is_small,
    start,
    trial_output,
)
from .objective import Objective
from .parameters import check_parameters
from .path import PruningPath
from .pruning import Recipe, prune, schedule
from .saliency import NEEDS


class BaseOBD(BaseEstimator):
    """The scikit-learn face of the recipe; subclasses know their targets."""

    _kind = None  # "classifier" or "regressor"

    def __init__(
        self,
        net=None,
        *,
        prune_rate=0.5,
        step=0.2,
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
        hidden_layer_sizes=(100,),
        activation="relu",
        learning_rate_init=3e-3,
        batch_size="auto",
        max_epochs=200,
        weight_decay="auto",
        keep_path="all",
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.prune_rate = prune_rate
        self.step = step
        self.saliency = saliency
        self.curvature = curvature
        self.prunable = prunable
        self.retrain_epochs = retrain_epochs
        self.max_loss_increase = max_loss_increase
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.validation_fraction = validation_fraction
        self.scoring = scoring
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.weight_decay = weight_decay
        self.keep_path = keep_path
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    # -- what a subclass says ------------------------------------------------------------------

    def _learn_targets(self, y, y_train, sample_weight, resume):
        """Learn the encoding of y; return the weights of the training rows (None: all equal)."""
        raise NotImplementedError

    def _encode(self, y):
        """y as a tensor of class codes or of values to regress on."""
        raise NotImplementedError

    def _shape_targets(self, net, output, y):
        """Encoded y as the net's criterion takes it beside `output`."""
        raise NotImplementedError

    def _check_y(self, y):
        """y validated, an array."""
        raise NotImplementedError

    def _n_outputs(self):
        raise NotImplementedError

    # -- scikit-learn's plumbing ---------------------------------------------------------------

    def set_params(self, **params):
        """Set parameters; those named ``net__...`` reach the skorch net.

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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.three_d_array = True
        return tags

    # -- fit -----------------------------------------------------------------------------------

    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None):
        """Train, prune and retrain the network.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features) or (n_samples, ...)
            Cast to the module's floating type; integers stay int64 where the module has an
            Embedding. CSR rows are densified batch by batch.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or values (several only for the regressor).
        sample_weight : array-like of shape (n_samples,), default=None
            Enter the loss and the curvature: sum(w_i l_i) / sum(w_i).
        X_val, y_val : array-like, default=None
            Rows scored at every iteration, and those early stopping looks at.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For bad input, naming what was found, what was expected and what to do.
        KeyboardInterrupt
            After Ctrl-C. If the dense network was trained by then, the estimator is fitted with
            the last good network.
        """
        check_parameters(self)
        if self.net is not None:
            check_net(self.net, self._kind, type(self).__name__)
        resume = self.warm_start and hasattr(self, "path_")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        X, y, weights, scored = self._check_rows(X, y, sample_weight, X_val, y_val, seed, resume)
        with isolated_generators():
            seed_generators(seed, 0)
            net, X, y = self._start_net(X, y, weights)
            path = self._start_path(net, resume)
            self._single_thread = is_small(net, X)
            with one_thread(self._single_thread):
                objective = Objective(net, X, y, unequal(weights))
                if callable(self.saliency) or "curvature" in NEEDS[self.saliency]:
                    # What cannot be differentiated is refused now, not after hours of training.
                    objective.curvature(self.curvature, n_rows=2)
                self._no_rows = objective.some_rows(1)[:0].clone()
                self._readers = inputs.reading_layers(net.module_, objective.some_rows(2))
                self._run(net, objective, path, self._recipe(net, seed), scored)
        return self

    def _check_rows(self, X, y, sample_weight, X_val, y_val, seed, resume):
        """The rows to train on, encoded, their weights, and what the scorer is given."""
        X_checked, y_checked = self._check_X_y(X, y, reset=not resume)
        weights = check_weights(sample_weight, X_checked.shape[0])
        rows, scored = self._scored_rows(X, y_checked, weights, X_val, y_val, seed)
        # A row of weight zero is as if absent, also for what is learnt of y.
        rows = rows if weights is None else rows[weights[rows] > 0]
        weights = None if weights is None else weights[rows]
        weights = self._learn_targets(y_checked, y_checked[rows], weights, resume)
        if weights is not None:
            rows, weights = rows[weights > 0], weights[weights > 0]
        return X_checked[rows], self._encode(y_checked[rows]), weights, scored

    def _start_net(self, X, y, weights):
        """The network started and checked, with X and y as it takes them."""
        total = float(X.shape[0] if weights is None else weights.sum())
        net = self._default_net(X, total) if self.net is None else self.net
        net = start(net, X, y.numpy(), verbose=max(0, int(self.verbose) - 1))
        X = cast(X, input_dtype(net.module_, X))
        output = trial_output(net, X)
        y = self._shape_targets(net, output, y)
        check_criterion(net, output, y)
        return net, X, y

    def _start_path(self, net, resume):
        """A new path, or the present one with its network loaded."""
        path = PruningPath(
            net.module_, prunable_names(net.module_, self.prunable), keep=self.keep_path
        )
        if resume:
            path = self.path_.cut(self.path_.kept).continued_as(path)
            path.load(path.kept, net.module_)
        totals = schedule(path.n_prunable, self.prune_rate, self.step)
        if sum(totals[-1:]) < path.n_deleted:
            raise ValueError(
                f"warm_start=True with prune_rate={self.prune_rate} asks to delete "
                f"{sum(totals[-1:])} parameters; {path.n_deleted} are already deleted. Raise "
                "prune_rate, take an earlier network with at(prune_rate=...), or fit anew with "
                "warm_start=False."
            )
        return path

    def _run(self, net, objective, path, recipe, scored):
        """Follow the recipe; keep the last good network whatever happens."""
        scorer = check_scoring(self, scoring=self.scoring)

        def evaluate():
            return tuple(
                float(scorer(self, *scored[part][:2], **scored[part][2]))
                if part in scored
                else np.nan
                for part in ("train", "validation")
            )

        # The scorer looks at this estimator, with the network as it is at that moment.
        before = self.__dict__.get("net_")
        self.net_ = net
        try:
            prune(net, objective, path, recipe, evaluate=evaluate, report=self._report)
        except BaseException:
            if len(path):
                self._settle(net, path)
            elif before is None:
                del self.net_
            else:
                self.net_ = before
            raise
        self._settle(net, path)

    def _settle(self, net, path):
        """Make `path.kept` the fitted network."""
        for name in ("backend_", "compact_report_", "_predictor"):
            self.__dict__.pop(name, None)
        path.forget_unfinished()
        path.load(path.kept, net.module_)
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
        self.support_ = inputs.support(self.mask_, self._readers, self.n_features_in_)
        self._set_saliencies(path.saliency)

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
            self.feature_importances_ = inputs.importances(self.saliencies_, self._readers)

    def _recipe(self, net, seed):
        return Recipe(
            prune_rate=self.prune_rate,
            step=self.step,
            saliency=self.saliency,
            curvature=self.curvature,
            dense_epochs=net.max_epochs,
            retrain_epochs=self.retrain_epochs,
            max_loss_increase=self.max_loss_increase,
            early_stopping=self.early_stopping,
            n_iter_no_change=self.n_iter_no_change,
            tol=self.tol,
            seed=seed,
        )

    def _default_net(self, X, sum_of_weights):
        return default_net(
            self._kind,
            n_features=X.shape[1],
            n_outputs=self._n_outputs(),
            sum_of_weights=sum_of_weights,
            n_rows=X.shape[0],
            dtype=torch.float32 if X.dtype == np.float32 else torch.float64,
            hidden_layer_sizes=self.hidden_layer_sizes,
            activation=self.activation,
            learning_rate_init=self.learning_rate_init,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            weight_decay=self.weight_decay,
        )

    def _report(self, path):
        if not self.verbose:
            return
        row, i = path[-1], len(path) - 1
        share = row["n_params"] / path[0]["n_params"]
        validation = row["validation_score"]
        print(
            f"[{type(self).__name__}] iteration {i}: {row['n_params']} of "
            f"{path[0]['n_params']} parameters ({share:.1%}), loss {row['loss']:.4g}, "
            f"train score {row['train_score']:.4f}"
            + ("" if np.isnan(validation) else f", validation score {validation:.4f}")
            + f", {row['n_epochs']} epochs, {row['fit_time']:.1f} s",
            flush=True,
        )

    # -- data ----------------------------------------------------------------------------------

    def _check_X_y(self, X, y, reset):
        refuse_mapping(X, type(self).__name__)
        X = validate_data(self, X, reset=reset, **X_RULES)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        y = self._check_y(y)
        check_consistent_length(X, y)
        return X, y

    def _check_X(self, X):
        if not hasattr(self, "net_"):
            check_is_fitted(self, "net_")
        if not passes_unchanged(X, self):
            refuse_mapping(X, type(self).__name__)
            X = validate_data(self, X, reset=False, **X_RULES)
        return cast(X, input_dtype(self.net_.module_, X))

    def _scored_rows(self, X, y, weights, X_val, y_val, seed):
        """Rows trained on, and what the scorer is given for the training and validation rows.

        X stays as the user gave it, so that column names reach predict as they reached fit.
        """
        if (X_val is None) != (y_val is None):
            missing = "y_val" if y_val is None else "X_val"
            raise ValueError(f"X_val and y_val go together; {missing} is missing.")
        rows = np.arange(len(y))
        scored = {}
        if X_val is not None:
            X_checked = validate_data(self, X_val, reset=False, **X_RULES)
            y_val = self._check_y(y_val)
            check_consistent_length(X_checked, y_val)
            scored["validation"] = (X_val, y_val, {})
        elif self.early_stopping:
            X, X_val, rows, held_out = train_test_split(
                X if hasattr(X, "shape") else np.asarray(X),
                rows,
                test_size=self.validation_fraction,
                stratify=y if self._kind == "classifier" else None,
                random_state=seed,
            )
            scored["validation"] = (X_val, y[held_out], as_kwarg(weights, held_out))
        scored["train"] = (X, y[rows], as_kwarg(weights, rows))
        return rows, scored

    # -- afterwards ----------------------------------------------------------------------------

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
        fitted = copy.copy(self)
        fitted._settle(duplicate(self.net_), self.path_.cut(row))
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
