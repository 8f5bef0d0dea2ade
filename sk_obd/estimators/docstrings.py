"""What the docstrings of the estimators share: their parameters and attributes, said once."""

import inspect

#: What each parameter means, by name.
PARAMETERS = {
    "net": """
    net : skorch.NeuralNet, default=None
        The network and how it is trained. It is copied: your object is never trained or changed.
        An initialised net, or one with an instantiated module, starts from its weights; if its
        ``max_epochs`` is 0, dense training is skipped and the trained network is pruned. In
        ``set_params`` and in grids its own parameters are ``net__max_epochs``, ``net__lr``,
        ``net__module__hidden``, ... None: a multilayer perceptron made from the parameters
        marked (default net) below, which standardises X itself in a fixed first layer. These
        parameters are refused beside a net.""",
    "prune_rate": """
    prune_rate : float in [0, 1) or int, default=0.5
        Share of the prunable parameters deleted in the end, ``round(prune_rate * n)``; an int
        >= 1 is their number. 0 trains the dense network.""",
    "step": """
    step : float in (0, 1), int or None, default=0.2
        Deleted in one iteration: a share of what is *left*, or a number (1 is one at a time), or
        all at once (None). Sizes depend only on counts: a fit to 0.5 visits the networks of a fit
        to 0.9, except for its own last.""",
    "n_recomputations": """
    n_recomputations : int, default=0
        How often saliencies are computed anew within an iteration: the deletion is made in
        ``n_recomputations + 1`` equal parts, without training in between. Costs a curvature each,
        and helps where `step` is long (0.4, not 0.2).""",
    "trust_region": """
    trust_region : float > 0, default=None
        Tolerated error of the predicted increase, as a share of the training loss. After each
        deletion the step shrinks where the error was larger, and grows where it was smaller (by
        at most a factor 2, and to at most half of what is left), so that `step` is only the
        first. Sizes then depend on the data. Needs a saliency that predicts the loss.""",
    "granularity": """
    granularity : {"parameter", "unit", "input"}, default="parameter"
        What goes as a whole. "unit": the weights into a hidden unit, or a convolution's channel,
        and its bias, so that the network left is dense; the last layer is not pruned. "input":
        the weights that read a column of X, where X enters Linear layers. In the order of the
        summed saliency per parameter. Rates refer to the parameters in such groups and are
        rounded to whole ones; sizes depend on the data.""",
    "sweep": """
    sweep : bool, default=False
        Whether parameters that no longer matter go too, right after each deletion: those of units
        that nothing living reads, and those out of units that no living weight connects to X,
        whose constant output is added to the biases of what reads it. They are free, the
        predictions stay (to rounding), and ``support_`` then lists the inputs really read. Only
        prunable parameters go; a constant other than 0 stays where no living bias can take it
        over. They count as deleted: `prune_rate` is reached or exceeded, steps that the sweep has
        passed are left out, and sizes depend on the data. `predicted_increase` and
        `actual_increase` are only of the deletion. ValueError for a module that ``torch.fx``
        cannot trace.""",
    "saliency": """
    saliency : str or callable, default="obd"
        What orders the deletions, lowest first:

        - "obd": :math:`h_{kk} u_k^2 / 2`, step 4 of the paper's recipe;
        - "obd-decay": :math:`u_k \\partial P / \\partial u_k + h_{kk} u_k^2 / 2` with the penalty
          P that the net trains with (weight decay, or what its ``get_loss`` adds to its
          criterion): what deleting costs at a minimum of the *trained* loss;
        - "obs": :math:`u_k^2 / (2 v_k)`, what is left of the cost where the survivors make up for
          it, with the diagonal v of the inverse of the Gauss-Newton matrix plus the penalty's
          (the whole matrix up to 512 parameters alive, above that a block for the weights into
          each unit);
        - "taylor": :math:`-g_k u_k + h_{kk} u_k^2 / 2` with the measured gradient, for networks
          stopped early or trained with a penalty;
        - "magnitude": :math:`|u_k|`;
        - "random";
        - "deletion": the loss really evaluated with each parameter removed (small networks);
        - ``callable(parameters, curvature)``, which gets and returns dicts of tensors.""",
    "curvature": """
    curvature : str, default="ggn"
        How :math:`h_{kk}` is computed (see :func:`sk_obd.curvature.diagonal`): "ggn" (exact
        Gauss-Newton diagonal, never negative), "hessian" (exact), "recursion" and "recursion-lm"
        (the paper's own back-propagation, with and without its f'' term), "ggn-mc" (sampled, for
        many outputs), "fisher" (squared gradients; for comparison).""",
    "compensation": """
    compensation : {"obs", "layer"}, default=None
        Whether the survivors of a deletion move to make up for it, before retraining:

        - None: they stay where they are (Optimal Brain Damage);
        - "obs": to the minimum of the quadratic model of the trained loss, in the exact
          Gauss-Newton matrix of all rows plus the penalty that the net trains with (Optimal Brain
          Surgeon, without its matrix: 10 products in a solve, each 1.3 to 2 gradients, and up to
          four solves for a deletion, more where one is not to be trusted). A move that raises the
          loss is not taken. ``retrain_epochs=0`` makes it the whole method;
        - "layer": the weights into each unit are refitted by least squares to what it received
          before the deletion, Linear and convolutional layers only; ``path_.uncompensated`` names
          what stays as it is.""",
    "prunable": """
    prunable : None, str, list of str or callable, default=None
        What may be deleted. None: every trainable parameter except those of normalisation layers
        and PReLU. A str is searched in the names as a regular expression, a list names them, a
        ``callable(name, parameter)`` returns a bool.""",
    "retrain_epochs": """
    retrain_epochs : int or None, default=20
        At most so many epochs after each deletion; 0 does not retrain, None retrains for as many
        as the dense training (the net's ``max_epochs``), with the net's whole learning-rate
        schedule again.""",
    "max_loss_increase": """
    max_loss_increase : float, default=None
        Stop when the training loss after retraining is above the dense network's by more than
        this (in the units of the loss); the last network within is kept.""",
    "early_stopping": """
    early_stopping : bool, default=False
        Stop when the validation score has been below its best minus `tol` for
        `n_iter_no_change` iterations; the smallest network within `tol` of the best is kept.""",
    "n_iter_no_change": """
    n_iter_no_change : int, default=5
        After so many iterations below the best score, early stopping ends the path.""",
    "tol": """
    tol : float, default=1e-3
        In the units of the score.""",
    "validation_fraction": """
    validation_fraction : float in (0, 1), default=0.1
        Share of the rows that early stopping holds out{, stratified}; not used where X_val is
        given.""",
    "scoring": """
    scoring : str or callable, default=None
        The path's scores and early stopping's; None: the estimator's ``score``.""",
    "class_weight": """
    class_weight : dict, "balanced" or None, default=None
        Weights of classes by label, multiplied into ``sample_weight``.""",
    "hidden_layer_sizes": """
    hidden_layer_sizes : sequence of int, default=(100,)
        (default net)""",
    "activation": """
    activation : {"identity", "logistic", "tanh", "relu", "gelu", "silu"}, default="relu"
        (default net)""",
    "learning_rate_init": """
    learning_rate_init : float, default=3e-3
        Adam's (default net).""",
    "batch_size": """
    batch_size : int or "auto", default="auto"
        "auto" is ``min(200, n_samples)`` (default net).""",
    "max_epochs": """
    max_epochs : int, default=200
        At most so many epochs of dense training; it ends when the training loss has not improved
        by 1e-4 for 10 epochs, as retraining does (default net).""",
    "weight_decay": """
    weight_decay : float or "auto", default="auto"
        "auto" is ``min(1e-2, 4 / sum of weights)``, the weights of the rows (default net). With 0,
        data that can be separated leave no minimum, and saliencies mean little.""",
    "keep_path": """
    keep_path : {"all", "last"}, default="all"
        Which networks of the path are kept: all, for :meth:`at`, or the fitted one.""",
    "memory": """
    memory : str, path or joblib.Memory, default=None
        Where finished iterations are kept, as in scikit-learn's Pipeline. A fit that has the same
        data, network, settings and seed trains none of them again: a longer path goes on from a
        shorter one, and a run that was killed from its last finished iteration. Needs a fixed
        `random_state`. A damaged entry is computed again, and a folder that cannot be written to
        is done without, each with a warning. The files are pickles: use a folder that only you can
        write to.""",
    "warm_start": """
    warm_start : bool, default=False
        Whether fit goes on from the present mask. Rates still refer to the original count.""",
    "random_state": """
    random_state : int, RandomState or None, default=None
        Seeds initialisation, batches and splits. An int gives the same fit every time; the
        process-wide generators are left as they were (None draws one number from numpy's).""",
    "verbose": """
    verbose : int, default=0
        1 prints a line per iteration, 2 skorch's own table too.""",
}

