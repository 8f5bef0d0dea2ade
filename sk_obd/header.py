"""What the header of a saved file has to look like, field by field."""

import re

import numpy as np

#: Version of the file format. A file with a larger one is refused.
FORMAT = 1

MOST = 2**48


def refuse(path, found, expected):
    """Raise ValueError: what was found in a file, and what was expected."""
    raise ValueError(f"{path} does not fit: {found}; expected {expected}.")


def is_text(value):
    return isinstance(value, str)


def is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def is_shape(value):
    if not (isinstance(value, list) and len(value) <= 64 and all(map(is_count, value))):
        return False
    total = 1
    for size in value:
        total *= size
    return total < MOST


def is_dtype(value):
    return is_text(value) and re.fullmatch(r"(u?int|b?float|complex|bool)\d*\w{0,12}", value)


def is_row_dtype(value):
    return value in ("float16", "float32", "float64", "int64")


def texts(value):
    return isinstance(value, list) and all(map(is_text, value))


def either_none(check):
    return lambda value: value is None or bool(check(value))


def table_of(fields):
    """A check of a dict with exactly these fields (those named with ? may be missing)."""
    needed = {name for name in fields if not name.endswith("?")}
    fields = {name.removesuffix("?"): check for name, check in fields.items()}

    def check(value):
        return (
            isinstance(value, dict)
            and needed <= value.keys() <= fields.keys()
            and all(fields[name](v) for name, v in value.items())
        )

    return check


def by_name(check):
    return lambda value: isinstance(value, dict) and all(check(v) for v in value.values())


def is_classes(value):
    if not table_of({"dtype": is_text, "n": is_count, "labels?": texts})(value):
        return False
    if "labels" in value:
        return value["dtype"] == "object" or bool(re.fullmatch(r"[<>]U\d{1,6}", value["dtype"]))
    if not re.fullmatch(r"[<>|][iufb]\d{1,2}", value["dtype"]):
        return False
    try:
        return bool(np.dtype(value["dtype"]))
    except TypeError:
        return False


def is_layers(value):
    return isinstance(value, list) and all(texts(pair) and len(pair) == 2 for pair in value)


def is_history(value):
    return isinstance(value, list) and all(
        isinstance(epoch, dict) and is_count(epoch.get("iteration")) for epoch in value
    )


FIELDS = {
    "format": is_count,
    "version": is_text,
    "estimator": is_text,
    "net": either_none(is_text),
    "criterion": is_text,
    "layers": is_layers,
    "parameters": by_name(
        table_of({"shape": is_shape, "dtype": is_dtype, "mask?": lambda v: v in ("bits", "gaps")})
    ),
    "buffers": by_name(table_of({"shape": is_shape, "dtype": is_dtype})),
    "saliencies": either_none(texts),
    "path": table_of(
        {
            "columns": texts,
            "kept": is_count,
            "keep": lambda v: v in ("all", "last"),
            "prunable": texts,
            "history": either_none(is_history),
        }
    ),
    "n_features_in": is_count,
    "feature_names_in": either_none(texts),
    "row_shape": is_shape,
    "row_dtype": is_row_dtype,
    "readers": either_none(texts),
    "single_thread": lambda v: isinstance(v, bool),
    "default_net": either_none(
        table_of(
            {
                "batch_size": is_count,
                "weight_decay": is_number,
                "activation": is_text,
                "hidden_layer_sizes": is_shape,
                "n_outputs": is_count,
            }
        )
    ),
    "params": lambda v: isinstance(v, dict),
    "classes": either_none(is_classes),
}


def check_header(header, path):
    """Refuse a header that is not one, as far as that can be told without the estimator.

    Raises
    ------
    ValueError
        Naming the field.
    """
    from .path import COLUMNS

    if not isinstance(header, dict):
        refuse(path, f"its header is a {type(header).__name__}", "a JSON object")
    version = header.get("format")
    if is_count(version) and version > FORMAT:
        refuse(
            path,
            f"it is of format {version}, of sk_obd {header.get('version')!r}",
            f"format {FORMAT} at most: install a newer sk_obd",
        )
    for name in [*FIELDS, *header]:
        if name not in FIELDS:
            refuse(path, f"its header has an unknown field {name!r}", f"{', '.join(FIELDS)}")
        if name not in header:
            refuse(path, f"its header lacks the field {name!r}", f"{', '.join(FIELDS)}")
        if not FIELDS[name](header[name]):
            value = repr(header[name])
            refuse(
                path,
                f"{name} in its header is {value if len(value) < 80 else value[:77] + '...'}",
                "what save_params writes there",
            )
    if version != FORMAT:
        refuse(path, f"it is of format {version}", f"format {FORMAT}")
    known = header["parameters"].keys()
    path_about = header["path"]
    for where, names in (
        ("saliencies", header["saliencies"] or []),
        ("path's prunable", path_about["prunable"]),
        ("readers", header["readers"] or []),
    ):
        unknown = [name for name in names if name not in known]
        if unknown or len(set(names)) < len(names):
            refuse(path, f"its {where} name {(unknown or names)[0]!r}", "each a parameter, once")
    for name in header["readers"] or []:
        shape = header["parameters"][name]["shape"]
        if len(shape) != 2 or shape[1] != header["n_features_in"]:
            refuse(path, f"{name} of shape {shape} is said to read X", "a column for each feature")
    if path_about["columns"] != list(COLUMNS):
        refuse(path, f"the path's columns are {path_about['columns']}", f"{list(COLUMNS)}")
    names = header["feature_names_in"]
    if names is not None and len(names) != header["n_features_in"]:
        refuse(path, f"{len(names)} features have names", f"{header['n_features_in']}")
    if header["row_shape"][:1] != [header["n_features_in"]]:
        refuse(
            path, f"its rows have shape {header['row_shape']}", f"{header['n_features_in']} first"
        )
    if (header["net"] is None) != (header["default_net"] is not None):
        refuse(path, "its header describes both a default net and a net, or neither", "one of them")
    if header["default_net"] is not None and not header["row_dtype"].startswith("float"):
        refuse(path, f"the default net's rows are of {header['row_dtype']}", "float32 or float64")
