"""A fitted estimator as a safetensors file: numbers and a JSON header, nothing that runs.

The file holds what is alive: for each parameter the values alive (a vector) and which they are
(`coding`); buffers, saliencies and the table of the path; and a header that says what it is. The
module's class comes from the estimator that loads it, never from the file, and everything is
checked against that estimator before it is changed.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from . import __version__
from .coding import decode_mask, decode_rows, encode_mask, encode_rows
from .files import require, write_whole
from .header import FORMAT, check_header, refuse
from .isolation import isolated_generators, seed_generators
from .modules import default_net
from .networks import start
from .path import COLUMNS, PruningPath

KEY = "sk_obd"
#: Columns of the path's table that are ints.
COUNTS = ("n_params", "n_deleted", "n_epochs")


def save(estimator, path, *, history=False):
    """Write a fitted estimator to `path` (see ``BaseOBD.save_params``)."""
    require("safetensors", task="save_params")
    check_is_fitted(estimator, "net_")
    header, tensors = pack(estimator, history)
    write_whole(path, to_bytes(header, tensors))


def load(estimator, path):
    """Make `estimator` what was saved at `path` (see ``BaseOBD.load_params``)."""
    require("safetensors", task="load_params")
    header, tensors = from_bytes(Path(path).read_bytes(), path)
    fresh = type(estimator)(**estimator.get_params(deep=False))
    unpack(fresh, header, tensors, path)
    for name in [name for name in vars(estimator) if name not in estimator.get_params(deep=False)]:
        if name.startswith("_") != name.endswith("_") and not name.startswith("_metadata"):
            delattr(estimator, name)
    vars(estimator).update(vars(fresh))


# -- bytes -------------------------------------------------------------------------------------


def to_bytes(header, tensors):
    """The file: a safetensors file with the header, and a digest of all of it, as metadata."""
    from safetensors.torch import save as serialised

    text = json.dumps(header, allow_nan=False, separators=(",", ":"))
    return serialised(tensors, metadata={KEY: text, "digest": digest(text, tensors)})


def digest(text, tensors):
    """SHA-256 of the header's text and of every tensor's name, type, shape and bytes."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def from_bytes(data, path):
    """The header, checked as far as it can be alone, and the tensors of a file's bytes."""
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialised

    try:
        tensors = deserialised(data)
        # deserialised() has checked these lengths; it does not give the metadata.
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, RuntimeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}). It is truncated, damaged or something "
            "else; expected a file written by save_params."
        ) from error
    if KEY not in metadata:
        refuse(path, "it has no sk_obd header", "a file written by save_params")
    if metadata.get("digest") != digest(metadata[KEY], tensors):
        refuse(
            path,
            "its contents differ from what was written (the digest does not fit)",
            "an unchanged file; save it again",
        )
    try:
        header = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        refuse(path, f"its header is no JSON ({error})", "a file written by save_params")
    check_header(header, path)
    return header, tensors


# -- from an estimator -------------------------------------------------------------------------


