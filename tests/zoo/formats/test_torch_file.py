"""Checkpoint files are read exactly, and every other, damaged or hostile file is refused.

The files are PyTorch's own, in tests/golden/checkpoints, and those that tests/support/torch_files.py writes in their layout.
`test_writer_reproduces_*` compares its bytes with PyTorch's.
"""

import collections
import gzip
import io
import itertools
import pickle
import random
import re
import struct
import sys
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import support
from support.torch_files import KINDS, REBUILD, Call, Global, Pickler, Storage, legacy, tensor, zipped

from keras_deeplab.zoo.formats.checkpoint import load_checkpoint, read_checkpoint
from keras_deeplab.zoo.formats.unpickler import CheckpointError, Placeholder

GOLDEN = support.GOLDEN / "checkpoints"
CONTAINERS = pytest.mark.parametrize("container", (legacy, zipped))


def state_dict(**tensors):
    return collections.OrderedDict(tensors)


def arange(*shape, dtype="f4"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.fixture
def write(tmp_path):
    def write(data, name="file.pth"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def refusal(path):
    """The message of the CheckpointError that reading `path` raises. It must name the file and what was received."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message and "Received: " in message and message.endswith(".")
    return message


# Real files ---------------------------------------------------------------------------------------


def expected():
    with np.load(GOLDEN / "expected.npz") as arrays:
        return dict(arrays)


def assert_same(tensors, arrays):
    assert list(tensors) == list(arrays)
    for name, array in arrays.items():
        assert tensors[name].dtype == array.dtype and tensors[name].shape == array.shape, name
        assert tensors[name].tobytes() == array.tobytes(), name
        assert tensors[name].flags.c_contiguous and tensors[name].flags.writeable, name


@pytest.mark.parametrize("name", ("legacy", "zip", "mmengine"))
def test_files_of_torch_give_the_arrays_of_torch(name):
    assert_same(load_checkpoint(GOLDEN / f"{name}.pth"), expected())


def test_metadata_of_mmengine_keeps_plain_data_and_loads_nothing_else():
    meta = read_checkpoint(str(GOLDEN / "mmengine.pth")).meta
    assert meta["iter"] == 80000 and list(meta) == ["iter", "dataset_meta", "best", "seed", "logs"]
    assert isinstance(meta["best"], Placeholder) and meta["best"].name == "numpy.core.multiarray.scalar"
    assert meta["logs"][0].name == "mmengine.logging.history_buffer.HistoryBuffer"
    assert "mmengine" not in sys.modules


def test_flat_state_dict_has_no_metadata():
    assert read_checkpoint(GOLDEN / "zip.pth").meta == {}


def golden_tensors(keys):
    """The state dict of make_checkpoints.py, for our writer. `keys` are the keys of the storages in order."""
    arrays = expected()
    keys = iter(keys)
    storages = {}
    for name, array in arrays.items():
        if name not in ("offset", "steps", "transposed", "expanded"):
            flat = array.transpose(0, 2, 3, 1).ravel() if name == "channels_last" else array.ravel()
            flat = (flat.view("u4") >> 16).astype("u2") if name == "bfloat16" else flat
            storages[name] = Storage(flat, key=next(keys))
        elif name == "transposed":
            storages[name] = Storage(array.T.ravel(), key=next(keys))
    storages |= {
        "offset": storages["shared"],
        "steps": storages["shared"],
        "expanded": storages["transposed"],
    }
    layouts = {"offset": (4, (3, 1)), "steps": (1, (3,)), "transposed": (0, (1, 4)), "expanded": (0, (4, 0))}
    layouts["channels_last"] = (0, (12, 1, 4, 2))
    layouts["empty"] = (0, (4, 1))
    tensors = collections.OrderedDict()
    for name, array in arrays.items():
        offset, stride = layouts.get(name, (0, None))
        tensors[name] = tensor(array, storage=storages[name], offset=offset, stride=stride)
    parameter = Global("torch._utils", "_rebuild_parameter")
    tensors["parameter"] = Call(parameter, tensors["parameter"], True, collections.OrderedDict())
    tensors._metadata = collections.OrderedDict({"": {"version": 1}})
    return tensors


def test_writer_reproduces_the_legacy_stream_of_torch():
    data = (GOLDEN / "legacy.pth").read_bytes()
    sorted_keys = pickle.loads(data[data.rindex(pickle.PROTO + b"\x02]") :])
    in_order = sorted(sorted_keys, key=lambda key: data.index(key.encode()))
    assert legacy(golden_tensors(in_order)) == data


def test_writer_reproduces_the_zip_records_of_torch():
    ours = zipfile.ZipFile(io.BytesIO(zipped(golden_tensors(map(str, itertools.count())))))
    torchs = zipfile.ZipFile(GOLDEN / "zip.pth")
    records = [name for name in torchs.namelist() if "/data" in name or name.endswith("byteorder")]
    assert len(records) == 17
    for name in records:
        assert ours.read(name.replace("zip/", "name/")) == torchs.read(name), name


# Contents -----------------------------------------------------------------------------------------


@CONTAINERS
@pytest.mark.parametrize("dtype", sorted(KINDS))
@pytest.mark.parametrize("module", ("torch", "torch.cuda"))
def test_every_dtype_keeps_its_values(write, container, dtype, module):
    array = np.array([0, 1, 1, 0, 1, 1], dtype)
    entry = tensor(array.reshape(2, 3), storage=Storage(array, module=module))
    (read,) = load_checkpoint(write(container(state_dict(a=entry)))).values()
    correct = (array.astype("u4") << 16).view("f4") if dtype == "u2" else array
    assert read.dtype == correct.dtype and np.array_equal(read, correct.reshape(2, 3))


ARGUMENTS = (False, collections.OrderedDict())  # requires_grad and hooks
OTHER_REBUILDS = {  # {name: function of a tensor's storage, size and stride}
    "_rebuild_tensor": lambda *args: Call(Global("torch._utils", "_rebuild_tensor"), args[0], 0, *args[1:]),
    "_rebuild_parameter_with_state": lambda *args: Call(
        Global("torch._utils", "_rebuild_parameter_with_state"), v2(*args), True, collections.OrderedDict(), {"tag": 1}
    ),
    "Parameter": lambda *args: Call(Global("torch.nn.parameter", "Parameter"), v2(*args), True),
    "_rebuild_from_type_v2": lambda *args: Call(
        Global("torch._tensor", "_rebuild_from_type_v2"),
        REBUILD,
        Global("torch", "Tensor"),
        v2_arguments(*args),
        {"a": 1},
    ),
    "_rebuild_device_tensor_from_cpu_tensor": lambda *args: Call(
        Global("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"),
        v2(*args),
        Global("torch", "float32"),
        "xla:0",
        False,
    ),
}


def v2_arguments(storage, size, stride):
    return storage, 0, size, stride, *ARGUMENTS


def v2(*args):
    return Call(REBUILD, *v2_arguments(*args))


@CONTAINERS
@pytest.mark.parametrize("name", OTHER_REBUILDS)
def test_other_functions_that_rebuild_a_tensor_are_known(write, container, name):
    entry = OTHER_REBUILDS[name](Storage(arange(6)), (3, 2), (1, 3))
    read = load_checkpoint(write(container(state_dict(a=entry))))["a"]
    assert np.array_equal(read, arange(2, 3).T) and read.flags.c_contiguous


@pytest.mark.parametrize("dtype, kind", [("u2", "uint16"), ("u4", "uint32"), ("u8", "uint64"), ("f4", "float32")])
def test_a_storage_of_bytes_has_the_dtype_of_its_tensor(write, dtype, kind):
    array = np.array([1, 2, 2**16 - 1, 7], dtype)
    storage = Storage(array, kind="Untyped", module="torch.storage", numel=array.nbytes)
    function = Global("torch._utils", "_rebuild_tensor_v3")
    entry = Call(function, storage, 1, (3,), (1,), *ARGUMENTS, Global("torch", kind))
    read = load_checkpoint(write(zipped(state_dict(a=entry))))["a"]
    assert read.dtype == array.dtype and np.array_equal(read, array[1:])


@pytest.mark.parametrize("kind, nbytes", [("float8_e5m2", 4), ("uint64", 12), ("uint64\n", 8)])
def test_other_dtypes_and_broken_elements_are_named(write, kind, nbytes):
    storage = Storage(np.zeros(nbytes, "u1"), kind="Untyped", module="torch.storage")
    entry = Call(
        Global("torch._utils", "_rebuild_tensor_v3"), storage, 0, (1,), (1,), *ARGUMENTS, Global("torch", kind)
    )
    assert refusal(write(zipped(state_dict(bad=entry))))


def test_a_subclass_of_tensor_is_named(write):
    function = Global("torch._tensor", "_rebuild_from_type_v2")
    entry = Call(function, REBUILD, Global("mine", "Scaled"), v2_arguments(Storage(arange(2)), (2,), (1,)), {})
    assert "mine.Scaled" in refusal(write(zipped(state_dict(bad=entry))))


def test_files_of_python_2_are_read(write):
    """Python 2 pickles an OrderedDict as a call with the list of its [key, value], and str as bytes."""

    def short(name):
        return b"U" + bytes([len(name)]) + name

    ordered, rebuild = b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"
    storage = b"(" + short(b"storage") + b"ctorch\nFloatStorage\n" + short(b"0") + short(b"cpu") + b"\x8a\1\6" + b"NtQ"
    entry = rebuild + b"(" + storage + b"K\0\x8a\1\2\x8a\1\3\x86\x8a\1\3\x8a\1\1\x86\x89" + ordered + b")Rt" + b"R"
    weights = ordered + b"]]" + b"(" + short(b"layer.weight") + entry + b"ea\x85R"
    state = b"}" + short(b"_metadata") + ordered + b"]](" + short(b"") + b"}ea\x85Rsb"
    pickled = b"\x80\x02}(" + short(b"epoch") + b"K\3" + short(b"state_dict") + weights + state + b"u."
    data = legacy(state_dict(a=tensor(arange(6))))
    (own,) = re.findall(rb"\x80\x02ccollections.*?\.(?=\x80\x02\])", data, re.DOTALL)
    read = load_checkpoint(write(data.replace(own, pickled)))
    assert list(read) == ["layer.weight"] and np.array_equal(read["layer.weight"], arange(2, 3))


def test_bfloat16_widens_exactly(write):
    bits = np.arange(2**16).astype("u2")
    read = load_checkpoint(write(zipped(state_dict(a=tensor(bits)))))["a"]
    assert read.dtype == np.float32 and np.array_equal(read.view("u4"), bits.astype("u4") << 16)


def test_true_is_any_byte_but_zero(write):
    storage = Storage(np.array([0, 1, 2, 255], "u1"), kind="Bool")
    read = load_checkpoint(write(legacy(state_dict(a=tensor(storage.array, storage=storage)))))["a"]
    assert read.view("u1").tolist() == [0, 1, 1, 1]


@CONTAINERS
def test_tensors_of_one_storage_share_memory(write, container):
    storage = Storage(arange(12))
    full = tensor(arange(12), storage=storage)
    part = tensor(arange(2, 3), storage=storage, offset=4)
    read = load_checkpoint(write(container(state_dict(full=full, part=part))))
    assert np.shares_memory(read["full"], read["part"]) and read["part"].tolist() == [[4, 5, 6], [7, 8, 9]]


def test_legacy_storage_views_start_at_their_offset(write):
    storage = Storage(arange(12), view=("view", 3, 6))
    read = load_checkpoint(write(legacy(state_dict(a=tensor(arange(2), storage=storage, offset=1)))))
    assert read["a"].tolist() == [4, 5]
    beyond = tensor(arange(6), storage=storage, offset=1)
    assert "'a'" in refusal(write(legacy(state_dict(a=beyond))))
    for view in ((-1, 3), (0, 13), (13, 0), (3, -1)):
        outside = tensor(arange(0), storage=Storage(arange(12), view=("view", *view)))
        assert "views inside" in refusal(write(legacy(state_dict(a=outside))))


@CONTAINERS
def test_order_is_the_files_and_module_prefix_goes_only_if_all_have_it(write, container):
    names = ("module.b", "module.a")
    tensors = {name: tensor(arange(1)) for name in names}
    assert list(load_checkpoint(write(container(tensors)))) == ["b", "a"]
    tensors["other"] = tensor(arange(1))
    assert list(load_checkpoint(write(container({"state_dict": tensors})))) == [*names, "other"]


@pytest.mark.parametrize("dtype", ("f4", "f2", "i8", "u2"))
def test_big_endian_zip_is_swapped(write, dtype):
    array = np.array([1, 2, 300], dtype)
    value = state_dict(a=tensor(array, storage=Storage(array.astype(array.dtype.newbyteorder(">")))))
    read = load_checkpoint(write(zipped(value, byteorder=b"big")))["a"]
    assert np.array_equal(read, (array.astype("u4") << 16).view("f4") if dtype == "u2" else array)


def test_legacy_storages_are_little_endian_whatever_the_machine(write):
    """torch writes the storages of this container little-endian, and ignores the machine's byte order in the file."""
    data = (GOLDEN / "legacy.pth").read_bytes()
    little = b"little_endianq\x02\x88"
    assert data.count(little) == 1
    big = little[:-1] + b"\x89"  # the opcode of False
    assert_same(load_checkpoint(write(data.replace(little, big))), expected())


def test_zip_without_byteorder_and_with_deflated_records_is_read(write):
    data = zipped(state_dict(a=tensor(arange(5000))), byteorder=None, compression=zipfile.ZIP_DEFLATED)
    assert len(data) < 15000 and np.array_equal(load_checkpoint(write(data))["a"], arange(5000))


@CONTAINERS
def test_only_storages_of_the_state_dict_are_read(write, container):
    """The optimizer's tensor is damaged in one file and outside its storage in the other. Neither is read."""
    moment = np.full(1000, 7, "f4")
    value = {"state_dict": state_dict(a=tensor(arange(3))), "optimizer": {"moment": tensor(moment)}}
    data = container(value).replace(moment.tobytes(), bytes(moment.nbytes))
    assert load_checkpoint(write(data))["a"].tolist() == [0, 1, 2]
    value["optimizer"] = tensor(moment, size=(10**9,))
    assert load_checkpoint(write(container(value)))["a"].tolist() == [0, 1, 2]


def test_large_files_take_their_own_size_in_memory(write):
    tensors = {f"t{i}": tensor(np.full(2**20, i, "f4")) for i in range(20)}  # 80 MiB
    for container in (legacy, zipped):
        path = write(container(tensors))
        assert 80 * 2**20 < peak_memory(path) < 1.05 * 80 * 2**20


def peak_memory(path, *, is_refused=False):
    """The most bytes that Python and NumPy allocate at a time while loading `path`, used or not."""
    tracemalloc.start()
    try:
        refusal(path) if is_refused else load_checkpoint(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Entries that are not dense tensors inside their storage ------------------------------------------

STORAGE = Storage(arange(6))
UNSOUND = {
    "beyond": dict(size=(7,), stride=(1,)),
    "offset": dict(offset=6, size=(1,), stride=(1,)),
    "stride": dict(size=(2,), stride=(6,)),
    "negative size": dict(size=(-1,), stride=(1,)),
    "negative stride": dict(size=(2,), stride=(-1,)),
    "negative offset": dict(offset=-1, size=(2,), stride=(1,)),
    "huge": dict(size=(2**62, 2**62), stride=(1, 1)),
    "unmatched": dict(size=(2, 3), stride=(1,)),
    "fractional": dict(size=(1.5,), stride=(1,)),
    "many axes": dict(size=(1,) * 40, stride=(1,) * 40),
    "list size": dict(size=[6], stride=(1,)),
    "expanded to 2 TiB": dict(size=(2**39,), stride=(0,)),
    "expanded to 2 GiB": dict(size=(2**29,), stride=(0,)),
}


@CONTAINERS
@pytest.mark.parametrize("case", UNSOUND)
def test_tensor_outside_its_storage_is_refused(write, container, case):
    bad = tensor(arange(6), storage=STORAGE, **UNSOUND[case])
    message = refusal(write(container(state_dict(good=tensor(arange(2)), bad=bad))))
    assert "'bad'" in message or "expanded" in case


@CONTAINERS
@pytest.mark.parametrize("numel", (-1, 5, 7, 2**40, 2**62, 2**80))
def test_storage_of_another_size_is_refused(write, container, numel):
    bad = tensor(arange(6), storage=Storage(arange(6), numel=numel), size=(1,), stride=(1,))
    message = refusal(write(container(state_dict(bad=bad))))
    if numel < 0:
        assert "Storage '0' must have one type and one size" in message
    elif container is legacy:
        assert f"Storage '0' must have {numel} elements" in message
    else:
        assert f"must have {4 * numel} bytes. Received: 24 bytes" in message


def test_legacy_storage_table_is_checked(write):
    data = legacy(state_dict(a=tensor(arange(6))))
    count = struct.pack("<q", 6)
    assert data.count(count) == 1
    for numel in (-1, 5, 2**40, 2**63 - 1):
        assert "6 elements" in refusal(write(data.replace(count, struct.pack("<q", numel))))


@CONTAINERS
@pytest.mark.parametrize(
    "function", ("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor", "numpy.array")
)
def test_sparse_quantised_and_foreign_entries_are_named(write, container, function):
    bad = tensor(arange(2), function=Global(*function.rsplit(".", 1)))
    message = refusal(write(container({"state_dict": state_dict(good=tensor(arange(2)), bad=bad)})))
    assert "'bad'" in message and function in message


@pytest.mark.parametrize("entry", (None, 3, "text", [1], {"a": 1}, STORAGE))
def test_other_entries_are_named(write, entry):
    message = refusal(write(zipped(state_dict(good=tensor(arange(2)), bad=entry))))
    assert "'bad'" in message and (entry is STORAGE or type(entry).__name__ in message)


def test_names_must_be_strings(write):
    assert "entry 3" in refusal(write(zipped({3: tensor(arange(2))})))


@CONTAINERS
@pytest.mark.parametrize("kind", ("ComplexFloat", "QInt8", "Untyped"))
def test_other_storage_types_are_named(write, container, kind):
    bad = tensor(arange(2), storage=Storage(arange(2), kind=kind))
    assert f"torch.{kind}Storage" in refusal(write(container(state_dict(a=bad))))


def test_view_that_torch_negates_on_use_is_refused(write):
    args = (Storage(arange(2)), 0, (2,), (1,), False, collections.OrderedDict(), {"neg": True})
    assert "'a'" in refusal(write(zipped(state_dict(a=Call(REBUILD, *args)))))


def test_one_storage_cannot_have_two_types(write):
    first, second = Storage(arange(2), key="0"), Storage(arange(2, dtype="i4"), key="0")
    tensors = {name: tensor(arange(2), storage=storage) for name, storage in (("a", first), ("b", second))}
    assert "one type" in refusal(write(legacy(tensors)))


@pytest.mark.parametrize(
    "value, message",
    [
        ([1], "must hold a dict of tensors. Received: list [1]"),
        (3, "must hold a dict of tensors. Received: int 3"),
        (None, "must hold a dict of tensors. Received: NoneType None"),
        ({}, "A state dict must hold at least one tensor. Received: dict {}"),
        ({"state_dict": None}, "at least one tensor. Received: NoneType None"),
        ({"state_dict": {}}, "at least one tensor. Received: dict {}"),
        ({"meta": {}}, "entry 'meta': A state dict must map names to dense tensors"),
    ],
)
@CONTAINERS
def test_pickles_without_weights_are_refused(write, container, value, message):
    assert message in refusal(write(container(value)))


# Files of other kinds -----------------------------------------------------------------------------


def zip_of(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return out.getvalue()


def tar_of(name):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


OTHER_FILES = {
    "empty": b"",
    "HTML": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "JSON": b'{"message": "Not Found"}',
    "text": b"Moved Permanently.\n",
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "ONNX": b"\x08\x07\x12\x07pytorch\x1a\x051.8.0",
    "SavedModel": b"\x08\x01\x12\x80\x01\x0a",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    ".keras": zip_of("metadata.json", "config.json", "model.weights.h5"),
    "TorchScript": zipped(state_dict(a=tensor(arange(2))), extra=("name/constants.pkl", "name/code/m.py")),
    "zip archive": zip_of("a.txt", "b/c.txt"),
    "gzip": gzip.compress(b"a"),
    "An archive must hold one checkpoint": tar_of("storages"),  # PyTorch 0.1's
    "pickle": pickle.dumps({"weight": [1.0, 2.0]}),
    "unknown": bytes(range(200, 256)),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_files_are_called_by_name(write, kind):
    assert kind in refusal(write(OTHER_FILES[kind]))


def test_missing_file_and_directory_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="Download it first"):
        load_checkpoint(tmp_path / "none.pth")
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize("name", ("legacy", "zip"))
def test_truncations_all_along_a_file_are_refused(write, name):
    data = (GOLDEN / f"{name}.pth").read_bytes()
    for length in (*range(40), *range(40, len(data), 13), len(data) - 1):
        message = refusal(write(data[:length]))
        kinds = ["is damaged", "bytes are missing", "end of the file is missing"]
        if length < 32:  # too short to be known as a checkpoint
            kinds.append("must be a checkpoint, as torch.save writes it")
        assert re.search("|".join(kinds), message), message


def test_truncation_says_how_much_is_missing(write):
    data = legacy(state_dict(a=tensor(arange(100))))
    assert "13 bytes are missing" in refusal(write(data[:-13]))
    assert "end of the file is missing" in refusal(write(zipped(state_dict(a=tensor(arange(100))))[:-13]))


@pytest.mark.parametrize("name", ("legacy", "zip", "mmengine"))
def test_flipped_bytes_give_arrays_or_an_error(write, name):
    original = (GOLDEN / f"{name}.pth").read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(original)
        data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        try:
            tensors = load_checkpoint(write(data))
            assert all(isinstance(array, np.ndarray) for array in tensors.values())
        except CheckpointError:
            refused += 1
    assert 0 < refused < 300


def test_damaged_zip_record_is_refused_by_its_checksum(write):
    data = zipped(state_dict(a=tensor(np.full(9, 7, "f4"))))
    assert "CRC" in refusal(write(data.replace(np.full(9, 7, "f4").tobytes(), bytes(36))))


# Attacks ------------------------------------------------------------------------------------------


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def attacks(touch):
    """{opcode: pickled expression whose evaluation creates the file `touch`}."""
    command, source = text(f"touch {touch}"), text(f"open({str(touch)!r}, 'w')")
    return {
        "REDUCE os.system": b"cos\nsystem\n" + command + b"\x85R",
        "REDUCE eval": b"c__builtin__\neval\n" + source + b"\x85R",
        "REDUCE exec": b"cbuiltins\nexec\n" + source + b"\x85R",
        "INST": b"(" + command + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + command + b"o",
        "STACK_GLOBAL": text("os") + text("system") + b"\x93" + command + b"\x85R",
        "NEWOBJ": b"cos\nsystem\n" + command + b"\x85\x81",
        "NEWOBJ_EX": b"cos\nsystem\n" + command + b"\x85}\x92",
        "partial": b"cfunctools\npartial\ncos\nsystem\n" + command + b"\x86R)R",
        "getattr": b"c__builtin__\ngetattr\ncos\n__dict__\n" + text("get") + b"\x86R" + text("system")
        + b"\x85R" + command + b"\x85R",
        "setstate": b"ccodeop\nCommandCompiler\n)R}" + text("x") + b"cos\nsystem\n" + command + b"\x85Rsb",
        "dotted": b"\x80\x04" + text("shutil") + text("os.system") + b"\x93" + command + b"\x85R",
    }  # fmt: skip


ATTACKS = list(attacks("x"))
ATTACKS_ON_PICKLE = [name for name in ATTACKS if not name.startswith("NEWOBJ")]  # pickle's NEWOBJ calls only classes


@pytest.mark.parametrize("name", ATTACKS_ON_PICKLE)
def test_attacks_work_on_pickle_itself(tmp_path, name):
    """Otherwise the tests below could pass because an attack is malformed."""
    pickle.loads(b"\x80\x02" + attacks(tmp_path / "attacked")[name] + b".")
    assert (tmp_path / "attacked").exists()


class Raw:
    """Opcodes that the pickler writes as they are."""

    def __init__(self, opcodes):
        self.opcodes = opcodes


Pickler.dispatch[Raw] = lambda self, item: self.write(item.opcodes)


@CONTAINERS
@pytest.mark.parametrize("name", ATTACKS)
def test_no_call_in_a_checkpoint_is_made(write, tmp_path, container, name):
    attack = Raw(attacks(tmp_path / "attacked")[name])
    weights = state_dict(a=tensor(arange(3)))
    for harmless in (
        {"meta": {"x": [({"y": attack},)]}, "state_dict": weights},
        {"state_dict": weights, "message_hub": attack},
        {"state_dict": weights, "optimizer": tensor(arange(3), offset=attack)},
    ):
        assert load_checkpoint(write(container(harmless)))["a"].tolist() == [0, 1, 2]
    for harmful in (
        attack,
        state_dict(a=attack),
        state_dict(a=tensor(arange(3), offset=attack)),
        state_dict(a=tensor(arange(3), size=(attack,))),
        state_dict(a=tensor(arange(3), size=attack)),
        {"state_dict": attack},
    ):
        refusal(write(container(harmful)))
    assert not (tmp_path / "attacked").exists()


def test_placeholders_take_everything_and_do_nothing(write):
    foreign = b"cantigravity\nThing\n)R}" + text("name") + text("changed") + b"sb(K\1K\2e(K\1K\2uK\3aK\1K\2s"
    meta = {"thing": Raw(foreign), "class": Raw(b"cthis\nName\n")}
    read = read_checkpoint(write(zipped({"state_dict": state_dict(a=tensor(arange(1))), "meta": meta}))).meta
    assert read["thing"].name == "antigravity.Thing" and read["class"].name == "this.Name"
    assert not {"antigravity", "this"} & set(sys.modules)


@CONTAINERS
@pytest.mark.parametrize(
    "known_name",
    ("collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2", "torch\nFloatStorage", "torch\nSize"),
)
def test_state_set_on_a_known_name_changes_no_later_load(write, container, known_name):
    """In `pickle`, BUILD on a class or function sets its attributes for the whole process."""
    names = ("name", "__call__", "__setitem__", "numel")
    state = b"}(" + b"".join(text(name) + text("os.system") for name in names) + b"u"
    poison = Raw(f"c{known_name}\n".encode() + state + b"b")
    for meta in ({"x": poison}, {}):
        value = {"meta": meta, "state_dict": state_dict(a=tensor(arange(3)))}
        assert load_checkpoint(write(container(value)))["a"].tolist() == [0, 1, 2]
    assert not hasattr(collections.OrderedDict, "numel")


BOMBS = {
    "memo index": b"]r\xff\xff\xff\x7f0" + b"N.",
    "memo index as text": b"]p4294967295\n0" + b"N.",
    "string longer than the file": b"X\xff\xff\xff\xff.",
    "bytes longer than the file": b"\x8e" + struct.pack("<Q", 2**40) + b".",
    "bytearray longer than the file": b"\x96" + struct.pack("<Q", 2**40) + b".",
    "frame longer than the file": b"\x95" + struct.pack("<Q", 2**62) + b"N.",
    "integer longer than the file": b"\x8b\xff\xff\xff\x7f.",
    "long decimal": b"I" + b"9" * 10**6 + b"\n.",
    "unbounded name": b"c" + b"a" * 10**6,
    "names made of names": text("a" * 10**6) + b"q\0" + b"h\0h\0\x93" * 3000 + b".",
    "nested key": b"}" + b"N" + b"\x85" * 2 * 10**5 + b"Ns.",
    "nested names": b"]" + b"]" * 10**5 + b"]" + b"\x93.",
    "nested tensor": b"ctorch._utils\n_rebuild_tensor_v2\nq\0N" + b"".join([b"\x85q\1" + b"0h\0h\1R"] * 10**4) + b".",
}


@CONTAINERS
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_in_the_pickle_take_no_memory(write, container, bomb):
    path = write(container(None, data=b"\x80\x04" + BOMBS[bomb]))
    assert peak_memory(path, is_refused=True) < 2**26


MODULUS = 2**61 - 1  # Python's hash of an int is its remainder; a tuple's hash is made of its items'


def integer(number):
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<I", len(data)) + data


def in_dict(*keys):
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u"


WORK = {  # {name: (pickled expression, the refusal)}: little to read, much to do
    "ints of one hash": (in_dict(*(integer(i * MODULUS) for i in range(1, 5000))), "At most 4096 keys"),
    "tuples of one hash": (in_dict(*(integer(i * MODULUS) + b"\x85" for i in range(1, 5000))), "At most 4096 keys"),
    "floats": (in_dict(*(b"G" + struct.pack(">d", i + 0.5) for i in range(5000))), "At most 4096 keys"),
    "a set of ints": (b"\x8f(" + b"".join(integer(i * MODULUS) for i in range(1, 5000)) + b"\x90", "At most 4096 keys"),
    "a frozen set of ints": (
        b"(" + b"".join(integer(i * MODULUS) for i in range(1, 5000)) + b"\x91",
        "At most 4096 keys",
    ),
    "keys in many dicts": (b"(" + in_dict(integer(MODULUS)) * 5000 + b"l", "At most 4096 keys"),
    "a key of a million digits": (in_dict(integer(2**10**6)), "longer than 1024 bits"),
    "a key with such a number": (in_dict(integer(2**10**6) + b"\x85"), "longer than 1024 bits"),
    "memo indices of one hash": (b"Np" + str(MODULUS).encode() + b"\n", "index of the pickle's memo must lie below"),
    "negative memo index": (b"Np-1\n", "index of the pickle's memo must lie below"),
    "one list made a dict often": (
        b"ccollections\nOrderedDict\nq\0(" + (text("a") + b"N\x86") * 2000 + b"l\x85q\1" + b"0h\0h\1R" * 1000,
        "OrderedDict must be made of pairs, of at most 1048576",
    ),
    "an OrderedDict of other things": (
        b"ccollections\nOrderedDict\n" + b"](K\1K\2e\x85R",
        "OrderedDict must be made of pairs",
    ),
}


@CONTAINERS
@pytest.mark.parametrize("name", WORK)
def test_work_that_no_checkpoint_needs_is_refused(write, container, name):
    expression, message = WORK[name]
    value = {"state_dict": state_dict(a=tensor(arange(3))), "meta": Raw(expression)}
    assert message in refusal(write(container(value)))


@CONTAINERS
@pytest.mark.parametrize("place", ("size", "stride", "offset"))
def test_numbers_longer_than_a_machines_are_no_sizes(write, container, place):
    number = Raw(integer(2**10**6))
    bad = tensor(arange(2), **{place: number if place == "offset" else (number,)})
    assert "'bad'" in refusal(write(container(state_dict(bad=bad))))


def test_a_storage_of_a_million_digits_is_refused(write):
    bad = tensor(arange(6), storage=Storage(arange(6), numel=Raw(integer(2**10**6))), size=(1,), stride=(1,))
    assert "Storage '0' must have one type and one size" in refusal(write(zipped(state_dict(bad=bad))))


def test_long_names_are_cut_before_they_are_joined(write):
    names = text("a" * 10**6) + b"q\xf00" + b"(" + b"h\xf0h\xf0\x93" * 300 + b"l"
    path = write(zipped({"state_dict": state_dict(a=tensor(arange(3))), "meta": Raw(names)}))
    assert peak_memory(path) < 10**7


@pytest.mark.parametrize("keys", (b"N" + b"\x85" * 10**6 + b"\x85", b"]" + b"K\1a", b"N", b"(" + text("b") + b"l"))
def test_the_list_of_storage_keys_has_the_keys_of_the_pickle(write, keys):
    data = legacy(state_dict(a=tensor(arange(6))))
    own = b"\x80\x02]q\x00X\x01\x00\x00\x000q\x01a."
    assert data.count(own) == 1
    assert "list of its storages' keys" in refusal(write(data.replace(own, b"\x80\x02" + keys + b".")))


def test_keys_of_metadata_that_files_have_are_kept(write):
    keys = [1, -3, 140203984000128, 0.5, (1, 2), ("a", None), True, 2**70]
    meta = {"x": {key: str(key) for key in keys}}
    assert read_checkpoint(write(zipped({"state_dict": state_dict(a=tensor(arange(1))), "meta": meta}))).meta == meta


def test_endless_pickles_are_cut_short(write):
    path = write(zipped(None, data=b"\x80\x02" + b"\x8f" * 2**22 + b".", compression=zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 2**14
    assert "opcodes" in refusal(path)


def test_nesting_in_metadata_is_harmless(write):
    nested = {"state_dict": state_dict(a=tensor(arange(3))), "meta": Raw(b"N" + b"\x85" * 10**5)}
    assert read_checkpoint(write(zipped(nested))).meta == {}


def test_zip_bombs_are_refused_before_they_unpack(write):
    zeros = Storage(np.zeros(2**26, "u1"))
    bomb = zipped(state_dict(a=tensor(zeros.array, storage=zeros)), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**17
    path = write(bomb)
    assert "may take" in refusal(path) and peak_memory(path, is_refused=True) < 2**20
    path = write(zipped(None, data=bytes(2**26 + 1), compression=zipfile.ZIP_DEFLATED))
    assert "at most 67108864 bytes. Received: a claim of 67108865 bytes" in refusal(path)
    assert peak_memory(path, is_refused=True) < 2**20


def test_records_of_other_compressions_are_refused(write):
    data = zipped(state_dict(a=tensor(arange(9))), compression=zipfile.ZIP_LZMA)
    assert "compression method 14" in refusal(write(data))
