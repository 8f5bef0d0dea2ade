"""The masks and the checksum of a file of ``save_params``."""

import hashlib
import math
import zlib

import numpy as np
import torch


def checksum(text, tensors):
    """SHA-256 of a file's header and of its tensors, with their names, types and shapes.

    It tells what was changed by accident. Who changes a file on purpose can make it anew.

    Parameters
    ----------
    text : str
        The JSON header.
    tensors : dict of tensors

    Returns
    -------
    str
        In hexadecimal digits.
    """
    found = hashlib.sha256()

    def add(raw):
        found.update(len(raw).to_bytes(8, "little"))
        found.update(raw)

    add(text.encode())
    for name, tensor in sorted(tensors.items()):
        add(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}".encode())
        add(memoryview(bytes_of(tensor)))
    return found.hexdigest()


def pack(mask):
    """A mask as bits, not compressed: a file then bounds the size of the network in it."""
    return torch.from_numpy(np.packbits(mask.numpy().reshape(-1)))


def unpack(packed, shape, *, compressed):
    """The mask of a shape; in files of format 1 it is compressed.

    Raises
    ------
    ValueError
        If it is not one of that shape.
    """
    n = math.prod(shape)
    size = (n + 7) // 8
    raw = packed.numpy()
    if compressed:
        inflate = zlib.decompressobj()
        try:
            # Never more than the mask can be, whatever the file says.
            bits = inflate.decompress(raw.tobytes(), size + 1)
        except zlib.error as error:
            raise ValueError(f"a mask cannot be read ({error})") from error
        if not inflate.eof:
            raise ValueError(f"a mask is not one of {n} parameters")
        raw = np.frombuffer(bits, dtype=np.uint8)
    if raw.dtype != np.uint8 or raw.shape != (size,):
        raise ValueError(f"a mask is not one of {n} parameters")
    return torch.from_numpy(np.unpackbits(raw, count=n).astype(bool)).reshape(shape)


def bytes_of(tensor):
    """The bytes of a tensor as an array, without a copy where it is contiguous."""
    flat = tensor.contiguous().reshape(-1)
    # torch calls a single number contiguous whatever its stride, and then cannot view it as bytes.
    flat = flat.as_strided((len(flat),), (1,))
    return flat.view(torch.uint8).numpy()
