"""OBDClassifierCV and OBDRegressorCV: the prune rate, chosen along one pruning path per fold."""

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from os import PathLike
from typing import Self

import numpy as np
import sklearn
from joblib import Memory
from numpy.typing import ArrayLike
from sklearn.metrics import check_scoring, get_scorer
from sklearn.model_selection import BaseCrossValidator, KFold, check_cv
from sklearn.utils import check_random_state
from sklearn.utils.metadata_routing import UNUSED, MetadataRouter, MethodMapping, process_routing
from sklearn.utils.parallel import Parallel, delayed
from skorch import NeuralNet

from .base import USERS_FRAME, BaseOBD
from .docstrings import documented
from .fitted import FittedClassifier, FittedRegressor
from .folds import FoldRows, Unweighted, choose_size, follow, tabulate
from .plain import OBDClassifier, OBDRegressor
from .progress import SearchTasks, with_callbacks
from .validation import as_kwarg, check_weights, hint_at_percentage


class BaseOBDCV(BaseOBD):
    """The CV classes: their parameters, and ``fit``.

    A subclass says by ``_plain_class`` what follows the paths.
    """

    # The splitter asks for groups, not the estimator, as in scikit-learn's searches.
    __metadata_request__fit = {"groups": UNUSED}  # noqa: RUF012

    def __init__(
        self,
        net: NeuralNet | None = None,
        *,
        prune_rate: float = 0.98,
        step: float | None = 0.2,
        n_recomputations: int = 0,
        cv: int | BaseCrossValidator | Iterable | None = None,
        scoring: str | Callable | None = None,
        rule: str = "best",
        n_jobs: int | None = None,
        saliency: str | Callable = "obd",
        curvature: str = "ggn",
        compensation: str | None = None,
        prunable: str | Sequence[str] | Callable | None = None,
        retrain_epochs: int | None = 20,
        hidden_layer_sizes: Sequence[int] = (100,),
        activation: str = "relu",
        learning_rate_init: float = 3e-3,
        batch_size: int | str = "auto",
        max_epochs: int = 200,
        weight_decay: float | str = "auto",
        keep_path: str = "all",
        memory: str | PathLike | Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.net = net
        self.prune_rate = prune_rate
        self.step = step
        self.n_recomputations = n_recomputations
        self.cv = cv
        self.scoring = scoring
        self.rule = rule
        self.n_jobs = n_jobs
        self.saliency = saliency
        self.curvature = curvature
        self.compensation = compensation
        self.prunable = prunable
        self.retrain_epochs = retrain_epochs
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.weight_decay = weight_decay
        self.keep_path = keep_path
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        **params,
    ) -> Self:
        """Follow a path in every fold, choose the size, and fit all rows to it.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or values (several only for the regressor).
        sample_weight : array-like of shape (n_samples,), default=None
            Enter the loss, the curvature and the scores. With metadata routing enabled they
            enter the scores where `scoring` is None or has requested them.
        groups : array-like of shape (n_samples,), default=None
            For a splitter that keeps groups together.
        **params : dict
            What else the splitter or the scorer has requested (only with metadata routing
            enabled).

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For bad input, as the plain estimator; if folds visit different sizes; if some score
            of every size is NaN.
        KeyboardInterrupt
            After Ctrl-C. In the final fit the estimator keeps the last good network.
        """
        return self._fit(X, y, sample_weight, groups, params)

    @with_callbacks
    def _fit(self, X, y, sample_weight, groups, params):
        self._check_own_parameters()
        # One seed for the folds and the final fit; an int means the same as in a grid search.
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = int(check_random_state(seed).randint(np.iinfo(np.int32).max))
        draft = self._draft()
        X_checked, y = draft._check_X_y(X, y, reset=True)
        # Column names reach the folds; anything else goes as validated.
        X = X if hasattr(draft, "feature_names_in_") else X_checked
        weights = check_weights(sample_weight, len(y))
        routed = self._route(weights, groups, params)
        score_params = routed["scorer"]["score"]
        splits = self._splits(X, y, routed["splitter"]["split"])
        tasks = SearchTasks(self, len(splits), X, y, as_kwarg(weights))
        rows = FoldRows(X, y, weights, score_params, self._targets_class.of_all(y))
        folds = self._follow_paths(rows, splits, seed, tasks)
        end = folds[0][-1]
        n_deleted = sum(row["n_deleted"] for row in folds[0])
        if n_deleted:
            n_prunable = round(n_deleted / end["prune_rate"])
            hint_at_percentage(self.prune_rate, n_prunable, stacklevel=USERS_FRAME)
        results = tabulate(folds)
        chosen = choose_size([[row["test_score"] for row in rows] for rows in folds], self.rule)
        if self.verbose:
            print(
                f"[{type(self).__name__}] chosen: {results['n_params'][chosen]} of "
                f"{results['n_params'][0]} parameters, mean test score "
                f"{results['mean_test_score'][chosen]:.4f}",
                flush=True,
            )
        weighed = weights is None or "sample_weight" in score_params
        final = self._plain(
            # As a number of parameters it stops at the very row that the folds visited.
            prune_rate=sum(row["n_deleted"] for row in folds[0][: chosen + 1]),
            scoring=self.scoring if weighed else Unweighted(self._scorer()),
            random_state=seed,
        )
        try:
            with tasks.final(final):
                final._fit(X, y, weights)
        finally:
            if hasattr(final, "path_"):
                self._take_over(final)
                self.cv_results_ = results
                self.best_index_ = chosen
                self.best_score_ = float(results["mean_test_score"][chosen])
                self.prune_rate_ = float(results["prune_rate"][chosen])
        tasks.end()
        return self

    def get_metadata_routing(self) -> MetadataRouter:
        """How metadata given to ``fit`` reach the splitter and the scorer.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
        """
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(
                # An iterable of splits asks for nothing, and may be one that is used up.
                splitter=self.cv if hasattr(self.cv, "split") else KFold(),
                method_mapping=MethodMapping().add(caller="fit", callee="split"),
            )
            .add(
                scorer=self._scorer(),
                method_mapping=MethodMapping().add(caller="fit", callee="score"),
            )
        )

    # -- the steps of fit ----------------------------------------------------------------------

    def _plain(self, **changes):
        """The plain estimator with the parameters that this one has, and some changed."""
        own = self.get_params(deep=False)
        shared = [name for name in self._plain_class().get_params(deep=False) if name in own]
        return self._plain_class(**({name: own[name] for name in shared} | changes))

    def _route(self, weights, groups, params):
        """What splitter and scorer are given."""
        given = {"sample_weight": weights, "groups": groups}
        given = {name: value for name, value in given.items() if value is not None}
        if sklearn.get_config()["enable_metadata_routing"]:
            return process_routing(self, "fit", **given, **params)
        if params:
            raise ValueError(
                f"{type(self).__name__}.fit was given {', '.join(params)}; it passes such "
                "metadata on only with sklearn.set_config(enable_metadata_routing=True)."
            )
        return {
            "scorer": {"score": {k: v for k, v in given.items() if k == "sample_weight"}},
            "splitter": {"split": {k: v for k, v in given.items() if k == "groups"}},
        }

    def _scorer(self):
        if self.scoring is not None:
            return check_scoring(self, scoring=self.scoring)
        scorer = get_scorer(self._targets_class.scorer)
        if sklearn.get_config()["enable_metadata_routing"]:
            # The user gave no scorer that could request the weights.
            scorer.set_score_request(sample_weight=True)
        return scorer

    def _splits(self, X, y, split_params):
        """The (train, test) rows of every fold."""
        classifier = self._targets_class.kind == "classifier"
        splitter = check_cv(self.cv, y, classifier=classifier)
        splits = list(splitter.split(X, y, **split_params))
        needed = 2 if self.rule == "one_se" else 1
        if len(splits) < needed:
            raise ValueError(
                f"cv gives {len(splits)} folds; rule={self.rule!r} needs at least {needed}."
            )
        return splits

    def _follow_paths(self, rows, splits, seed, tasks):
        """The rows of one path per fold."""
        plain = self._plain(
            random_state=seed,
            verbose=max(0, int(self.verbose) - 1),
            scoring=None,
            keep_path="all",
        )
        scorer = self._scorer()
        title = f"[{type(self).__name__}] fold {{}} of {len(splits)}" if self.verbose else ""
        return Parallel(n_jobs=self.n_jobs)(
            delayed(follow)(plain, rows, split, scorer, title=title.format(i), task=tasks.fold())
            for i, split in enumerate(splits, start=1)
        )


