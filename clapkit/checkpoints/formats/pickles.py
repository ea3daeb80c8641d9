"""A pickle read as data: nothing that it names is imported, and nothing that it asks for is called.

A pickle is a program for a small stack machine. `read_pickle` runs that machine itself, over the opcodes that
`pickletools` (standard library) takes apart, and builds only dicts, lists, tuples, texts, numbers and *descriptions* of
tensors (`StoredTensor`), which are filled later, the wanted ones only. This is narrower than
`torch.load(weights_only=True)`, whose allow-list still lets a file of thirty bytes ask for ten gigabytes
(`bytearray(10**10)`) or for a hash that never ends (nested tuples as keys of a dict).

The allow-list is `stand_ins.CALLS`: every name in it has a function there, which makes plain data of the arguments.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clapkit.checkpoints.formats.stand_ins import (
    CALLS,
    ONLY_NAMED,
    TORCH_DTYPES,
    Name,
    Namespace,
    NumpyType,
    Refused,
    Storage,
    StoredArray,
    checked,
    storage_dtype,
)
from clapkit.errors import CheckpointError

# Limits on the pickle, its instructions, and what its calls may copy. A LAION file with its optimizer takes 7e4 steps
# and 5e5 bytes; without the last limit one list of a megabyte could be copied into terabytes.
MOST_BYTES = 16 * 2**20
MOST_STEPS = 1_000_000
MOST_COPIED = 4 * MOST_BYTES
_ENTRY_BYTES = 64


def read_pickle(
    data: bytes, *, what: str, start: int = 0, storages: dict[str, Storage] | None = None
) -> tuple[Any, int]:
    """The value of the pickle that begins at byte `start`, and the byte behind its end.

    `what` names it in errors; `storages` is filled with every storage it refers to. CheckpointError for a global that
    is not allowed (it is named), and for a damaged or endless pickle.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    machine = _Machine({} if storages is None else storages)
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if step > MOST_STEPS:
                raise Refused(f"more than {MOST_STEPS} steps, far more than a description of weights needs")
            if opcode.name == "STOP":
                return machine.pop(), stream.tell()
            machine.step(opcode.name, argument)
    except Refused as error:
        raise CheckpointError(
            f"{what} is refused: its pickle holds {error}. Nothing in it was run. "
            "Only tensors, dicts, lists, texts and numbers are read. If you trust its source, open it there with the "
            "program that wrote it, and save the tensors alone: torch.save(model.state_dict(), FILE) or safetensors."
        ) from None
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError) as error:
        raise CheckpointError(
            f"{what} is damaged or not complete: its pickle cannot be read "
            f"({type(error).__name__}, {str(error)[:200]}): get the file again."
        ) from error
    raise CheckpointError(f"{what} is damaged or not complete: its pickle has no end. Get the file again.")


