"""Which column of a manifest means what.

Each role has names by which a column is recognised (upper or lower case); a caller's `{"caption": "title"}` goes
before them, and `{"caption": ""}` leaves the role unread. A header such as `tags[,]` or an override such as
`{"tags": "labels[,]"}` says that a cell holds several values with that separator between them; no other text is split.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from clapkit.data.tables import Table
from clapkit.errors import nearest_name

ROLES: dict[str, tuple[str, ...]] = {
    "audio": ("path", "file", "filename", "file_name", "audio", "filepath"),
    "caption": ("caption", "captions", "text", "description"),
    "label": ("label", "class", "category"),
    "tags": ("tags", "labels", "tag"),
    "split": ("split", "fold", "subset"),
    "start": ("start", "start_s"),
    "duration": ("duration", "duration_s"),
    "end": ("end", "end_s"),
    "id": ("id",),
    "events": ("events",),
    "wrong": ("wrong", "wrong_caption", "wrong_captions"),
}
_ALIASES = {name: role for role, names in ROLES.items() for name in (role, *names)}
_NUMBERED_CAPTION = re.compile(r"caption_?\d+$")
_SEPARATED = re.compile(r"(?P<name>.+)\[(?P<separator>.)\]$")


@dataclass(frozen=True)
class Column:
    """A column that is read; `separator` stands between the values of one cell, None: a cell is one value."""

    name: str
    separator: str | None = None


@dataclass
class Assignment:
    """The columns of each role, and the names of those that no role reads (they become `meta`)."""

    roles: dict[str, tuple[Column, ...]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)

    def of(self, role: str) -> tuple[Column, ...]:
        """Columns read as `role`; empty where there is none."""
        return self.roles.get(role, ())

    def used(self) -> dict[str, str]:
        """Column name -> role, for the report."""
        return {column.name: role for role, columns in self.roles.items() for column in columns}


def assign_columns(table: Table, overrides: Mapping[str, str] | None = None, *, need_text: bool = True) -> Assignment:
    """Decide what each column of `table` is. Faults (unknown role or column, no sound, no text) go to `.problems`."""
    found = Assignment()
    chosen = _read_overrides(overrides or {}, table, found.problems)
    taken = {column.name for columns in chosen.values() for column in columns}
    free = [_as_column(name) for name in table.columns if name not in taken]
    for role, names in ROLES.items():
        if role in chosen:
            columns: tuple[Column, ...] = chosen[role]
        elif role == "caption":
            columns = _caption_columns(free)
        elif role == "audio":
            columns = _first_match([c for c in free if _holds_sound(table, c)], names) or _first_match(free, names)
        elif role == "end" and found.of("duration"):
            columns = ()
        else:
            columns = _first_match(free, names)
        if columns:
            found.roles[role] = columns
            free = [c for c in free if c not in columns]
    found.unread = tuple(c.name for c in free)
    if table.rows:
        _check_complete(found, table, need_text=need_text)
    return found


def role_name(word: str) -> str | None:
    """The role that `word` names, directly or by one of its column names; None: no role."""
    return _ALIASES.get(word.casefold())


def _read_overrides(overrides: Mapping[str, str], table: Table, problems: list[str]) -> dict[str, tuple[Column, ...]]:
    chosen: dict[str, tuple[Column, ...]] = {}
    for word, wanted in overrides.items():
        role = role_name(word)
        if role is None:
            problems.append(f"nothing in a manifest is called '{word}'; {nearest_name(word, list(ROLES))}")
        elif not wanted:
            chosen[role] = ()
        elif wanted in table.columns:
            chosen[role] = (_as_column(wanted),)
        elif (column := _as_column(wanted)).separator and column_base(wanted) in table.columns:
            chosen[role] = (Column(column_base(wanted), column.separator),)
        else:
            problems.append(f"{role}={wanted}: there is no column '{wanted}'; {nearest_name(wanted, table.columns)}")
    return chosen


def _as_column(name: str) -> Column:
    match = _SEPARATED.match(name)
    return Column(name, match["separator"]) if match else Column(name)


def column_base(name: str) -> str:
    """The name of a column without its separator: `tags[,]` -> `tags`."""
    match = _SEPARATED.match(name)
    return match["name"] if match else name


def _key(column: Column) -> str:
    return column_base(column.name).strip().casefold()


def _first_match(columns: list[Column], names: tuple[str, ...]) -> tuple[Column, ...]:
    """The column with the earliest of `names`, or none."""
    for name in names:
        for column in columns:
            if _key(column) == name:
                return (column,)
    return ()


def _caption_columns(columns: list[Column]) -> tuple[Column, ...]:
    """All of caption, captions, caption_1, ...; without them `text`, and without that `description`."""
    own = [c for c in columns if _key(c) in ("caption", "captions") or _NUMBERED_CAPTION.match(_key(c))]
    return tuple(own) or _first_match(columns, ROLES["caption"])


def _holds_sound(table: Table, column: Column) -> bool:
    """Whether the cells are sound itself (bytes, or a struct of bytes and path) and no name of a file."""
    return any(isinstance(row.values.get(column.name), (bytes, dict)) for row in table.rows[:20])


def _check_complete(found: Assignment, table: Table, *, need_text: bool) -> None:
    listed = ", ".join(table.columns)
    if not found.of("audio"):
        found.problems.append(
            f"no column says where the sound is; found: {listed}; expected one of {', '.join(ROLES['audio'])} "
            "(another one is named so: path=COLUMN)"
        )
    if need_text and not any(found.of(role) for role in ("caption", "label", "tags")):
        found.problems.append(
            f"no column holds captions, labels or tags; found: {listed} (one is named so: caption=COLUMN)"
        )
