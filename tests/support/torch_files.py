"""Arrays in, a checkpoint file in either of PyTorch's containers out, without PyTorch.

tests/zoo/formats/test_torch_file.py compares its bytes with PyTorch's.
"""

import collections
import io
import pickle
import struct
import zipfile

import numpy as np

# {numpy's dtype: name in PyTorch's storage class}
KINDS = {"f4": "Float", "f2": "Half", "f8": "Double", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char"}
KINDS |= {"u1": "Byte", "b1": "Bool", "u2": "BFloat16"}  # numpy has no bfloat16: u2 stands for its bits


class Global:
    """Pickled as a reference to module.name, which need not exist on this machine."""

    cache = {}  # the pickler refers back to the same object

    def __new__(cls, module, name):
        if (module, name) not in cls.cache:
            cls.cache[module, name] = super().__new__(cls)
        self = cls.cache[module, name]
        self.module, self.qualname = module, name
        return self

    def __call__(self):
        raise AssertionError("only to be pickled")


class Call:
    """Pickled as the call `function(*args)`, followed by setting `state` if it is not None."""

    def __init__(self, function, *args, state=None):
        self.reduction = (function, args) if state is None else (function, args, state)


class Storage:
    """The elements of tensors. Options make its description differ from the array, as in damaged files."""

    def __init__(self, array, *, key=None, numel=None, kind=None, module="torch", view=None):
        self.array, self.key, self.view = array, key, view
        self.kind = Global(module, f"{kind or KINDS[array.dtype.str[1:]]}Storage")
        self.numel = array.size if numel is None else numel


class Pickler(pickle._Pickler):  # the one in Python, because its tables can be extended
    """Pickles the classes above as torch does."""

    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file, is_legacy):
        super().__init__(file, protocol=2)
        self.is_legacy, self.storages = is_legacy, []

    def persistent_id(self, item):
        if not isinstance(item, Storage):
            return None
        if item not in self.storages:
            item.key = item.key or str(len(self.storages))
            self.storages.append(item)
        if not self.is_legacy:
            return ("storage", item.kind, item.key, "cpu", item.numel)
        key = item.key[:1] + item.key[1:]  # a new string, so that it is pickled again, as torch does
        return ("storage", item.kind, key, "cpu", item.numel, item.view)

    def reducer_override(self, item):
        return item.reduction if isinstance(item, Call) else NotImplemented

    def save_global_name(self, item):
        self.write(pickle.GLOBAL + f"{item.module}\n{item.qualname}\n".encode())
        self.memoize(item)

    dispatch[Global] = save_global_name


REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def tensor(array, *, storage=None, offset=0, size=None, stride=None, function=REBUILD):
    """What torch pickles for a tensor: by default with the layout of `array`."""
    storage = storage or Storage(np.ascontiguousarray(array).ravel())
    size = array.shape if size is None else size
    stride = tuple(step // array.itemsize for step in array.strides) if stride is None else stride
    return Call(function, storage, offset, size, stride, False, collections.OrderedDict())


def pickled(value, *, is_legacy=False):
    """The pickle of a value, and the storages of its tensors."""
    out = io.BytesIO()
    pickler = Pickler(out, is_legacy)
    pickler.dump(value)
    return out.getvalue(), pickler.storages


def legacy(value, *, data=None):
    """The bytes of the legacy stream of `value`, or of `data`, which is a pickle already."""
    data, storages = (data, []) if data else pickled(value, is_legacy=True)
    sizes = {"short": 2, "int": 4, "long": 4}
    header = (
        0x1950A86A20F9469CFC6C,
        1001,
        {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes},
    )
    out = io.BytesIO()
    for part in header:
        Pickler(out, True).dump(part)
    out.write(data)
    storages = sorted(storages, key=lambda storage: storage.key)
    Pickler(out, True).dump([storage.key for storage in storages])
    for storage in storages:
        out.write(struct.pack("<q", storage.array.size) + storage.array.tobytes())
    return out.getvalue()


def zipped(value, *, data=None, byteorder=b"little", compression=zipfile.ZIP_STORED, extra=()):
    """The bytes of the zip container of `value`, or of `data`, which is a pickle already."""
    data, storages = (data, []) if data else pickled(value)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("name/data.pkl", data)
        if byteorder:
            archive.writestr("name/byteorder", byteorder)
        for storage in storages:
            archive.writestr(f"name/data/{storage.key}", storage.array.tobytes())
        for name in (*extra, "name/version"):
            archive.writestr(name, "3\n")
    return out.getvalue()


def released(tensors, **meta):
    """The bytes of a checkpoint in the form of the released ones: {"meta": ..., "state_dict": ...} in the legacy container."""
    weights = collections.OrderedDict((name, tensor(array)) for name, array in tensors.items())
    return legacy({"meta": meta, "state_dict": weights})


def released_zip(tensors, **meta):
    """As `released`, but in the zip container."""
    weights = collections.OrderedDict((name, tensor(array)) for name, array in tensors.items())
    return zipped({"meta": meta, "state_dict": weights})
