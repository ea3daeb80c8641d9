"""The folder that a big job writes: parts of a table, failures, and what was asked.

    part-00000-<hash>.parquet        path, start_s, duration_s, vector, pipeline_id; all rows of a file in one part
    _failures-00000-<hash>.jsonl     {"path", "reason"} a line; joined to `_failures.jsonl` when the job is finished
    _job.json                        space_id, pipeline_id, settings, what was asked, whether it is finished

Names that begin with an underscore are passed over by readers of parquet folders: the folder is one table to pyarrow,
pandas, DuckDB, Spark. Every file appears whole or not at all, so the files that are there say what has been done.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from clapkit.errors import DataError, MissingExtraError
from clapkit.runtime.storage import LocalFolder, RemoteFolder

if TYPE_CHECKING:
    from clapkit.runtime.engine import Embedded

FORMAT_VERSION = 1
_JOB = "_job.json"
_FAILURES = "_failures.jsonl"


@dataclass(frozen=True)
class FileRows:
    """The rows of one file: `vectors_ND` float32, of sound from starts_s[n] on for durations_s[n]."""

    path: str
    starts_s: tuple[float, ...]
    durations_s: tuple[float, ...]
    vectors_ND: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadFile:
    """A file that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class JobSettings:
    """What has to be the same when a job goes on: vectors of other settings would stand in the same table."""

    space_id: str
    precision: str
    windows: bool
    pipeline_id: str
    dimension: int


def rows_of(path: str, result: Embedded, *, windows: bool) -> FileRows:
    """One row of the file, or one a window."""
    notes = tuple(dict.fromkeys(result.notes))
    if not windows:
        return FileRows(path, (0.0,), (result.duration_s,), result.vector_D[None], notes)
    durations_s = tuple(min(result.window_s, result.duration_s - start_s) for start_s in result.starts_s)
    return FileRows(path, tuple(result.starts_s), durations_s, result.windows_WD, notes)


def columns_of(rows: Sequence[FileRows], pipeline_id: str) -> dict[str, Any]:
    """The columns path, start_s, duration_s, vector [N, d] and pipeline_id of a table of vectors."""
    paths = [row.path for row in rows for _ in row.starts_s]
    return {
        "path": paths,
        "start_s": np.array([start_s for row in rows for start_s in row.starts_s], np.float64),
        "duration_s": np.array([duration_s for row in rows for duration_s in row.durations_s], np.float64),
        "vector": np.concatenate([row.vectors_ND for row in rows]).astype(np.float32, copy=False),
        "pipeline_id": [pipeline_id] * len(paths),
    }


def as_table(rows: Sequence[FileRows], pipeline_id: str) -> Any:
    """The same as a pyarrow table, the vectors as lists of fixed size."""
    import pyarrow

    columns = columns_of(rows, pipeline_id)
    vectors_ND = columns["vector"]
    flat = pyarrow.array(vectors_ND.ravel())
    return pyarrow.table({**columns, "vector": pyarrow.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])})


