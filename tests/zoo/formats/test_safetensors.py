"""safetensors files are read exactly; damaged and hostile ones are refused before memory is taken."""

import json
import struct
import tracemalloc

import numpy as np
import pytest

from keras_deeplab.zoo.formats.checkpoint import load_checkpoint, read_checkpoint
from keras_deeplab.zoo.formats.unpickler import CheckpointError

KINDS = {
    "f8": "F64",
    "f4": "F32",
    "f2": "F16",
    "i8": "I64",
    "i4": "I32",
    "i2": "I16",
    "i1": "I8",
    "u8": "U64",
    "u4": "U32",
}
KINDS |= {"u2": "U16", "u1": "U8", "b1": "BOOL"}


def written(arrays, padding=0, **meta):
    """The bytes of a file, by the format's description."""
    header, data = {}, b""
    for name, array in arrays.items():
        begin, data = len(data), data + array.tobytes()
        kind = KINDS[array.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    return framed({**({"__metadata__": meta} if meta else {}), **header}, data, padding)


def framed(header, data=b"", padding=0):
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()) + b" " * padding
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def write(tmp_path):
    def write(data):
        (tmp_path / "model.safetensors").write_bytes(data)
        return tmp_path / "model.safetensors"

    return write


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message and "Received: " in message and message.endswith(".")
    return message


@pytest.mark.parametrize("dtype", KINDS)
def test_every_dtype_keeps_its_values(write, dtype):
    arrays = {
        "b.weight": np.arange(6).reshape(2, 3).astype(dtype),
        "a": np.array(1, dtype),
        "empty": np.zeros((0, 3), dtype),
    }
    read = load_checkpoint(write(written(arrays, padding=3)))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape and np.array_equal(read[name], array)
        assert read[name].flags.writeable and read[name].flags.c_contiguous


def test_bfloat16_widens_exactly(write):
    bits = np.arange(2**16).astype("u2")
    header = {"a": {"dtype": "BF16", "shape": [2**16], "data_offsets": [0, 2**17]}}
    read = load_checkpoint(write(framed(header, bits.tobytes())))["a"]
    assert read.dtype == np.float32 and np.array_equal(read.view("u4"), bits.astype("u4") << 16)
    one = {"a": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}}
    assert load_checkpoint(write(framed(one, b"\x80\x3f")))["a"] == np.ones((), "f4")


def test_metadata_and_names(write):
    path = write(written({"module.a": np.zeros(2, "f4")}, format="pt"))
    assert read_checkpoint(path).meta == {"format": "pt"} and list(read_checkpoint(path).tensors) == ["a"]


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
TWO = {"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 16]}}
FAULTY = {
    "another dtype": (framed({"a": {**ENTRY, "dtype": "F8_E5M2"}}, bytes(8)), "'a': A tensor must have a dtype of F64"),
    "no shape": (framed({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)), "'a': A tensor must have"),
    "a negative size": (framed({"a": {**ENTRY, "shape": [-2]}}, bytes(8)), "'a': A tensor must have"),
    "a fraction": (framed({"a": {**ENTRY, "shape": [2.0]}}, bytes(8)), "'a': A tensor must have"),
    "a truth value": (framed({"a": {**ENTRY, "shape": [2, True]}}, bytes(8)), "'a': A tensor must have"),
    "a long number": (framed({"a": {**ENTRY, "shape": [10**400]}}, bytes(8)), "'a': A tensor must have"),
    "many axes": (framed({"a": {**ENTRY, "shape": [1] * 40}}, bytes(8)), "'a': A tensor must have"),
    "another size": (framed({"a": {**ENTRY, "shape": [3]}}, bytes(12)), "must have 12 bytes"),
    "terabytes": (
        framed({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, bytes(8)),
        "inside the file",
    ),
    "a tensor before the data": (
        framed({"a": {**ENTRY, "data_offsets": [-8, 0]}}, bytes(8)),
        "'a': A tensor must have",
    ),
    "a shared place": (framed({**TWO, "b": ENTRY}, bytes(8)), "without gaps"),
    "a gap": (framed({**TWO, "b": {**ENTRY, "data_offsets": [12, 20]}}, bytes(20)), "without gaps"),
    "bytes after the last": (framed(TWO, bytes(17)), "must end with its last tensor"),
    "missing bytes": (framed(TWO, bytes(15)), "inside the file"),
    "a header longer than the file": (struct.pack("<Q", 2**33) + b"{}", "may have at most 2 bytes"),
    "a list": (framed(b"{[]"), "damaged"),
    "no tensor": (framed({}), "at least one tensor"),
    "a name twice": (framed(b'{"a": 1, "a": 2}'), "names of a header must differ"),
    "deep nesting": (framed(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"), "damaged"),
    "a header of brackets": (framed(b'{"a":[' + b"[]," * 2**21 + b"1]}"), "may have at most 4194304 bytes"),
    "other text": (framed(b"{\xff\xfe}"), "damaged"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_what_the_format_forbids_is_refused(write, name):
    data, message = FAULTY[name]
    tracemalloc.start()
    assert message in refusal(write(data))
    assert tracemalloc.get_traced_memory()[1] < 10**7 + 3 * len(data)
    tracemalloc.stop()


def test_every_truncation_is_refused(write):
    data = written({"a": np.arange(6, dtype="f4"), "b": np.arange(3, dtype="i8")})
    for length in range(9, len(data)):
        refusal(write(data[:length]))
