"""Text tables (CSV, TSV, JSON, JSON lines) as rows of named values.

A reader never stops at the first fault: it returns what it could read together with every problem it met, each with
its line, so that a manifest can be put right in one go.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clapkit.errors import DataError


@dataclass(frozen=True)
class Row:
    """One entry of a table: `where` it stands ("line 7"), and its values by column name."""

    where: str
    values: dict[str, Any]


@dataclass
class Table:
    """Rows, the columns that any of them has, and what went wrong while reading.

    base      the folder that relative sound paths start from
    problems  faults that make the table unusable
    warnings  things that the user should know and that stop nothing
    """

    base: Path
    columns: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_separated(path: Path, *, delimiter: str = ",") -> Table:
    """Read a CSV (or, with delimiter="\\t", a TSV) file with a header line. Empty lines are skipped.

    Problems: a wrong encoding, an empty file, a column named twice or not at all, a row with more or fewer cells than
    the header.
    """
    text, table = _read_text(path)
    if not text:
        return table
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if header is None:
                header = [name.strip() for name in cells]
                _check_header(header, table, delimiter=delimiter)
            elif len(cells) != len(header):
                table.problems.append(f"line {reader.line_num}: {len(cells)} cells, the header has {len(header)}")
            else:
                table.rows.append(Row(f"line {reader.line_num}", dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        table.problems.append(f"line {reader.line_num}: cannot be read ({error})")
    table.columns = tuple(dict.fromkeys(header or ()))
    return table


def read_json_lines(path: Path) -> Table:
    """Read a file with one JSON object a line. Empty lines are skipped, lines that are no object are problems."""
    text, table = _read_text(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            table.problems.append(f"line {number}: not JSON ({error})")
            continue
        _add_object(table, f"line {number}", value)
    table.columns = columns_of(table.rows)
    return table


def read_json(path: Path) -> Table:
    """Read a JSON list of objects, or an object in which exactly one value is such a list."""
    text, table = _read_text(path)
    if not text:
        return table
    try:
        entries = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        table.problems.append(f"not JSON ({error})")
        return table
    if isinstance(entries, dict):
        lists = [v for v in entries.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        entries = lists[0] if len(lists) == 1 else None
    if not isinstance(entries, list):
        table.problems.append("expected a JSON list of objects, or an object that holds one such list")
        return table
    for number, value in enumerate(entries, start=1):
        _add_object(table, f"entry {number}", value)
    table.columns = columns_of(table.rows)
    return table


def columns_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """The names of all values in `rows`, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for row in rows for name in row.values))


def decode_utf8(raw: bytes) -> str:
    """Text of UTF-8 bytes, with or without a byte order mark; DataError names the line and the likely encoding."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("the text is UTF-16, expected UTF-8: save it again as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"line {line}: byte 0x{raw[error.start]:02x} is not UTF-8, the text is probably Windows-1252 or Latin-1: "
            "save it again as UTF-8"
        ) from None
    if "\0" in text:
        raise DataError(f"line {text[: text.index(chr(0))].count(chr(10)) + 1}: a zero byte, this is not a text file")
    return text


def _read_text(path: Path) -> tuple[str, Table]:
    """The text of a file and the table to fill; the text is empty where a problem was noted."""
    table = Table(path.parent)
    try:
        text = decode_utf8(path.read_bytes())
    except OSError as error:
        table.problems.append(f"cannot be opened ({error.strerror})")
        return "", table
    except DataError as error:
        table.problems.append(str(error))
        return "", table
    return text, table


def _check_header(header: list[str], table: Table, *, delimiter: str) -> None:
    for name in sorted({n for n in header if header.count(n) > 1 and n}):
        table.problems.append(f"column '{name}' appears {header.count(name)} times in the header")
    if "" in header:
        table.problems.append(f"column {header.index('') + 1} has no name in the header")
    other = next((d for d in (";", "\t", "|", ",") if d != delimiter and d in header[0]), None)
    if len(header) == 1 and other:
        table.problems.append(f"the cells seem to be separated by {other!r}, expected {delimiter!r}")


def _add_object(table: Table, where: str, value: Any) -> None:
    if isinstance(value, dict):
        table.rows.append(Row(where, value))
    else:
        table.problems.append(f"{where}: expected a JSON object, found {type(value).__name__}")