def stored_path(path: str) -> str:
    """The path as it stands in the table: bytes that are no UTF-8 are spelled \\xff, so that two files stay two."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class JobFolder:
    """Reads and writes the files above in a folder of `storage`. DataError when the folder is not such a one."""

    def __init__(self, folder: LocalFolder | RemoteFolder) -> None:
        if find_spec("pyarrow") is None:
            raise MissingExtraError("pyarrow", "search", "Writing parquet")
        self._folder = folder
        names = folder.names()
        self._record = self._read_record(names)
        self._parts = [name for name in names if name.startswith("part-") and name.endswith(".parquet")]
        self._failures = [name for name in names if name.startswith("_failures") and name.endswith(".jsonl")]
        self._next = {
            kind: 1 + max(map(_number, present), default=-1)
            for kind, present in (("part", self._parts), ("_failures", self._failures))
        }

    def __str__(self) -> str:
        return str(self._folder)

    def begin(self, settings: JobSettings, *, asked: Sequence[str], model: str) -> None:
        """Check that the job may go on with these settings, and note them. DataError says what differs."""
        here = os.getcwd()
        if self._record is not None:
            self._check(settings, asked=asked, here=here)
        before = [] if self._record is None else self._record["asked"]
        self._record = {
            "format_version": FORMAT_VERSION,
            **asdict(settings),
            "model": model,
            "asked": list(dict.fromkeys([*before, *asked])),
            "asked_in": here,
            "finished": False,
        }
        self._write_record()

    def done(self) -> tuple[set[str], set[str]]:
        """The stored paths that have vectors, and those that failed."""
        from pyarrow import ArrowException, parquet

        embedded: set[str] = set()
        for name in self._parts:
            try:
                with self._folder.open(name) as file:
                    embedded.update(parquet.read_table(file, columns=["path"])["path"].unique().to_pylist())
            except (OSError, ArrowException) as error:
                raise DataError(
                    f"{self._folder}/{name} cannot be read ({error}): delete it, and its files are embedded again"
                ) from None
        return embedded, {row["path"] for row in self._failed_rows()}

    def write_rows(self, rows: Sequence[FileRows], pipeline_id: str) -> None:
        """Write one part."""
        from pyarrow import parquet

        file = io.BytesIO()
        parquet.write_table(as_table(rows, pipeline_id), file)
        self._parts.append(self._write("part", ".parquet", file.getvalue()))

    def write_failures(self, failures: Sequence[BadFile]) -> None:
        """Write some failures."""
        self._failures.append(self._write("_failures", ".jsonl", _json_lines(asdict(f) for f in failures)))

    def finish(self) -> None:
        """Join the failures to one file, and note that all is done."""
        if self._failures != [_FAILURES]:
            # A process killed between the writing and the deleting leaves failures twice, which ends here.
            each_once = {row["path"]: row for row in self._failed_rows()}
            self._folder.write(_FAILURES, _json_lines(each_once.values()))
            for name in self._failures:
                if name != _FAILURES:
                    self._folder.delete(name)
            self._failures = [_FAILURES]
        assert self._record is not None, "a job is begun before it is finished"
        self._record["finished"] = True
        self._write_record()

    def _failed_rows(self) -> list[dict[str, str]]:
        rows = []
        for name in self._failures:
            try:
                with self._folder.open(name) as file:
                    rows += [json.loads(line) for line in file.read().splitlines()]
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{self._folder}/{name} cannot be read ({error}): delete it, and its files are tried again"
                ) from None
        return rows

    def _write(self, kind: str, suffix: str, data: bytes) -> str:
        name = f"{kind}-{self._next[kind]:05d}-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
        self._folder.write(name, data)
        self._next[kind] += 1
        return name

    def _write_record(self) -> None:
        self._folder.write(_JOB, (json.dumps(self._record, indent=2) + "\n").encode())

    def _read_record(self, names: Sequence[str]) -> dict[str, Any] | None:
        if _JOB not in names:
            if names:
                raise DataError(
                    f"{self._folder} holds other things ('{names[0]}') and no {_JOB}: name a new or empty folder, or "
                    "one that an earlier run of this job has begun"
                )
            return None
        try:
            with self._folder.open(_JOB) as file:
                record = json.loads(file.read())
            version = record["format_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._folder}/{_JOB} cannot be read ({error!r}): the folder is not this job's") from None
        if version != FORMAT_VERSION:
            raise DataError(f"{self._folder}/{_JOB} has format {version}; this clapkit reads {FORMAT_VERSION}")
        return record

    def _check(self, settings: JobSettings, *, asked: Sequence[str], here: str) -> None:
        assert self._record is not None, "only a job that was begun is checked"
        for name, now in asdict(settings).items():
            before = self._record.get(name)
            if before != now:
                raise DataError(
                    f"{self._folder} was begun with {name} {before}, and this is {name} {now}: such vectors do not "
                    "belong in one table. Go on with the model and the options that it was begun with (see "
                    f"{_JOB}), or name a new folder. Nothing was changed."
                )
        relative = [place for place in asked if not (os.path.isabs(place) or "://" in place)]
        if relative and self._record["asked_in"] != here:
            raise DataError(
                f"{self._folder} was begun in {self._record['asked_in']}, and '{relative[0]}' would name other files "
                f"from {here}: give the command there, or absolute paths with a new folder"
            )


def _number(name: str) -> int:
    digits = name.split("-")[1] if "-" in name else ""
    return int(digits) if digits.isdigit() else -1


def _json_lines(rows: Iterable[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
