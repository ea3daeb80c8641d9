"""The decoder process that `pool` starts, and the messages between the two.

It answers requests on its standard input until that closes. A message is a length, a JSON header and a payload of raw
bytes. No pickles: what a decoder that was taken over by a malicious file can send back is numbers and text.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from clapkit.audio.decode import Sound, decode
from clapkit.audio.sources import MAX_PIPE_BYTES, Source, describe, open_source
from clapkit.audio.spans import MAX_SAMPLES
from clapkit.errors import AudioError

MAX_HEADER_BYTES = 1 << 20
_LENGTHS = struct.Struct("<QQ")


class ProtocolError(Exception):
    """The other side closed the pipe, or sent something that is no message."""


def send(stream: BinaryIO, header: dict[str, Any], payload: Any = b"") -> None:
    """Write one message; `payload` is anything with the buffer interface."""
    text = json.dumps(header).encode()
    view = memoryview(payload)
    view = view.cast("B") if view.nbytes else memoryview(b"")
    stream.write(_LENGTHS.pack(len(text), len(view)))
    stream.write(text)
    stream.write(view)
    stream.flush()


def receive(stream: BinaryIO, *, max_bytes: int) -> tuple[dict[str, Any], bytearray]:
    """Read one message. Raises ProtocolError, before any memory is taken for a length that is too large."""
    header_bytes, payload_bytes = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    if header_bytes > MAX_HEADER_BYTES or payload_bytes > max_bytes:
        raise ProtocolError(f"a message of {header_bytes} + {payload_bytes} bytes is too long")
    try:
        header = json.loads(bytes(_exactly(stream, header_bytes)))
    except ValueError as error:
        raise ProtocolError("the header of a message is not JSON") from error
    return header, _exactly(stream, payload_bytes)


def _exactly(stream: BinaryIO, count: int) -> bytearray:
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        got = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise ProtocolError("the pipe was closed")
        done += got
    return data


def pack_source(source: Source) -> tuple[dict[str, Any], Any]:
    """A source as header fields and payload. What is no path is opened and read here; AudioError when that fails."""
    if isinstance(source, (str, os.PathLike)):
        try:
            return {"kind": "path"}, os.fsencode(os.path.abspath(os.fspath(source)))
        except ValueError as error:
            raise AudioError(describe(source), f"cannot be opened: {error}") from error
    with open_source(source) as opened:
        if opened.array_NC is not None:
            array_NC = np.ascontiguousarray(opened.array_NC)
            fields = {"dtype": array_NC.dtype.str, "shape": array_NC.shape, "array_rate_hz": opened.rate_hz}
            return {"kind": "array", **fields}, array_NC
        assert opened.file is not None
        opened.file.seek(0)
        data = opened.file.read(MAX_PIPE_BYTES + 1)
    if len(data) > MAX_PIPE_BYTES:
        raise AudioError(opened.name, f"more than {MAX_PIPE_BYTES >> 20} MiB in memory: save it as a file")
    return {"kind": "bytes"}, data


def _unpack_source(header: dict[str, Any], payload: bytearray) -> Source:
    if header["kind"] == "path":
        return os.fsdecode(bytes(payload))
    if header["kind"] == "array":
        return np.frombuffer(payload, header["dtype"]).reshape(header["shape"]), header["array_rate_hz"]
    return bytes(payload)


def unpack_sound(header: dict[str, Any], payload: bytearray) -> Sound:
    """The Sound of an answer. Raises ProtocolError when it is not one."""
    try:
        fields = header["sound"]
        return Sound(np.frombuffer(payload, np.float32), **{**fields, "notes": tuple(fields["notes"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the answer is no sound: {error}") from error


def _answer(header: dict[str, Any], payload: bytearray) -> tuple[dict[str, Any], Any]:
    try:
        sound = decode(_unpack_source(header, payload), **header["arguments"])
    except AudioError as error:
        return {"reason": error.reason}, b""
    except MemoryError:
        return {"reason": "it needs more memory than a decoder process may take: read ranges or windows"}, b""
    except Exception as error:
        # A bug of a decoder must cost this file only; the name of the exception is what there is to report.
        return {"reason": f"the decoder failed: {type(error).__name__}: {error}"}, b""
    fields = {k: v for k, v in vars(sound).items() if k != "samples"}
    return {"sound": fields}, sound.samples


def _limit_memory(limit_mib: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    with suppress(OSError, ValueError):  # macOS may refuse it
        resource.setrlimit(resource.RLIMIT_AS, (limit_mib << 20, limit_mib << 20))


def _alarm(seconds: int) -> None:
    """End this process in so many seconds (0: not at all): nobody else ends a decoder that hangs without a parent."""
    if hasattr(signal, "alarm"):  # not on Windows
        signal.alarm(seconds)


def main() -> None:
    """Serve until the parent closes the pipe. Arguments: memory limit in MiB (0: none), deadline in whole seconds."""
    limit_mib, deadline_s = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    requests = sys.stdin.buffer
    # Only answers may go down the pipe: whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if limit_mib:
        _limit_memory(limit_mib)
    send(answers, {"ready": True})
    while True:
        try:
            header, payload = receive(requests, max_bytes=MAX_PIPE_BYTES + 8 * MAX_SAMPLES)
        except ProtocolError:
            return
        _alarm(deadline_s)
        with suppress(OSError):  # the parent is gone: the next receive ends this process
            send(answers, *_answer(header, payload))
        _alarm(0)


if __name__ == "__main__":
    main()
