"""What a caller may give as a sound, opened: a named seekable file, or an array at its rate."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clapkit.audio.resample import checked_rate
from clapkit.audio.tars import read_member
from clapkit.errors import AudioError, SpecError

Source = str | os.PathLike | bytes | BinaryIO | tuple[np.ndarray, int]

MAX_PIPE_BYTES = 1 << 30  # a file object that cannot seek is read into memory, up to here
MAX_CHANNELS = 1024


@dataclass(frozen=True)
class Opened:
    """A source that is ready to be read: either `file` (seekable, binary) or `array` [N, channels] at `rate_hz`."""

    name: str
    file: BinaryIO | None = None
    array_NC: np.ndarray | None = None
    rate_hz: int = 0


def describe(source: object) -> str:
    """The name by which errors and reports call a source."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source) if isinstance(os.fspath(source), str) else os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if isinstance(source, tuple) and len(source) == 2:
        shape = getattr(source[0], "shape", None)
        return f"<array {list(shape)}>" if shape is not None else f"<{type(source[0]).__name__}>"
    return str(getattr(source, "name", None) or f"<{type(source).__name__}>")


@contextmanager
def open_source(source: Source) -> Iterator[Opened]:
    """Open `source`; a file of the caller's is rewound and left open, one opened here is closed.

    A path may lead into a tar (`audio.tars`). Raises AudioError for what cannot be opened: missing, a directory, no
    permission, empty, a device or pipe (which could block for ever), text mode, an array of the wrong kind, a bad rate.
    """
    name = describe(source)
    if isinstance(source, tuple):
        yield _opened_array(source, name)
    elif isinstance(source, (str, os.PathLike)):
        held = read_member(source)
        with _open_path(source, name) if held is None else _not_empty(io.BytesIO(held), name) as file:
            yield Opened(name, file=file)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield Opened(name, file=_not_empty(io.BytesIO(source), name))
    elif hasattr(source, "read"):
        yield Opened(name, file=_not_empty(_seekable(source, name), name))
    else:
        raise AudioError(
            name, f"a sound is a path, bytes, a binary file or (array, rate_hz), and not a {type(source).__name__}"
        )


def _open_path(source: str | os.PathLike, name: str) -> BinaryIO:
    try:
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(name, "this is a directory: give the files inside it")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(name, "not a regular file (a device, pipe or socket): give its bytes instead")
        if status.st_size == 0:
            raise AudioError(name, "empty file (0 bytes)")
        return open(source, "rb")
    except FileNotFoundError:
        broken = "a broken link: its target does not exist" if Path(source).is_symlink() else "no such file"
        raise AudioError(name, broken) from None
    except PermissionError:
        raise AudioError(name, "no permission to read it") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise AudioError(name, f"cannot be opened: {error}") from error


def _seekable(file: BinaryIO, name: str) -> BinaryIO:
    try:
        if isinstance(file, io.TextIOBase):
            raise AudioError(name, "the file is open in text mode: open it with mode 'rb'")
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
            return file
        data = file.read(MAX_PIPE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise AudioError(name, f"cannot be read: {error}") from error
    if len(data) > MAX_PIPE_BYTES:
        size = f"{MAX_PIPE_BYTES >> 20} MiB"
        raise AudioError(name, f"more than {size} from a stream that cannot seek: save it as a file")
    return io.BytesIO(data)


def _not_empty(file: BinaryIO, name: str) -> BinaryIO:
    if not file.read(1):
        raise AudioError(name, "empty (0 bytes)")
    return file


def _opened_array(source: tuple, name: str) -> Opened:
    if len(source) != 2:
        raise AudioError(name, f"expected (array, rate_hz), found a tuple of {len(source)}")
    try:
        array, rate = np.asarray(source[0]), source[1]
    except ValueError as error:
        raise AudioError(name, f"not an array: {error}") from None
    try:
        rate_hz = checked_rate(rate)
    except SpecError as error:
        raise AudioError(name, str(error)) from None
    if array.dtype.kind not in "iuf":
        raise AudioError(name, f"expected an array of int or float, found {array.dtype}")
    if array.ndim not in (1, 2):
        raise AudioError(name, f"expected [samples] or [samples, channels], found {array.ndim} dimensions")
    if array.size == 0:
        raise AudioError(name, "no samples (zero length)")
    array_NC = array[:, None] if array.ndim == 1 else array
    if array_NC.shape[1] > MAX_CHANNELS or array_NC.shape[1] > max(64, len(array_NC)):
        raise AudioError(
            name, f"expected [samples, channels], found {list(array.shape)}: more channels than samples, transpose it"
        )
    return Opened(name, array_NC=array_NC, rate_hz=rate_hz)
