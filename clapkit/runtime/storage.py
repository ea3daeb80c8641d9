"""Where a job writes and what it reads, in a folder here or wherever fsspec reaches (s3://, gs://, memory://, ...).

A folder has `names()`, `open(name)`, `write(name, data)` (the whole file or nothing), `delete(name)` and `close()`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from clapkit.errors import AudioError, DataError, MissingExtraError
from clapkit.files import atomic_file

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_KEPT = "What was written before is whole: put this right and give the same command again."


def is_url(place: str) -> bool:
    """Whether a name is fsspec's business; one letter before a colon is a drive."""
    return bool(_URL.match(place))


def as_local(place: str) -> str:
    """`file://` (and `local://`) names as plain paths, all others as they are."""
    if not place.startswith(("file://", "local://")):
        return place
    return str(_filesystem(place)[1])


def open_folder(place: str | os.PathLike) -> LocalFolder | RemoteFolder:
    """The folder for a job's results, made if it is not there. DataError when it cannot be written to."""
    name = as_local(os.fspath(place))
    return RemoteFolder(name) if is_url(name) else LocalFolder(Path(name))


class LocalFolder:
    """A folder of this machine; one process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _told(path):
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / ".lock", "a+b")  # noqa: SIM115 - held until close()
            if not _locked(self._lock):
                self._lock.close()
                raise DataError(f"{path}: another process writes there now; wait for it, or name another folder")
            for left in path.glob(".*.partial"):  # a killed process was writing it
                left.unlink(missing_ok=True)

    def __str__(self) -> str:
        return str(self._path)

    def names(self) -> list[str]:
        return sorted(p.name for p in self._path.iterdir() if not p.name.startswith("."))

    def open(self, name: str) -> Any:
        return open(self._path / name, "rb")

    def write(self, name: str, data: bytes) -> None:
        with _told(self._path / name), atomic_file(self._path / name) as file:
            file.write(data)

    def delete(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def close(self) -> None:
        self._lock.close()  # the lock ends with it, as it does when the process is killed


class RemoteFolder:
    """A folder behind fsspec. Stores of objects write a whole object or none; nothing keeps a second process out."""

    def __init__(self, place: str) -> None:
        self._place = place.rstrip("/")
        self._fs, self._path = _filesystem(self._place)
        with _told(place, kinds=Exception):
            self._fs.makedirs(self._path, exist_ok=True)

    def __str__(self) -> str:
        return self._place

    def names(self) -> list[str]:
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError):  # a store of objects has no empty folders
            found = (name.rstrip("/").rsplit("/", 1)[-1] for name in self._fs.ls(self._path, detail=False))
            return sorted(name for name in found if name and not name.startswith("."))
        return []

    def open(self, name: str) -> Any:
        return self._fs.open(f"{self._path}/{name}", "rb")

    def write(self, name: str, data: bytes) -> None:
        with _told(f"{self._place}/{name}", kinds=Exception):
            self._fs.pipe_file(f"{self._path}/{name}", data)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._path}/{name}")

    def close(self) -> None:
        """Nothing is held."""


def find_remote(place: str, suffixes: Collection[str]) -> list[str]:
    """The sounds that a URL names: itself if it ends like one, else all below it that do, in the order of their names.

    Hidden files and folders are left out. DataError when the place cannot be listed, or holds no sound.
    """
    fs, path = _filesystem(place)
    if _suffix(path) in suffixes:
        return [place]
    try:
        found = fs.find(path)
    except Exception as error:  # each store has exceptions of its own
        raise DataError(f"{place} cannot be listed: {type(error).__name__}: {error}") from error
    sounds = [
        name
        for name in sorted(found)
        if _suffix(name) in suffixes
        and not any(part.startswith(".") for part in name.removeprefix(path).strip("/").split("/"))
    ]
    if not sounds:
        raise DataError(f"{place}: no file in it ends in {' '.join(sorted(suffixes))}")
    return [fs.unstrip_protocol(name) for name in sounds]


class Fetched(os.PathLike[str]):
    """A remote sound as a path: copied to a temporary file when a decoder first asks for it, gone with `forget`."""

    def __init__(self, url: str, folder: str) -> None:
        self._url = url
        self._folder = folder
        self._lock = threading.Lock()
        self._local: str | None = None

    def __fspath__(self) -> str:
        with self._lock:
            if self._local is None:
                self._local = self._fetch()
            return self._local

    def _fetch(self) -> str:
        handle, local = tempfile.mkstemp(dir=self._folder, suffix=_suffix(self._url))
        try:
            fs, path = _filesystem(self._url)
            with os.fdopen(handle, "wb") as target, fs.open(path, "rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
        except Exception as error:  # each store has exceptions of its own
            os.unlink(local)
            if isinstance(error, FileNotFoundError):
                raise AudioError(self._url, "no such file") from None
            raise AudioError(self._url, f"cannot be fetched: {type(error).__name__}: {error}") from error
        return local

    def forget(self) -> None:
        """Remove the copy."""
        with self._lock:
            if self._local is not None:
                os.unlink(self._local)
                self._local = None


def _suffix(name: str) -> str:
    return os.path.splitext(name.split("?", 1)[0])[1].lower()


def _filesystem(place: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError("fsspec", "cloud", f"Reaching {place}") from None
    try:
        return fsspec.url_to_fs(place)
    except ImportError as error:
        raise DataError(f'{place}: {error}. Or install all of them with:  pip install "clapkit[cloud]"') from None
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None


@contextmanager
def _told(place: object, *, kinds: type[Exception] = OSError) -> Iterator[None]:
    """Failures to write as DataError that says what has become of the rest."""
    try:
        yield
    except DataError:
        raise
    except kinds as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise DataError(f"{place} cannot be written ({reason}). {_KEPT}") from error


def _locked(file: BinaryIO) -> bool:
    """Take the lock of an open file; False if another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # Windows says so in this way, and some network disks have no locks: there nothing keeps others out
        return sys.platform != "win32"
    return True
