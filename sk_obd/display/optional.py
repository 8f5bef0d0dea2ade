"""Libraries that come with an extra of the package and are imported when they are needed."""

import importlib


def require(*libraries: str, task: str, extra: str) -> None:
    """Check that libraries can be imported, or say what to install.

    Parameters
    ----------
    *libraries : str
        Names as they are imported.
    task : str
        What needs them, as the message calls it.
    extra : str
        The extra of sk_obd that installs them.

    Raises
    ------
    ImportError
        If any cannot be imported; it names those.

    Examples
    --------
    >>> require("math", task="counting", extra="plot")
    >>> require("no_such_library", task="counting", extra="plot")
    Traceback (most recent call last):
        ...
    ImportError: counting needs no_such_library, which cannot be imported here. Install with pip
    install 'sk_obd[plot]'.
    """
    missing = []
    for library in libraries:
        try:
            importlib.import_module(library)
        except ImportError:
            missing.append(library)
    if missing:
        raise ImportError(
            f"{task} needs {' and '.join(missing)}, which cannot be imported here. Install with "
            f"pip install 'sk_obd[{extra}]'."
        )
