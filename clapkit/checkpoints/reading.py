"""Any checkpoint file or folder, read into named tensors and what is known about them.

Files are recognised by their first bytes: `torch.save` in its two formats, and safetensors. Nothing that a file holds
is run (see `formats.pickles`), nothing it promises is believed before it is measured, and only the tensors of the model
are read: an optimizer beside them costs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.formats.folders import beside, files_of, is_the_checkpoint
from clapkit.checkpoints.formats.recognise import kind_of
from clapkit.checkpoints.formats.safetensors_files import read_safetensors
from clapkit.checkpoints.formats.stand_ins import StoredArray, StoredTensor
from clapkit.checkpoints.formats.torch_files import TorchFile, fetch, open_legacy, open_zip
from clapkit.errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "module", "weights", "net", "params")
_TRAINER = ("optim", "scaler", "scheduler", "lr_s")
# Of wrappers around a model: for several devices, compiled, and that of a trainer (whose own tensors keep no prefix).
_PREFIXES = ("module.", "_orig_mod.", "model.")
_ABSENT = object()
_SMALL_TENSOR = 64
_MOST_NODES = 20_000
_MOST_ENTRIES = 200
_MOST_VISITS = 300_000
_MOST_DEPTH = 12


class _TooMany(Exception):
    """More entries than anyone would look through."""


def read(path: str | Path, *, variant: str | None = None) -> Foreign:
    """A checkpoint file, or a folder that holds one, as tensors out of their wrapper and without "module.".

    `config` has what stands beside the tensors: the folder's config.json, open_clip_config.json or yml, and the small
    entries of the wrapper under their names; the keys of an entry "cfg" or "config" also stand at the top.
    `extras` names every entry of the wrapper that is no model.

    CheckpointError for what is no checkpoint, is damaged, lies about its sizes, or asks for code to be run.
    """
    path = Path(path)
    files = files_of(path) if path.is_dir() else [path]
    config = beside(files[0].parent) if path.is_dir() or is_the_checkpoint(path) else {}
    tensors: dict[str, Tensor] = {}
    extras: list[str] = []
    for file in files:
        found, wrapped, left = _read_file(file)
        if twice := tensors.keys() & found.keys():
            raise CheckpointError(f"'{path}': the tensor '{min(twice)}' stands in two of its files")
        tensors |= found
        config |= wrapped
        extras += left
    if not tensors:
        raise CheckpointError(f"'{path}' holds no tensors at all: this is no checkpoint of a model")
    return Foreign(_without_prefix(tensors), config, path, variant, tuple(extras))


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The tensors of a file, the small entries beside them, and the names of all entries beside them."""
    kind = kind_of(path)
    if kind == "safetensors":
        return read_safetensors(path), {}, []
    file = open_zip(path) if kind == "zip" else open_legacy(path)
    try:
        leaves, others = _unwrap(file.content, path)
    except _TooMany:
        raise CheckpointError(
            f"'{path}' nests more than {_MOST_VISITS} entries, far more than a model has: save its tensors alone"
        ) from None
    config: dict[str, Any] = {}
    left = [_MOST_NODES]
    for name, value in list(others.items())[:_MOST_ENTRIES]:
        if not name.startswith(_TRAINER) and (known := _plain(value, file, left)) is not _ABSENT:
            config[name] = known
    for name in ("cfg", "config"):
        if isinstance(config.get(name), dict):
            config = {**config[name], **config}
    stored = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, StoredTensor)}
    tensors = fetch(file, stored)
    arrays = {name: _tensor_of(leaf.value) for name, leaf in leaves.items() if isinstance(leaf, StoredArray)}
    return {name: tensors[name] if name in tensors else arrays[name] for name in leaves}, config, list(others)


