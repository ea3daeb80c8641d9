"""One writer at a time, and readers that a writer can see: locks that the system takes back when their holder dies."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from clapkit.errors import SearchIndexError

_READERS = "readers"


class WriterLock:
    """The right to write into `folder`; raises SearchIndexError, with pid and host of the holder, if it is taken.

    The lock belongs to the open file, so a writer that was killed leaves none behind: the next takes over at once.
    """

    def __init__(self, folder: Path) -> None:
        self._note = folder / "writer.json"
        try:
            self._file = open(folder / "writer.lock", "a+b")  # noqa: SIM115 - held until close()
        except OSError as error:
            raise SearchIndexError(f"{folder} cannot be written: {error}") from error
        if not _locked(self._file):
            self._file.close()
            raise SearchIndexError(
                f"{folder} is being written by {self._holder()}: wait until it is done. Searching is possible meanwhile"
            )
        note = {"pid": os.getpid(), "host": socket.gethostname()}
        self._note.write_text(json.dumps(note) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Give the right back."""
        if not self._file.closed:
            self._note.unlink(missing_ok=True)
            self._file.close()

    def _holder(self) -> str:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return f"process {note['pid']} on {note['host']}"
        except (OSError, ValueError, KeyError, TypeError):  # it is just being written
            return "another process"


class ReaderMark:
    """Says, until `close`, that this process reads a table of the store in `folder`, and that it has to stay there.

    Where nothing can be written beside the table, nothing is said.
    """

    def __init__(self, folder: Path, table: str) -> None:
        self._path = folder / _READERS / f"{table}.{os.getpid()}.{secrets.token_hex(4)}"
        self._file: BinaryIO | None = None
        with suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            self._file = open(self._path, "a+b")  # noqa: SIM115 - held until close()
            _locked(self._file)

    def close(self) -> None:
        """Let the table go."""
        if self._file is not None:
            self._file.close()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._file = None


def readers_of(folder: Path, table: str) -> list[int]:
    """The numbers of the processes that have marked a table as read; marks of processes that have died are removed."""
    found = []
    for path in sorted((folder / _READERS).glob(f"{table}.*")):
        with suppress(OSError):  # it has just gone
            with open(path, "a+b") as file:
                is_left = _locked(file)
            if is_left:
                path.unlink(missing_ok=True)
            else:
                found.append(int(path.name.split(".")[1]))
    return found


def _locked(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # Windows says so in this way; some network disks have no locks, and nothing keeps others out there
        return sys.platform != "win32"
    return True