#: Parameters that the CV classes have of their own, or word in another way.
CV_PARAMETERS = {
    "prune_rate": """
    prune_rate : float in [0, 1) or int, default=0.98
        Where the paths end: share (or number) of the prunable parameters deleted at most.""",
    "cv": """
    cv : int, splitter or iterable, default=None
        The folds{, stratified for int}; None: 5. Stop rules, and whatever else makes sizes depend
        on data, are not parameters here: all folds visit the same sizes.""",
    "scoring": """
    scoring : str or callable, default=None
        What is maximised; None: accuracy, or R². (The method ``score`` stays that of the plain
        estimator.)""",
    "rule": """
    rule : {"best", "one_se"}, default="best"
        "best": the size with the highest mean score, the smallest of equals. "one_se": the
        smallest size whose mean is within one standard error of the highest,
        ``std(ddof=1) / sqrt(n_folds)``.""",
    "n_jobs": """
    n_jobs : int, default=None
        Folds at a time, through joblib: processes here, or the workers of
        ``joblib.parallel_config("dask")``.""",
    "keep_path": """
    keep_path : {"all", "last"}, default="all"
        Which networks of the final fit's path are kept: all, for :meth:`at`, or the fitted one.""",
    "random_state": """
    random_state : int, RandomState or None, default=None
        Seeds initialisation and batches, in all folds and the final fit alike, so that a grid
        search with this int meets the same networks.""",
    "verbose": """
    verbose : int, default=0
        1 prints a line per fold and for every iteration of the final fit; 2 also for those of the
        folds.""",
}

