"""Where a store lies: a folder here, or a URL that both fsspec and LanceDB can reach; and its head, `store.json`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clapkit.errors import MissingExtraError, SearchIndexError
from clapkit.files import atomic_file, cache_folder
from clapkit.search.lock import WriterLock

FORMAT_VERSION = 1
_HEAD = "store.json"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Tuning:
    """How a vector index is asked: how many of its parts, and how many times `k` candidates are scored once more.

    rows   how many there were when this was measured
    """

    parts: int
    refine: int
    recall: float
    bits: int
    rows: int = 0


@dataclass(frozen=True)
class Space:
    """One embedding space of a store: its table, and what its vectors are.

    model   where the model that made them is to be looked for, as `Place.note_of` wrote it
    """

    space_id: str
    pipeline_id: str
    dimension: int
    dtype: str
    table: str
    tuning: Tuning | None = None
    model: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """What a store holds: its spaces, the one that is searched, and the folders, files, manifests it is made from.

    columns   role -> column, how the manifests are read (`clapkit.data.manifest.read`)
    """

    active: str
    spaces: Mapping[str, Space] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    def with_space(self, space: Space) -> Head:
        return replace(self, spaces={**self.spaces, space.space_id: space})

    def without(self, space_id: str) -> Head:
        return replace(self, spaces={name: space for name, space in self.spaces.items() if name != space_id})


class Place:
    """The folder or URL of a store."""

    def __init__(self, place: str | os.PathLike[str]) -> None:
        name = os.fspath(place)
        name = name.removeprefix("file://") if os.name != "nt" else name
        self.local = None if _URL.match(name) else Path(name)
        self.name = name.rstrip("/") if self.local is None else str(self.local)
        self._lock: WriterLock | None = None

    @property
    def tables(self) -> str:
        """Where LanceDB keeps the tables."""
        return f"{self.name}/tables" if self.local is None else str(self.local / "tables")

    @property
    def scans(self) -> Path:
        """Where scans are kept: in the store, or in the cache of this machine where the store is far away."""
        if self.local is not None:
            return self.local / "scans"
        return cache_folder() / "scans" / hashlib.blake2b(self.name.encode(), digest_size=8).hexdigest()

    def begin(self) -> None:
        """Make the folder of a new store. SearchIndexError where a store or anything else is there already."""
        if self._bytes() is not None:
            raise SearchIndexError(f"{self.name} already holds a store: open it to add to it, or name another folder")
        if self.local is None:
            return
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            left = {"tables", "scans", "writer.lock", "writer.json"}  # of a killed writer, that had no head yet
            others = sorted(path.name for path in self.local.iterdir() if path.name not in left)
        except OSError as error:
            raise SearchIndexError(f"cannot make a store in {self.name}: {error}") from error
        if others:
            raise SearchIndexError(
                f"{self.name} is not empty (it holds {others[0]!r}): name a new folder for the store"
            )

    def claim(self) -> None:
        """Take the right to write, until `close`. SearchIndexError where another process has it.

        A store behind a URL has no lock: LanceDB refuses one of two writes that touch the same rows.
        """
        if self.local is not None and self._lock is None:
            self._lock = WriterLock(self.local)

    def close(self) -> None:
        """Give the right to write back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def read(self) -> Head:
        """The head. SearchIndexError where it is missing, damaged, or of another format."""
        data = self._bytes()
        if data is None:
            missing = self.local is not None and not self.local.is_dir()
            what = "does not exist" if missing else f"holds no {_HEAD}"
            raise SearchIndexError(f"{self.name} {what}: expected a store written by `clapkit index`")
        try:
            head = json.loads(data)
            found = head.get("format_version")
        except (ValueError, AttributeError) as error:
            raise SearchIndexError(f"{self.name}/{_HEAD} is damaged ({error}): index the sounds again") from error
        if found != FORMAT_VERSION:
            raise SearchIndexError(
                f"{self.name}/{_HEAD} has format_version {found!r}; this clapkit reads {FORMAT_VERSION}. "
                "Use the clapkit that wrote it, or index the sounds again"
            )
        try:
            spaces = {name: _space(about) for name, about in head["spaces"].items()}
            sources, columns = tuple(head.get("sources", ())), dict(head.get("columns", {}))
            return Head(spaces[head["active"]].space_id, spaces, sources=sources, columns=columns)
        except (KeyError, TypeError, AttributeError) as error:
            raise SearchIndexError(f"{self.name}/{_HEAD} is damaged ({error!r}): index the sounds again") from error

    def write(self, head: Head) -> None:
        """Replace the head in one step."""
        spaces = {name: asdict(space) for name, space in head.spaces.items()}
        about = {
            "format_version": FORMAT_VERSION,
            "active": head.active,
            "spaces": spaces,
            "sources": list(head.sources),
            "columns": dict(head.columns),
            "clapkit_version": _version(),
        }
        self.put(_HEAD, json.dumps(about, indent=2).encode() + b"\n")

    def put(self, name: str, data: bytes) -> None:
        """Write a small file beside the tables, the whole of it or nothing. SearchIndexError where that fails."""
        try:
            if self.local is not None:
                with atomic_file(self.local / name) as file:
                    file.write(data)
            else:
                fs, path = self._filesystem()
                fs.pipe_file(f"{path}/{name}", data)
        except OSError as error:
            raise SearchIndexError(f"cannot write {self.name}/{name}: {error}. What was there is kept") from error

    def note_of(self, model: str | os.PathLike[str]) -> tuple[str, ...]:
        """How to remember a model: a path from here and from the root, so that either may move; a name as it is."""
        path = Path(model)
        if not path.exists():
            return (os.fspath(model),)
        here = path.resolve()
        if self.local is None:
            return (here.as_posix(),)
        try:
            return (Path(os.path.relpath(here, self.local.resolve())).as_posix(), here.as_posix())
        except ValueError:  # on another drive
            return (here.as_posix(),)

    def model_of(self, space: Space) -> str | None:
        """What to load for this space: the name of its model, or the path where it still is; None where it is gone."""
        if len(space.model) == 1 and not Path(space.model[0]).is_absolute():
            return space.model[0]
        places = ((self.local / name if self.local else Path(name)) for name in space.model)
        return next((str(place.resolve()) for place in places if place.exists()), None)

    def _bytes(self) -> bytes | None:
        try:
            if self.local is not None:
                return (self.local / _HEAD).read_bytes()
            fs, path = self._filesystem()
            return fs.cat_file(f"{path}/{_HEAD}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SearchIndexError(f"{self.name}/{_HEAD} cannot be read: {error}") from error

    def _filesystem(self) -> tuple[Any, str]:
        try:
            import fsspec
        except ImportError:
            raise MissingExtraError("fsspec", "cloud", f"Reaching {self.name}") from None
        fs, path = fsspec.url_to_fs(self.name)
        fs.invalidate_cache()
        return fs, path


def holds_store(place: str | os.PathLike[str]) -> bool:
    """Whether a folder or URL holds the head of a store, whatever its state. SearchIndexError if it cannot be read."""
    return Place(place)._bytes() is not None


def _space(about: Mapping[str, Any]) -> Space:
    tuning = about.get("tuning")
    tuned = None if tuning is None else Tuning(**tuning)
    return Space(**{**about, "tuning": tuned, "model": tuple(about.get("model", ()))})


def _version() -> str:
    try:
        return version("clapkit")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
