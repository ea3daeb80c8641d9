"""What a store can be filtered by, and how much there is of it."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from clapkit.search.view import columns
from clapkit.search.where import NUMBERS, TEXTS
from clapkit.server.rows import StoreRows
from clapkit.server.shelf import Shelf

_MOST_TAGS = 200
_MOST_FOLDERS = 1000
_MOST_KEYS = 50
_OPERATORS = {
    "number": ["=", "!=", "<", "<=", ">", ">="],
    "text": ["=", "!=", "in", "under", "contains"],
    "list": ["=", "!=", "in"],
}


def facets(rows: StoreRows, shelf: Shelf) -> dict[str, Any]:
    """As `routes.shapes.Filters`. Tags and folders count files, keys of the metadata too; durations are of rows."""
    import pyarrow.compute as pc

    firsts = columns(rows.view, ["folder", "tags", "pairs"], firsts=True)
    tags = _counted(pc.list_flatten(firsts["tags"]))
    keys: Counter[str] = Counter()
    for pair, count in _counted(pc.list_flatten(firsts["pairs"])).items():
        keys[pair.partition("=")[0]] += count
    spread = pc.min_max(columns(rows.view, ["duration_s"])["duration_s"]).as_py()
    return {
        "fields": _fields(sorted(key for key, _ in keys.most_common(_MOST_KEYS))),
        "tags": [{"tag": tag, "count": count} for tag, count in tags.most_common(_MOST_TAGS)],
        "folders": _folders(_counted(firsts["folder"]), shelf),
        "duration_s": None if spread["min"] is None else [spread["min"], spread["max"]],
        "rows": len(rows),
        "files": len(firsts),
    }


def _counted(values: Any) -> Counter[str]:
    import pyarrow.compute as pc

    return Counter({found["values"]: found["counts"] for found in pc.value_counts(values).to_pylist()})


def _fields(keys: list[str]) -> list[dict[str, Any]]:
    kinds = dict.fromkeys(NUMBERS, "number") | dict.fromkeys(TEXTS, "text")
    kinds |= {"tags": "list"} | {f"meta.{key}": "list" for key in keys if key.replace(".", "_").isidentifier()}
    return [{"name": name, "kind": kind, "operators": _OPERATORS[kind]} for name, kind in kinds.items()]


def _folders(files_in: Counter[str], shelf: Shelf) -> list[dict[str, Any]]:
    """Folders as they are called outside, by name; each counts what lies below it as well."""
    below: Counter[str] = Counter()
    for stored, count in files_in.items():
        name = PurePosixPath(shelf.folder_name(stored))
        for folder in {name, *name.parents}:
            below[folder.as_posix()] += count
    most = {folder for folder, _ in below.most_common(_MOST_FOLDERS)}
    return [{"folder": folder, "count": below[folder]} for folder in sorted(most)]
