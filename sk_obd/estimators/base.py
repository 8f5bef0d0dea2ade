"""What the classifier and the regressor share: from X and y to a pruned network."""

import warnings

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import validate_data

from ..pruning.cache import Finished, key_of
from ..pruning.groups import groups_of
from ..pruning.path import PruningPath
from ..pruning.recipe import Recipe, count_iterations, prune
from ..pruning.schedule import target_total
from ..pruning.sweeping import check_sweepable
from ..training import reading
from ..training.isolation import isolated_generators, one_thread, seed_generators
from ..training.masks import prunable_names
from ..training.mlp import default_net
from ..training.nets import (
    cast,
    check_criterion,
    check_net,
    describe_rows,
    duplicate,
    input_dtype,
    is_small,
    start,
    trial_output,
)
from ..training.objective import Objective
from .fitted import FittedMixin
from .parameters import check_parameters
from .progress import CallbackSupportMixin, FitTasks, with_callbacks
from .validation import X_RULES, as_kwarg, check_weights, refuse_mapping, unequal


class BaseOBD(FittedMixin, CallbackSupportMixin, BaseEstimator):
    """The scikit-learn face of the recipe; subclasses know their targets."""

    _kind = None  # "classifier" or "regressor"

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
        self.net = net
        self.prune_rate = prune_rate
        self.step = step
        self.n_recomputations = n_recomputations
        self.trust_region = trust_region
        self.granularity = granularity
        self.sweep = sweep
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
        self.memory = memory
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

    def _some_targets(self):
        """Two encoded targets, for callbacks that size the module by them."""
        raise NotImplementedError

    def _learnt_of_targets(self):
        """What `_learn_targets` has learnt, a dict of arrays."""
        raise NotImplementedError

    def _restore_targets(self, learnt):
        """Put back what `_learnt_of_targets` gave."""
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

    @with_callbacks
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
            self._single_thread = is_small(net, X)
            with one_thread(self._single_thread):
                objective = Objective.of_net(net, X, y, unequal(weights))
                rows = objective.some_rows(2)
                self._row_shape, self._row_dtype = describe_rows(rows)
                self._readers = reading.reading_layers(net.module_, rows)
                if self.sweep:
                    check_sweepable(net.module_, rows)
                path = self._start_path(net, rows, resume)
                recipe = self._recipe(net, seed)
                if "curvature" in recipe.needs:
                    # What cannot be differentiated is refused now, not after hours of training.
                    objective.curvature(self.curvature, n_rows=2)
                    if (error := objective.try_product()) is not None:
                        warnings.warn(
                            f"The loss cannot be differentiated twice ({error}); off_diagonal and "
                            "higher_order of the path are NaN.",
                            stacklevel=3,
                        )
                self._run(net, objective, path, recipe, scored)
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

    def _start_path(self, net, rows, resume):
        """A new path, or the present one with its network loaded."""
        prunable, groups = prunable_names(net.module_, self.prunable), None
        if self.granularity != "parameter":
            groups = groups_of(net.module_, rows, prunable, self.granularity, self._readers)
            prunable = [name for name in prunable if name in groups]
        path = PruningPath(net.module_, prunable, groups=groups, keep=self.keep_path)
        if resume:
            path = self.path_.cut(self.path_.kept).continued_as(path)
            path.load(path.kept, net.module_)
        target = target_total(path.n_prunable, self.prune_rate)
        # The last deletion may have gone beyond what was asked for.
        exact = self.granularity == "parameter" and not self.sweep
        if target < path.n_deleted and (exact or target <= path.n_deleted_before):
            raise ValueError(
                f"warm_start=True with prune_rate={self.prune_rate} asks to delete "
                f"{target} parameters; {path.n_deleted} are already deleted. Raise "
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

        def recall(*iteration):
            tasks.begin_iteration()
            return finished(*iteration)

        def report(path):
            self._report(path)
            return tasks.end_iteration()

        def fitted_attributes():
            return vars(self._fitted_copy(net, path, path.kept))

        tasks = FitTasks(self, count_iterations(path, recipe), fitted_attributes, *scored["train"])
        finished = self._finished(net, objective, path, recipe)
        # The scorer looks at this estimator, with the network as it is at that moment.
        before = self.__dict__.get("net_")
        self.net_ = net
        try:
            prune(net, objective, path, recipe, evaluate=evaluate, recall=recall, report=report)
        except BaseException:
            if len(path):
                self._settle(net, path)
            elif before is None:
                del self.net_
            else:
                self.net_ = before
            raise
        self._settle(net, path)
        tasks.end()

    def _finished(self, net, objective, path, recipe):
        """The store of iterations of `memory`."""
        if self.memory is None:
            return Finished(None, None)
        fixed = self.random_state is not None
        return Finished(self.memory, key_of(net, objective, path, recipe, fixed))

    def _recipe(self, net, seed):
        return Recipe(
            prune_rate=self.prune_rate,
            step=self.step,
            n_recomputations=self.n_recomputations,
            trust_region=self.trust_region,
            granularity=self.granularity,
            sweep=self.sweep,
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

    def _net_for_loading(self):
        """The net as it starts, for rows and outputs as they are known, without data."""
        X = np.broadcast_to(np.zeros((), dtype=self._row_dtype), (2, *self._row_shape))
        with isolated_generators():
            net = self._default_net(X, 2.0) if self.net is None else self.net
            return start(net, X, self._some_targets())
