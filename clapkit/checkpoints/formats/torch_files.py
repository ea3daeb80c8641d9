"""Files that `torch.save` wrote, in the zip format (torch >= 1.6) and in the one before it.

Both are a pickle that describes tensors, and blocks of numbers beside it. The pickle is read as data (`pickles`), the
blocks are found and measured, and only those of wanted tensors are read, each once, straight into the tensor: an
optimizer state costs nothing, and a file costs the memory of its model.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from clapkit.checkpoints.formats.pickles import MOST_BYTES, read_pickle
from clapkit.checkpoints.formats.stand_ins import Storage, StoredTensor
from clapkit.errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MOST_AXES = 16
_MOST_DIRECTORY_BYTES = 8 * 2**20
_END_OF_DIRECTORY = struct.Struct("<4s4H2LH")


@dataclass(frozen=True)
class TorchFile:
    """A file of `torch.save`, described. `blocks` has the place of each storage: key -> (first byte, bytes)."""

    path: Path
    content: Any
    blocks: Mapping[str, tuple[int, int]]


def open_zip(path: Path) -> TorchFile:
    """Describe a file in the zip format; CheckpointError for one that is truncated, compressed, or not of torch."""
    size = path.stat().st_size
    _check_directory(path, size)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise CheckpointError(f"'{path}' is a damaged zip archive ({error}): get the file again") from error
    _check_members(path, members, size)
    described = [m for m in members if m.filename.split("/", 1)[-1] == "data.pkl"]
    if len(described) != 1 or any(m.filename.endswith("/constants.pkl") for m in members):
        raise CheckpointError(_no_state_dict(path, [m.filename for m in members]))
    folder = described[0].filename.removesuffix("data.pkl")
    with open(path, "rb") as file:
        data = {m.filename: (_first_byte(file, m, path, size), m.file_size) for m in members if not m.is_dir()}
        if _read(file, data.get(f"{folder}byteorder", (0, 0))) == b"big":
            raise CheckpointError(f"'{path}' was saved on a big-endian machine: save it again on a common one")
        if described[0].file_size > MOST_BYTES:
            raise CheckpointError(
                f"'{path}' describes its tensors in {described[0].file_size} bytes, at most {MOST_BYTES}"
            )
        content, _ = read_pickle(_read(file, data[described[0].filename]), what=f"'{path}'")
    inside = f"{folder}data/"
    return TorchFile(path, content, {n.removeprefix(inside): d for n, d in data.items() if n.startswith(inside)})


def open_legacy(path: Path) -> TorchFile:
    """Describe a file in the format before torch 1.6: five pickles, then the blocks, each behind its length."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(MOST_BYTES)
        what = f"'{path}'"
        magic, at = read_pickle(head, what=what)
        if magic != LEGACY_MAGIC:
            raise CheckpointError(f"{what} is a pickle, but not one of torch.save: save the tensors with torch.save")
        protocol, at = read_pickle(head, what=what, start=at)
        system, at = read_pickle(head, what=what, start=at)
        if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is False:
            raise CheckpointError(
                f"{what} was not written by a known version of torch.save (its protocol is not {_LEGACY_PROTOCOL})"
            )
        found: dict[str, Storage] = {}
        content, at = read_pickle(head, what=what, start=at, storages=found)
        keys, at = read_pickle(head, what=what, start=at)
        blocks = {}
        for key in keys if isinstance(keys, list) else ():
            file.seek(at)
            length = file.read(8)
            if key not in found or len(length) < 8:
                raise _truncated(path, size)
            count = int.from_bytes(length, "little", signed=True)
            bytes_ = count * found[key].dtype.itemsize
            if count < 0 or at + 8 + bytes_ > size:
                raise _truncated(path, size)
            blocks[key] = (at + 8, bytes_)
            at += 8 + bytes_
    return TorchFile(path, content, blocks)