def _tensor_of(array: Any) -> Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """name -> description of the model's tensors, and what stood beside them on the way in."""
    others: dict[str, Any] = {}
    for _ in range(4):
        if not isinstance(content, dict):
            raise CheckpointError(
                f"'{path}' holds {_described(content)}, expected a dict of named tensors: "
                "save it with torch.save(model.state_dict(), FILE)"
            )
        left = [_MOST_VISITS]
        part = next((name for name in WRAPPERS if _holds_tensors(content.get(name), left)), None)
        direct = {name: value for name, value in content.items() if _is_leaf(value)}
        if part is None and not direct:
            inner = [
                name for name, value in content.items() if _holds_tensors(value, left) and "optim" not in str(name)
            ]
            if len(inner) > 1:
                direct = {k: v for name in inner for k, v in _flat(str(name), content[name], left)}
                content = {name: value for name, value in content.items() if name not in inner}
            part = inner[0] if len(inner) == 1 else None
        if part is None:
            others |= {str(name): value for name, value in content.items() if not _is_leaf(value)}
            return _named(direct, path), others
        others |= {str(name): value for name, value in content.items() if name != part}
        content = content[part]
    raise CheckpointError(f"'{path}' wraps its tensors in more than four dicts: save the innermost one")


def _is_leaf(value: Any) -> bool:
    return isinstance(value, StoredTensor) or (isinstance(value, StoredArray) and value.value is not None)


def _holds_tensors(value: Any, left: list[int], depth: int = 3) -> bool:
    if not isinstance(value, dict) or depth == 0:
        return False
    _visit(len(value), left)
    if any(_is_leaf(inner) for inner in value.values()):
        return True
    return any(_holds_tensors(inner, left, depth - 1) for inner in value.values())


def _visit(count: int, left: list[int]) -> None:
    """Dicts may stand in each other many times over: count what is looked at, or looking would never end."""
    left[0] -= count
    if left[0] < 0:
        raise _TooMany


def _flat(name: str, value: dict[str, Any], left: list[int], depth: int = 4) -> Iterator[tuple[str, Any]]:
    """A dict of modules, each with its tensors, under dotted names."""
    _visit(len(value), left)
    for key, inner in value.items():
        if _is_leaf(inner):
            yield f"{name}.{key}", inner
        elif isinstance(inner, dict) and depth:
            yield from _flat(f"{name}.{key}", inner, left, depth - 1)


def _named(leaves: dict[Any, Any], path: Path) -> dict[str, Any]:
    for name in leaves:
        if not isinstance(name, str) or len(name) > 1000:
            raise CheckpointError(f"'{path}' has a tensor under the name {str(name)[:80]!r}, expected a text")
    return leaves


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _described(content: Any) -> str:
    if isinstance(content, list | tuple):
        return f"a {type(content).__name__} of {len(content)} values"
    return "a single tensor" if _is_leaf(content) else f"a value of type {type(content).__name__}"


def _plain(value: Any, file: TorchFile, left: list[int]) -> Any:
    """The value as JSON could hold it (a small tensor as its numbers), or _ABSENT if it is large or something else.

    `left` is how many values may still be copied, out of all entries.
    """
    if isinstance(value, StoredTensor) and math.prod(value.shape) <= _SMALL_TENSOR:
        return fetch(file, {"": value})[""].tolist()
    if isinstance(value, StoredArray) and value.value is not None and value.value.size <= _SMALL_TENSOR:
        return value.value.tolist()
    mine = [min(left[0], _MOST_NODES // 4)]
    before = mine[0]
    copy = _copied(value, mine, _MOST_DEPTH)
    left[0] -= before - max(mine[0], 0)
    return copy


def _copied(value: Any, left: list[int], depth: int) -> Any:
    """A copy made of dicts, lists, texts and numbers; `left` nodes in all, so that sharing and cycles cannot grow."""
    left[0] -= 1
    if left[0] < 0 or depth == 0:
        return _ABSENT
    if isinstance(value, Mapping):
        copies = {str(key): _copied(inner, left, depth - 1) for key, inner in list(value.items())[:_MOST_NODES]}
        return _ABSENT if left[0] < 0 else {key: copy for key, copy in copies.items() if copy is not _ABSENT}
    if isinstance(value, list | tuple):
        items = [_copied(inner, left, depth - 1) for inner in value[:_MOST_NODES]]
        return _ABSENT if left[0] < 0 or any(item is _ABSENT for item in items) else items
    if isinstance(value, str):
        return value if len(value) <= 10_000 else _ABSENT
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**63 else _ABSENT
    return value if value is None or isinstance(value, bool | float) else _ABSENT
