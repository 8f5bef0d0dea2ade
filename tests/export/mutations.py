"""Files of save_params with something in them changed."""

import copy
import json
import struct

from sk_obd.export.params_checksum import checksum


def parts(raw):
    """The header and the tensors in the bytes of a file."""
    from safetensors.torch import load

    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["sk_obd"]), load(raw)


def written(header, tensors, *, with_checksum=True):
    """The bytes of a file; a header that is text is taken as it is."""
    from safetensors.torch import save

    text = header if isinstance(header, str) else json.dumps(header)
    own = {"sha256": checksum(text, tensors)} if with_checksum else {}
    return save(tensors, {"sk_obd": text} | own)


def altered(file, change_header=None, change_tensors=None, *, with_checksum=True):
    """Change a file's header or tensors; otherwise, and by its checksum, it is well-formed."""
    header, tensors = parts(file.read_bytes())
    if change_tensors:
        change_tensors(tensors)
    if change_header:
        changed = change_header(header)
        header = changed if isinstance(changed, str) else header
    file.write_bytes(written(header, tensors, with_checksum=with_checksum))


def damaged_bytes(raw, rng):
    """The bytes of a file with some of them changed, missing or too many."""
    raw, kind = bytearray(raw), rng.integers(6)
    # Half of all strike the header, which is the smaller part of larger files.
    end = len(raw) if rng.integers(2) else 8 + struct.unpack("<Q", raw[:8])[0]
    at = int(rng.integers(end))
    if kind == 0:
        raw[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        for i in rng.integers(end, size=rng.integers(1, 9)):
            raw[i] = rng.integers(256)
    elif kind == 2:
        del raw[at:]
    elif kind == 3:
        del raw[at : at + int(rng.integers(1, 40))]
    elif kind == 4:
        raw[at:at] = rng.bytes(int(rng.integers(1, 40)))
    else:
        raw[at : at + 64] = bytes(len(raw[at : at + 64]))
    return bytes(raw)


#: What a header should not have, or not there.
VALUES = [
    None,
    True,
    0,
    -1,
    1,
    3,
    2**31,
    2**62,
    10**400,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "a",
    "O",
    "<U100000000",
    "float64",
    "(a+)+$",
    "\ud800",
    "../x",
    [],
    [[]],
    [1, 2, 3],
    [0] * 99,
    [2**62, 2**62],
    ["a", "b", "c"],
    {},
    {"a": 1},
]


def damaged_header(header, rng):
    """A header of which a few entries, however deep, are others, missing, or there twice."""
    header = copy.deepcopy(header)
    for _ in range(rng.integers(1, 4)):
        places = list(containers(header))
        within = places[rng.integers(len(places))]
        if not within:
            continue
        key = rng.choice(list(within)) if isinstance(within, dict) else rng.integers(len(within))
        key, kind = (str(key) if isinstance(within, dict) else int(key)), rng.integers(6)
        if kind == 0:
            del within[key]
        elif kind == 1 and isinstance(within, list):
            within.insert(key, within[key])
        else:
            within[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return header


def containers(value):
    """All dicts and lists in a value."""
    if isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from containers(part)
