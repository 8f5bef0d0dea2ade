"""One round of training: a skorch net, its deleted parameters at zero, its rows weighted."""

import copy
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from skorch.callbacks import Callback

from .isolation import InterruptWatch
from .masks import held_at_zero, zero_deleted
from .nets import parts_of
from .row_weights import weighted_rows


def train_round(net, X, y, *, epochs, sample_weight=None, masks=None):
    """Train an initialised skorch net for at most `epochs` epochs.

    Optimiser state, callbacks and history start anew, so that nothing of an earlier round (a
    checkpoint of the denser network, momentum of deleted weights, a finished learning-rate
    schedule) reaches into this one.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised; trained in place.
    X, y : tensor or CSR matrix of shape (n_rows, ...), tensor
        In the dtype that the module and criterion take.
    epochs : int
        The net's own callbacks may end the round earlier.
    sample_weight : tensor of shape (n_rows,), optional
        The loss of a batch becomes ``sum(w_i l_i) / sum(w_i)``.
    masks : dict of bool tensors, optional
        False where a parameter is deleted; it is 0.0 before, during and after the round.

    Returns
    -------
    history : list of dict
        skorch's record of each epoch, without its batches.

    Raises
    ------
    ValueError
        If the training loss becomes NaN or infinite, or rows cannot be weighted.
    KeyboardInterrupt
        If the user pressed Ctrl-C. A callback that ends training by raising KeyboardInterrupt
        (as skorch's EarlyStopping does) ends the round and is not passed on.
    """
    masks = masks or {}
    zero_deleted(net.module_, masks)
    if epochs == 0:
        return []
    net.initialize_history()
    net.initialize_optimizer()
    watch = RoundWatch()
    if net.callbacks != "disable":
        net.initialize_callbacks()
    # First of all callbacks: one that ends the round keeps later ones from being told.
    net.callbacks_.insert(0, ("round_watch", watch))
    try:
        with same_weights(net):
            net.notify("on_train_begin", X=X, y=y)
        zero_deleted(net.module_, masks)
        with ExitStack() as stack:
            stack.enter_context(held_at_zero(net.module_, optimizers_of(net), masks))
            if sample_weight is not None:
                stack.enter_context(weighted_rows(net, sample_weight, watch))
            interrupts = stack.enter_context(InterruptWatch())
            try:
                net.fit_loop(X, y, epochs=epochs)
            except KeyboardInterrupt as interrupt:
                if not interrupts.was_callback(interrupt):
                    raise
        net.notify("on_train_end", X=X, y=y)
        zero_deleted(net.module_, masks)
    finally:
        net.callbacks_.remove(("round_watch", watch))
    return [{**epoch, "batches": []} for epoch in watch.epochs]


@contextmanager
def same_weights(net):
    """Undo what callbacks do to the modules at the beginning of a round.

    skorch calls ``on_train_begin`` once a fit, where a callback may rebuild the module or load a
    checkpoint into it. A round goes on from the weights it was given.
    """
    parts = parts_of(net)
    states = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    yield
    rebuilt = parts != parts_of(net)
    for name, part in parts.items():
        setattr(net, name, part)
        part.load_state_dict(states[name])
    if rebuilt:
        net.initialize_optimizer()


def optimizers_of(net):
    """Every optimiser of a net, also those that a subclass adds."""
    return [v for v in vars(net).values() if isinstance(v, torch.optim.Optimizer)]


class RoundWatch(Callback):
    """Record the epochs of a round (a checkpoint may reload the net's history); stop at NaN."""

    def __init__(self):
        self.epochs = []
        self.weighted = None

    def on_epoch_begin(self, net, **kwargs):
        # skorch opens the epoch's row before it tells callbacks, and fills it in as it goes.
        self.epochs.append(net.history[-1])

    def on_epoch_end(self, net, **kwargs):
        batches = net.history[-1]["batches"]
        losses = [batch["train_loss"] for batch in batches if "train_loss" in batch]
        if not np.isfinite(losses).all():
            raise ValueError(
                f"The training loss became {losses[-1]} in epoch {len(self.epochs)}. Scale the "
                "input (StandardScaler), or lower the learning rate."
            )
        if self.weighted is not None and not self.weighted.called:
            raise ValueError(
                f"{type(net).__name__}.get_loss does not call criterion_, so row weights cannot "
                "reach its loss. Fit without sample_weight and class_weight, or let get_loss "
                "call super().get_loss and add to what it returns."
            )
