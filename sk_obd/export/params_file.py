"""A fitted estimator as a safetensors file: numbers and a JSON header, no code.

In the file: for every parameter the values alive as one vector and the mask as compressed bits, the
buffers, what was learnt of the targets, and the path's table. Not in it: the module's code (the
estimator that loads has it), saliencies, rankings, and the networks of other rows.
"""

import json
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet

from ..display.optional import require
from ..pruning.path import PruningPath
from ..pruning.rows import COLUMNS, MOVES
from ..pruning.snapshot import Snapshot
from ..training.masks import prunable_names, set_trainable
from ..training.probes import RowsSeen
from .files import write_whole

#: Raised when the layout changes; a newer file is refused.
FORMAT = 1
KEY = "sk_obd"


@dataclass(frozen=True)
class Contents:
    """What a file holds, put together."""

    net: NeuralNet
    rows: RowsSeen
    #: A ClassTargets or ValueTargets.
    targets: Any
    path: PruningPath
    #: ``n_features_in_``, and ``feature_names_in_`` where X had names.
    features: dict


def save(path, fitted, pruning, features):
    """Write the network kept, and all that predicting needs, to a file.

    The file is complete or not there: it is written beside its place and then moved.

    Parameters
    ----------
    path : str or path
    fitted : Fitted
        The net, what was seen of the rows, what was learnt of the targets.
    pruning : PruningPath
    features : dict
        ``n_features_in_``, and ``feature_names_in_`` where X had names.

    Raises
    ------
    ImportError
        Without safetensors.
    ValueError
        If the classes are neither numbers nor text, or the network was compacted.
    """
    require("safetensors", task="save_params", extra="export")
    import safetensors.torch

    if pruning.kept not in pruning.networks:
        raise ValueError(
            "This estimator was made smaller by compact(), and a file of it could not be loaded "
            "into the net it came from. Save the estimator that was compacted; load that and "
            "compact it."
        )
    masks = pruning.masks(pruning.kept)
    network = Snapshot.of(fitted.net.module_, masks)
    tensors = {}
    for name, alive in network.parameters.items():
        tensors[f"alive/{name}"] = alive
        tensors[f"mask/{name}"] = pack(masks[name])
    tensors |= {f"buffer/{name}": b.contiguous() for name, b in network.buffers.items()}
    learnt, arrays = fitted.targets.to_file()
    tensors |= {f"target/{name}": torch.from_numpy(value) for name, value in arrays.items()}
    rows = fitted.rows
    header = {
        "format": FORMAT,
        "kind": fitted.targets.kind,
        "parameters": {
            name: [list(mask.shape), str(network.parameters[name].dtype)]
            for name, mask in masks.items()
        },
        "prunable": pruning.prunable,
        "trainable": pruning.flags,
        "kept": pruning.kept,
        "rows": [[none_for_nan(row[column]) for column in COLUMNS] for row in pruning.rows],
        "columns": COLUMNS,
        **learnt,
        "n_features_in": features["n_features_in_"],
        "feature_names_in": list(features.get("feature_names_in_", [])) or None,
        "row_shape": list(rows.shape),
        "row_dtype": rows.dtype,
        "readers": rows.readers,
        "single_thread": rows.single_thread,
    }
    write_whole(path, safetensors.torch.save(tensors, {KEY: json.dumps(header)}))


