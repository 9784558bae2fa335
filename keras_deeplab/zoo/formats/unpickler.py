"""A pickle in; plain containers, and records of its tensors, out. No code that the pickle names is imported or called.

Python's `pickle` runs the functions that a file names, so a hostile file can do anything. This module interprets the opcodes
itself: a tensor becomes a record of where its numbers are in the file, and any other class or function becomes a
`Placeholder`, which does nothing.

A hostile file must not cost more work than a good one of its size. So there are bounds on the opcodes, on the items that calls
copy, on numbers and names, and on the keys whose hashes a file can choose.

Source: `torch/_utils.py` (`_rebuild_tensor_v2` and the others), the safe list of `torch/_weights_only_unpickler.py`, and the
`pickle` module.
"""

import dataclasses
import itertools
import pickletools
import reprlib

import numpy as np

MAX_OPCODES = 2**20  # a ResNet-101 with its optimizer has 1e5; an opcode takes up to 200 bytes of memory
MAX_DIMS = 32  # axes of a tensor
MAX_INT = 2**63 - 1  # of sizes, strides, offsets and numbers of elements, as in PyTorch
MAX_NAME = 500  # characters of a module's or a class's name
MAX_MEMO = 2**32  # indices of the memo lie below
# Python hashes an int of up to 60 bits to itself. The hashes of larger ints, of floats and of tuples can be chosen to be
# equal, and then each key is compared with all before it.
PLAIN_BITS = 60
MAX_ODD_KEYS = 2**12  # keys other than strings and plain ints, in all dicts and sets of a pickle together
MAX_BITS = 1024  # of an int among these keys, and of counts: Python hashes and adds all digits of an int each time

# Remedies for error messages.
DOWNLOAD_AGAIN = "Download the file again."
SAVE_WEIGHTS = "Save only the weights: torch.save(model.state_dict(), path)."

DTYPES = {  # torch.<key>Storage: (dtype in the file, dtype of the array); numpy has no bfloat16
    "Float": ("f4", "f4"),
    "Double": ("f8", "f8"),
    "Half": ("f2", "f2"),
    "BFloat16": ("u2", "f4"),
    "UInt64": ("u8", "u8"),  # the three unsigned types are those of tensors of `_rebuild_tensor_v3` only
    "UInt32": ("u4", "u4"),
    "UInt16": ("u2", "u2"),
    "Long": ("i8", "i8"),
    "Int": ("i4", "i4"),
    "Short": ("i2", "i2"),
    "Char": ("i1", "i1"),
    "Byte": ("u1", "u1"),
    "Bool": ("u1", "?"),
}
TORCH_DTYPES = {  # torch.dtype: the key of `DTYPES`
    "torch.float32": "Float",
    "torch.float64": "Double",
    "torch.float16": "Half",
    "torch.bfloat16": "BFloat16",
    "torch.uint64": "UInt64",
    "torch.uint32": "UInt32",
    "torch.uint16": "UInt16",
    "torch.int64": "Long",
    "torch.int32": "Int",
    "torch.int16": "Short",
    "torch.int8": "Char",
    "torch.uint8": "Byte",
    "torch.bool": "Bool",
}
UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")  # its elements are bytes
STORAGES = {f"torch.{device}{key}Storage": pair for key, pair in DTYPES.items() for device in ("", "cuda.")}
# Classes and functions that make a parameter of their first argument, a tensor.
PARAMETERS = frozenset(
    {
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.nn.parameter.Parameter",
        "torch.nn.Parameter",
    }
)
# Types whose numbers are those of the tensor that their function rebuilds. A subclass may mean other numbers.
PLAIN_TENSORS = frozenset({"torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"})


class ShortRepr(reprlib.Repr):
    """Texts of limited depth and length, because a hostile file may hold any value."""

    def repr_int(self, value, level):
        bits = value.bit_length()  # Python refuses to print the digits of long ints
        return f"<an int of {bits} bits>" if bits > MAX_BITS else super().repr_int(value, level)


short_repr = ShortRepr()
short_repr.maxstring = short_repr.maxother = 120


class CheckpointError(ValueError):
    """A file cannot be read as a PyTorch checkpoint. The message says which file, why, what it is and what to do."""


