"""Masks and rows of deletion, coded in few bytes.

A mask is coded as bits (eight entries a byte) or as gaps (how many deleted come before each one
alive), whichever is shorter once compressed: of the entries alive, one in twenty takes about 0.3
bits an entry.
"""

import zlib
from math import prod

import numpy as np


def encode_mask(mask):
    """The name of the coding and the code, an array of uint8.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.arange(1000) % 100 == 0
    >>> coding, code = encode_mask(mask)
    >>> bool((decode_mask(coding, code, (1000,)) == mask).all())
    True
    """
    codes = {"bits": np.packbits(mask.reshape(-1)), "gaps": _gaps(mask.reshape(-1))}
    codes = {coding: _compress(code) for coding, code in codes.items()}
    coding = min(codes, key=lambda coding: len(codes[coding]))
    return coding, codes[coding]


def decode_mask(coding, code, shape):
    """The mask of a shape.

    Raises
    ------
    ValueError
        If the code is of another length.
    """
    n = prod(shape)
    if coding == "bits":
        packed = _decompress(code, -(-n // 8))
        if len(packed) != -(-n // 8) or np.unpackbits(packed)[n:].any():
            raise ValueError(f"{len(packed)} bytes of bits")
        return np.unpackbits(packed, count=n).astype(bool).reshape(shape)
    gaps = _decompress(code, n + n // 255 + 1)
    # 255 says that the gap goes on; anything less ends it with one alive.
    ends = np.flatnonzero(gaps < 255)
    before = np.cumsum(gaps.astype(np.int64))[ends] + np.arange(len(ends))
    if (len(gaps) and gaps[-1] == 255) or (len(before) and before[-1] >= n):
        raise ValueError(f"gaps that lead past {n} entries")
    mask = np.zeros(n, dtype=bool)
    mask[before] = True
    return mask.reshape(shape)


def _gaps(mask):
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    longer = gaps // 255
    code = np.full(len(gaps) + int(longer.sum()), 255, dtype=np.uint8)
    code[np.cumsum(longer + 1) - 1] = gaps % 255
    return code


def encode_rows(rows):
    """Small ints >= 0 as an array of uint8."""
    width = np.min_scalar_type(int(rows.max(initial=0))).itemsize
    return np.append(
        np.uint8(width), _compress(rows.reshape(-1).astype(f"<u{width}").view(np.uint8))
    )


def decode_rows(code, shape):
    """What :func:`encode_rows` coded, of a shape, as int32."""
    width = int(code[0]) if len(code) else 0
    if width not in (1, 2, 4):
        raise ValueError(f"{width} bytes a number")
    found = _decompress(code[1:], width * prod(shape))
    if len(found) != width * prod(shape):
        raise ValueError(f"{len(found) // width} numbers")
    found = found.view(f"<u{width}")
    if (found > np.iinfo(np.int32).max).any():
        raise ValueError("numbers above the largest row")
    return found.astype(np.int32).reshape(shape)


def _compress(array):
    return np.frombuffer(zlib.compress(array.tobytes(), 9), dtype=np.uint8).copy()


def _decompress(code, most):
    """Decompressed bytes, never more than `most`: a short code could ask for any amount."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(code.tobytes(), most + 1)
    except zlib.error as error:
        raise ValueError(f"its compression is damaged ({error})") from error
    if len(found) > most or not stream.eof or stream.unused_data:
        raise ValueError("another length than its shape says")
    return np.frombuffer(found, dtype=np.uint8)