def load(path, targets_class: Any, start_net: Callable, *, owner, default_net) -> Contents:
    """Read a file that :func:`save` wrote.

    Parameters
    ----------
    path : str or path
    targets_class : type
        ClassTargets or ValueTargets, what the estimator that loads takes.
    start_net : callable
        ``start_net(rows, targets)`` is the estimator's net, started.
    owner : str
        Name of the estimator's class, for messages.
    default_net : bool
        Whether that is the default network.

    Raises
    ------
    ImportError
        Without safetensors.
    ValueError
        If the file is damaged, from elsewhere, or of another network; the message says what
        differs.
    """
    header, tensors = read(path)
    try:
        check_header(header, targets_class.kind, owner, path)
        features = {"n_features_in_": header["n_features_in"]}
        if header["feature_names_in"] is not None:
            features["feature_names_in_"] = np.array(header["feature_names_in"], dtype=object)
        rows = RowsSeen(
            tuple(header["row_shape"]),
            header["row_dtype"],
            header["readers"],
            header["single_thread"],
        )
        arrays = {
            name.removeprefix("target/"): tensor.numpy()
            for name, tensor in tensors.items()
            if name.startswith("target/")
        }
        targets = targets_class.from_file(header, arrays)
        if default_net:
            check_width(header, tensors, path)
        net = start_net(rows, targets)
        check_same_parameters(header["parameters"], net.module_, path)
        masks = {
            name: unpack(tensors[f"mask/{name}"], p.shape)
            for name, p in net.module_.named_parameters()
        }
        network = snapshot_of(tensors, net.module_, masks)
        pruning = path_of(header, net.module_, masks, network)
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    return Contents(net, rows, targets, pruning, features)


def damaged(path, what):
    return ValueError(f"{os.fspath(path)!r} is not a file of save_params, or is damaged: {what}.")


def read(path):
    """The header and the tensors of a file."""
    require("safetensors", task="load_params", extra="export")
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise damaged(path, error) from error
    if text is None:
        raise damaged(path, f"its metadata has no {KEY!r} entry")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a JSON object")
    return header, tensors


def check_header(header, kind, owner, path):
    """Version, kind, and that every number is one that can be."""
    if not isinstance(header.get("format"), int):
        raise damaged(path, f"its format is {header.get('format')!r}")
    if header["format"] > FORMAT:
        raise ValueError(
            f"{os.fspath(path)!r} has format {header['format']}; this version of sk_obd reads up "
            f"to {FORMAT}. Install a newer one."
        )
    if header["kind"] != kind:
        raise ValueError(f"{os.fspath(path)!r} holds a {header['kind']}, and {owner} is a {kind}.")
    rows, kept, n_features = header["rows"], header["kept"], header["n_features_in"]
    if not (type(n_features) is int and 0 < n_features < 2**31):
        raise damaged(path, f"n_features_in is {n_features!r}")
    shape = header["row_shape"]
    if not all(type(n) is int and n > 0 for n in shape) or math.prod(shape) >= 2**28:
        raise damaged(path, f"its rows have shape {shape!r}")
    if shape[0] != n_features or header["row_dtype"] not in ("float32", "float64", "int64"):
        raise damaged(path, f"its rows are of {shape!r} {header['row_dtype']!r}")
    names = header["feature_names_in"]
    if names is not None and (len(names) != n_features or not all(type(n) is str for n in names)):
        raise damaged(path, f"{len(names)} feature names for {n_features} features")
    columns = header["columns"]
    # Files from before there were columns for the move of the survivors lack these.
    known = [column for column in COLUMNS if column in columns or column not in MOVES]
    if list(columns) != known or {len(row) for row in rows} != {len(columns)}:
        raise damaged(path, "the table of the path has other columns")
    numbers = all(type(cell) in (int, float, type(None)) for row in rows for cell in row)
    if not numbers or not (type(kept) is int and 0 <= kept < len(rows)):
        raise damaged(path, f"the table of the path is not of numbers, or lacks row {kept!r}")
    if type(header["single_thread"]) is not bool:
        raise damaged(path, f"single_thread is {header['single_thread']!r}")
    readers = header["readers"]
    if readers is not None and not set(readers) <= set(header["parameters"]):
        raise damaged(path, f"the layers that read X are {readers!r}")


def check_width(header, tensors, path):
    """That the default network, made for as many features, is as large as what the file holds."""
    first = "hidden0.weight" if "hidden0.weight" in header["parameters"] else "output.weight"
    if first not in header["parameters"]:
        raise ValueError(
            f"{os.fspath(path)!r} is of a net of the user's: it has no {first!r}. Load it with "
            "that net."
        )
    shape = header["parameters"][first][0]
    unpack(tensors[f"mask/{first}"], shape)
    if shape[1] != header["n_features_in"]:
        raise damaged(path, f"{first!r} reads {shape[1]} of {header['n_features_in']} features")