class _Machine:
    """The stack machine: one handler an opcode, in `_HANDLERS`."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _HANDLERS:
            _HANDLERS[name](self, argument)
        else:
            raise Refused(f"the instruction {name}, which builds objects of other programs")

    def pop(self) -> Any:
        return self.stack.pop()

    def _pop_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def _mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def take(self, count: int) -> tuple[Any, ...]:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) != count:
            raise ValueError("the stack is empty")
        del self.stack[len(self.stack) - count :]
        return items

    def _push_tuple(self, items: Any) -> None:
        self.stack.append(tuple(items))

    def _push_dict(self, items: list[Any]) -> None:
        self.stack.append({})
        self._set_items(items)

    def _push_name(self, full: str) -> None:
        full = full.replace("__builtin__.", "builtins.", 1)  # as pickles for Python 2 call it
        if full.startswith("torch.") and full.removeprefix("torch.") in TORCH_DTYPES:
            self.stack.append(TORCH_DTYPES[full.removeprefix("torch.")])
        elif full in CALLS or full in ONLY_NAMED or storage_dtype(full) is not None:
            self.stack.append(Name(full))
        else:
            raise Refused(f"the global '{full}', which is not on the list of what weights may name")

    def _call(self, _: Any = None) -> None:
        target, arguments = self.take(2)
        if not isinstance(target, Name) or target.full not in CALLS or not isinstance(arguments, tuple):
            raise Refused(f"a call of {target.full if isinstance(target, Name) else type(target).__name__}")
        self._pay(*arguments)
        self.stack.append(CALLS[target.full](*arguments))

    def _pay(self, *values: Any) -> None:
        """Count the bytes that are about to be copied, about, before they are."""
        for value in values:
            if hasattr(value, "__len__"):
                self.copied += len(value) if isinstance(value, str | bytes) else _ENTRY_BYTES * len(value)
        if self.copied > MOST_COPIED:
            raise Refused(f"calls that copy more than {MOST_COPIED} bytes")

    def _build(self, _: Any) -> None:
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, NumpyType):
            target.order = ">" if state[1] == ">" else "<"
        elif isinstance(target, StoredArray):
            _, shape, kind, fortran, raw = state
            target.value = np.frombuffer(raw, kind.numpy).reshape(shape, order="F" if fortran else "C")
        elif isinstance(target, Namespace) and isinstance(state, dict):
            self._pay(state)
            target.update(state)
        elif not isinstance(target, dict):  # the attributes of an OrderedDict (`_metadata`) are no tensors
            raise Refused(f"a state for a value of type {type(target).__name__}")

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("appending to what is no list")
        self.stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise TypeError("setting items of what is no dict")
        self.stack[-1].update(checked(zip(items[::2], items[1::2], strict=True)))

    def _persistent(self, _: Any) -> None:
        found = self.pop()
        if not isinstance(found, tuple) or len(found) < 5 or found[0] != "storage" or not isinstance(found[1], Name):
            raise Refused("a reference that is no storage of torch")
        dtype = storage_dtype(found[1].full)
        if not isinstance(found[2], str | int) or dtype is None or (len(found) > 5 and found[5] is not None):
            raise Refused("a storage of a kind that no weights of today have (quantised, complex, or a view)")
        self.stack.append(self.storages.setdefault(str(found[2]), Storage(str(found[2]), dtype)))


_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,  # a set could be asked to hash what takes for ever
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_HANDLERS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": _Machine._mark,
    "POP": lambda m, a: m.pop(),
    "POP_MARK": lambda m, a: m._pop_mark(),
    "DUP": lambda m, a: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, a: m._push_tuple(m._pop_mark()),
    "TUPLE1": lambda m, a: m._push_tuple(m.take(1)),
    "TUPLE2": lambda m, a: m._push_tuple(m.take(2)),
    "TUPLE3": lambda m, a: m._push_tuple(m.take(3)),
    "LIST": lambda m, a: m.stack.append(m._pop_mark()),
    "FROZENSET": lambda m, a: m.stack.append(m._pop_mark()),
    "APPEND": lambda m, a: m._append(list(m.take(1))),
    "APPENDS": lambda m, a: m._append(m._pop_mark()),
    "ADDITEMS": lambda m, a: m._append(m._pop_mark()),
    "DICT": lambda m, a: m._push_dict(m._pop_mark()),
    "SETITEM": lambda m, a: m._set_items(list(m.take(2))),
    "SETITEMS": lambda m, a: m._set_items(m._pop_mark()),
    **{f"{length}GET": lambda m, a: m.stack.append(m.memo[int(a)]) for length in ("", "BIN", "LONG_BIN")},
    **{f"{length}PUT": lambda m, a: m._put(int(a)) for length in ("", "BIN", "LONG_BIN")},
    "MEMOIZE": lambda m, a: m._put(len(m.memo)),
    "GLOBAL": lambda m, a: m._push_name(a.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda m, a: m._push_name(".".join(m.take(2))),
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
