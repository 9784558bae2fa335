"""A pickle in, plain containers and records of tensors out: `pickle`'s stack machine, interpreted, with nothing called.

Unpickling runs what the pickle names. Here every opcode is interpreted, and nothing that a pickle names is imported or
called: a tensor becomes a record of where its numbers lie, any other class or function an inert `Placeholder`.

Source: `torch/_utils.py` (`_rebuild_tensor_v2`) and the `pickle` module.
"""

import dataclasses
import itertools
import pickletools
import reprlib

import numpy as np

MAX_OPCODES = 2**20  # a ResNet-101 with its optimizer takes 1e5; one opcode costs up to 200 bytes of memory
MAX_DIMS = 32

AGAIN = "Download the file again."
SAVE = "Save the weights alone: torch.save(model.state_dict(), path)."

DTYPES = {  # torch.<key>Storage: (dtype in the file, dtype given)
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

short_repr = reprlib.Repr()  # of hostile values: bounded in depth and length
short_repr.maxstring = short_repr.maxother = 120


class CheckpointError(ValueError):
    """A file cannot be read as a PyTorch checkpoint: says which file, why, what it is and what to do."""


def refusal(rule, received, remedy):
    return CheckpointError(f"{rule} Received: {received}. {remedy}")


def described(value):
    return f"{type(value).__name__} {short_repr.repr(value)}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Placeholder:
    """Stands for a class, function or object of the file that was not loaded. All it has is the name."""

    name: str

    def __repr__(self):
        return f"<{self.name[:200]}, not loaded>"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Storage(Placeholder):
    """`length` elements from element `start` of the storage `key`, which has `numel`. `name` is its type."""

    key: str
    numel: int
    start: int
    length: int

    def dtypes(self):
        if self.name not in STORAGES:
            raise refusal("A storage is of a plain dtype.", short_repr.repr(self.name), SAVE)
        return map(np.dtype, STORAGES[self.name])

    def nbytes(self):
        in_file, _ = self.dtypes()
        return self.numel * in_file.itemsize


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tensor(Placeholder):
    args: tuple  # what _rebuild_tensor_v2 would get; unchecked until the state dict needs this tensor


# Opcodes whose argument, as pickletools decodes it, is the object itself: numbers, strings, bytes.
LITERALS = frozenset(
    op.name
    for op in pickletools.opcodes
    if op.arg and not op.stack_before and op.stack_after and op.stack_after[0] is not pickletools.anyobject
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
COUNTED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Unpickler:
    """The `pickle` module's stack machine, with `_call` in place of every call and no attribute ever set."""

    def __init__(self):
        self.stack, self.outer_stacks, self.memo = [], [], {}
        self.storages = {}  # {key: the first Storage of that key}

    def load(self, stream):
        for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
            if count == MAX_OPCODES:
                raise refusal(f"A pickle has at most {MAX_OPCODES} opcodes.", "more", SAVE)
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
            case "BUILD":  # a foreign object's state, or the `_metadata` of a state dict: neither is kept
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
                raise refusal("A checkpoint's pickle has no such opcode.", name, SAVE)

    def _close(self, name, arg):
        """Makes one object of everything since the last mark."""
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
            raise refusal("An opcode has its operands.", f"a stack of {len(self.stack)}", AGAIN)
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _pop_mark(self):
        items, self.stack = self.stack, self.outer_stacks.pop()
        return items

    def _persistent(self, identity):
        match identity:
            case ("storage", Placeholder(name=kind), str(key), _, int(numel), *view):
                start, length = view[0][1:] if any(view) else (0, numel)
            case _:
                raise refusal("A persistent id describes a storage.", described(identity), SAVE)
        storage = Storage(kind, key, numel, start, length)
        first = self.storages.setdefault(key, storage)
        if (first.name, first.numel) != (kind, numel) or min(start, length) < 0 or start + length > numel:
            rule = f"Storage {short_repr.repr(key)} has one type, one size and its views inside."
            raise refusal(rule, f"{short_repr.repr(identity)} after {first.numel} of {first!r}", AGAIN)
        return storage


def _call(callee, args):
    """What calling `callee` gives: a dict, a tuple and a tensor are all that a pickle can make."""
    if not isinstance(callee, Placeholder):
        raise refusal("Only functions and classes are called.", described(callee), AGAIN)
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
            raise refusal("Only a dict, list or set takes items.", described(target), AGAIN)
    return target


def _checked_key(key):
    """Only scalars and flat tuples of them: hashing a deeply nested tuple would overflow the C stack."""
    items = key if isinstance(key, tuple) and len(key) <= MAX_DIMS else (key,)
    if not all(isinstance(item, str | bytes | int | float | Placeholder | None) for item in items):
        raise refusal("A dict's key is a scalar or a tuple of scalars.", described(key), SAVE)
    return key
