"""Prediction without a DataLoader, dense or sparse."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from skorch import NeuralNetBinaryClassifier

from ..training.batches import take_rows
from ..training.isolation import one_thread
from ..training.nets import PREDICTION_ROWS
from .select import with_all_columns
from .sparse import faster_sparse, linear_inputs, seconds, with_sparse

#: Fewer rows than this are predicted by the dense layers: a CSR product pays for many.
FEW_ROWS = 128

#: CSR layers are taken only where all in all they save more than clocks jitter.
MARGIN = 0.97

#: skorch's steps from X to a prediction; a net that changes one of them predicts by itself.
STEPS = (
    *("predict", "predict_proba", "forward_iter", "evaluation_step", "infer"),
    *("get_dataset", "get_iterator", "_get_predict_nonlinearity"),
)


class FastPredictor:
    """Predicts as a skorch net does, with its module called directly.

    Parameters
    ----------
    net : skorch.NeuralNet
    n_columns : int
        Of X (its second dimension).
    sparse : sequence of str
        Names of the Linear layers that are CSR.
    always : bool, default=False
        Whether these are CSR for few rows too.
    """

    def __init__(self, net, n_columns, sparse=(), always=False):
        self.net, self.n_columns, self.sparse, self.always = net, n_columns, tuple(sparse), always
        self.binary = isinstance(net, NeuralNetBinaryClassifier)
        self._build()

    def _build(self):
        self._dense = with_all_columns(self.net.module_, self.n_columns)
        self._sparse = with_sparse(self._dense, self.sparse) if self.sparse else None
        # Only skorch's private method knows what "auto" stands for.
        self._nonlinearity = self.net._get_predict_nonlinearity()

    def __getstate__(self):
        # They hold the network's own weights once more.
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

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
        is_sparse = self._sparse is not None and (self.always or n_rows >= FEW_ROWS)
        module = self._sparse if is_sparse else self._dense
        if module.training:
            module.eval()

        def predict(start):
            rows = slice(start, start + PREDICTION_ROWS)
            return self._block(module, take_rows(X, rows))

        if n_rows <= PREDICTION_ROWS:
            with one_thread(single_thread):
                # One row costs a few dozen microseconds, of which a slice would be several.
                return self._block(module, X) if isinstance(X, torch.Tensor) else predict(0)
        starts = range(0, n_rows, PREDICTION_ROWS)
        threads = 1 if single_thread or not is_sparse else torch.get_num_threads()
        with one_thread(single_thread or threads > 1):
            if threads == 1:
                return np.concatenate([predict(start) for start in starts])
            with ThreadPoolExecutor(threads) as pool:
                return np.concatenate(list(pool.map(predict, starts)))

    @torch.inference_mode()
    def _block(self, module, X):
        output = module(X)
        output = output[0] if isinstance(output, tuple) else output
        output = output.reshape(-1) if self.binary else output
        # A CSR layer leaves rows side by side; what comes after is quicker in order.
        return self._nonlinearity(output.contiguous()).numpy()


def can_bypass(net):
    """Whether a net predicts by skorch's own steps, on the CPU."""
    return str(net.device) == "cpu" and all(
        getattr(type(net), step).__module__.partition(".")[0] == "skorch" for step in STEPS
    )


def fastest_predictor(net, X, backend, single_thread):
    """The predictor for a backend; "auto" measures on the rows X, the size of a block.

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
    # All of them too: where one layer is CSR and the next is not, rows are put in order between.
    mixed = [FastPredictor(net, n_columns, names) for names in dict.fromkeys([faster, linear])]
    many = torch.cat([X] * (2 * threads))

    def duration(predictor):
        return seconds(lambda: predictor("predict", many, single_thread))

    durations = {duration(predictor): predictor for predictor in mixed}
    best = min(durations)
    return durations[best] if best < MARGIN * duration(dense) else dense
