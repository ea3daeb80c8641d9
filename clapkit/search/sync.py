"""Keeping a store in step with files: what is new, changed, moved or gone, and the changes applied chunk by chunk.

Each chunk is one version of the table, and holds whole files. What was killed is planned anew by the next call: files
of finished chunks are found unchanged, the others are embedded again, and nothing stands there twice.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clapkit.errors import SearchIndexError
from clapkit.search.rows import Row, content_hash
from clapkit.search.view import FileState
from clapkit.search.writer import Writer

_NAMES_AT_ONCE = 500


@dataclass(frozen=True)
class Found:
    """A file as it lies there now; `file` is its name in the store."""

    file: str
    mtime_s: float
    size_bytes: int


@dataclass
class SyncPlan:
    """What has to happen: files that are not there, are not as they were, have another name (old to new), are gone.

    touched   files with another time and the same content
    same      how many need nothing
    unread    (file, reason) of those that cannot be read
    """

    new: list[Found] = field(default_factory=list)
    changed: list[Found] = field(default_factory=list)
    moved: dict[str, Found] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    touched: list[Found] = field(default_factory=list)
    same: int = 0
    unread: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class FileVectors:
    """The windows of one file: vectors [W, D], where they begin, how long they are; tags and metadata of the file."""

    file: str
    vectors_WD: np.ndarray
    starts_s: Sequence[float]
    durations_s: Sequence[float]
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unusable:
    """A file that could not be embedded, and why."""

    file: str
    reason: str


@dataclass
class SyncReport:
    """What was done, in files; `failures` lists (file, reason)."""

    embedded: int = 0
    moved: int = 0
    deleted: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def list_files(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Found], list[tuple[str, str]]]:
    """Time and size of files, named with forward slashes; and (file, reason) of those that cannot be looked at."""
    found, unread = [], []
    for path in paths:
        name = os.fspath(path).replace(os.sep, "/")
        try:
            state = os.stat(path)
            name.encode()
        except (OSError, ValueError) as error:
            unread.append((name, str(error)))
            continue
        found.append(Found(name, state.st_mtime, state.st_size))
    return found, unread


def plan_sync(
    listing: Iterable[Found], known: Mapping[str, FileState], *, hash_of: Callable[[str], str] = content_hash
) -> SyncPlan:
    """Compare the files that are there with those of the store (`View.files`).

    Time and size tell most files; content is read (`hash_of`) only where they differ, and of a new name only where a
    file of its size is gone, to see whether it was moved.
    """
    plan = SyncPlan()
    there = {found.file: found for found in listing}
    gone: dict[int, list[str]] = defaultdict(list)
    for file in sorted(known.keys() - there.keys()):
        gone[known[file].size_bytes].append(file)
    for found in there.values():
        try:
            if found.file in known:
                _plan_known(plan, found, known[found.file], hash_of)
            else:
                _plan_new(plan, found, gone[found.size_bytes], known, hash_of)
        except OSError as error:
            plan.unread.append((found.file, str(error)))
    plan.deleted = sorted(file for files in gone.values() for file in files)
    return plan


def apply_sync(
    writer: Writer,
    plan: SyncPlan,
    embed: Callable[[Sequence[str]], Iterator[FileVectors | Unusable]],
    *,
    pipeline_id: str,
    chunk_rows: int = 2048,
    chunk_s: float = 30.0,
    hash_of: Callable[[str], str] = content_hash,
    on_chunk: Callable[[SyncReport], None] | None = None,
) -> SyncReport:
    """Carry out a plan. `embed` makes the vectors of files, in any order, one result a file.

    chunk_rows   so many rows are written at once, or what there is after `chunk_s` seconds: what a kill may lose
    on_chunk     is called after each write
    A file that fails is reported and costs only itself; if it had been there, what was known of it stays. A file that
    changes while it is read is embedded again by the next plan. Moves come first, deletions last.
    """
    report = SyncReport(failures=list(plan.unread))
    for names in _pieces(list(plan.moved)):
        writer.move(
            {old: plan.moved[old].file for old in names},
            {plan.moved[old].file: _state(plan.moved[old]) for old in names},
        )
        report.moved += len(names)
    for touched in _pieces(plan.touched):
        writer.touch({found.file: _state(found) for found in touched})
    wanted = {found.file: found for found in (*plan.new, *plan.changed)}
    chunk = _Chunk(writer, report, on_chunk)
    for result in embed(list(wanted)) if wanted else ():
        found = wanted.pop(result.file, None)
        if found is None:
            raise SearchIndexError(f"{result.file!r} was not asked for, or came twice: expected one result a file")
        try:
            if isinstance(result, Unusable):
                raise SearchIndexError(result.reason)
            rows = _rows(found, result, pipeline_id, hash_of(found.file))
            _refuse_changed(found)
        except (SearchIndexError, OSError) as error:
            report.failures.append((result.file, str(error)))
            continue
        chunk.take(rows, result)
        if len(chunk.rows) >= chunk_rows or time.monotonic() - chunk.begun >= chunk_s:
            chunk.write()
    chunk.write()
    if wanted:
        raise SearchIndexError(f"{len(wanted)} files got no result, {min(wanted)!r} first: index again")
    for files in _pieces(plan.deleted):
        writer.forget(files)
        report.deleted += len(files)
    writer.settle()
    return report


@dataclass
class _Chunk:
    """Rows of whole files that are to be written at once."""

    writer: Writer
    report: SyncReport
    on_chunk: Callable[[SyncReport], None] | None
    rows: list[Row] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    files: int = 0
    begun: float = field(default_factory=time.monotonic)

    def take(self, rows: Sequence[Row], result: FileVectors) -> None:
        self.rows.extend(rows)
        self.vectors.append(result.vectors_WD)
        self.files += 1

    def write(self) -> None:
        if not self.rows:
            return
        self.writer.replace_files(self.rows, np.concatenate(self.vectors))
        self.report.embedded += self.files
        self.rows, self.vectors, self.files, self.begun = [], [], 0, time.monotonic()
        if self.on_chunk:
            self.on_chunk(self.report)


def _plan_known(plan: SyncPlan, found: Found, state: FileState, hash_of: Callable[[str], str]) -> None:
    if _state(found) == (state.mtime_s, state.size_bytes):
        plan.same += 1
    elif found.size_bytes == state.size_bytes and hash_of(found.file) == state.content_hash:
        plan.touched.append(found)
    else:
        plan.changed.append(found)


def _plan_new(
    plan: SyncPlan, found: Found, gone: list[str], known: Mapping[str, FileState], hash_of: Callable[[str], str]
) -> None:
    content = hash_of(found.file) if gone else None
    old = next((file for file in gone if known[file].content_hash == content), None)
    if old is None:
        plan.new.append(found)
    else:
        gone.remove(old)
        plan.moved[old] = found


def _rows(found: Found, result: FileVectors, pipeline_id: str, content: str) -> list[Row]:
    if not len(result.vectors_WD) == len(result.starts_s) == len(result.durations_s) > 0:
        raise SearchIndexError(
            f"{len(result.vectors_WD)} vectors, {len(result.starts_s)} starts and {len(result.durations_s)} durations: "
            "expected as many of each, at least one"
        )
    about: dict[str, Any] = {
        "content_hash": content,
        "pipeline_id": pipeline_id,
        "tags": result.tags,
        "metadata": result.metadata,
    }
    about |= {"mtime_s": found.mtime_s, "size_bytes": found.size_bytes}
    spans = zip(result.starts_s, result.durations_s, strict=True)
    return [Row(found.file, n, float(start_s), float(long_s), **about) for n, (start_s, long_s) in enumerate(spans)]


def _refuse_changed(found: Found) -> None:
    with suppress(OSError):  # a URL, or a file that has gone meanwhile: the next plan will see
        now = os.stat(found.file)
        if (now.st_mtime, now.st_size) != _state(found):
            raise SearchIndexError("it was changed while it was read: index again")


def _state(found: Found) -> tuple[float, int]:
    return found.mtime_s, found.size_bytes


def _pieces(items: Sequence[Any]) -> Iterator[Any]:
    return (items[start : start + _NAMES_AT_ONCE] for start in range(0, len(items), _NAMES_AT_ONCE))