@documented
class OBDClassifierCV(FittedClassifier, BaseOBDCV):
    """An :class:`OBDClassifier` whose prune rate is chosen by cross-validation.

    Follows one pruning path per fold, to its end, and scores every network of it on the fold's test
    rows. The size with the best mean score is then fitted to all rows. A grid search over
    `prune_rate` would train every network of every fold anew, for the same scores.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        Of the whole y; every fold uses them.
    {attributes}

    See Also
    --------
    OBDClassifier : To a prune rate that you give.
    sklearn.feature_selection.RFECV : The same idea for features.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_obd import OBDClassifierCV
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = OBDClassifierCV(cv=3, rule="one_se", random_state=0).fit(X, y)
    >>> bool(clf.cv_results_["n_params"][clf.best_index_] == clf.n_params_)
    True
    >>> clf.score(X, y) > 0.95
    True
    """

    _plain_class = OBDClassifier

    def __init__(
        self,
        net: NeuralNet | None = None,
        *,
        prune_rate: float = 0.98,
        step: float | None = 0.2,
        n_recomputations: int = 0,
        cv: int | BaseCrossValidator | Iterable | None = None,
        scoring: str | Callable | None = None,
        rule: str = "best",
        n_jobs: int | None = None,
        saliency: str | Callable = "obd",
        curvature: str = "ggn",
        compensation: str | None = None,
        prunable: str | Sequence[str] | Callable | None = None,
        retrain_epochs: int | None = 20,
        class_weight: dict | str | None = None,
        hidden_layer_sizes: Sequence[int] = (100,),
        activation: str = "relu",
        learning_rate_init: float = 3e-3,
        batch_size: int | str = "auto",
        max_epochs: int = 200,
        weight_decay: float | str = "auto",
        keep_path: str = "all",
        memory: str | PathLike | Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            net,
            prune_rate=prune_rate,
            step=step,
            n_recomputations=n_recomputations,
            cv=cv,
            scoring=scoring,
            rule=rule,
            n_jobs=n_jobs,
            saliency=saliency,
            curvature=curvature,
            compensation=compensation,
            prunable=prunable,
            retrain_epochs=retrain_epochs,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            learning_rate_init=learning_rate_init,
            batch_size=batch_size,
            max_epochs=max_epochs,
            weight_decay=weight_decay,
            keep_path=keep_path,
            memory=memory,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight


@documented
class OBDRegressorCV(FittedRegressor, BaseOBDCV):
    """An :class:`OBDRegressor` whose prune rate is chosen by cross-validation.

    Follows one pruning path per fold, to its end, and scores every network of it on the fold's test
    rows. The size with the best mean score is then fitted to all rows. A grid search over
    `prune_rate` would train every network of every fold anew, for the same scores.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    OBDRegressor : To a prune rate that you give.
    sklearn.feature_selection.RFECV : The same idea for features.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sk_obd import OBDRegressorCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = OBDRegressorCV(cv=3, random_state=0).fit(X, y)
    >>> bool(reg.cv_results_["n_params"][reg.best_index_] == reg.n_params_)
    True
    >>> reg.best_score_ > 0.4
    True
    """

    _plain_class = OBDRegressor
