"""A published list of sounds as clips: the rows of its table, and which of the files they name are there."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from clapkit.data.clip import Clip
from clapkit.data.tables import decode_utf8
from clapkit.errors import DataError
from clapkit.evaluation.task import Read

SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a")


def names(*lines: str, between: str = ",") -> tuple[str, ...]:
    """Class names that stand in lines, with a comma (or what else) between them."""
    return tuple(name.strip() for line in lines for name in line.split(between) if name.strip())


def read_rows(path: Path, columns: Sequence[str], *, delimiter: str = ",", header: bool = True) -> list[dict[str, str]]:
    """The rows of a table of text as column -> words.

    columns  that must be there; without a `header` in the file, their names from left to right
    Raises DataError where the file is not there, is no table of text in UTF-8, or holds other columns.
    """
    if not path.is_file():
        raise DataError(f"{path.parent}: found no {path.name}, expected a table with {', '.join(columns)}")
    lines = io.StringIO(text_of(path), newline="")
    table = csv.DictReader(lines, None if header else list(columns), delimiter=delimiter, skipinitialspace=True)
    try:
        raw = list(table)
    except csv.Error as error:
        raise DataError(f"{path}: line {table.reader.line_num} cannot be read as a row of a table: {error}") from None
    found = list(table.fieldnames or ())
    absent = [name for name in columns if name not in found]
    if absent:
        raise DataError(
            f"{path}: found the columns {', '.join(found) or '(none)'}, expected {', '.join(columns)}", absent
        )
    short = [number for number, row in enumerate(raw, start=1) if any(row[name] is None for name in columns)]
    if short:
        raise DataError(f"{path}: row {short[0]} of {len(raw)} is short, expected {', '.join(columns)} in each")
    return [{str(key): (value or "").strip() for key, value in row.items() if key} for row in raw]


def text_of(path: Path) -> str:
    """The text of a list in UTF-8. DataError names the line and the likely encoding where it is another."""
    try:
        return decode_utf8(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def json_of(path: Path) -> Any:
    """What a file of JSON in UTF-8 holds; DataError where it is none."""
    try:
        return json.loads(text_of(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None


def objects(found: Any, *, path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """`found`, which has to be a list of objects with these keys. DataError names the first that is none."""
    if not isinstance(found, list):
        raise DataError(f"{path}: found {type(found).__name__}, expected a list of objects")
    for number, one in enumerate(found, start=1):
        if not isinstance(one, dict):
            raise DataError(f"{path}: entry {number} of {len(found)} is {type(one).__name__}, expected an object")
        absent = [key for key in keys if one.get(key) is None]
        if absent:
            raise DataError(f"{path}: entry {number} of {len(found)} has no {', '.join(absent)}")
    return found


def seconds(text: str, table: Path) -> float:
    """A time of a table; DataError where it is no number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{table}: found {text!r} where a time is expected, in seconds")
    return value


def listed(folder: Path, name: str, **known: Any) -> Clip:
    """A clip whose file the list calls `name` (from `folder`, with "/"), with its label, split and so on."""
    return Clip(id=name, audio=str(folder / name), **known)


def present(clips: Iterable[Clip]) -> Read:
    """Of the clips of a list those whose file is there, and the names of the others."""
    there: list[Clip] = []
    absent: dict[str, str | None] = {}
    for clip in clips:
        # Path.is_file() raises for some names, such as very long ones.
        if isinstance(clip.audio, str) and not os.path.isfile(clip.audio):
            absent[clip.id] = clip.split
        else:
            there.append(clip)
    return Read(tuple(there), tuple(absent), absent)


def sounds(folder: Path, *, below: bool = True) -> list[str]:
    """Names of the sound files of a folder (and, `below`, of those in it) relative to it, sorted, with "/"."""
    found = folder.rglob("*") if below else folder.glob("*")
    kept = (path for path in found if path.suffix.lower() in SOUNDS and path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in kept if not path.name.startswith("."))


def refuse(folder: Path, expected: str) -> NoReturn:
    """DataError for a folder that holds something else."""
    held = sorted(path.name for path in folder.iterdir())[:5]
    raise DataError(f"{folder}: found {', '.join(held) or 'nothing'}, expected {expected}")
