"""Captioned or labelled sound as a tuple of clips, from a folder, a table, a dataset folder, or several of them.

Everything wrong with all sources is told at once, in one DataError, before any work starts. Every column is accounted
for: read as something, or kept in `Clip.meta` and listed in the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clapkit.data.arrow import is_dataset_folder, read_dataset_folder, read_parquet
from clapkit.data.clip import Clip
from clapkit.data.columns import Assignment, assign_columns, role_name
from clapkit.data.folders import read_sound_folder
from clapkit.data.rows import ClipReader
from clapkit.data.shards import is_shards, read_shards
from clapkit.data.tables import Table, read_json, read_json_lines, read_separated
from clapkit.errors import DataError, nearest_name

_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": read_separated,
    ".tsv": lambda path: read_separated(path, delimiter="\t"),
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".parquet": read_parquet,
}
_MANIFEST_STEMS = ("manifest", "metadata")
_LARGE_BYTES = 2 << 30


@dataclass(frozen=True)
class SourceReport:
    """What became of one source.

    rows     entries in it; `kept` of them passed the split filter
    columns  column -> what it was read as
    meta     columns that were not read, and stand in `Clip.meta`
    """

    source: str
    rows: int
    kept: int
    columns: Mapping[str, str]
    meta: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        read = ", ".join(name if name == role else f"{name} as {role}" for name, role in self.columns.items())
        lines = [f"{self.source}: {self.kept} of {self.rows} rows", f"  read: {read}"]
        if self.meta:
            lines.append(f"  kept as meta: {', '.join(self.meta)}")
        return "\n".join(lines + [f"  note: {warning}" for warning in self.warnings])


@dataclass(frozen=True)
class Manifest:
    """Clips with unique ids, where they came from, and a report for each source."""

    clips: tuple[Clip, ...]
    report: tuple[SourceReport, ...]
    source: str

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    @property
    def labels(self) -> tuple[str, ...]:
        """The different labels, sorted."""
        return tuple(sorted({c.label for c in self.clips if c.label is not None}))

    def describe(self) -> str:
        """A short table: clips, classes, captions and splits with their sizes."""
        captions = [text for clip in self.clips for text in clip.captions]
        splits = Counter(c.split for c in self.clips if c.split is not None)
        tags = {tag for clip in self.clips for tag in clip.tags}
        lines = {
            "clips": str(len(self.clips)),
            "classes": str(len(self.labels)),
            "tags": str(len(tags)),
            "captions": f"{len(captions)} ({len(set(captions))} different)",
            "splits": ", ".join(f"{name} {count}" for name, count in sorted(splits.items())) or "none",
        }
        return "\n".join([self.source, *(f"  {name:<9}{value}" for name, value in lines.items())])


def read(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    check_files: bool = True,
    need_text: bool = True,
) -> Manifest:
    """Read a manifest: CSV, TSV, JSON, JSON lines or parquet file, a dataset folder, a folder of sound files, or tar
    shards (a .tar, a folder of them, or a pattern such as shards-{000..010}.tar).

    columns      role -> column, where the names differ: {"caption": "title"}; "" leaves a role unread
    splits       column -> wanted values; rows with another value are left out
    check_files  whether every sound file must exist
    need_text    whether every clip must have a caption, a label or tags (embedding can do without)

    Paths are relative to the manifest. A folder with a file named manifest.* or metadata.* is read through it.
    Raises DataError with all problems, MissingExtraError where pyarrow is needed and absent.
    """
    return read_all([source], columns=columns, splits=splits, check_files=check_files, need_text=need_text)


def read_all(
    sources: Sequence[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    check_files: bool = True,
    need_text: bool = True,
) -> Manifest:
    """Read several sources as one manifest; the arguments are those of `read` and hold for all.

    Where sources share an id, all ids of these sources get the name of their source in front ("esc50/..."). Each clip
    names its source first in its `provenance`. A value of `splits` must occur in at least one source.
    """
    if not sources:
        raise DataError("no data: name at least one manifest or folder")
    names = [str(source) for source in sources]
    if len(set(names)) < len(names):
        raise DataError(f"'{Counter(names).most_common(1)[0][0]}' is named twice: name each source once")
    tables = {name: _open(Path(name)) for name in names}
    assigned = {name: assign_columns(table, columns, need_text=need_text) for name, table in tables.items()}
    rows_read = {name: len(table.rows) for name, table in tables.items()}
    problems = {name: [*tables[name].problems, *assigned[name].problems] for name in names}
    readers = {
        name: ClipReader(table, assigned[name], need_text=need_text, check_files=check_files)
        for name, table in tables.items()
    }
    # A single value is a natural slip, and "fold1" is also a sequence of letters.
    wanted = {word: [values] if isinstance(values, str) else values for word, values in (splits or {}).items()}
    for name, complaint in _filter(tables, assigned, wanted):
        problems[name].append(complaint)
    clips: dict[str, list[Clip]] = {}
    reports = []
    for name, table in tables.items():
        clips[name] = readers[name].read(table.rows if assigned[name].of("audio") else [])
        problems[name] += readers[name].problems
        if not table.rows and not problems[name]:
            problems[name].append("no row is left by the split filter" if rows_read[name] else "it has no rows")
        reports.append(
            _report(name, rows_read[name], table, assigned[name], _warnings(clips[name], readers[name].counts))
        )
    _raise_all(problems)
    return Manifest(_join(clips), tuple(reports), " + ".join(names))


def _open(path: Path) -> Table:
    if not path.is_dir() and is_shards(path):
        return read_shards(path)
    if not path.exists():
        return Table(path.parent, problems=["no such file or folder"])
    if path.is_file():
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            return Table(path.parent, problems=[f"unknown type '{path.suffix}', expected {', '.join(_READERS)}"])
        return reader(path)
    found = [f for stem in _MANIFEST_STEMS for suffix in _READERS if (f := path / f"{stem}{suffix}").is_file()]
    if found:
        table = _READERS[found[0].suffix](found[0])
        table.warnings += [f"{other.name} was not read, {found[0].name} goes first" for other in found[1:]]
        return table
    if is_dataset_folder(path):
        return read_dataset_folder(path)
    return read_shards(path) if is_shards(path) else read_sound_folder(path)


def _filter(
    tables: Mapping[str, Table], assigned: Mapping[str, Assignment], splits: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str]]:
    """Leave only the wanted rows in each table; yields (source, complaint)."""
    readable = {name: table for name, table in tables.items() if table.columns}
    for word, wanted in splits.items():
        columns = {name: _split_column(word, table, assigned[name]) for name, table in readable.items()}
        seen: Counter[str] = Counter()
        for name, column in columns.items():
            table = readable[name]
            if column is None:
                yield name, f"there is no column '{word}' to filter by; {nearest_name(word, table.columns)}"
                continue
            seen.update(str(row.values.get(column)) for row in table.rows)
            table.rows = [row for row in table.rows if str(row.values.get(column)) in wanted]
        for value in wanted if any(columns.values()) else ():
            if value not in seen:
                listed = ", ".join(f"{v} ({n})" for v, n in sorted(seen.items())[:30])
                yield next(iter(tables)), f"no row has {word}={value}; values of {word}: {listed or 'none'}"


def _split_column(word: str, table: Table, assignment: Assignment) -> str | None:
    if word in table.columns:
        return word
    role = role_name(word)
    return next((column.name for column in assignment.of(role)), None) if role else None


def _report(name: str, rows_read: int, table: Table, assignment: Assignment, warnings: Iterator[str]) -> SourceReport:
    all_warnings = (*table.warnings, *warnings)
    return SourceReport(name, rows_read, len(table.rows), assignment.used(), assignment.unread, all_warnings)


def _warnings(clips: Sequence[Clip], counts: Mapping[str, int]) -> Iterator[str]:
    yield from (f"{count} row(s): {what}" for what, count in counts.items())
    held = sum(len(clip.audio) for clip in clips if isinstance(clip.audio, bytes))
    if held > _LARGE_BYTES:
        yield f"{held / 2**30:.1f} GiB of sound stand inside the tables and are held in memory"


def _raise_all(problems: Mapping[str, list[str]]) -> None:
    found = [f"{name}: {problem}" for name, listed in problems.items() for problem in listed]
    if found:
        raise DataError(f"the data cannot be used, {len(found)} problem(s):", found)


def _join(clips: Mapping[str, Sequence[Clip]]) -> tuple[Clip, ...]:
    counts = Counter(clip.id for listed in clips.values() for clip in listed)
    joined, names = [], _short_names(clips)
    for source, listed in clips.items():
        prefix = f"{names[source]}/" if any(counts[clip.id] > 1 for clip in listed) else ""
        # With several sources each clip remembers its own, for samplers that balance them.
        origin = (names[source],) if len(clips) > 1 else ()
        joined += [clip.with_(id=prefix + clip.id, provenance=origin) for clip in listed]
    left = Counter(clip.id for clip in joined)
    if len(left) < len(joined):
        example = left.most_common(1)[0][0]
        raise DataError(f"the id '{example}' comes from two sources even with their names in front: rename one file")
    return tuple(joined)


def _short_names(sources: Mapping[str, Sequence[Clip]]) -> dict[str, str]:
    """A different short name for each source: its stem, or its folder where the stem says nothing."""
    names: dict[str, str] = {}
    for source in sources:
        path = Path(source).resolve()
        stem = path.parent.name if path.stem in _MANIFEST_STEMS else path.name if path.is_dir() else path.stem
        candidates = (stem, *(f"{stem}-{number}" for number in range(2, len(sources) + 1)))
        names[source] = next(name for name in candidates if name not in names.values())
    return names
