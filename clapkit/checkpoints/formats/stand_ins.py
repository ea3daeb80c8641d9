"""What a pickle may name, and what stands in for it: each name gets a function that makes plain data.

The names are those in the state dicts, optimizers and settings that people save. Nothing is imported by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "Untyped": torch.uint8,
}
TORCH_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
_NUMBER = re.compile(r"[fiu][1248]|b1")


@dataclass(frozen=True)
class Storage:
    """A block of numbers outside the pickle, by its key."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True)
class StoredTensor:
    """What a pickle says about a tensor; offset and strides count elements of `dtype`. Nothing is checked yet."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class StoredArray:
    """A numpy array that stands inside the pickle."""

    value: np.ndarray | None = None


@dataclass
class NumpyType:
    code: str
    order: str = "<"

    @property
    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


@dataclass(frozen=True)
class Name:
    """module.name as the pickle wrote it; never imported."""

    full: str


class Refused(Exception):
    """What a pickle asked for and does not get."""


class Namespace(dict):
    """argparse.Namespace as the dict of its attributes."""


def storage_dtype(full: str) -> torch.dtype | None:
    module, _, name = full.rpartition(".")
    if module not in ("torch", "torch.cuda", "torch.storage") or not name.endswith("Storage"):
        return None
    return DTYPES.get(name.removesuffix("Storage"))


def checked(pairs: Any) -> dict[Any, Any]:
    made = {}
    for key, value in pairs:
        if not isinstance(key, str | int | float | bool | None) or (isinstance(key, int) and abs(key) >= 2**63):
            raise Refused(f"a dict with a key of type {type(key).__name__}, or a very large one")
        made[key] = value
    return made


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any, dtype: Any = None) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise TypeError(f"a tensor without a storage, but with {type(storage).__name__}")
    shape, strides = tuple(shape), tuple(strides)
    if not all(type(number) is int and abs(number) < 2**63 for number in (offset, *shape, *strides)):
        raise TypeError("a shape, stride or offset that is no whole number of 64 bits")
    return StoredTensor(storage, dtype or storage.dtype, offset, shape, strides)


def _tensor_of(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Any:
    return _tensor(storage, offset, shape, strides, dtype=dtype)


def _number_type(code: Any, *_: Any) -> NumpyType:
    if not isinstance(code, str) or not _NUMBER.fullmatch(code):
        raise Refused(f"a numpy type {_shown(code)} that is no number")
    return NumpyType(code)


def _number(kind: Any, raw: Any) -> int | float | bool:
    if not isinstance(kind, NumpyType) or len(raw) > 8:
        raise TypeError("a numpy scalar without its type")
    return np.frombuffer(raw, kind.numpy)[0].item()


def _encode(text: Any, coding: Any = "utf-8", *_: Any) -> bytes:
    if coding not in ("latin1", "latin-1"):  # how protocol 2 writes bytes; other codings can be made to take hours
        raise Refused(f"an encoding {_shown(coding)}")
    return text.encode("latin-1")


def _shown(value: Any) -> str:
    """A text itself, the type of anything else: to write out what a stranger nested could take for ever."""
    return repr(value[:20]) if isinstance(value, str) else f"of type {type(value).__name__}"


def _joined(*parts: Any, between: str = "/") -> str:
    if not all(isinstance(part, str) or (type(part) is int and abs(part) < 2**63) for part in parts):
        raise TypeError("a path or device with a part that is no text")
    return between.join(map(str, parts))


def _mapping(*arguments: Any) -> dict[Any, Any]:
    """dict, OrderedDict, defaultdict (its factory is forgotten), Counter."""
    given = arguments[-1] if arguments and not isinstance(arguments[-1], Name) else {}
    return checked(given.items() if isinstance(given, dict) else given)


CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
    "argparse.Namespace": lambda: Namespace(),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.Size": lambda sizes: tuple(sizes),
    "torch.device": lambda *where: _joined(*where, between=":"),
    "_codecs.encode": _encode,
    "numpy.dtype": _number_type,
    **{
        f"{module}.{name}": stand_in
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, stand_in in (("scalar", _number), ("_reconstruct", lambda *_: StoredArray()))
    },
    "builtins.dict": _mapping,
    "builtins.set": lambda items=(): list(items),
    **{
        f"{module}.{name}": _joined
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
}
ONLY_NAMED = {"numpy.ndarray", "builtins.int", "builtins.float", "builtins.list"}
