"""Files written whole or not at all, and libraries that are loaded only when needed."""

import importlib
import os
import tempfile
from pathlib import Path


def write_whole(path, data):
    """Write bytes to `path`: a failure leaves what was there before."""
    path = Path(path)
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # A temporary file is private; what a user saves has the rights of any new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(unfinished, 0o666 & ~umask)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def require(*libraries, task):
    """Import libraries of the `export` extra, or say what to install.

    Raises
    ------
    ImportError
        Naming what is missing.
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
            "pip install 'sk_obd[export]'."
        )
