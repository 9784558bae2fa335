"""A safetensors file in, {tensor name: array} out.

The file is 8 bytes with the length of a header, the header in JSON, and the numbers of all tensors. The header gives the
dtype, the shape and the place of each tensor; it is checked against the size of the file before memory is taken.

Source: https://github.com/huggingface/safetensors (README.md, "Format").
"""

import json
import math
import re

import numpy as np

from keras_deeplab.zoo.formats.state_dict import find_weights
from keras_deeplab.zoo.formats.unpickler import (
    DOWNLOAD_AGAIN,
    MAX_DIMS,
    MAX_INT,
    checkpoint_error,
    short_repr,
    type_and_value,
)

FIRST_BYTES = re.compile(rb"[\s\S]{5}\0\0\0\{")  # a length below 2**40, and the header's first character
MAX_HEADER = 2**22  # bytes; a network of 1000 tensors has 1e5, and JSON of brackets takes 20 times its size in memory
DTYPES = {  # {name: (dtype in the file, dtype of the array)}; numpy has no bfloat16
    "F64": ("<f8", "f8"),
    "F32": ("<f4", "f4"),
    "F16": ("<f2", "f2"),
    "BF16": ("<u2", "f4"),
    "I64": ("<i8", "i8"),
    "I32": ("<i4", "i4"),
    "I16": ("<i2", "i2"),
    "I8": ("i1", "i1"),
    "U64": ("<u8", "u8"),
    "U32": ("<u4", "u4"),
    "U16": ("<u2", "u2"),
    "U8": ("u1", "u1"),
    "BOOL": ("u1", "?"),
}


class _Entry:
    """A tensor of the header: its dtype, shape, and its first and last byte after the header."""

    def __init__(self, name, entry, room):
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if dtype in DTYPES:
                numbers = (begin, end, *shape)
                is_valid = len(shape) <= MAX_DIMS and all(type(n) is int and 0 <= n <= MAX_INT for n in numbers)
            case _:
                is_valid = False
        if not is_valid:
            rule = f"A tensor must have a dtype of {', '.join(DTYPES)}, a shape of at most {MAX_DIMS} sizes, and two offsets."
            raise checkpoint_error(f"entry {short_repr.repr(name)}: {rule}", type_and_value(entry), DOWNLOAD_AGAIN)
        self.dtypes, self.shape, self.begin, self.end = tuple(map(np.dtype, DTYPES[dtype])), tuple(shape), begin, end
        nbytes = math.prod(shape) * self.dtypes[0].itemsize
        if not begin <= end <= room or end - begin != nbytes:
            rule = (
                f"entry {short_repr.repr(name)}: A tensor of shape {shape} must have {nbytes} bytes, inside the file."
            )
            received = f"bytes {begin} to {end} of {room}"
            raise checkpoint_error(rule, received, DOWNLOAD_AGAIN)


def read(file, size, *, ema=False):
    """The tensors and the metadata of an open file of `size` bytes.

    Returns:
        ({tensor name: array}, {name: text}). bfloat16 becomes float32, which is exact.

    Raises:
        CheckpointError: if the file does not have the format, or bytes are missing.
    """
    length = int.from_bytes(file.read(8), "little")
    header, start = _header(file, length, size), 8 + length
    meta = header.pop("__metadata__", {})
    entries = {name: _Entry(name, entry, size - start) for name, entry in header.items()}
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:  # else a small file could claim the same bytes for any number of tensors
            rule = "The tensors must lie one after another, without gaps."
            raise checkpoint_error(rule, f"a tensor at byte {entry.begin}, not {end}", DOWNLOAD_AGAIN)
        end = entry.end
    if end != size - start:
        rule = f"The file must end with its last tensor, at {start + end} bytes."
        raise checkpoint_error(rule, f"{size} bytes", DOWNLOAD_AGAIN)
    wanted = find_weights(entries, lambda entry: isinstance(entry, _Entry), ema=ema)
    return {name: _array(file, entry, start) for name, entry in wanted.items()}, meta if isinstance(meta, dict) else {}


def _header(file, length, size):
    """The header as a dict."""
    if length > min(MAX_HEADER, size - 8):
        rule = f"The header of a file of {size} bytes may have at most {max(0, min(MAX_HEADER, size - 8))} bytes."
        raise checkpoint_error(rule, f"a claim of {length} bytes", DOWNLOAD_AGAIN)
    text = file.read(length)
    header = json.loads(text, object_pairs_hook=_without_twins)
    if not isinstance(header, dict):
        raise checkpoint_error("The header must be a JSON object of tensors.", repr(text[:40]), DOWNLOAD_AGAIN)
    return header


def _without_twins(pairs):
    """A dict of the pairs. JSON allows a name twice; this format does not."""
    if len(names := {name for name, _ in pairs}) < len(pairs):
        rule = "The names of a header must differ."
        raise checkpoint_error(rule, f"{len(pairs)} entries with {len(names)} names", DOWNLOAD_AGAIN)
    return dict(pairs)


def _array(file, entry, start):
    """A tensor as an array in C order."""
    file_dtype, array_dtype = entry.dtypes
    array = np.empty(entry.shape, file_dtype)
    file.seek(start + entry.begin)
    unread = memoryview(array.reshape(-1).view(np.uint8))
    while unread:
        if not (count := file.readinto(unread)):
            rule = f"The file must have at least {start + entry.end} bytes."
            raise checkpoint_error(rule, f"{len(unread)} bytes fewer", DOWNLOAD_AGAIN)
        unread = unread[count:]
    if array_dtype.kind == "b":
        return array.astype(bool)
    if entry.dtypes == tuple(map(np.dtype, DTYPES["BF16"])):  # bfloat16 is the upper half of a float32
        wide = array.astype(np.uint32)
        return np.left_shift(wide, np.uint32(16), out=wide).view(array_dtype)
    return array.astype(array_dtype, copy=False)