def checkpoint_error(rule, received, remedy):
    """A `CheckpointError` to raise. `rule` and `remedy` are sentences, `received` is a phrase."""
    return CheckpointError(f"{rule} Received: {received}. {remedy}")


def type_and_value(value):
    """A short text about a value, for error messages."""
    return f"{type(value).__name__} {short_repr.repr(value)}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Placeholder:
    """Stands for a class, function or object that the file names and that was not loaded. It has only this name."""

    name: str

    def __repr__(self):
        return f"<{self.name[:200]}, not loaded>"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Storage(Placeholder):
    """Elements of the file that tensors view.

    Attributes:
        name: the type, such as "torch.FloatStorage".
        key: the key of the storage in the file.
        numel: the number of elements of the storage.
        start, length: the elements that this view of the storage has: `length` of them from element `start`.
    """

    key: str
    numel: int
    start: int
    length: int

    def dtypes(self):
        """The dtype in the file and the dtype of the array."""
        if self.name not in STORAGES:
            rule = f"A storage must have one of the dtypes {', '.join(DTYPES)}."
            raise checkpoint_error(rule, short_repr.repr(self.name), SAVE_WEIGHTS)
        return map(np.dtype, STORAGES[self.name])

    def nbytes(self):
        """The size of the storage in the file, in bytes."""
        file_dtype, _ = self.dtypes()
        return self.numel * file_dtype.itemsize

    def typed(self, dtype):
        """This storage of bytes as one of the dtype that has this name in PyTorch."""
        kind = TORCH_DTYPES.get(dtype)
        size = np.dtype(DTYPES[kind][0]).itemsize if kind else 0
        if self.name not in UNTYPED or not size or any(n % size for n in (self.numel, self.start, self.length)):
            rule = (
                f"A tensor's dtype must be one of {', '.join(TORCH_DTYPES)}, and its storage must have whole elements."
            )
            raise checkpoint_error(
                rule, f"{short_repr.repr(dtype)} and {self.numel} elements of {self!r}", SAVE_WEIGHTS
            )
        counts = (n // size for n in (self.numel, self.start, self.length))
        return Storage(f"torch.{kind}Storage", self.key, *counts)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tensor(Placeholder):
    """A tensor of the file: the arguments that PyTorch's _rebuild_tensor_v2 would get.

    They are checked only if the state dict has this tensor. `dtype` is PyTorch's name of the dtype if the storage has none.
    """

    args: tuple
    dtype: str | None = None


# Opcodes that push their argument, as pickletools decodes it: numbers, strings, bytes.
LITERALS = frozenset(
    op.name
    for op in pickletools.opcodes
    if op.arg and not op.stack_before and op.stack_after and op.stack_after[0] is not pickletools.anyobject
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
COUNTED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Unpickler:
    """The stack machine of the `pickle` module, but `_call` replaces every call, and no attribute is ever set."""

    def __init__(self):
        self.stack, self.outer_stacks, self.memo = [], [], {}
        self.storages = {}  # {key: the first Storage of that key}
        self.copied_items = self.odd_keys = 0  # by calls, and in dicts and sets

    def load(self, stream):
        """Reads one pickle from a binary stream and returns its object.

        Raises:
            CheckpointError: for an opcode or an object that no checkpoint needs. A damaged pickle may raise other exceptions.
        """
        for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
            if count == MAX_OPCODES:
                raise checkpoint_error(
                    f"A pickle may have at most {MAX_OPCODES} opcodes.", "more opcodes", SAVE_WEIGHTS
                )
            self._step(opcode.name, arg)
        return self.stack.pop()

    def _step(self, name, arg):
        push = self.stack.append
        match name:
            case _ if name in LITERALS:
                push(arg)
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[self._memo_index(arg)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                push(self.memo[arg])
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case _ if name in CONSTANTS:
                push(CONSTANTS[name])
            case _ if name in EMPTY:
                push(EMPTY[name]())
            case _ if name in COUNTED_TUPLES:
                push(tuple(self._pop(COUNTED_TUPLES[name])))
            case "MARK":
                self.outer_stacks.append(self.stack)
                self.stack = []
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET" | "INST" | "OBJ" | "POP_MARK":
                self._close(name, arg)
            case "APPENDS" | "ADDITEMS" | "SETITEMS":
                items = self._pop_mark()
                self._fill(self.stack[-1], items)
            case "APPEND":
                self._fill(self.stack[-2], self._pop(1))
            case "SETITEM":
                self._fill(self.stack[-3], self._pop(2))
            case "GLOBAL":
                push(Placeholder(arg.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, qualname = (name[: MAX_NAME + 1] for name in self._pop(2))  # a longer one is no known name
                push(Placeholder(module + "." + qualname))
            case "REDUCE" | "NEWOBJ":
                push(self._call(*self._pop(2)))
            case "NEWOBJ_EX":
                push(self._call(*self._pop(3)[:2]))
            case "BUILD":  # the state of a placeholder, or the `_metadata` of a state dict; neither is needed
                self._pop(1)
            case "BINPERSID":
                push(self._persistent(*self._pop(1)))
            case "DUP":
                push(self.stack[-1])
            case "POP":
                self._pop(1) if self.stack else self._pop_mark()
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                rule = "The pickle of a checkpoint may have only opcodes that make plain data and tensors."
                raise checkpoint_error(rule, f"opcode {name}", SAVE_WEIGHTS)

    def _close(self, name, arg):
        """Makes one object of all items since the last mark."""
        items = self._pop_mark()
        push = self.stack.append
        match name:
            case "TUPLE":
                push(tuple(items))
            case "LIST":
                push(items)
            case "DICT":
                push(self._fill({}, items))
            case "FROZENSET":
                push(frozenset(map(self._checked_key, items)))
            case "INST":
                push(self._call(Placeholder(arg.replace(" ", ".", 1)), tuple(items)))
            case "OBJ":
                push(self._call(items[0], tuple(items[1:])))

    def _pop(self, count):
        if len(self.stack) < count:
            rule = f"The pickle is damaged: an opcode needs {count} values on the stack."
            raise checkpoint_error(rule, f"a stack of {len(self.stack)}", DOWNLOAD_AGAIN)
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _pop_mark(self):
        """All items since the last mark."""
        items, self.stack = self.stack, self.outer_stacks.pop()
        return items

    def _memo_index(self, index):
        """`index`, if it is one that a pickle can need: the hashes of larger ones can be chosen to be equal."""
        if not 0 <= index < MAX_MEMO:
            rule = f"An index of the pickle's memo must lie below {MAX_MEMO}."
            raise checkpoint_error(rule, f"one of {index.bit_length()} bits", DOWNLOAD_AGAIN)
        return index

    def _persistent(self, identity):
        """The storage that a persistent id describes."""
        match identity:
            case ("storage", Placeholder(name=kind), str(key), _, int(numel), *view):
                start, length = view[0][1:] if any(view) else (0, numel)
            case _:
                rule = "A persistent id of the pickle must describe a storage."
                raise checkpoint_error(rule, type_and_value(identity), SAVE_WEIGHTS)
        if not all(isinstance(n, int) and n >= 0 and n.bit_length() <= MAX_BITS for n in (numel, start, length)):
            raise self._other_storage(key, identity)
        storage = Storage(kind, key, numel, start, length)
        first = self.storages.setdefault(key, storage)
        if (first.name, first.numel) != (kind, numel) or start + length > numel:
            raise self._other_storage(key, identity)
        return storage

    def _other_storage(self, key, identity):
        """The error for a storage that is not what it must be."""
        rule = f"Storage {short_repr.repr(key)} must have one type and one size, with all its views inside."
        first = self.storages.get(key)
        after = f" after {first.numel} elements of {first!r}" if first else ""
        return checkpoint_error(rule, f"{short_repr.repr(identity)}{after}", DOWNLOAD_AGAIN)

    def _call(self, callee, args):
        """What replaces a call: a dict, a tuple or a tensor for the calls of a state dict, otherwise a placeholder."""
        if not isinstance(callee, Placeholder):
            rule = "The pickle is damaged: it may call only functions and classes."
            raise checkpoint_error(rule, type_and_value(callee), DOWNLOAD_AGAIN)
        match callee.name, args:
            case "collections.OrderedDict", ():
                return {}
            case "collections.OrderedDict", (list(items),):  # as Python 2 writes it: a list of [key, value]
                return self._dict_of(items)
            case "torch.Size", (tuple(size),):
                return size
            case "torch._utils._rebuild_tensor", (_, _, _, _):  # PyTorch before 0.4
                return Tensor("torch.Tensor", (*args, False, None))
            case "torch._utils._rebuild_tensor_v2", tuple():
                return Tensor("torch.Tensor", args)
            case "torch._utils._rebuild_tensor_v3", (_, _, _, _, _, _, Placeholder(name=dtype), *flags):
                return Tensor("torch.Tensor", (*args[:6], *flags), dtype)
            case name, (Tensor() as tensor, *_) if name in PARAMETERS:
                return tensor
            case "torch._utils._rebuild_device_tensor_from_cpu_tensor", (
                Tensor() as tensor,
                Placeholder(name=dtype),
                *_,
            ):
                if _has_dtype(tensor, dtype):
                    return tensor
            case "torch._tensor._rebuild_from_type_v2", (
                Placeholder() as function,
                Placeholder(name=kind),
                tuple(inner),
                _,
            ):
                if kind in PLAIN_TENSORS and function.name.startswith("torch._utils._rebuild_"):
                    return self._call(function, inner)
                return Placeholder(kind)
        return Placeholder(callee.name)

    def _dict_of(self, items):
        """A dict of a list of [key, value]. A file needs each list once, so that all have fewer items than it has opcodes."""
        self.copied_items += len(items)
        pairs_only = all(isinstance(item, (list, tuple)) and len(item) == 2 for item in items)
        if self.copied_items > MAX_OPCODES or not pairs_only:
            rule = f"An OrderedDict must be made of pairs, of at most {MAX_OPCODES} in a file."
            raise checkpoint_error(rule, f"{self.copied_items} items: the file is damaged or hostile", SAVE_WEIGHTS)
        return {self._checked_key(key): value for key, value in items}

    def _fill(self, target, items):
        """Adds items to a container and returns it; a placeholder takes no items."""
        match target:
            case dict():
                keys = map(self._checked_key, itertools.islice(items, 0, None, 2))
                target.update(zip(keys, itertools.islice(items, 1, None, 2), strict=True))
            case list():
                target.extend(items)
            case set():
                target.update(map(self._checked_key, items))
            case Placeholder():
                pass
            case _:
                rule = "The pickle is damaged: it may add items only to a dict, list or set."
                raise checkpoint_error(rule, type_and_value(target), DOWNLOAD_AGAIN)
        return target

    def _checked_key(self, key):
        """`key`, if it is a scalar or a flat tuple of scalars: hashing a deeply nested tuple would overflow the C stack."""
        if isinstance(key, str | bytes | Placeholder | None) or (
            isinstance(key, int) and key.bit_length() <= PLAIN_BITS
        ):
            return key
        self.odd_keys += 1
        items = key if isinstance(key, tuple) and len(key) <= MAX_DIMS else (key,)
        if not all(isinstance(item, str | bytes | int | float | Placeholder | None) for item in items):
            rule = "The key of a dict must be a scalar or a tuple of scalars."
            raise checkpoint_error(rule, type_and_value(key), SAVE_WEIGHTS)
        has_long_int = any(isinstance(item, int) and item.bit_length() > MAX_BITS for item in items)
        if self.odd_keys > MAX_ODD_KEYS or has_long_int:
            rule = f"At most {MAX_ODD_KEYS} keys may be floats, tuples or large ints, and none longer than {MAX_BITS} bits."
            raise checkpoint_error(rule, "more or larger ones: the file is damaged or hostile", SAVE_WEIGHTS)
        return key


def _has_dtype(tensor, dtype):
    """Whether a tensor has the dtype that has this name in PyTorch, so that converting it to `dtype` changes nothing."""
    storage = tensor.args[0] if tensor.args else None
    return isinstance(storage, Storage) and storage.name.endswith(f".{TORCH_DTYPES.get(dtype)}Storage")
