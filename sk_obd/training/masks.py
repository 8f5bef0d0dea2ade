"""What is alive: which parameters may be deleted, and how deleted ones are held at zero."""

import re
from contextlib import contextmanager

import torch
from torch import nn

from ..curvature.hooks import trainable

#: Layers whose few parameters scale or shift whole units; deleting one is not deleting a weight.
NOT_PRUNED = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.PReLU,
)


def prunable_names(module, prunable=None):
    """Names of the parameters of `module` that may be deleted.

    Parameters
    ----------
    module : torch.nn.Module
    prunable : None, str, list of str or callable, default=None
        None: every trainable parameter except those of normalisation layers and PReLU. A str is
        searched in the names as a regular expression; a list names them; a callable gets
        ``(name, parameter)`` and returns a bool.

    Returns
    -------
    list of str
        In the order of ``module.named_parameters()``.

    Raises
    ------
    ValueError
        If nothing matches, a listed name is not a trainable parameter, or a str is not a regular
        expression.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    >>> prunable_names(net)
    ['0.weight', '0.bias']
    >>> prunable_names(net, r"weight$")
    ['0.weight', '1.weight']
    """
    found = trainable(module)
    if prunable is None:
        spared = {
            id(p) for m in module.modules() if isinstance(m, NOT_PRUNED) for p in m.parameters()
        }
        chosen = [name for name, p in found.items() if id(p) not in spared]
    elif isinstance(prunable, str):
        try:
            chosen = [name for name in found if re.search(prunable, name)]
        except re.error as error:
            raise ValueError(
                f"prunable={prunable!r} is not a regular expression: {error}. Give one that is "
                "searched in the names of the parameters, such as 'weight$', or a list of names."
            ) from error
    elif callable(prunable):
        chosen = [name for name, p in found.items() if prunable(name, p)]
    else:
        wanted = list(prunable)
        unknown = [name for name in wanted if name not in found]
        if unknown:
            raise ValueError(
                f"prunable names {unknown[0]!r}, which is not a trainable parameter of the "
                f"network. Its trainable parameters are {', '.join(found)}."
            )
        chosen = [name for name in found if name in set(wanted)]
    if not chosen:
        raise ValueError(
            f"prunable={prunable!r} matches no trainable parameter of the network, so nothing "
            f"could be deleted. Its trainable parameters are {', '.join(found) or '(none)'}."
        )
    return chosen


def all_alive(module):
    """A mask of True for every parameter of `module`, tied ones once."""
    return {
        name: torch.ones_like(p, dtype=torch.bool, requires_grad=False)
        for name, p in module.named_parameters()
    }


def without(masks, gone):
    """Masks without the parameters for which `gone` is True; `gone` may name only some."""
    return masks | {name: masks[name] & ~chosen for name, chosen in gone.items()}


def count_alive(masks):
    """Number of parameters alive."""
    return sum(int(mask.sum()) for mask in masks.values())


@torch.no_grad()
def zero_deleted(module, masks):
    """Set every deleted parameter of `module` to 0.0, in place."""
    for name, parameter in module.named_parameters():
        if name in masks:
            # Not a product: 0 * -1 is -0.0, and 0 * inf is NaN.
            parameter.masked_fill_(~masks[name].to(parameter.device), 0.0)


def trainable_flags(module):
    """For each parameter of `module`, whether it is trainable."""
    return {name: p.requires_grad for name, p in module.named_parameters()}


def set_trainable(module, flags):
    """Make parameters of `module` trainable or not, in place; `flags` may name only some."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(flags.get(name, parameter.requires_grad))


@contextmanager
def held_at_zero(module, optimizers, masks):
    """Keep deleted parameters at exactly zero while `optimizers` train `module`.

    The gradient of a deleted parameter is zeroed before the optimiser sees it: no direction that
    an optimiser builds (momentum, a line search) moves it. After every step it is set to zero:
    nothing that an optimiser adds (weight decay) stays.
    """
    parameters = dict(module.named_parameters())
    # Products with 0 and 1: several times as fast as masked_fill, and this is every step.
    alive = [
        (parameters[name], mask.to(parameters[name]))
        for name, mask in masks.items()
        if not bool(mask.all())
    ]

    @torch.no_grad()
    def zero(*_):
        for parameter, ones in alive:
            parameter.mul_(ones)

    handles = []
    if alive:
        handles += [
            parameter.register_hook(ones.mul)
            for parameter, ones in alive
            if parameter.requires_grad
        ]
        handles += [optimizer.register_step_post_hook(zero) for optimizer in optimizers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
