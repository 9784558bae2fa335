"""A pickle in; plain containers, and records of its tensors, out. No code that the pickle names is imported or called.

Python's `pickle` runs the functions that a file names, so a hostile file can do anything. This module interprets the opcodes
itself: a tensor becomes a record of where its numbers are in the file, and any other class or function becomes a
`Placeholder`, which does nothing.

Source: `torch/_utils.py` (`_rebuild_tensor_v2`) and the `pickle` module.
"""

import dataclasses
import itertools
import pickletools
import reprlib

import numpy as np

MAX_OPCODES = 2**20  # a ResNet-101 with its optimizer has 1e5; an opcode takes up to 200 bytes of memory
MAX_DIMS = 32  # axes of a tensor

# Remedies for error messages.
DOWNLOAD_AGAIN = "Download the file again."
SAVE_WEIGHTS = "Save only the weights: torch.save(model.state_dict(), path)."

DTYPES = {  # torch.<key>Storage: (dtype in the file, dtype of the array); numpy has no bfloat16
    "Float": ("f4", "f4"),
    "Double": ("f8", "f8"),
    "Half": ("f2", "f2"),
    "BFloat16": ("u2", "f4"),
    "Long": ("i8", "i8"),
    "Int": ("i4", "i4"),
    "Short": ("i2", "i2"),
    "Char": ("i1", "i1"),
    "Byte": ("u1", "u1"),
    "Bool": ("u1", "?"),
}
STORAGES = {f"torch.{device}{key}Storage": pair for key, pair in DTYPES.items() for device in ("", "cuda.")}

short_repr = reprlib.Repr()  # of limited depth and length, because a hostile file may hold any value
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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tensor(Placeholder):
    """A tensor of the file: the arguments that PyTorch's _rebuild_tensor_v2 would get.

    They are checked only if the state dict has this tensor.
    """

    args: tuple


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
                self.memo[arg] = self.stack[-1]
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
                _fill(self.stack[-1], items)
            case "APPEND":
                _fill(self.stack[-2], self._pop(1))
            case "SETITEM":
                _fill(self.stack[-3], self._pop(2))
            case "GLOBAL":
                push(Placeholder(arg.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, qualname = self._pop(2)
                push(Placeholder((module + "." + qualname)[:1000]))
            case "REDUCE" | "NEWOBJ":
                push(_call(*self._pop(2)))
            case "NEWOBJ_EX":
                push(_call(*self._pop(3)[:2]))
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
                push(_fill({}, items))
            case "FROZENSET":
                push(frozenset(map(_checked_key, items)))
            case "INST":
                push(_call(Placeholder(arg.replace(" ", ".", 1)), tuple(items)))
            case "OBJ":
                push(_call(items[0], tuple(items[1:])))

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

    def _persistent(self, identity):
        """The storage that a persistent id describes."""
        match identity:
            case ("storage", Placeholder(name=kind), str(key), _, int(numel), *view):
                start, length = view[0][1:] if any(view) else (0, numel)
            case _:
                rule = "A persistent id of the pickle must describe a storage."
                raise checkpoint_error(rule, type_and_value(identity), SAVE_WEIGHTS)
        storage = Storage(kind, key, numel, start, length)
        first = self.storages.setdefault(key, storage)
        if (first.name, first.numel) != (kind, numel) or min(start, length) < 0 or start + length > numel:
            rule = f"Storage {short_repr.repr(key)} must have one type and one size, with all its views inside."
            received = f"{short_repr.repr(identity)} after {first.numel} elements of {first!r}"
            raise checkpoint_error(rule, received, DOWNLOAD_AGAIN)
        return storage


def _call(callee, args):
    """What replaces a call: a dict, a tuple or a tensor for the calls of a state dict, otherwise a placeholder."""
    if not isinstance(callee, Placeholder):
        rule = "The pickle is damaged: it may call only functions and classes."
        raise checkpoint_error(rule, type_and_value(callee), DOWNLOAD_AGAIN)
    match callee.name, args:
        case "collections.OrderedDict", ():
            return {}
        case "torch.Size", (tuple(size),):
            return size
        case "torch._utils._rebuild_tensor_v2", tuple():
            return Tensor("torch.Tensor", args)
        case "torch._utils._rebuild_parameter", (Tensor() as tensor, *_):
            return tensor
    return Placeholder(callee.name)


def _fill(target, items):
    """Adds items to a container and returns it; a placeholder takes no items."""
    match target:
        case dict():
            keys = map(_checked_key, itertools.islice(items, 0, None, 2))
            target.update(zip(keys, itertools.islice(items, 1, None, 2), strict=True))
        case list():
            target.extend(items)
        case set():
            target.update(map(_checked_key, items))
        case Placeholder():
            pass
        case _:
            rule = "The pickle is damaged: it may add items only to a dict, list or set."
            raise checkpoint_error(rule, type_and_value(target), DOWNLOAD_AGAIN)
    return target


def _checked_key(key):
    """`key`, if it is a scalar or a flat tuple of scalars: hashing a deeply nested tuple would overflow the C stack."""
    items = key if isinstance(key, tuple) and len(key) <= MAX_DIMS else (key,)
    if not all(isinstance(item, str | bytes | int | float | Placeholder | None) for item in items):
        rule = "The key of a dict must be a scalar or a tuple of scalars."
        raise checkpoint_error(rule, type_and_value(key), SAVE_WEIGHTS)
    return key
