"""What one iteration of pruning leaves: the network, and what is to be told of it."""

import copy
from dataclasses import dataclass

import torch

from ..training.nets import parts_of


@dataclass(frozen=True)
class Network:
    """The numbers of a network: parameters alive (a vector each) and buffers, on the CPU."""

    parameters: dict
    buffers: dict

    @classmethod
    def of(cls, module, masks):
        alive = {n: p.detach().cpu()[masks[n]].clone() for n, p in module.named_parameters()}
        return cls(alive, {n: b.detach().cpu().clone() for n, b in module.named_buffers()})

    @torch.no_grad()
    def load(self, module, masks):
        """Put them into `module`, deleted parameters at 0.0, in place."""
        for name, p in module.named_parameters():
            p.copy_(spread(self.parameters[name], masks[name]))
        for name, b in module.named_buffers():
            b.copy_(self.buffers[name])


def spread(alive, mask):
    """The tensor that has the vector `alive` where `mask` is True, 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=alive.dtype).masked_scatter_(mask, alive)


@dataclass(frozen=True)
class Iteration:
    """All that an iteration leaves, and the next one needs."""

    row: dict  # what was measured
    gone: dict  # bool masks of what it deleted
    network: Network
    others: dict  # states of the net's other parts: a criterion may have parameters
    epochs: list  # skorch's records
    saliency: dict  # of the parameters alive, a vector each

    @classmethod
    def of(cls, net, masks, row, gone, epochs, saliency):
        saliency = {name: s.detach().cpu()[masks[name]] for name, s in saliency.items()}
        others = {
            name: copy.deepcopy(part.state_dict())
            for name, part in parts_of(net).items()
            if part is not net.module_
        }
        return cls(row, gone, Network.of(net.module_, masks), others, epochs, saliency)

    def restore(self, net, path):
        """Put `net` into this state; `path` ends before it."""
        masks = path.masks()
        masks |= {name: masks[name] & ~chosen for name, chosen in self.gone.items()}
        self.network.load(net.module_, masks)
        for name, state in self.others.items():
            getattr(net, name).load_state_dict(state)