#: What stands in braces in these entries.
FOR_CLASSIFIERS = (", stratified", ", stratified for int")

ATTRIBUTES = """
    net_ : skorch.NeuralNet
        The trained and pruned network. Deleted parameters are exactly 0.0.
    mask_ : dict of bool arrays
        An entry for every parameter, tied ones once: True where alive.
    saliencies_ : dict of arrays
        Of the final network, 0 where deleted or not trainable.
    ranking_ : dict of int arrays
        1 where alive; larger: deleted earlier.
    n_params_ : int
        Parameters alive.
    n_iter_ : int
        Pruning iterations to the network kept.
    path_ : PruningPath
        What every deletion was predicted to cost, what it cost, and the network at every size.
    support_ : bool array of shape (n_features,)
        Inputs still read. All True unless X enters only Linear layers.
    feature_importances_ : array of shape (n_features,)
        Summed saliency of the weights of each input. Only where X enters only Linear layers.
    n_features_in_ : int
    feature_names_in_ : array of str
        Where X had column names.
"""

CV_ATTRIBUTES = """
    cv_results_ : dict of arrays of shape (n_iter_to_the_end + 1,)
        Rows as on the path, the dense network first: ``n_params``, ``prune_rate``,
        ``mean_test_score``, ``std_test_score`` (over the folds), ``split0_test_score``, ..., and
        the same of ``fit_time``, the seconds of the iteration.
    best_index_ : int
        The row of ``cv_results_`` that was chosen.
    best_score_ : float
        Mean test score of row ``best_index_``.
    prune_rate_ : float
        Share of prunable parameters deleted there."""


def documented(cls):
    """Fill ``{parameters}`` and ``{attributes}`` into the docstring of an estimator class.

    The parameters are those of its signature, in that order. Text in braces, as in
    ``{, stratified}``, is for classifiers only.
    """
    if cls.__doc__ is None:  # python -OO
        return cls
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    entries, attributes = PARAMETERS, ATTRIBUTES
    if "cv" in names:
        entries, attributes = PARAMETERS | CV_PARAMETERS, CV_ATTRIBUTES + ATTRIBUTES
    text = "".join(entries[name] for name in names).strip("\n")
    for words in FOR_CLASSIFIERS:
        text = text.replace(f"{{{words}}}", words if "class_weight" in names else "")
    cls.__doc__ = cls.__doc__.replace("    {parameters}", text).replace(
        "    {attributes}", attributes.strip("\n")
    )
    return cls
