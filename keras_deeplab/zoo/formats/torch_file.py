"""PyTorch checkpoint files: a .pth file in, {tensor name: array} out, without torch.

A checkpoint is a pickle beside raw storages. `unpickler.py` interprets the pickle without running what it names. Sizes are
compared with the file's before memory is taken, and only the storages that the state dict needs are read.

Source: `torch/serialization.py` (`_legacy_save`, `_save`).
"""

import functools
import io
import math
import mmap
import os
import re
import sys
import zipfile
from typing import NamedTuple

import numpy as np

from keras_deeplab.zoo.formats.unpickler import (
    AGAIN,
    MAX_DIMS,
    SAVE,
    CheckpointError,
    Storage,
    Tensor,
    Unpickler,
    described,
    refusal,
    short_repr,
)

MAGIC = 0x1950A86A20F9469CFC6C  # opens the legacy stream
PROTOCOL = 1001
CHUNK = 2**20  # bytes a read: so decompression and checksums need no second copy of a storage

OTHER_FILES = (  # (first bytes, what such a file is)
    (rb"\Z", "an empty file"),
    (rb"version https://git-lfs", "a git-lfs pointer (`git lfs pull` fetches the file)"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 (.h5) file"),
    (rb"\x1f\x8b", "a gzip archive, to be unpacked first"),
    (rb"[\s\S]{257}ustar", "a tar archive (of files, or of PyTorch 0.1)"),
    (rb"[\s\S]{5}\0\0\0\{", "a safetensors file"),
    (rb"\x08\x01\x12", "a TensorFlow SavedModel"),
    (rb"\x08[\x02-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]", "an ONNX model"),
    (rb"\x80", "a pickle of something else, or less than the first 32 bytes of a checkpoint"),
    (rb"\s*<", "an HTML or XML page, perhaps a server's error message"),
    (rb"\s*[\[{]", "a JSON file"),
    (rb"[\t\n\r\x20-\x7e]+\Z", "a text file"),
    (rb"", "an unknown kind of file"),
)
TF_INDEX_END = bytes.fromhex("57fb808b247547db")  # the last bytes of a TensorFlow checkpoint's .index file

ORIGIN = "A checkpoint is a file written by torch.save."
PUBLISHED = "Give the published .pth file itself; if it should be this one, download it again."


class Checkpoint(NamedTuple):
    """The contents of a checkpoint file.

    Attributes:
        tensors: {tensor name: array}, in file order.
        meta: the file's "meta" dict, {} where it has none. What is not plain Python data is a `Placeholder`.
    """

    tensors: dict[str, np.ndarray]
    meta: dict


class _Layout(NamedTuple):
    storage: Storage
    offset: int  # in elements, like the strides
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def is_contiguous(self):
        steps = (math.prod(self.size[axis + 1 :]) for axis in range(len(self.size)))
        axes = zip(self.size, self.stride, steps, strict=True)
        return 0 in self.size or all(n == 1 or stride == step for n, stride, step in axes)


def load_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the weights of a PyTorch checkpoint file (.pth), without PyTorch.

    Args:
        path: a file written by `torch.save`, as legacy stream or zip container. It holds a flat dict of
            tensors, or such a dict under "state_dict" beside others ("meta", "optimizer", ...).

    Returns:
        {tensor name: array}, in file order, less a "module." that begins every name. dtypes are the file's,
        but bfloat16 is widened to float32, exactly. Arrays are in C order and writable; contiguous tensors
        that share a storage share memory.

    Raises:
        FileNotFoundError: there is no file at `path`.
        CheckpointError: the file is of another kind, is damaged, or its state dict has an entry that is not a
            dense tensor (None included).

    Source: `torch.load`.
    """
    return read_checkpoint(path).tensors


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Reads the weights and the metadata of a PyTorch checkpoint file (.pth), without PyTorch.

    Args:
        path: as for `load_checkpoint`.

    Returns:
        A `Checkpoint`: in `tensors` what `load_checkpoint` returns, in `meta` the dict beside the state dict.

    Raises:
        FileNotFoundError: there is no file at `path`.
        CheckpointError: as for `load_checkpoint`.

    Source: `torch.load`.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: A checkpoint is one file. Received: a directory. Name the .pth file.")
    if not os.path.exists(path):
        raise FileNotFoundError(f"No checkpoint is at {path!r}. Download it first, or correct the path.")
    with open(path, "rb") as file:
        try:
            return _read(file, os.fstat(file.fileno()).st_size)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:  # a damaged file trips zipfile, zlib and pickletools in many ways
            reason = f"{type(error).__name__}: {error}"[:200]
            raise CheckpointError(f"{path}: {refusal('A checkpoint is whole.', reason, AGAIN)}") from error


def _read(file, size):
    top, records, byteorder = _open_container(file, size)
    if not isinstance(top, dict):
        raise refusal("A checkpoint holds a dict of tensors.", described(top), SAVE)
    weights, meta = (top["state_dict"], top.get("meta")) if "state_dict" in top else (top, None)
    if not isinstance(weights, dict) or not weights:
        raise refusal("A state dict is a dict that holds tensors.", described(weights), SAVE)
    tensors = _materialise(weights, records, byteorder, _memory_limit(size))
    if all(name.startswith("module.") for name in tensors):  # left by DataParallel
        tensors = {name.removeprefix("module."): array for name, array in tensors.items()}
    return Checkpoint(tensors, meta if isinstance(meta, dict) else {})


def _memory_limit(size):
    """Bytes that a file of `size` bytes may become: deflated data and strides of 0 can claim any number."""
    return max(2**26, 16 * size)


def _open_container(file, size):
    """Returns the unpickled object, {storage key: (bytes, function that opens them)} and their byte order."""
    head = file.read(1024)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _open_zip(file, size)
    if MAGIC.to_bytes(10, "little") in head[:32]:
        return _open_legacy(file, size)
    kind = next(kind for pattern, kind in OTHER_FILES if re.match(pattern, head))
    file.seek(max(0, size - 8))
    if file.read() == TF_INDEX_END:
        kind = "the index of a TensorFlow checkpoint"
    raise refusal(ORIGIN, f"{kind} that begins {head[:16]!r}", PUBLISHED)


def _open_legacy(file, size):
    # Mapped, because a buffered file takes memory for as many bytes as it is asked for, there or not.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        header = tuple(Unpickler().load(stream) for _ in range(3))
        if header[:2] != (MAGIC, PROTOCOL):
            raise refusal(f"The legacy stream has protocol {PROTOCOL}.", described(header[:2]), SAVE)
        # header[2]["little_endian"] tells of the machine only: the storages here are always little-endian.
        unpickler = Unpickler()
        top, keys = unpickler.load(stream), Unpickler().load(stream)
        records, end = {}, stream.tell()
        for key in keys:  # each storage is an int64, its number of elements, and the elements
            storage, count, start = unpickler.storages[key], stream[end : end + 8], end + 8
            if len(count) == 8 and int.from_bytes(count, "little", signed=True) != storage.numel:
                received = f"another number, {count.hex()}, in the table"
                raise refusal(f"Storage {short_repr.repr(key)} has {storage.numel} elements.", received, AGAIN)
            records[key] = storage.nbytes(), functools.partial(_seek, file, start)
            end = start + storage.nbytes()
    if end > size:
        raise refusal(f"This file has {end} bytes.", f"{size}, so {end - size} bytes are missing", AGAIN)
    return top, records, "little"


def _seek(file, position):
    file.seek(position)
    return file


def _open_zip(file, size):
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        received = f"{size} bytes without a directory: the end of the file is missing"
        raise refusal("A zip file ends with its directory.", received, AGAIN) from None
    infos = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in infos if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if {"config.json", "model.weights.h5"} <= infos.keys():
        raise refusal(ORIGIN, "a .keras file", "Load it with keras.saving.load_model.")
    if len(roots) != 1:
        raise refusal(ORIGIN, f"a zip archive of {short_repr.repr(list(infos))}", PUBLISHED)
    (root,) = roots
    if root + "constants.pkl" in infos:
        raise refusal(ORIGIN, "a TorchScript program", SAVE)
    pickled, byteorder = infos[root + "data.pkl"], "little"
    if pickled.file_size > _memory_limit(size):
        raise refusal("A pickle is in proportion to its file.", f"{pickled.file_size} bytes", AGAIN)
    if root + "byteorder" in infos:
        byteorder = _open_record(archive, infos[root + "byteorder"]).read(8).decode()
    if byteorder not in ("little", "big"):
        raise refusal("The byte order is little or big.", repr(byteorder), AGAIN)
    top = Unpickler().load(io.BytesIO(_open_record(archive, pickled).read()))
    records = {
        name.removeprefix(f"{root}data/"): (info.file_size, functools.partial(_open_record, archive, info))
        for name, info in infos.items()
        if name.startswith(f"{root}data/")
    }
    return top, records, byteorder


def _open_record(archive, info):
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack into any memory
        raise refusal("Records are stored or deflated.", f"compression {info.compress_type}", AGAIN)
    return archive.open(info)


def _materialise(weights, records, byteorder, limit):
    """{name: array} of the `Tensor`s in `weights`. All are checked before the first storage is read."""
    layouts = {}
    for name, value in weights.items():
        try:
            layouts[name] = _layout(name, value, records)
        except CheckpointError as error:
            raise CheckpointError(f"entry {short_repr.repr(name)}: {error}") from None
    storages = {layout.storage.key: layout.storage for layout in layouts.values()}
    needed = sum(2 * storage.nbytes() for storage in storages.values())  # 2: of bfloat16 made float32
    needed += sum(8 * math.prod(layout.size) for layout in layouts.values() if not layout.is_contiguous())
    if needed > limit:
        raise refusal(f"This file's tensors may take {limit} bytes.", f"{needed} bytes", SAVE)
    arrays = {key: _read_storage(storage, records[key][1], byteorder) for key, storage in storages.items()}
    return {name: _array(arrays[layout.storage.key], layout) for name, layout in layouts.items()}


def _layout(name, value, records):
    if not isinstance(name, str) or not isinstance(value, Tensor):
        rule = "A state dict maps names to dense tensors, neither sparse nor quantised."
        raise refusal(rule, described(value), SAVE)
    match value.args:
        case (Storage() as storage, int(offset), tuple(size), tuple(stride), _, _, *bits):
            sound = len(size) == len(stride) <= MAX_DIMS
            sound &= all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride))
        case _:
            sound = False
    if not sound or any(bits):  # bits: of a view whose numbers torch negates or conjugates on use
        raise refusal("A tensor has a storage, offset, sizes and strides.", described(value.args), SAVE)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if 0 not in size and end > storage.length:
        raise refusal(f"A tensor ends in its storage of {storage.length} elements.", f"end {end}", AGAIN)
    if storage.key not in records:
        raise refusal("A tensor's storage is in the file.", f"no storage {short_repr.repr(storage.key)}", AGAIN)
    nbytes, _ = records[storage.key]
    if nbytes != storage.nbytes():
        raise refusal(f"Its storage has {storage.nbytes()} bytes.", f"{nbytes} bytes", AGAIN)
    return _Layout(storage, storage.start + offset, size, stride)


def _read_storage(storage, open_record, byteorder):
    in_file, given = storage.dtypes()
    array = np.empty(storage.numel, in_file)
    rest = memoryview(array.view(np.uint8))
    if rest:
        record = open_record()
        while rest:
            count = record.readinto(rest[:CHUNK])
            if not count:
                raise refusal(f"Storage {storage.key!r} is whole.", f"{len(rest)} bytes too few", AGAIN)
            rest = rest[count:]
    if byteorder != sys.byteorder:
        array.byteswap(inplace=True)
    if given.kind == "b":
        return array != 0
    if given != in_file:  # bfloat16 is the upper half of a float32
        return np.left_shift(array, 16, dtype=np.uint32).view(given)
    return array


def _array(elements, layout):
    if 0 in layout.size:
        return np.empty(layout.size, elements.dtype)
    start, *strides = (elements.itemsize * step for step in (layout.offset, *layout.stride))
    array = np.ndarray(layout.size, elements.dtype, elements, start, strides)
    return array if array.flags.c_contiguous else array.copy()
