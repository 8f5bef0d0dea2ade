"""What one iteration of pruning leaves: a snapshot of the network, and what was measured."""

import copy
from dataclasses import dataclass, replace

import torch

from ..training.masks import set_trainable, without
from ..training.nets import parts_of


@dataclass(frozen=True)
class Snapshot:
    """The numbers of a network on the CPU: parameters alive, a vector each, and buffers."""

    parameters: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]

    @classmethod
    def of(cls, module, masks):
        """The snapshot of a module as it is."""
        alive = {n: alive_of(p, masks[n]) for n, p in module.named_parameters()}
        return cls(alive, {n: b.detach().cpu().clone() for n, b in module.named_buffers()})

    def sharing(self, other):
        """This snapshot with the buffers of another one where they are equal, to be kept once."""
        buffers = {
            name: other.buffers[name] if torch.equal(b, other.buffers[name]) else b
            for name, b in self.buffers.items()
        }
        return replace(self, buffers=buffers)

    @torch.no_grad()
    def load(self, module, masks):
        """Put the numbers into `module`, deleted parameters at 0.0, in place."""
        for name, p in module.named_parameters():
            p.copy_(spread(self.parameters[name], masks[name]))
        for name, b in module.named_buffers():
            b.copy_(self.buffers[name])


def alive_of(tensor, mask):
    """The entries of a tensor where `mask` is True, a vector on the CPU.

    By numpy, since torch makes an index of 16 bytes for each of them first.
    """
    return torch.from_numpy(tensor.detach().cpu().numpy()[mask.cpu().numpy()])


def spread(alive, mask):
    """The tensor that has the vector `alive` where `mask` is True, 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=alive.dtype).masked_scatter_(mask, alive)


@dataclass(frozen=True)
class Iteration:
    """All that an iteration leaves, and the next one needs."""

    #: What was measured, by column of the path.
    row: dict[str, float]
    #: True where it deleted a parameter.
    gone: dict[str, torch.Tensor]
    network: Snapshot
    #: States of the net's other parts: a criterion may have parameters.
    others: dict[str, dict]
    #: skorch's record of each epoch.
    epochs: list[dict]
    #: Of the parameters alive, a vector each.
    saliency: dict[str, torch.Tensor]
    #: Parameters that callbacks of the net froze (False) or unfroze (True) in this iteration.
    flags: dict[str, bool]

    @classmethod
    def of(cls, net, masks, row, gone, *, epochs, saliency, flags):
        """What an iteration leaves on `net`, which has these masks now."""
        saliency = {name: alive_of(s, masks[name]) for name, s in saliency.items()}
        others = {
            name: copy.deepcopy(part.state_dict())
            for name, part in parts_of(net).items()
            if part is not net.module_
        }
        return cls(row, gone, Snapshot.of(net.module_, masks), others, epochs, saliency, flags)

    def restore(self, net, path):
        """Put `net` into this state; `path` ends before it."""
        self.network.load(net.module_, without(path.masks(), self.gone))
        set_trainable(net.module_, self.flags)
        for name, state in self.others.items():
            getattr(net, name).load_state_dict(state)
