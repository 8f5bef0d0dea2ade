"""What the header of a ``save_params`` file may say, checked before anything is made of it.

Nothing here allocates more than a small multiple of the file's size.
"""

import math
import reprlib

from ..pruning.rows import COLUMNS, MOVES

#: Numbers in a row of X, and columns of it, that are taken from the smallest file. A larger file
#: may have as many as it could hold parameters of.
MOST_NUMBERS, MOST_COLUMNS = 2**22, 2**18
#: Parameters of a network, for each byte of its file: the mask has a bit for each.
PER_BYTE = 8
#: Masks of format 1 are compressed, which bounds nothing; such a file may hold so many parameters,
#: or so many for each byte.
MOST_COMPRESSED, COMPRESSED_PER_BYTE = 2**20, 16

#: Columns of whole numbers that none of the path's rows lacks.
COUNTS = ("n_params", "n_deleted", "n_epochs")


class Refused(ValueError):
    """Why a file is not loaded: what follows its name, to the end of the message."""


def damaged(what):
    """The refusal of a file that no estimator could load."""
    return Refused(
        f"is not a file of save_params, or is damaged: {what}. Get an intact copy of it, or save "
        "the estimator again."
    )


def is_count(value, least=0):
    """Whether a value of the header is a whole number that can count something."""
    return type(value) is int and least <= value < 2**63


def are_texts(values):
    """Whether a value of the header is a list of texts."""
    return type(values) is list and all(type(value) is str for value in values)


def check_header(header, kind, owner, size):
    """Check that every entry of a header is one that can be, in a file of `size` bytes.

    Raises
    ------
    Refused
    KeyError, TypeError, AttributeError
        If an entry is missing or of another type.
    """
    if header["kind"] != kind:
        raise Refused(
            f"holds a {reprlib.repr(header['kind']).strip(chr(39))}, and {owner} is a {kind}. "
            "Load it with the other estimator."
        )
    check_rows_seen(header, size)
    check_path(header)
    if type(header["single_thread"]) is not bool:
        raise damaged(f"single_thread is {reprlib.repr(header['single_thread'])}")
    if header["prunable"] and not are_texts(header["prunable"]):
        raise damaged(f"prunable is {reprlib.repr(header['prunable'])}")
    uncompensated = header.get("uncompensated", [])
    if not are_texts(uncompensated) or not set(uncompensated) <= set(header["parameters"]):
        raise damaged(f"uncompensated is {reprlib.repr(uncompensated)}")
    flags = header.get("trainable", {})
    if not all(type(flag) is bool for flag in flags.values()):
        raise damaged(f"what is trainable is {reprlib.repr(flags)}")


def check_rows_seen(header, size):
    """Check what the header says of the rows of X."""
    n_features, shape = header["n_features_in"], header["row_shape"]
    if not (is_count(n_features, 1) and n_features < 2**31):
        raise damaged(f"n_features_in is {reprlib.repr(n_features)}")
    if not (type(shape) is list and shape and all(is_count(n, 1) for n in shape)):
        raise damaged(f"its rows have shape {reprlib.repr(shape)}")
    if shape[0] != n_features or header["row_dtype"] not in ("float32", "float64", "int64"):
        raise damaged(f"its rows are of {reprlib.repr(shape)} {reprlib.repr(header['row_dtype'])}")
    most = size * PER_BYTE
    if math.prod(shape) > max(MOST_NUMBERS, most) or shape[-1] > max(MOST_COLUMNS, most):
        raise damaged(f"its rows have shape {reprlib.repr(shape)}, too large for {size} bytes")
    names = header["feature_names_in"]
    if names is not None and not (are_texts(names) and len(names) == n_features):
        raise damaged(f"there are {len(names)} feature names for {n_features} features")
    readers = header["readers"]
    if readers is None:
        return
    parameters = header["parameters"]
    if not are_texts(readers) or not set(readers) <= set(parameters):
        raise damaged(f"the layers that read X are {reprlib.repr(readers)}")
    for name in readers:
        if [n_features] != shape or parameters[name][0][1:] != shape:
            found = reprlib.repr(parameters[name][0])
            raise damaged(f"{name!r} has shape {found} and reads rows of shape {shape}")


def check_path(header):
    """Check the table of the path."""
    rows, kept, columns = header["rows"], header["kept"], header["columns"]
    # Files from before there were columns for the move of the survivors lack these.
    known = [column for column in COLUMNS if column in columns or column not in MOVES]
    if columns != known or {len(row) for row in rows} != {len(columns)}:
        raise damaged("the table of the path has other columns")
    for row in rows:
        for column, cell in zip(columns, row, strict=True):
            is_number = cell is None or type(cell) is float or (is_count(cell, -(2**63)))
            if not is_number or (column in COUNTS and not is_count(cell)):
                raise damaged(
                    f"the table of the path has {reprlib.repr(cell)} in {column}, which is not of "
                    "numbers that can be"
                )
    if not is_count(kept) or kept >= len(rows):
        raise damaged(f"the table of the path lacks row {reprlib.repr(kept)}")


def check_parameters(header, tensors, size):
    """Check that the masks are as large as the parameters that the header tells of.

    No network is made before, so that none is larger than what the file holds.
    """
    total = 0
    for name, (shape, dtype) in header["parameters"].items():
        if type(shape) is not list or type(dtype) is not str or not all(map(is_count, shape)):
            raise damaged(f"{name!r} has shape {reprlib.repr(shape)}")
        n = math.prod(shape)
        total += n
        packed = tensors[f"mask/{name}"].numpy()
        if header["format"] > 1 and packed.shape != ((n + 7) // 8,):
            raise damaged(f"the mask of {name!r} is not one of {reprlib.repr(n)} parameters")
    if header["format"] == 1 and total > max(MOST_COMPRESSED, COMPRESSED_PER_BYTE * size):
        raise damaged(f"{size} bytes of format 1 are too few for {reprlib.repr(total)} parameters")
