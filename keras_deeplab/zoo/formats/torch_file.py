"""A PyTorch checkpoint file (.pth) in, {tensor name: array} out, without PyTorch.

Such a file is a pickle and raw storages, which hold the numbers of the tensors. `unpickler.py` reads the pickle without
running code that it names. Sizes are compared with the size of the file before memory is taken, and only the storages that the
state dict needs are read.

Source: `torch/serialization.py` (`_legacy_save`, `_save`).
"""

import functools
import io
import math
import mmap
import re
import sys
import zipfile
from typing import NamedTuple

import numpy as np

from keras_deeplab.zoo.formats.state_dict import find_weights
from keras_deeplab.zoo.formats.unpickler import (
    DOWNLOAD_AGAIN,
    MAX_DIMS,
    MAX_INT,
    SAVE_WEIGHTS,
    CheckpointError,
    Storage,
    Tensor,
    Unpickler,
    checkpoint_error,
    short_repr,
    type_and_value,
)

MAGIC = 0x1950A86A20F9469CFC6C  # the first object of the legacy stream
PROTOCOL = 1001  # the second object
CHUNK = 2**20  # bytes to read at a time, so that decompression and checksums need no second copy of a storage

OTHER_FILES = (  # (pattern of the first bytes, what such a file is); the first match counts
    (rb"\Z", "an empty file"),
    (rb"version https://git-lfs", "a git-lfs pointer (`git lfs pull` fetches the file)"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 (.h5) file"),
    (rb"\x1f\x8b", "a gzip archive, which must be unpacked first"),
    (rb"[\s\S]{257}ustar", "a tar archive (of files, or of PyTorch 0.1)"),
    (rb"\x08\x01\x12", "a TensorFlow SavedModel"),
    (rb"\x08[\x02-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]", "an ONNX model"),
    (rb"\x80", "another pickle, or a checkpoint cut off within its first 32 bytes"),
    (rb"\s*<", "an HTML or XML page, perhaps a server's error message"),
    (rb"\s*[\[{]", "a JSON file"),
    (rb"[\t\n\r\x20-\x7e]+\Z", "a text file"),
    (rb"", "an unknown kind of file"),
)
TF_INDEX_END = bytes.fromhex("57fb808b247547db")  # the last bytes of a TensorFlow checkpoint's .index file

MUST_BE_CHECKPOINT = "The file must be a checkpoint, as torch.save writes it."
GIVE_PUBLISHED_FILE = "Give the .pth file as it was published; if this is that file, download it again."


class _Layout(NamedTuple):
    """Where the numbers of a tensor are: the offset and the strides count elements of the storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def is_contiguous(self):
        """Whether the elements follow each other in C order."""
        step = 1
        for n, stride in zip(reversed(self.size), reversed(self.stride), strict=True):
            if n > 1 and stride != step:
                return 0 in self.size
            step *= n
        return True


def read(file, size, *, ema=False):
    """The tensors and the metadata of an open file of `size` bytes.

    Returns:
        ({tensor name: array}, the "meta" dict of the file, or {} if there is none).

    Raises:
        CheckpointError: if the file is of another kind, is damaged, or an entry of the weights is no dense tensor. A damaged
            file may raise other exceptions.
    """
    content, records, byteorder = _open_container(file, size)
    weights = find_weights(content, lambda entry: isinstance(entry, Tensor), ema=ema)
    tensors = _read_tensors(weights, records, byteorder, _memory_limit(size))
    return tensors, _metadata(content)


def _metadata(content):
    """The "meta" dict. Where it lacks the text of the configuration, that of mmengine's message hub is added."""
    meta, hub = content.get("meta"), content.get("message_hub")
    meta = meta if isinstance(meta, dict) else {}
    info = hub.get("runtime_info") if isinstance(hub, dict) else None
    if "cfg" not in meta and isinstance(info, dict) and "cfg" in info:
        meta = {**meta, "cfg": info["cfg"]}
    return meta


def _memory_limit(size):
    """How many bytes of memory a file of `size` bytes may take: deflated data and strides of 0 can claim any number."""
    return max(2**26, 16 * size)


def _open_container(file, size):
    """The content of either kind of file.

    Returns:
        (the unpickled object, {storage key: (number of bytes, function that opens them as a file)}, "little" or "big").
    """
    head = file.read(1024)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _open_zip(file, size)
    if MAGIC.to_bytes(10, "little") in head[:32]:
        return _open_legacy(file, size)
    kind = next(kind for pattern, kind in OTHER_FILES if re.match(pattern, head))
    file.seek(max(0, size - 8))
    if file.read() == TF_INDEX_END:
        kind = "the index of a TensorFlow checkpoint"
    raise checkpoint_error(MUST_BE_CHECKPOINT, f"{kind} that begins with {head[:16]!r}", GIVE_PUBLISHED_FILE)


def _open_legacy(file, size):
    """The content of a legacy stream: header, pickle, list of storage keys, and the storages one after another."""
    # A memory map, because a buffered file would take memory for all bytes that a damaged pickle asks for.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        header = tuple(Unpickler().load(stream) for _ in range(3))
        if header[:2] != (MAGIC, PROTOCOL):
            rule = f"A legacy stream must begin with its magic number and protocol {PROTOCOL}."
            raise checkpoint_error(rule, type_and_value(header[:2]), SAVE_WEIGHTS)
        # header[2]["little_endian"] describes the machine that wrote the file. The storages are always little-endian.
        unpickler = Unpickler()
        content, keys = unpickler.load(stream), Unpickler().load(stream)
        records, end = {}, stream.tell()
        if not isinstance(keys, list) or not all(isinstance(key, str) and key in unpickler.storages for key in keys):
            rule = "After the pickle there must be the list of its storages' keys."
            raise checkpoint_error(rule, type_and_value(keys), DOWNLOAD_AGAIN)
        for key in keys:  # a storage is its number of elements, an int64, and then the elements
            storage, count, start = unpickler.storages[key], stream[end : end + 8], end + 8
            if len(count) == 8 and int.from_bytes(count, "little", signed=True) != storage.numel:
                rule = f"Storage {short_repr.repr(key)} must have {storage.numel} elements, as the pickle says."
                received = f"another number in front of the storage, the bytes {count.hex()}"
                raise checkpoint_error(rule, received, DOWNLOAD_AGAIN)
            records[key] = storage.nbytes(), functools.partial(_seek, file, start)
            end = start + storage.nbytes()
    if end > size:
        received = f"{size} bytes: {end - size} bytes are missing at the end"
        raise checkpoint_error(f"This file must have at least {end} bytes.", received, DOWNLOAD_AGAIN)
    return content, records, "little"


def _seek(file, position):
    file.seek(position)
    return file


def _open_zip(file, size):
    """The content of a zip container: data.pkl, byteorder, and a record data/KEY for each storage, all in one folder."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        received = f"{size} bytes without a directory: the end of the file is missing"
        raise checkpoint_error("A zip file must end with its directory.", received, DOWNLOAD_AGAIN) from None
    infos = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in infos if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if {"config.json", "model.weights.h5"} <= infos.keys():
        raise checkpoint_error(MUST_BE_CHECKPOINT, "a .keras file", "Load it with keras.saving.load_model.")
    if len(roots) != 1:
        received = f"a zip archive of {short_repr.repr(list(infos))}"
        raise checkpoint_error(MUST_BE_CHECKPOINT, received, GIVE_PUBLISHED_FILE)
    (root,) = roots
    if root + "constants.pkl" in infos:
        raise checkpoint_error(MUST_BE_CHECKPOINT, "a TorchScript program", SAVE_WEIGHTS)
    pickled, byteorder = infos[root + "data.pkl"], "little"
    if pickled.file_size > _memory_limit(size):
        rule = f"The pickle in a file of {size} bytes may have at most {_memory_limit(size)} bytes."
        received = f"a claim of {pickled.file_size} bytes: the file is damaged or hostile"
        raise checkpoint_error(rule, received, DOWNLOAD_AGAIN)
    if root + "byteorder" in infos:
        byteorder = _open_record(archive, infos[root + "byteorder"]).read(8).decode()
    if byteorder not in ("little", "big"):
        raise checkpoint_error("The byte order must be little or big.", repr(byteorder), DOWNLOAD_AGAIN)
    content = Unpickler().load(io.BytesIO(_open_record(archive, pickled).read()))
    records = {
        name.removeprefix(f"{root}data/"): (info.file_size, functools.partial(_open_record, archive, info))
        for name, info in infos.items()
        if name.startswith(f"{root}data/")
    }
    return content, records, byteorder


def _open_record(archive, info):
    """A record of a zip container as a file."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may take any amount of memory
        rule = "A record of the zip file must be stored or deflated."
        raise checkpoint_error(rule, f"compression method {info.compress_type}", DOWNLOAD_AGAIN)
    return archive.open(info)


def _read_tensors(weights, records, byteorder, limit):
    """{name: array} of the `Tensor`s in `weights`. All are checked before the first storage is read."""
    layouts = {}
    for name, value in weights.items():
        try:
            layouts[name] = _layout(name, value, records)
        except CheckpointError as error:
            raise CheckpointError(f"entry {short_repr.repr(name)}: {error}") from None
    storages = {(layout.storage.key, layout.storage.name): layout.storage for layout in layouts.values()}
    needed = sum(2 * storage.nbytes() for storage in storages.values())  # 2: bfloat16 becomes float32
    needed += sum(8 * math.prod(layout.size) for layout in layouts.values() if not layout.is_contiguous())
    if needed > limit:
        rule = f"The tensors of this file may take at most {limit} bytes of memory."
        raise checkpoint_error(rule, f"tensors that need {needed} bytes", SAVE_WEIGHTS)
    arrays = {key: _read_storage(storage, records[key[0]][1], byteorder) for key, storage in storages.items()}
    return {name: _array(arrays[layout.storage.key, layout.storage.name], layout) for name, layout in layouts.items()}


def _layout(name, value, records):
    """The `_Layout` of an entry of the state dict, after all checks."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        rule = "A state dict must map names to dense tensors, neither sparse nor quantised."
        raise checkpoint_error(rule, type_and_value(value), SAVE_WEIGHTS)
    match value.args:
        case (Storage() as storage, int(offset), tuple(size), tuple(stride), _, _, *view_flags):
            is_valid = len(size) == len(stride) <= MAX_DIMS
            is_valid = is_valid and all(isinstance(n, int) and 0 <= n <= MAX_INT for n in (offset, *size, *stride))
        case _:
            is_valid = False
    if not is_valid or any(view_flags):  # they mark a view whose numbers torch negates or conjugates on use
        rule = "A tensor must have a storage, an offset, sizes and strides."
        raise checkpoint_error(rule, type_and_value(value.args), SAVE_WEIGHTS)
    storage = storage.typed(value.dtype) if value.dtype else storage
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if 0 not in size and end > storage.length:
        rule = f"A tensor must lie inside its storage of {storage.length} elements."
        raise checkpoint_error(rule, f"a tensor that ends at element {end}", DOWNLOAD_AGAIN)
    if storage.key not in records:
        received = f"no storage {short_repr.repr(storage.key)}"
        raise checkpoint_error("The storage of a tensor must be in the file.", received, DOWNLOAD_AGAIN)
    nbytes, _ = records[storage.key]
    if nbytes != storage.nbytes():
        rule = f"The storage of this tensor must have {storage.nbytes()} bytes."
        raise checkpoint_error(rule, f"{nbytes} bytes", DOWNLOAD_AGAIN)
    return _Layout(storage, storage.start + offset, size, stride)


def _read_storage(storage, open_record, byteorder):
    """All elements of a storage as an array (numel,)."""
    file_dtype, array_dtype = storage.dtypes()
    array = np.empty(storage.numel, file_dtype)
    unread = memoryview(array.view(np.uint8))
    if unread:
        record = open_record()
        while unread:
            count = record.readinto(unread[:CHUNK])
            if not count:
                rule = f"The file is damaged: storage {storage.key!r} must have {storage.nbytes()} bytes."
                raise checkpoint_error(rule, f"{len(unread)} bytes fewer", DOWNLOAD_AGAIN)
            unread = unread[count:]
    if byteorder != sys.byteorder:
        array.byteswap(inplace=True)
    if array_dtype.kind == "b":
        return array != 0  # torch writes a bool as a byte
    if array_dtype != file_dtype:  # bfloat16 is the upper half of a float32
        return np.left_shift(array, 16, dtype=np.uint32).view(array_dtype)
    return array


def _array(elements, layout):
    """The tensor of a layout: a view of the elements of its storage if it is contiguous, otherwise a copy."""
    if 0 in layout.size:
        return np.empty(layout.size, elements.dtype)
    start, *strides = (elements.itemsize * step for step in (layout.offset, *layout.stride))
    array = np.ndarray(layout.size, elements.dtype, elements, start, strides)
    return array if array.flags.c_contiguous else array.copy()
