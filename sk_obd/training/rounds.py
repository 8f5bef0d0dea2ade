"""One round of training: a skorch net, its deleted parameters at zero, its rows weighted."""

import copy
import functools
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from skorch.callbacks import Callback, ParamMapper

from .batches import shuffled_by
from .isolation import InterruptWatch
from .masks import held_at_zero, set_trainable, trainable_flags, zero_deleted
from .nets import parts_of
from .row_weights import weighted_rows


def train_round(net, X, y, *, epochs, sample_weight=None, masks=None, first=True, generator=None):
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
    first : bool, default=True
        Whether the network starts with this round. In a later one, callbacks that act once
        (skorch's Initializer, Freezer and Unfreezer) do not act again, and what is trainable
        after the round is what was trainable before it.
    generator : torch.Generator, optional
        Shuffles the rows where we cut the batches ourselves; None: torch's.

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
    flags = trainable_flags(net.module_)
    if net.callbacks != "disable":
        net.initialize_callbacks()
        if not first:
            net.callbacks_ = [entry for entry in net.callbacks_ if not acts_once(entry[1])]
    # First of all callbacks: one that ends the round keeps later ones from being told.
    net.callbacks_.insert(0, ("round_watch", watch))
    # Last of all: whatever the others do to deleted parameters, a batch finds them at zero.
    net.callbacks_.append(("zeros", Zeros(masks)))
    try:
        with same_weights(net):
            net.notify("on_train_begin", X=X, y=y)
        zero_deleted(net.module_, masks)
        with ExitStack() as stack:
            stack.enter_context(held_at_zero(net.module_, optimizers_of(net), masks))
            if sample_weight is not None:
                stack.enter_context(weighted_rows(net, sample_weight, watch))
            stack.enter_context(shuffled_by(generator))
            interrupts = stack.enter_context(InterruptWatch())
            try:
                net.fit_loop(X, y, epochs=epochs)
            except KeyboardInterrupt as interrupt:
                if not interrupts.was_callback(interrupt):
                    raise
        net.notify("on_train_end", X=X, y=y)
        zero_deleted(net.module_, masks)
    finally:
        net.callbacks_ = [e for e in net.callbacks_ if e[0] not in ("round_watch", "zeros")]
        for optimizer in optimizers_of(net):
            # The next round starts anew; gradients and moments would take up memory until then.
            optimizer.zero_grad(set_to_none=True)
            optimizer.state.clear()
        if not first:
            set_trainable(net.module_, flags)
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


def acts_once(callback):
    """Whether a callback maps parameters in one epoch of a training, given by its number."""
    if not isinstance(callback, ParamMapper):
        return False
    # When it is initialised, skorch puts functions of its own into these attributes.
    own_schedule = getattr(callback.schedule, "__func__", callback.schedule)
    at = callback.at.func if isinstance(callback.at, functools.partial) else callback.at
    return own_schedule in (None, ParamMapper._default_schedule) and (
        isinstance(at, int) or getattr(at, "__func__", None) is ParamMapper._epoch_at
    )


def may_freeze(net):
    """Whether callbacks of a net may change which parameters are trainable.

    That is: it has callbacks that are not skorch's, or those of skorch's that map parameters.
    """
    return any(
        isinstance(callback, ParamMapper) or not type(callback).__module__.startswith("skorch.")
        for _, callback in net.callbacks_
    )


def optimizers_of(net):
    """Every optimiser of a net, also those that a subclass adds."""
    return [v for v in vars(net).values() if isinstance(v, torch.optim.Optimizer)]


class Zeros(Callback):
    """Set deleted parameters to zero after other callbacks, which may map all parameters.

    Where these have frozen every parameter, training has nothing to do and is refused.
    """

    def __init__(self, masks):
        self.masks = masks

    def on_epoch_begin(self, net, **kwargs):
        zero_deleted(net.module_, self.masks)
        if not any(p.requires_grad for p in net.module_.parameters()):
            raise ValueError(
                f"The callbacks of the {type(net).__name__} have frozen every parameter of "
                f"{type(net.module_).__name__}, so nothing can be trained. Leave some of them "
                "trainable."
            )


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
