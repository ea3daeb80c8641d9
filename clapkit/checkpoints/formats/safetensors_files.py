"""Files in the safetensors format, with a header that is measured before it is parsed."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from clapkit.errors import CheckpointError

MOST_HEADER_BYTES = 100 * 10**6
_LIKELY_HEADER_BYTES = 16 * 2**20


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file. CheckpointError for a header that lies about lengths, offsets or shapes."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MOST_HEADER_BYTES) or size < 8:
            raise CheckpointError(
                f"'{path}' says that its header has {length} bytes, in a file of {size} bytes "
                f"(at most {MOST_HEADER_BYTES} are read): it is truncated or damaged, get the file again"
            )
        if length > _LIKELY_HEADER_BYTES:
            raise CheckpointError(f"'{path}' has a header of {length} bytes: no file of weights needs that many")
        _check_header(path, file.read(length), size - 8 - length)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the handle is no mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"'{path}' cannot be read as safetensors ({error}): it is truncated or damaged, get the file again"
        ) from error


def _check_header(path: Path, header: bytes, data_bytes: int) -> None:
    """The library checks shapes and overlaps; what it says about offsets beyond the end is put in words here."""
    try:
        entries = json.loads(header)
        spans = {name: entry["data_offsets"] for name, entry in entries.items() if name != "__metadata__"}
        beyond = [name for name, (first, last) in spans.items() if not 0 <= first <= last <= data_bytes]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"'{path}' has a safetensors header that cannot be read ({error!r}): get the file again"
        ) from error
    if beyond:
        raise CheckpointError(
            f"'{path}' is truncated or damaged: {len(beyond)} of its {len(spans)} tensors lie beyond its "
            f"{data_bytes} bytes of numbers, '{beyond[0]}' first. Get the file again."
        )