def check_same_parameters(found, module, path):
    """The same parameters, in name, shape and type."""
    expected = {n: [list(p.shape), str(p.dtype)] for n, p in module.named_parameters()}
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{os.fspath(path)!r} is of another network: {name!r} is {found.get(name)} in the "
                f"file and {expected.get(name)} in the estimator's {type(module).__name__}. Load "
                "it with the net it was fitted with (a compacted network is saved before "
                "compact())."
            )


def snapshot_of(tensors, module, masks):
    """The values alive and the buffers, checked against the module and the masks."""
    parameters, buffers = {}, {}
    for name, p in module.named_parameters():
        alive = parameters[name] = tensors[f"alive/{name}"]
        if alive.dtype != p.dtype or alive.shape != (int(masks[name].sum()),):
            raise ValueError(
                f"The file has {tuple(alive.shape)} values of {alive.dtype} for {name!r}, whose "
                f"mask has {int(masks[name].sum())} alive of {p.dtype}: it is damaged."
            )
        if not bool(alive.isfinite().all()):
            raise ValueError(f"The file has NaN or infinity in {name!r}: it is damaged.")
    for name, b in module.named_buffers():
        if name.startswith("standardise.") and f"buffer/{name}" not in tensors:
            # Files of the default network from before it standardised X.
            tensors[f"buffer/{name}"] = b
        value = buffers[name] = tensors[f"buffer/{name}"]
        if value.dtype != b.dtype or value.shape != b.shape:
            raise ValueError(
                f"The file has shape {tuple(value.shape)} of {value.dtype} for the buffer "
                f"{name!r}; the module has {tuple(b.shape)} of {b.dtype}."
            )
    expected = {f"{kind}/{name}" for name in parameters for kind in ("alive", "mask")}
    expected |= {f"buffer/{name}" for name in buffers}
    extra = sorted(name for name in set(tensors) - expected if not name.startswith("target/"))
    if extra:
        raise ValueError(f"The file has {extra[0]!r}, which the network does not have.")
    return Snapshot(parameters, buffers)


def path_of(header, module, masks, network):
    """The path with its table and the one network."""
    for name, mask in masks.items():
        if header["kept"] == 0 and not bool(mask.all()):
            raise ValueError(f"The file has parameters of {name!r} deleted in a dense network.")
    flags = header.get("trainable", {})
    if not all(type(flag) is bool for flag in flags.values()):
        raise ValueError(f"The file has {flags!r} for what is trainable: it is damaged.")
    set_trainable(module, flags)
    return PruningPath.restored(
        module,
        prunable_of(header["prunable"], module),
        flags=flags,
        rows=[dict(zip(header["columns"], row, strict=True)) for row in header["rows"]],
        kept=header["kept"],
        masks=masks,
        network=network,
    )


def prunable_of(names, module):
    return prunable_names(module, names) if names else []


def pack(mask):
    """A mask as compressed bits."""
    bits = np.packbits(mask.numpy().reshape(-1)).tobytes()
    return torch.frombuffer(bytearray(zlib.compress(bits, 9)), dtype=torch.uint8)


def unpack(packed, shape):
    """The mask of a shape."""
    n = math.prod(shape)
    size = (n + 7) // 8
    inflate = zlib.decompressobj()
    try:
        # Never more than the mask can be, whatever the file says.
        bits = inflate.decompress(packed.numpy().tobytes(), size + 1)
    except zlib.error as error:
        raise ValueError(f"A mask of the file cannot be read: {error}.") from error
    if len(bits) != size or not inflate.eof:
        raise ValueError(f"A mask of the file is not one of {n} parameters: it is damaged.")
    flat = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=n).astype(bool)
    return torch.from_numpy(flat).reshape(shape)


def none_for_nan(value):
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
