"""A fitted estimator as a safetensors file: numbers and a JSON header, no code.

In the file: for every parameter the values alive as one vector and the mask as bits, the
buffers, what was learnt of the targets, and the path's table. Not in it: the module's code (the
estimator that loads has it), saliencies, rankings, and the networks of other rows.
"""

import json
import math
import os
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet

from ..display.optional import require
from ..pruning.path import PruningPath
from ..pruning.rows import COLUMNS
from ..pruning.snapshot import Snapshot
from ..training.masks import count_alive, prunable_names, set_trainable
from ..training.probes import RowsSeen
from .files import write_whole
from .params_checks import Refused, check_header, check_parameters, damaged
from .params_checksum import checksum, pack, unpack

#: Raised when the layout changes; a newer file is refused. Files of format 1 have no checksum, and
#: their masks are compressed.
FORMAT = 2
KEY = "sk_obd"
CHECKSUM = "sha256"


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
        "uncompensated": pruning.uncompensated,
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
    text = json.dumps(header)
    metadata = {KEY: text, CHECKSUM: checksum(text, tensors)}
    write_whole(path, safetensors.torch.save(tensors, metadata))


def load(path, targets_class: Any, start_net: Callable, *, owner, blank_module=None) -> Contents:
    """Read a file that :func:`save` wrote.

    Until all that the file says of its network was compared with what it holds, nothing is made
    that is larger than a small multiple of the file.

    Parameters
    ----------
    path : str or path
    targets_class : type
        ClassTargets or ValueTargets, what the estimator that loads takes.
    start_net : callable
        ``start_net(rows, targets)`` is the estimator's net, started.
    owner : str
        Name of the estimator's class, for messages.
    blank_module : callable, default=None
        ``blank_module(rows, targets)`` is the module of the default network without numbers; None
        for a net of the user.

    Raises
    ------
    ImportError
        Without safetensors.
    OSError
        If the file cannot be read.
    ValueError
        If the file is damaged, from elsewhere, or of another network; the message names the file,
        and says what differs and what to do.
    """
    require("safetensors", task="load_params", extra="export")
    import safetensors

    try:
        return contents(path, targets_class, start_net, owner=owner, blank_module=blank_module)
    except Refused as error:
        refusal = error
    except ValueError as error:
        refusal = damaged(error)
    except (
        safetensors.SafetensorError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        refusal = damaged(f"{type(error).__name__}: {error}")
    raise ValueError(f"{os.fspath(path)!r} {refusal}") from refusal


def contents(path, targets_class, start_net, *, owner, blank_module):
    """What :func:`load` returns; an error has not the name of the file yet."""
    header, tensors, size = read(path)
    check_header(header, targets_class.kind, owner, size)
    check_parameters(header, tensors, size)
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
    if blank_module is not None:
        check_default(header)
        check_same_parameters(header["parameters"], blank_module(rows, targets))
    net = started(start_net, rows, targets)
    check_same_parameters(header["parameters"], net.module_)
    masks = {
        name: unpack(tensors[f"mask/{name}"], p.shape, compressed=header["format"] == 1)
        for name, p in net.module_.named_parameters()
    }
    network = snapshot_of(tensors, net.module_, masks)
    pruning = path_of(header, net.module_, masks, network)
    return Contents(net, rows, targets, pruning, features)


def read(path):
    """The header and the tensors of a file, whose checksum was right, and its size in bytes."""
    import safetensors

    # Says what is wrong with a path that is none of a file.
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if KEY not in metadata:
        raise damaged(f"its metadata has no {KEY!r} entry")
    found = metadata.get(CHECKSUM)
    if found is not None and found != checksum(metadata[KEY], tensors):
        raise damaged("its checksum is another, so something in it was changed after it was saved")
    try:
        header = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise damaged(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise damaged("its header is not a JSON object")
    form = header.get("format")
    if type(form) is not int or form < 1:
        raise damaged(f"its format is {reprlib.repr(form)}")
    if form > FORMAT:
        raise Refused(
            f"has format {reprlib.repr(form)}; this version of sk_obd reads up to {FORMAT}. "
            "Install a newer one."
        )
    if found is None and form > 1:
        raise damaged("it has no checksum")
    return header, tensors, size


def started(start_net, rows, targets):
    """The estimator's net, started for what the file says of its rows and targets."""
    try:
        return start_net(rows, targets)
    except Exception as error:
        # Of the module's code, which has never seen such rows.
        raise Refused(
            f"cannot be loaded into this estimator, whose net does not start for rows of shape "
            f"{rows.shape} and type {rows.dtype}: {error} ({type(error).__name__}). Load it with "
            "the net it was fitted with."
        ) from error


def check_default(header):
    """Check that a file may be of the default network."""
    first = "hidden0.weight" if "hidden0.weight" in header["parameters"] else "output.weight"
    if first not in header["parameters"]:
        raise Refused(
            f"is of a net of the user's: it has no {first!r}. Load it with that net: "
            "OBDClassifier(net).load_params(...), or OBDRegressor."
        )
    shape = header["parameters"][first][0]
    if shape[1:] != [header["n_features_in"]]:
        raise damaged(
            f"{first!r} of shape {reprlib.repr(shape)} does not read {header['n_features_in']} "
            "features"
        )


def check_same_parameters(found, module):
    """The same parameters, in name, shape and type."""
    expected = {n: [list(p.shape), str(p.dtype)] for n, p in module.named_parameters()}
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise Refused(
                f"is of another network: {name!r} is {found.get(name)} in the file and "
                f"{expected.get(name)} in the estimator's {type(module).__name__}. Load it with "
                "the net it was fitted with (a compacted network is saved before compact())."
            )


def snapshot_of(tensors, module, masks):
    """The values alive and the buffers, checked against the module and the masks."""
    parameters, buffers = {}, {}
    for name, p in module.named_parameters():
        alive = parameters[name] = tensors[f"alive/{name}"]
        if alive.dtype != p.dtype or alive.shape != (int(masks[name].sum()),):
            raise damaged(
                f"it has {tuple(alive.shape)} values of {alive.dtype} for {name!r}, whose "
                f"mask has {int(masks[name].sum())} alive of {p.dtype}"
            )
        if not bool(alive.isfinite().all()):
            raise damaged(f"there is NaN or infinity in {name!r}")
    for name, b in module.named_buffers():
        if name.startswith("standardise.") and f"buffer/{name}" not in tensors:
            # Files of the default network from before it standardised X.
            tensors[f"buffer/{name}"] = b
        value = buffers[name] = tensors[f"buffer/{name}"]
        if value.dtype != b.dtype or value.shape != b.shape:
            raise Refused(
                f"has shape {tuple(value.shape)} of {value.dtype} for the buffer {name!r}; the "
                f"module has {tuple(b.shape)} of {b.dtype}. Load it with the net it was fitted "
                "with."
            )
    expected = {f"{kind}/{name}" for name in parameters for kind in ("alive", "mask")}
    expected |= {f"buffer/{name}" for name in buffers}
    extra = sorted(name for name in set(tensors) - expected if not name.startswith("target/"))
    if extra:
        raise Refused(
            f"has {extra[0]!r}, which the network does not have. Load it with the net it was "
            "fitted with."
        )
    return Snapshot(parameters, buffers)


def path_of(header, module, masks, network):
    """The path with its table and the one network."""
    kept, flags, prunable = header["kept"], header.get("trainable", {}), header["prunable"]
    rows = [dict(zip(header["columns"], row, strict=True)) for row in header["rows"]]
    if rows[kept]["n_params"] != count_alive(masks):
        raise damaged(
            f"{rows[kept]['n_params']} parameters are alive by its table, and "
            f"{count_alive(masks)} by its masks"
        )
    for name, mask in masks.items():
        if kept == 0 and not bool(mask.all()):
            raise damaged(f"parameters of {name!r} are deleted in a dense network")
    set_trainable(module, flags)
    return PruningPath.restored(
        module,
        prunable_names(module, prunable) if prunable else [],
        flags=flags,
        uncompensated=header.get("uncompensated", []),  # not in the files of earlier versions
        rows=rows,
        kept=kept,
        masks=masks,
        network=network,
    )


def none_for_nan(value):
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
