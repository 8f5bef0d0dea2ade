"""Whether the dead parameters of a network can be found, asked before it is trained."""

from ..compact import check_traceable
from ..compact.flow import NotTraced


def check_sweepable(module, X):
    """Raise for a module whose units cannot be followed from X to the output.

    Parameters
    ----------
    module : torch.nn.Module
    X : tensor of shape (n_rows, ...)
        A few rows as the module takes them.

    Raises
    ------
    ValueError
        Saying why, and what to do.
    """
    try:
        check_traceable(module, X)
    except NotTraced as error:
        raise ValueError(
            f"sweep=True cannot follow the units of {type(module).__name__} from X to the output: "
            f"{error}. Write its forward as torch.fx can trace it (one input, no branches on "
            "values), or set sweep=False."
        ) from error
