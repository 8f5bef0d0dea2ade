"""``fit``, step by step: from X and y to a pruned network."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import NamedTuple, Self

import numpy as np
import torch
from joblib import Memory
from numpy.typing import ArrayLike
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state
from skorch import NeuralNet

from ..pruning.cache import IterationCache, key_of
from ..pruning.extent import count_iterations
from ..pruning.groups import groups_of
from ..pruning.path import PruningPath
from ..pruning.recipe import Recipe, Run, check_sweepable, prune
from ..pruning.schedule import target_total
from ..training.batches import examples
from ..training.isolation import (
    OwnGenerator,
    Purpose,
    generator_for,
    import_what_torch_needs,
    isolated_generators,
    one_thread,
    seed_generators,
)
from ..training.masks import prunable_names, set_trainable
from ..training.nets import batch_size_of, cast, check_criterion, input_dtype, start
from ..training.objective import Objective
from ..training.probes import try_net, undefined_at_zero
from .base import USERS_FRAME, BaseOBD
from .before_training import check_compensation, check_derivatives, hint_at_schedules
from .parameters import names_where
from .progress import FitObserver, with_callbacks
from .state import FEATURES, N_TRIED_ROWS, Fitted
from .validation import (
    as_kwarg,
    check_weights,
    check_X,
    hint_at_percentage,
    unequal,
)


class TrainingRows(NamedTuple):
    """The rows that a fit trains on."""

    X: object
    #: Encoded as the network sees them, not yet shaped for its criterion.
    y: torch.Tensor
    #: None: all are equal.
    weights: np.ndarray | None


class PlainOBD(BaseOBD):
    """The classifier and the regressor: their parameters, and ``fit``."""

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
        self.net = net
        self.prune_rate = prune_rate
        self.step = step
        self.n_recomputations = n_recomputations
        self.trust_region = trust_region
        self.granularity = granularity
        self.sweep = sweep
        self.saliency = saliency
        self.curvature = curvature
        self.compensation = compensation
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

    def fit(
        self,
        X,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val=None,
        y_val: ArrayLike | None = None,
    ) -> Self:
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
            the last good network; else it is as it was before.
        """
        return self._fit(X, y, sample_weight, validation=(X_val, y_val), hints=True)

    @with_callbacks
    def _fit(self, X, y, sample_weight, *, validation=(None, None), targets=None, hints=False):
        """Fit, where `targets` may be known from more rows than these.

        `hints`: whether the user asked for this very fit, and is told of what looks like a mistake.
        """
        self._check_own_parameters()
        import_what_torch_needs()
        resumes = self.warm_start and hasattr(self, "path_")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        draft = self._draft(keep=FEATURES if resumes else ())
        X_checked, y_checked = draft._check_X_y(X, y, reset=not resumes)
        weights = check_weights(sample_weight, X_checked.shape[0])
        rows, scored = draft._scored_rows(X, y_checked, weights, validation, seed)
        if resumes:
            targets = self._fitted.targets.continued(y_checked)
        data, targets = draft._training_rows(X_checked, y_checked, weights, rows, targets)
        with isolated_generators():
            seed_generators(seed, Purpose.INITIALISATION)
            with OwnGenerator(generator_for(seed, Purpose.INITIALISATION)):
                net, X, y, trial = draft._start(data, targets)
            seen = trial.rows_seen(batch_size_of(net, X))
            seen = replace(seen, examples=examples(X, N_TRIED_ROWS))
            with one_thread(seen.single_thread):
                objective = Objective.of_net(net, X, y, unequal(data.weights), trial=trial)
                if self.sweep:
                    check_sweepable(net.module_, trial.rows)
                undefined = self._undefined(net, X)
                path = self._path_for(net.module_, trial, undefined, resumes)
                if hints:
                    hint_at_percentage(self.prune_rate, path.n_prunable, stacklevel=USERS_FRAME)
                recipe = self._recipe(net, seed)
                if hints:
                    hint_at_schedules(net, X, recipe.epochs, stacklevel=USERS_FRAME)
                if "curvature" in recipe.needs:
                    check_derivatives(objective, self.curvature)
                cache = self._cache(net, objective, path, seed)
                prunable = partial(self._prunable, trial=trial, undefined=undefined)
                run = Run(net, objective, path, recipe, prunable, cache)
                check_compensation(run)
                draft.net_, draft._fitted = net, Fitted(net, seen, targets)
                vars(draft).update(targets.fitted_attributes())
                self._follow(run, draft, scored)
        return self

    # -- the steps of fit, in their order ------------------------------------------------------

    def _scored_rows(self, X, y, weights, validation, seed):
        """Rows trained on, and what the scorer is given for the training and validation rows.

        X stays as the user gave it, so that column names reach predict as they reached fit.
        """
        X_val, y_val = validation
        if (X_val is None) != (y_val is None):
            missing = "y_val" if y_val is None else "X_val"
            raise ValueError(f"X_val and y_val go together; {missing} is missing.")
        rows = np.arange(len(y))
        scored = {}
        if X_val is not None:
            X_checked = check_X(X_val, self, reset=False)
            y_val = self._targets_class.check(y_val, self)
            check_consistent_length(X_checked, y_val)
            scored["validation"] = (X_val, y_val, {})
        elif self.early_stopping:
            X, X_val, rows, held_out = train_test_split(
                X if hasattr(X, "shape") else np.asarray(X),
                rows,
                test_size=self.validation_fraction,
                stratify=y if self._targets_class.kind == "classifier" else None,
                random_state=seed,
            )
            scored["validation"] = (X_val, y[held_out], as_kwarg(weights, held_out))
        scored["train"] = (X, y[rows], as_kwarg(weights, rows))
        return rows, scored

    def _training_rows(self, X, y, weights, rows, targets):
        """The rows that have a weight, encoded, and what was learnt of y."""
        if weights is not None:
            # A row of weight zero is as if absent, also for what is learnt of y.
            rows = rows[weights[rows] > 0]
            weights = weights[rows]
        if targets is None:
            targets = self._targets_class.learn(y, rows, weights, standardise=self.net is None)
        weights = targets.weigh(
            y[rows],
            weights,
            class_weight=getattr(self, "class_weight", None),
            owner=type(self).__name__,
        )
        if weights is not None:
            # A class may weigh nothing, too.
            rows, weights = rows[weights > 0], weights[weights > 0]
        return TrainingRows(X[rows], targets.encode(y[rows]), weights), targets

    def _start(self, data, targets):
        """The net started and tried, with X and y as it takes them."""
        net = self._own_net(data.X, targets, data.weights)
        net = start(net, data.X, data.y.numpy(), verbose=max(0, int(self.verbose) - 1))
        X = cast(data.X, input_dtype(net.module_, data.X))
        trial = try_net(net, X)
        y = targets.shape_for(net, trial.output, data.y)
        check_criterion(net, trial.output, y)
        return net, X, y, trial

    def _undefined(self, net, X):
        """Names of the parameters that are spared because the output is NaN where they are zero."""
        found = undefined_at_zero(net, X, prunable_names(net.module_, self.prunable))
        if not found:
            return []
        what = (
            f"{type(net.module_).__name__} returns NaN where {' or '.join(found)} is zero: "
            "something is divided by its norm, as weight_norm and spectral_norm do"
        )
        if self.prunable is not None:
            raise ValueError(
                f"{what}. prunable={self.prunable!r} includes it; leave it out, or remove the "
                "normalisation (torch.nn.utils.parametrize.remove_parametrizations) before fit."
            )
        warnings.warn(
            f"{what}. It is spared. To prune it, remove the normalisation "
            "(torch.nn.utils.parametrize.remove_parametrizations) before fit.",
            stacklevel=USERS_FRAME,
        )
        return found

    def _prunable(self, module, trial, undefined):
        """Names of the parameters that may be deleted, and their groups (or None)."""
        spared = set(undefined)
        prunable = [n for n in prunable_names(module, self.prunable) if n not in spared]
        if not prunable:
            raise ValueError(
                f"Nothing can be deleted: {', '.join(undefined)} must not be zero, and no other "
                "parameter is prunable."
            )
        if self.granularity == "parameter":
            return prunable, None
        groups = groups_of(module, prunable, self.granularity, trial)
        return [name for name in prunable if name in groups], groups

    def _path_for(self, module, trial, undefined, resumes):
        """A new path, or the present one with its network put into `module`."""
        if resumes:
            set_trainable(module, self.path_.flags)
        prunable, groups = self._prunable(module, trial, undefined)
        path = PruningPath(module, prunable, groups=groups, keep=self.keep_path)
        if resumes:
            path = self.path_.cut(self.path_.kept).continued_as(path)
            path.load(path.kept, module)
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

    def _recipe(self, net, seed):
        names = names_where(decides="networks") + names_where(decides="path")
        own = {name: getattr(self, name) for name in names}
        return Recipe(**own, dense_epochs=net.max_epochs, seed=seed)

    def _cache(self, net, objective, path, seed):
        """The cache of finished iterations; it keeps nothing when memory is None."""
        if self.memory is None:
            return IterationCache()
        settings = {name: getattr(self, name) for name in names_where(decides="networks")}
        settings |= {"dense_epochs": net.max_epochs, "seed": seed}
        if self.random_state is None:
            settings = None
        key = key_of(net, objective, path, settings, stacklevel=USERS_FRAME)
        return IterationCache(self.memory, key, stacklevel=USERS_FRAME)

    def _follow(self, run, draft, scored):
        """Follow the recipe on a draft, and take it over, whatever happens after the first row."""
        observer = FitObserver(self, draft, run, scored, count_iterations(run))
        try:
            prune(run, observer)
        finally:
            if len(run.path):
                draft._become(draft._fitted, run.path)
                self._take_over(draft)
        observer.end()
