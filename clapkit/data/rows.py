"""One row of a table becomes one Clip, or a list of what is wrong with it."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from clapkit.audio.tars import is_member
from clapkit.data.clip import Clip, Event
from clapkit.data.columns import Assignment, Column
from clapkit.data.tables import Row, Table
from clapkit.text.prompts import clean_label

_EVENT_KEYS = {
    "label": ("label", "class", "event_label"),
    "onset": ("onset_s", "onset", "start_s", "start"),
    "offset": ("offset_s", "offset", "end_s", "end"),
}


class ClipReader:
    """Reads the rows of one table.

    `problems` and `counts` ("without text", "empty captions", "labels that are numbers") grow with every row read.
    Make it before rows are left out: whether a name inside the table is unique, and so an id, depends on all of them.
    """

    def __init__(self, table: Table, assignment: Assignment, *, need_text: bool, check_files: bool) -> None:
        self._columns = assignment
        self._base = table.base
        self._need_text = need_text
        self._check_files = check_files
        self._held_names = Counter(_held(self._first(row, "audio"))[1] for row in table.rows)
        self._ids: Counter[str] = Counter()
        self.problems: list[str] = []
        self.counts: dict[str, int] = {}

    def read(self, rows: Sequence[Row]) -> list[Clip]:
        """The clips of all rows without a fault; every fault, ids that appear twice among them, joins `problems`."""
        clips = [clip for row in rows if (clip := self._read_one(row)) is not None]
        twice = {name: count for name, count in self._ids.items() if count > 1}
        self.problems += [f"the id '{i}' appears {n} times: ids (or paths) must be unique" for i, n in twice.items()]
        return clips

    def _read_one(self, row: Row) -> Clip | None:
        before = len(self.problems)
        audio, name = self._audio(row)
        start_s, duration_s = self._times(row)
        before_text = len(self.problems)
        captions, empty_caption = self._captions(row)
        wrong = self._wrong(row, captions)
        clip = Clip(
            id=self._id(row, name, start_s),
            audio=audio,
            start_s=start_s,
            duration_s=duration_s,
            captions=captions,
            label=self._label(row),
            tags=self._tags(row),
            split=self._plain(row, "split"),
            events=self._events(row),
            meta={name: row.values.get(name) for name in self._columns.unread},
            wrong=wrong,
        )
        if len(self.problems) == before_text:
            self._check_text(row, clip, empty_caption=empty_caption)
        return clip if len(self.problems) == before else None

    def _problem(self, row: Row, text: str) -> None:
        self.problems.append(f"{row.where}: {text}")

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _first(self, row: Row, role: str) -> Any:
        """The value of a role that has one column; None where it is absent or blank."""
        for column in self._columns.of(role):
            value = row.values.get(column.name)
            return None if _is_blank(value) or (isinstance(value, str) and not value.strip()) else value
        return None

    def _plain(self, row: Row, role: str) -> str | None:
        value = self._first(row, role)
        return None if value is None else str(value).strip()

    def _audio(self, row: Row) -> tuple[str | bytes, str]:
        """Where the sound is, and the name by which the manifest knows it."""
        value, name = _held(self._first(row, "audio"))
        if isinstance(value, bytes):
            return value, name if self._held_names[name] == 1 else ""
        if not isinstance(value, str):
            found = "nothing" if value is None else type(value).__name__
            self._problem(row, f"the sound is named by a path or held as bytes, found {found}")
            return "", ""
        path = self._base / value
        if self._check_files and not path.is_file() and not is_member(path):
            reason = "is a folder" if path.is_dir() else "is a broken link" if path.is_symlink() else "does not exist"
            self._problem(row, f"the file {value} {reason}")
        return os.fspath(path), value

    def _id(self, row: Row, name: str, start_s: float) -> str:
        found = self._plain(row, "id")
        if found is None:
            if self._columns.of("id"):
                self._problem(row, "the id is empty")
            # Several rows may cut pieces out of one file; sound without a name of its own is known by its row.
            cut = f"#{start_s:g}" if self._columns.of("start") else ""
            found = f"{name}{cut}" if name else row.where
        self._ids[found] += 1
        return found

    def _times(self, row: Row) -> tuple[float, float | None]:
        start_s = self._seconds(row, "start") or 0.0
        duration_s, end_s = self._seconds(row, "duration"), self._seconds(row, "end")
        if end_s is not None:
            duration_s = end_s - start_s
        if duration_s is not None and duration_s <= 0:
            self._problem(row, f"the clip lasts {duration_s:g} s, expected more than 0")
        return start_s, duration_s

    def _seconds(self, row: Row, role: str) -> float | None:
        value = self._first(row, role)
        if value is None:
            return None
        seconds = _as_number(value)
        if seconds is None or seconds < 0:
            self._problem(row, f"{role} is {value!r}, expected seconds (0 or more)")
            return None
        return seconds

    def _captions(self, row: Row) -> tuple[tuple[str, ...], bool]:
        """The captions, and whether there should have been one where all cells are empty."""
        captions, present = [], False
        for column in self._columns.of("caption"):
            parts = _parts(row.values.get(column.name), column)
            present = present or bool(parts)
            for number, part in enumerate(parts, start=1):
                if not isinstance(part, str):
                    self._problem(row, f"a caption is text, found {type(part).__name__} {part!r}")
                elif part.strip():
                    captions.append(part.strip())
                elif len(parts) > 1:
                    self._problem(row, f"caption {number} of {len(parts)} is empty")
        return tuple(captions), present and not captions

    def _wrong(self, row: Row, captions: Sequence[str]) -> tuple[str, ...]:
        """Captions that are said to be false; one that is also said to be true is a fault."""
        wrong: dict[str, None] = {}
        true = {caption.casefold() for caption in captions}
        for column in self._columns.of("wrong"):
            for part in _parts(row.values.get(column.name), column):
                if not isinstance(part, str):
                    self._problem(row, f"a wrong caption is text, found {type(part).__name__} {part!r}")
                elif part.strip().casefold() in true:
                    self._problem(row, f"the caption '{part.strip()}' is given as wrong too")
                elif part.strip():
                    wrong[part.strip()] = None
        return tuple(wrong)

    def _label(self, row: Row) -> str | None:
        value = self._first(row, "label")
        if value is None:
            return None
        if isinstance(value, (list, dict, bytes)):
            self._problem(row, f"a label is one name, found {value!r}: several are read as tags (tags=COLUMN)")
            return None
        if _as_number(value) is not None:
            self._count("labels that are numbers")
        return clean_label(str(value))

    def _tags(self, row: Row) -> tuple[str, ...]:
        tags = []
        for column in self._columns.of("tags"):
            for part in _parts(row.values.get(column.name), column):
                if not isinstance(part, (str, int)):
                    self._problem(row, f"a tag is text, found {type(part).__name__} {part!r}")
                elif clean_label(str(part)):
                    tags.append(clean_label(str(part)))
        return tuple(tags)

    def _events(self, row: Row) -> tuple[Event, ...]:
        value = self._first(row, "events")
        try:
            entries = json.loads(value) if isinstance(value, str) else value or ()
            return tuple(_event(entry) for entry in entries)
        except (ValueError, TypeError) as error:
            self._problem(row, f"events are a list of {{label, onset, offset}} with 0 <= onset <= offset: {error}")
            return ()

    def _check_text(self, row: Row, clip: Clip, *, empty_caption: bool) -> None:
        """An empty caption is a fault even beside a label: it would be trained on as if it were meant."""
        if empty_caption:
            self._count("empty captions")
            if self._need_text:
                self._problem(row, "the caption is empty: write one, leave the row out, or do not read it (caption=)")
        elif not (clip.captions or clip.label or clip.tags):
            self._count("without text")
            if self._need_text and any(self._columns.of(role) for role in ("caption", "label", "tags")):
                self._problem(row, "neither a caption nor a label nor tags")


def _is_blank(value: Any) -> bool:
    """Absent: null, or the NaN that table programs write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _held(value: Any) -> tuple[Any, str]:
    """The sound of a cell (bytes, path or whatever stands there), and its name where the table itself holds it."""
    if isinstance(value, Mapping):
        name = value.get("path") or ""
        return value.get("bytes") or name or None, name
    return value, ""


def _as_number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _parts(value: Any, column: Column) -> Sequence[Any]:
    """The values of a cell: members of a list, pieces between separators, or the cell itself; nothing if absent."""
    if _is_blank(value):
        return ()
    if isinstance(value, (list, tuple)):
        return value
    if column.separator and isinstance(value, str):
        return value.split(column.separator) if value.strip() else ("",)
    return (value,)


def _event(entry: Any) -> Event:
    if isinstance(entry, Mapping):
        label, onset, offset = (_one_of(entry, keys) for keys in _EVENT_KEYS.values())
    else:
        label, onset, offset = entry
    onset_s, offset_s = float(onset), float(offset)
    if not 0 <= onset_s <= offset_s:
        raise ValueError(f"{label} lasts from {onset_s:g} to {offset_s:g} s")
    return Event(clean_label(str(label)), onset_s, offset_s)


def _one_of(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        if key in entry:
            return entry[key]
    raise ValueError(f"an event has no {keys[0]} (found {', '.join(map(str, entry))})")