def fetch(file: TorchFile, wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """The tensors of these names, read; those of one storage share it, as they did when they were saved.

    CheckpointError lists tensors whose shape promises more numbers than their storage has.
    """
    problems = [f"{name}: {reason}" for name, t in wanted.items() if (reason := _reason_against(t, file.blocks))]
    promised = sum(math.prod(t.shape) * t.dtype.itemsize for t in wanted.values()) if not problems else 0
    size = file.path.stat().st_size
    if promised > 4 * size + 64 * 2**20:
        problems = [f"together they promise {promised} bytes of numbers in a file of {size} bytes"]
    if problems:
        raise CheckpointError(
            f"'{file.path}' holds tensors that are not what they say ({len(problems)}): {'; '.join(problems[:5])}. "
            "The file is damaged or was made to do harm: get it from its source again."
        )
    stored: dict[str, Tensor] = {}
    tensors = {}
    with open(file.path, "rb") as opened:
        for name in sorted(wanted, key=lambda name: file.blocks[wanted[name].storage.key]):
            described = wanted[name]
            if described.storage.key not in stored:
                stored[described.storage.key] = _block(opened, file.blocks[described.storage.key], file.path)
            flat = stored[described.storage.key]
            whole = flat[: len(flat) // described.dtype.itemsize * described.dtype.itemsize].view(described.dtype)
            tensors[name] = whole.as_strided(described.shape, described.strides, described.offset)
    return {name: tensors[name] for name in wanted}


def _reason_against(tensor: StoredTensor, blocks: Mapping[str, tuple[int, int]]) -> str | None:
    if tensor.storage.key not in blocks:
        return "its storage is missing"
    axes = len(tensor.shape)
    if axes > _MOST_AXES or axes != len(tensor.strides) or min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0:
        return "its shape, strides or offset cannot be"
    held = blocks[tensor.storage.key][1] // tensor.dtype.itemsize
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) and (math.prod(tensor.shape) > held or last >= held):
        return f"shape {list(tensor.shape)} needs more numbers than the {held} of its storage"
    return None


def _block(file: BinaryIO, place: tuple[int, int], path: Path) -> Tensor:
    flat = torch.empty(place[1], dtype=torch.uint8)
    file.seek(place[0])
    if place[1] and file.readinto(flat.numpy().data) != place[1]:  # type: ignore[attr-defined]
        raise _truncated(path, path.stat().st_size)
    return flat


def _read(file: BinaryIO, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return file.read(place[1])


def _truncated(path: Path, size: int) -> CheckpointError:
    return CheckpointError(
        f"'{path}' is truncated: it ends after {size} bytes, inside its tensors. Get the file again."
    )


def _check_directory(path: Path, size: int) -> None:
    """Refuse a zip without its directory (it stands at the end), or with one that is absurdly large."""
    with open(path, "rb") as file:
        file.seek(max(0, size - 2**16 - _END_OF_DIRECTORY.size))
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) - at < _END_OF_DIRECTORY.size:
            raise CheckpointError(
                f"'{path}' is truncated: {size} bytes of a zip archive without the directory at its end. "
                "The download or copy stopped early: get the file again."
            )
        length = _END_OF_DIRECTORY.unpack_from(tail, at)[5]
        if length == 0xFFFFFFFF and (far := tail.rfind(b"PK\6\6", 0, at)) >= 0 and len(tail) - far >= 48:
            length = struct.unpack_from("<Q", tail, far + 40)[0]
    if length > _MOST_DIRECTORY_BYTES:
        raise CheckpointError(f"'{path}' is a zip whose directory has {length} bytes: this is no file of weights")


def _check_members(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    for member in members:
        if (
            member.compress_type != zipfile.ZIP_STORED
            or member.compress_size != member.file_size
            or member.flag_bits & 1
        ):
            raise CheckpointError(
                f"'{path}' holds the compressed or encrypted member '{member.filename}' "
                f"({member.compress_size} bytes for {member.file_size}): torch.save compresses nothing. "
                "If it is an archive of a download, unpack it and give what is in it."
            )
    total = sum(member.file_size for member in members)
    if total > size:
        raise CheckpointError(f"'{path}' promises {total} bytes of content in a file of {size} bytes: it is refused")


def _first_byte(file: BinaryIO, member: zipfile.ZipInfo, path: Path, size: int) -> int:
    """Where a member's data begins: behind its own header, whose length the directory does not tell."""
    begins = 0 <= member.header_offset <= size - 30
    file.seek(member.header_offset if begins else 0)
    header = file.read(30)
    if not begins or len(header) < 30 or header[:4] != b"PK\3\4":
        raise CheckpointError(f"'{path}' is a damaged zip archive: no member at byte {member.header_offset}")
    first = member.header_offset + 30 + sum(struct.unpack_from("<2H", header, 26))
    if first + member.file_size > size:
        raise _truncated(path, size)
    return first


def _no_state_dict(path: Path, names: list[str]) -> str:
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        found, fix = "a TorchScript program", "save the state dict of its model instead"
    elif names and all(name.endswith(".npy") for name in names):
        found, fix = "a numpy archive (.npz)", "save its arrays as safetensors"
    else:
        found, fix = f"a zip archive ({', '.join(names[:5])})", "unpack it and give the checkpoint in it"
    return f"'{path}' is {found}, not a file of torch.save: {fix}"
