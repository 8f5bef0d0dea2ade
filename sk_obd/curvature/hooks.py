"""Looking into a module without leaving a trace: hooks, eval mode, first tensors, parameters.

Everything else in this package stands above this module; it imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(
    layers: Iterable[nn.Module],
    hook: Callable[..., Any],
    *,
    before: bool = False,
    first: bool = False,
) -> Iterator[None]:
    """Call ``hook`` whenever one of the layers is called, until the block is left.

    Parameters
    ----------
    layers : iterable of nn.Module
    hook : callable(layer, args, kwargs, output)
        What it returns, if not None, takes the place of the layer's output. An error in it, as
        any error in the block, leaves no hook behind.
    before : bool
        Call ``hook(layer, args, kwargs)`` before the layer is called instead; what it returns, if
        not None, is the new ``(args, kwargs)``.
    first : bool
        Call ``hook`` ahead of the layer's other hooks of its kind, so that it is given what the
        layer itself returns; the other hooks then see what ``hook`` returns.

    Examples
    --------
    >>> import torch
    >>> module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> with hooked(module, lambda layer, args, kwargs, output: print(output.shape)):
    ...     _ = module(torch.zeros(4, 2))
    torch.Size([4, 3])
    torch.Size([4, 1])
    """
    with ExitStack() as stack:
        for layer in layers:
            register = layer.register_forward_pre_hook if before else layer.register_forward_hook
            stack.enter_context(register(hook, with_kwargs=True, prepend=first))
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module into eval mode; on leaving, every submodule has its own mode back."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first argument of a layer's call, whether it was given by position or by name."""
    return args[0] if args else next(iter(kwargs.values()))


def first_output(output: Any) -> Any:
    """The output itself, or its first part where a module returns a tuple (as skorch takes it)."""
    return output[0] if isinstance(output, tuple) else output


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name, in the order of ``module.named_parameters()``."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
