"""Embedding so many files that the work is interrupted: parts are written as it goes on, and a second call continues.

What was done is read from the parts themselves, so a process may be killed at any moment: at worst the files since the
last part are embedded again. Memory holds the names, and the rows of one part.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from clapkit.errors import ClapkitError, DataError
from clapkit.runtime.parts import BadFile, FileRows, JobFolder, JobSettings, rows_of, stored_path
from clapkit.runtime.storage import Fetched, as_local, is_url, open_folder

if TYPE_CHECKING:
    from clapkit.api import Clap

_SHOWN = 20


class Embedder(Protocol):
    """Whoever does the work: one FileRows or BadFile for each path, in any order, `path` as it was given."""

    def __call__(self, paths: Sequence[str], *, windows: bool) -> Iterator[FileRows | BadFile]: ...


@dataclass(frozen=True)
class JobProgress:
    """Where a job stands: files of `total`, how fast they came in this run, and how long the rest may take."""

    done: int
    total: int
    failed: int
    rate_per_s: float
    left_s: float
    wrote: bool  # whether a part has just been written


@dataclass
class JobReport:
    """What became of a job.

    embedded, failed    files in the folder now
    before              files of these that were there when this run began
    failures, notes     the first of this run, as (path, reason) and (path, note); noted: how many carry a note
    """

    embedded: int = 0
    failed: int = 0
    before: int = 0
    noted: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def embed_job(
    clap: Clap,
    sounds: Sequence[str],
    out: str | os.PathLike,
    *,
    windows: bool = False,
    skipped: Sequence[tuple[str, str]] = (),
    asked: Sequence[str] | None = None,
    embedder: Embedder | None = None,
    part_rows: int = 4096,
    part_s: float = 30.0,
    on_progress: Callable[[JobProgress], None] | None = None,
) -> JobReport:
    """Embed files into the folder `out`; the same call again, after whatever ended it, goes on.

    sounds      paths and URLs; out: a folder or URL (see docs/big-jobs.md for what is written)
    windows     one row a window, not one a file
    skipped     (path, reason) of what is known to be no good: it goes to the failures
    asked       what the caller had named, for the record; default: `sounds`
    embedder    does the work instead of `clap` (`clapkit.runtime.cluster.RayWorkers`)
    part_rows   a part is written when it has so many rows, or after `part_s` seconds
    Raises DataError when the folder was begun with another model or other settings, is in use, or cannot be written.
    """
    if part_rows < 1:
        raise DataError(f"part_rows is {part_rows}: a part has at least one row")
    sounds = [as_local(sound) for sound in sounds]
    settings = JobSettings(clap.space_id, clap.precision, windows, clap.pipeline_id, clap.dimension)
    place = open_folder(out)
    try:
        folder = JobFolder(place)
        folder.begin(settings, asked=sounds if asked is None else asked, model=str(clap.folder))
        run = _Run(folder, settings.pipeline_id, part_rows=part_rows, part_s=part_s, on_progress=on_progress)
        pending = run.plan(sounds, skipped)
        run.take_all((embedder or embed_here(clap))(pending, windows=windows) if pending else iter(()))
        folder.finish()
        return run.report
    finally:
        place.close()


def embed_here(clap: Clap, *, workers: int | None = None) -> Embedder:
    """The embedder of this process; `workers` decoder processes (default: one a processor, at most 8)."""
    count = min(8, os.cpu_count() or 1) if workers is None else workers

    def embed(paths: Sequence[str], *, windows: bool) -> Iterator[FileRows | BadFile]:
        with tempfile.TemporaryDirectory(prefix="clapkit-", ignore_cleanup_errors=True) as copies:
            sources: list[Any] = [Fetched(path, copies) if is_url(path) else path for path in paths]
            for result in clap.embed_each(sources, workers=count):
                source = sources[result.index]
                if isinstance(source, Fetched):
                    source.forget()
                path = paths[result.index]
                if hasattr(result, "error"):
                    yield BadFile(path, result.error.reason)
                else:
                    yield rows_of(path, result, windows=windows)

    return embed


class _Run:
    """One call of a job: takes results, writes parts, counts."""

    def __init__(
        self,
        folder: JobFolder,
        pipeline_id: str,
        *,
        part_rows: int,
        part_s: float,
        on_progress: Callable[[JobProgress], None] | None,
    ) -> None:
        self.report = JobReport()
        self._folder, self._pipeline_id = folder, pipeline_id
        self._part_rows, self._part_s, self._on_progress = part_rows, part_s, on_progress
        self._rows: list[FileRows] = []
        self._bad: list[BadFile] = []
        self._open: set[str] = set()  # stored paths without a result
        self._total = self._came = self._row_count = 0
        self._began = self._wrote = time.monotonic()

    def plan(self, sounds: Sequence[str], skipped: Sequence[tuple[str, str]]) -> list[str]:
        """The files that are still to be embedded; what is skipped goes to the failures, if it is not there."""
        embedded, failed = self._folder.done()
        self.report.embedded, self.report.failed = len(embedded), len(failed)
        pending: dict[str, str] = {}
        named: dict[str, str] = {}
        for sound in sounds:
            stored = stored_path(sound)
            if named.get(stored, sound) != sound:
                raise DataError(f"two files are both written {stored!r} in the table: rename one of them")
            if stored not in named and stored not in embedded and stored not in failed:
                pending[stored] = sound
            named[stored] = sound
        fresh = {stored_path(path): reason for path, reason in skipped}
        fresh = {path: reason for path, reason in fresh.items() if path not in failed and path not in embedded}
        self._total = len(named) + len(skipped)
        self.report.before = self._total - len(pending) - len(fresh)
        for path, reason in fresh.items():
            self._take_bad(BadFile(path, reason))
        self._open = set(pending)
        self._tell(wrote=False)
        return list(pending.values())

    def take_all(self, results: Iterator[FileRows | BadFile]) -> None:
        """Take every result; whatever ends this early, what has been embedded is written first."""
        try:
            for result in results:
                self._take(result)
        except BaseException:
            with suppress(ClapkitError):  # the folder itself may be what fails
                self._write()
            raise
        wrote = self._write()
        if self._open:
            raise ClapkitError(f"{len(self._open)} files got no result, '{min(self._open)}' first: run the job again")
        self._tell(wrote=wrote)

    def _take(self, result: FileRows | BadFile) -> None:
        stored = stored_path(result.path)
        if stored not in self._open:  # a worker that was thought dead may send what another has done again
            return
        self._open.discard(stored)
        self._came += 1
        if isinstance(result, BadFile):
            self._take_bad(BadFile(stored, result.reason))
        else:
            self._take_rows(replace(result, path=stored))
        late = time.monotonic() - self._wrote >= self._part_s
        if wrote := (late or self._row_count >= self._part_rows or len(self._bad) >= self._part_rows):
            self._write()
        self._tell(wrote=wrote)

    def _take_rows(self, rows: FileRows) -> None:
        self._rows.append(rows)
        self._row_count += len(rows.starts_s)
        self.report.embedded += 1
        self.report.noted += bool(rows.notes)
        if rows.notes and len(self.report.notes) < _SHOWN:
            self.report.notes.extend((rows.path, note) for note in rows.notes)

    def _take_bad(self, bad: BadFile) -> None:
        self._bad.append(bad)
        self.report.failed += 1
        if len(self.report.failures) < _SHOWN:
            self.report.failures.append((bad.path, bad.reason))

    def _write(self) -> bool:
        """Write what is held; whether there was anything."""
        rows, self._rows, self._row_count = self._rows, [], 0
        bad, self._bad = self._bad, []
        if rows:
            self._folder.write_rows(rows, self._pipeline_id)
        if bad:
            self._folder.write_failures(bad)
        self._wrote = time.monotonic()
        return bool(rows or bad)

    def _tell(self, *, wrote: bool) -> None:
        if self._on_progress is None:
            return
        rate_per_s = self._came / max(time.monotonic() - self._began, 1e-9)
        left_s = len(self._open) / rate_per_s if rate_per_s else 0.0
        done = self._total - len(self._open)
        self._on_progress(JobProgress(done, self._total, self.report.failed, rate_per_s, left_s, wrote))