def pack(estimator, history):
    """Header and tensors of a fitted estimator."""
    net, pruned = estimator.net_, estimator.path_
    row = pruned.kept
    masks = pruned.masks(row)
    values, buffers = pruned.networks[row]
    shapes = {name: tuple(p.shape) for name, p in net.module_.named_parameters()}
    if shapes != {name: tuple(mask.shape) for name, mask in masks.items()}:
        raise ValueError(
            "The network is no longer the one of path_ (it was made smaller since): save the "
            "estimator as it was fitted, and make the loaded one smaller."
        )
    tensors, parameters = {}, {}
    for name, mask in masks.items():
        tensors[f"values/{name}"] = values[name]
        parameters[name] = {"shape": list(mask.shape), "dtype": _dtype(values[name])}
        if not mask.all():
            coding, code = encode_mask(mask.numpy())
            parameters[name]["mask"] = coding
            tensors[f"mask/{name}"] = torch.from_numpy(code)
        if history and bool((pruned.deleted_at[name] > 0).any()):
            code = encode_rows(pruned.deleted_at[name].numpy())
            tensors[f"deleted_at/{name}"] = torch.from_numpy(code)
    for name, buffer in buffers.items():
        tensors[f"buffer/{name}"] = buffer
    for name, saliency in (pruned.saliency or {}).items():
        tensors[f"saliency/{name}"] = saliency.cpu()[masks[name]]
    table = [[row[column] for column in COLUMNS] for row in pruned.rows]
    tensors["path"] = torch.tensor(table, dtype=torch.float64)
    header = {
        "format": FORMAT,
        "version": __version__,
        "estimator": type(estimator).__name__,
        "net": None if estimator.net is None else type(net).__name__,
        "criterion": type(net.criterion_).__name__,
        "layers": _layers(net.module_),
        "parameters": parameters,
        "buffers": {
            name: {"shape": list(b.shape), "dtype": _dtype(b)} for name, b in buffers.items()
        },
        "saliencies": None if pruned.saliency is None else list(pruned.saliency),
        "path": {
            "columns": list(COLUMNS),
            "kept": row,
            "keep": pruned.keep,
            "prunable": pruned.prunable,
            "history": _history(pruned.history) if history else None,
        },
        "n_features_in": int(estimator.n_features_in_),
        "feature_names_in": getattr(estimator, "feature_names_in_", np.empty(0)).tolist() or None,
        "row_shape": list(estimator._row_shape),
        "row_dtype": estimator._row_dtype,
        "readers": estimator._readers,
        "single_thread": bool(estimator._single_thread),
        "default_net": _default_settings(net) if estimator.net is None else None,
        "params": _plain_params(estimator),
    }
    header |= _pack_targets(estimator, tensors)
    check_finite(tensors, "the estimator")
    # safetensors refuses tensors that share memory or are views.
    return header, {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def _pack_targets(estimator, tensors):
    if estimator._kind == "regressor":
        tensors["y_mean"] = torch.from_numpy(np.array(estimator._y_mean, dtype=np.float64))
        tensors["y_scale"] = torch.from_numpy(np.array(estimator._y_scale, dtype=np.float64))
        return {"classes": None}
    classes = estimator.classes_
    if classes.dtype.kind in "iufb":
        # As bytes, so that every type of number comes back as it was.
        tensors["classes"] = torch.from_numpy(np.frombuffer(classes.tobytes(), np.uint8).copy())
        return {"classes": {"dtype": classes.dtype.str, "n": len(classes)}}
    if not all(isinstance(label, str) for label in classes) or classes.dtype.kind not in "UO":
        raise ValueError(
            f"classes_ of type {classes.dtype} cannot be saved without pickle; expected numbers, "
            "bools or strings. Fit to such labels."
        )
    dtype = classes.dtype.str if classes.dtype.kind == "U" else "object"
    return {"classes": {"dtype": dtype, "n": len(classes), "labels": classes.tolist()}}


def _layers(module):
    return [[name, type(layer).__name__] for name, layer in module.named_modules()]


def _dtype(tensor):
    return str(tensor.dtype).removeprefix("torch.")


def _default_settings(net):
    return {
        "batch_size": int(net.batch_size),
        "weight_decay": float(net.get_params()["optimizer__weight_decay"]),
        "activation": net.get_params()["module__activation"],
        "hidden_layer_sizes": [int(n) for n in net.get_params()["module__hidden_layer_sizes"]],
        "n_outputs": int(net.get_params()["module__n_outputs"]),
    }


def _history(epochs):
    return [_plain(epoch) for epoch in epochs]


def _plain(value):
    """A value as JSON has it: numpy's scalars as Python's, what is not finite as text."""
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return {"repr": repr(value)}


def _unplain(value):
    if isinstance(value, list):
        return [_unplain(v) for v in value]
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {key: _unplain(v) for key, v in value.items()}
    return value


def _plain_params(estimator):
    """The estimator's parameters that JSON has, for people to read."""
    params = {name: _plain(v) for name, v in estimator.get_params(deep=False).items()}
    return {name: v for name, v in params.items() if not isinstance(v, dict)}


# -- into an estimator -------------------------------------------------------------------------


def unpack(estimator, header, tensors, path):
    """Fit `estimator`, fresh, with a file's contents.

    Raises
    ------
    ValueError
        Where they do not fit it, naming what differs.
    """
    if header["estimator"] != type(estimator).__name__:
        refuse(path, f"it holds a {header['estimator']}", f"a {type(estimator).__name__}")
    if (header["net"] is None) != (estimator.net is None):
        found = "the default net (net=None)" if header["net"] is None else header["net"]
        wanted = "net=None" if estimator.net is None else type(estimator.net).__name__
        refuse(path, f"it holds the network of {found}", f"that of this estimator's {wanted}")
    check_finite(tensors, path)
    _unpack_targets(estimator, header, tensors, path)
    estimator.n_features_in_ = header["n_features_in"]
    if header["feature_names_in"] is not None:
        estimator.feature_names_in_ = np.array(header["feature_names_in"], dtype=object)
    estimator._row_shape = tuple(header["row_shape"])
    estimator._row_dtype = header["row_dtype"]
    estimator._readers = header["readers"]
    estimator._single_thread = header["single_thread"]
    net = _start_net(estimator, header, path)
    _check_module(net, header, path)
    estimator._settle(net, _unpack_path(net.module_, header, tensors, path))


def check_finite(tensors, path):
    """Refuse NaN and infinity among weights and scales."""
    for name, tensor in tensors.items():
        if not name.startswith(("values/", "y_")) or not tensor.is_floating_point():
            continue
        if not bool(torch.isfinite(tensor).all()):
            refuse(path, f"{name} contains NaN or infinity", "finite numbers")
    if "y_scale" in tensors and not bool((tensors["y_scale"] > 0).all()):
        refuse(path, "y_scale has entries that are not positive", "numbers > 0")


def _unpack_targets(estimator, header, tensors, path):
    known = header["classes"]
    if (known is None) != (estimator._kind == "regressor"):
        refuse(path, f"its classes are {known}", f"those of a {estimator._kind}")
    if known is None:
        mean, scale = (_tensor(tensors, n, torch.float64, path) for n in ("y_mean", "y_scale"))
        if mean.shape != scale.shape or mean.ndim > 1:
            refuse(
                path, f"y_mean has shape {tuple(mean.shape)}", "y_scale's, of one target a value"
            )
        estimator._y_mean, estimator._y_scale = mean.numpy(), scale.numpy()
        return
    dtype = np.dtype(known["dtype"])
    if "labels" in known:
        classes = np.array(known["labels"], dtype=dtype)
        if classes.tolist() != known["labels"]:
            refuse(path, f"its labels do not fit their type {dtype}", "labels as they were saved")
    else:
        code = _tensor(tensors, "classes", torch.uint8, path).numpy()
        if code.shape != (known["n"] * dtype.itemsize,):
            refuse(path, f"classes has {len(code)} bytes", f"{known['n']} numbers of type {dtype}")
        classes = np.frombuffer(code.tobytes(), dtype).copy()
    if len(classes) != known["n"] or len(np.unique(classes)) != len(classes):
        refuse(path, f"its {len(classes)} labels are not distinct", f"{known['n']} classes")
    estimator.classes_ = classes


def _start_net(estimator, header, path):
    """The estimator's net, started as fit does, for made-up data of the shape that fit saw."""
    if estimator._kind == "classifier":
        y = np.arange(len(estimator.classes_))
    else:
        y = np.zeros((2, *estimator._y_mean.shape))
    dtype = header["row_dtype"]
    if math.prod(header["row_shape"]) * len(y) > 2**31:
        refuse(path, f"its rows have shape {header['row_shape']}", "rows that fit in memory")
    X = np.zeros((len(y), *header["row_shape"]), dtype=dtype)
    net = estimator.net
    if net is None:
        net = _default_net(estimator, header, path)
    with isolated_generators():
        seed_generators(0, 0)
        try:
            return start(net, X, y, verbose=max(0, int(estimator.verbose) - 1))
        except (RuntimeError, ValueError, TypeError) as error:
            refuse(
                path,
                f"this estimator's net cannot be started for its rows of shape "
                f"{tuple(header['row_shape'])} and {len(y)} targets or classes ({error})",
                "the net that was fitted",
            )


def _default_net(estimator, header, path):
    """The default net by the file's settings, which have to be the estimator's own."""
    saved = header["default_net"]
    for name in ("hidden_layer_sizes", "activation"):
        own = getattr(estimator, name)
        own = own if isinstance(own, str) else [int(n) for n in own]
        if saved[name] != own:
            refuse(path, f"it was saved with {name}={saved[name]!r}", f"{own!r}, the estimator's")
    n_outputs = estimator._n_outputs()
    if saved["n_outputs"] != n_outputs:
        refuse(path, f"its network has {saved['n_outputs']} outputs", f"{n_outputs}")
    shapes = {name: tuple(about["shape"]) for name, about in header["parameters"].items()}
    widths = [header["n_features_in"], *saved["hidden_layer_sizes"], n_outputs]
    layers = [f"hidden{i}" for i in range(len(widths) - 2)] + ["output"]
    for layer, n_in, n_out in zip(layers, widths[:-1], widths[1:], strict=True):
        # Before anything of that size is made.
        for name, shape in ((f"{layer}.weight", (n_out, n_in)), (f"{layer}.bias", (n_out,))):
            if shapes.get(name) != shape:
                refuse(path, f"{name} has shape {shapes.get(name)}", f"{shape}")
    return default_net(
        estimator._kind,
        n_features=header["n_features_in"],
        n_outputs=n_outputs,
        sum_of_weights=1.0,
        n_rows=1,
        dtype=getattr(torch, header["row_dtype"]),
        hidden_layer_sizes=saved["hidden_layer_sizes"],
        activation=saved["activation"],
        learning_rate_init=estimator.learning_rate_init,
        batch_size=saved["batch_size"],
        max_epochs=estimator.max_epochs,
        weight_decay=saved["weight_decay"],
    )


def _check_module(net, header, path):
    """Refuse a file whose network is not the one of `net`, naming the first difference."""
    criterion = type(net.criterion_).__name__
    if header["criterion"] != criterion:
        refuse(path, f"its net's criterion is {header['criterion']}", f"{criterion}")
    if header["net"] not in (None, type(net).__name__):
        refuse(path, f"its net is a {header['net']}", f"a {type(net).__name__}")
    for kind, found, own in (
        ("parameter", header["parameters"], net.module_.named_parameters()),
        ("buffer", header["buffers"], net.module_.named_buffers()),
    ):
        own = {name: f"{tuple(t.shape)} of {_dtype(t)}" for name, t in own}
        found = {name: f"{tuple(t['shape'])} of {t['dtype']}" for name, t in found.items()}
        for name in [*own, *found]:
            if own.get(name) != found.get(name):
                refuse(
                    path,
                    f"{kind} {name} is {found.get(name, 'not there')}",
                    f"{own.get(name, 'none of that name')}, as in the module "
                    f"{type(net.module_).__name__} of this estimator's net",
                )
    if header["layers"] != _layers(net.module_):
        pairs = zip(header["layers"], _layers(net.module_), strict=False)
        found, own = next(((a, b) for a, b in pairs if a != b), ("other layers", "the net's"))
        refuse(path, f"its module has {found}", f"{own}")


def _unpack_path(module, header, tensors, path):
    """The path, with the kept row's network alone."""
    about = header["path"]
    pruned = PruningPath(module, about["prunable"], keep=about["keep"])
    table = _tensor(tensors, "path", torch.float64, path)
    if table.ndim != 2 or table.shape[1] != len(COLUMNS) or not 0 <= about["kept"] < len(table):
        refuse(
            path,
            f"the path's table has shape {tuple(table.shape)} and row {about['kept']} is kept",
            f"{len(COLUMNS)} columns, and the kept row among the rows",
        )
    counts = table[:, [COLUMNS.index(column) for column in COUNTS]]
    if not bool(((counts >= 0) & (counts == counts.round()) & (counts < 2**53)).all()):
        refuse(path, "the path's counts are no whole numbers", f"whole numbers in {COUNTS}")
    pruned.rows = [
        {c: int(v) if c in COUNTS else v for c, v in zip(COLUMNS, row, strict=True)}
        for row in table.tolist()
    ]
    pruned.kept = about["kept"]
    pruned.history = _unplain(about["history"] or [])
    values = {}
    for name, parameter in module.named_parameters():
        values[name] = _unpack_parameter(pruned, name, parameter, header, tensors, path)
    if header["saliencies"] is not None:
        pruned.saliency = {}
        for name in header["saliencies"]:
            mask = pruned.masks(pruned.kept)[name]
            alive = _tensor(tensors, f"saliency/{name}", None, path, int(mask.sum()))
            pruned.saliency[name] = torch.zeros(mask.shape, dtype=alive.dtype)
            pruned.saliency[name][mask] = alive
    buffers = {
        name: _tensor(tensors, f"buffer/{name}", b.dtype, path).reshape(b.shape)
        if _tensor(tensors, f"buffer/{name}", b.dtype, path).shape == b.shape
        else refuse(path, f"buffer/{name} has another shape than the header says", f"{b.shape}")
        for name, b in module.named_buffers()
    }
    pruned.networks[pruned.kept] = (values, buffers)
    return pruned


def _unpack_parameter(pruned, name, parameter, header, tensors, path):
    """The values alive of a parameter; when the others were deleted goes to `pruned`."""
    shape, kept = tuple(parameter.shape), pruned.kept
    coding = header["parameters"][name].get("mask")
    mask = np.ones(shape, dtype=bool)
    if coding is not None:
        code = _tensor(tensors, f"mask/{name}", torch.uint8, path).numpy()
        try:
            mask = decode_mask(coding, code, shape)
        except ValueError as error:
            refuse(path, f"mask/{name} does not fit: {error}", f"a mask of shape {shape}")
    if f"deleted_at/{name}" in tensors:
        code = _tensor(tensors, f"deleted_at/{name}", torch.uint8, path).numpy()
        try:
            at = decode_rows(code, shape)
        except ValueError as error:
            refuse(path, f"deleted_at/{name} does not fit: {error}", f"rows of shape {shape}")
        if (at >= len(pruned.rows)).any() or not np.array_equal((at == 0) | (at > kept), mask):
            refuse(path, f"deleted_at/{name} contradicts the mask", "the same parameters alive")
    else:
        # When each was deleted is not in the file: not later than the row kept.
        at = np.where(mask, 0, kept).astype(np.int32)
        if kept == 0 and not mask.all():
            refuse(path, f"mask/{name} deletes in row 0", "the dense network there")
    pruned.deleted_at[name] = torch.from_numpy(at)
    return _tensor(tensors, f"values/{name}", parameter.dtype, path, int(mask.sum()))


def _tensor(tensors, name, dtype, path, length=None):
    """A tensor of the file; with `length`, a vector of that many."""
    if name not in tensors:
        refuse(path, f"{name} is missing from it", "a file as save_params wrote it")
    found = tensors[name]
    if (dtype or found.dtype) != found.dtype or not (dtype or found.is_floating_point()):
        refuse(path, f"{name} is of type {found.dtype}", f"{dtype or 'floating numbers'}")
    if length is not None and tuple(found.shape) != (length,):
        refuse(
            path, f"{name} has shape {tuple(found.shape)}", f"{(length,)}: a value for each alive"
        )
    return found
