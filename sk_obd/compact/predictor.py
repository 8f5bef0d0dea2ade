"""Prediction without a DataLoader, dense or sparse."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter

import numpy as np
import torch
from skorch import NeuralNet, NeuralNetBinaryClassifier

from ..curvature.hooks import first_output
from ..training.batches import take_copies
from ..training.carrying import carried
from ..training.isolation import one_thread
from ..training.nets import PREDICTION_ROWS
from .select import with_all_columns
from .sparse import faster_sparse, linear_inputs, seconds, with_sparse

#: Fewer rows than this are predicted with dense layers: a CSR product pays off for many rows.
FEW_ROWS = 128

#: CSR layers are taken only where, in total, they save more than clocks jitter.
MARGIN = 0.97

#: skorch's steps from X to a prediction; a net that changes one of them predicts by itself.
STEPS = (
    "predict",
    "predict_proba",
    "forward_iter",
    "evaluation_step",
    "infer",
    "get_dataset",
    "get_iterator",
    "_get_predict_nonlinearity",
)


class FastPredictor:
    """Predicts as a skorch net does, with its module called directly.

    Parameters
    ----------
    net : skorch.NeuralNet
    n_columns : int
        Number of columns of X (its second dimension).
    sparse : sequence of str, default=()
        Names of the Linear layers that are CSR.
    always : bool, default=False
        Whether these are CSR for few rows too.
    """

    def __init__(
        self, net: NeuralNet, n_columns: int, sparse: Sequence[str] = (), always: bool = False
    ):
        self.net, self.n_columns, self.sparse, self.always = net, n_columns, tuple(sparse), always
        self.binary = isinstance(net, NeuralNetBinaryClassifier)
        self._build()

    def _build(self):
        self._dense = with_all_columns(self.net.module_, self.n_columns)
        self._sparse = with_sparse(self._dense, self.sparse) if self.sparse else self._dense
        # Only skorch's private method knows what "auto" stands for.
        self._nonlinearity = self.net._get_predict_nonlinearity()

    def __getstate__(self):
        # What _build makes holds the network's own weights once more.
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {name: carried(value) for name, value in own.items()}

    def __setstate__(self, state):
        vars(self).update(state)
        self._build()

    def __call__(self, method, X, single_thread):
        """What the net's method of that name returns for X."""
        output = self._outputs(X, single_thread)
        if method == "predict" and self.binary:
            return (output[:, 1] > self.net.threshold).astype("uint8")
        return output

    def _outputs(self, X, single_thread):
        n_rows = X.shape[0]
        is_sparse = bool(self.sparse) and (self.always or n_rows >= FEW_ROWS)
        module = self._sparse if is_sparse else self._dense
        if module.training:
            module.eval()

        def predict(start):
            rows = slice(start, start + PREDICTION_ROWS)
            return self._block(module, take_copies(X, rows))

        if n_rows <= PREDICTION_ROWS:
            with one_thread(single_thread):
                # Predicting one row takes a few dozen microseconds; a slice would add several.
                return self._block(module, X.clone()) if isinstance(X, torch.Tensor) else predict(0)
        starts = range(0, n_rows, PREDICTION_ROWS)
        threads = 1 if single_thread or not is_sparse else torch.get_num_threads()
        with one_thread(single_thread or threads > 1):
            if threads == 1:
                return np.concatenate([predict(start) for start in starts])
            with ThreadPoolExecutor(threads) as pool:
                return np.concatenate(list(pool.map(predict, starts)))

    @torch.inference_mode()
    def _block(self, module, X):
        output = first_output(module(X))
        output = output.reshape(-1) if self.binary else output
        # A CSR layer leaves rows side by side; what comes after is quicker when they are in order.
        return self._nonlinearity(output.contiguous()).numpy()


def can_bypass(net: NeuralNet) -> bool:
    """Whether a net predicts by skorch's own steps, on the CPU."""
    return str(net.device) == "cpu" and all(
        getattr(type(net), step).__module__.partition(".")[0] == "skorch" for step in STEPS
    )


def fastest_predictor(
    net: NeuralNet, X: torch.Tensor, backend: str, single_thread: bool
) -> FastPredictor | None:
    """The predictor for a backend; for "auto" the fastest, measured on the rows X.

    Parameters
    ----------
    net : skorch.NeuralNet
    X : tensor of shape (n_rows, ...)
        As many rows as are predicted in one block.
    backend : {"auto", "dense", "sparse"}
    single_thread : bool
        Whether predictions use one thread only.

    Returns
    -------
    FastPredictor or None
        None where the net predicts by steps of its own.
    """
    if not can_bypass(net):
        return None
    n_columns = X.shape[1]
    dense, module = FastPredictor(net, n_columns), with_all_columns(net.module_, n_columns)
    if backend == "dense":
        return dense
    linear = tuple(linear_inputs(module, X))
    if backend == "sparse":
        return FastPredictor(net, n_columns, linear, always=True)
    threads = 1 if single_thread else torch.get_num_threads()
    with one_thread(single_thread):
        faster = tuple(faster_sparse(module, X, threads))
    if not faster:
        return dense
    # Also try CSR everywhere: between a CSR and a dense layer rows must be copied, which may cost
    # more than one slow CSR layer.
    candidates = [FastPredictor(net, n_columns, names) for names in dict.fromkeys([faster, linear])]
    many = torch.cat([X] * (2 * threads))

    def duration(predictor):
        return seconds(lambda: predictor("predict", many, single_thread))

    timed = [(duration(predictor), predictor) for predictor in candidates]
    least, fastest = min(timed, key=itemgetter(0))
    return fastest if least < MARGIN * duration(dense) else dense
