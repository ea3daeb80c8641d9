"""Parquet files and Hugging Face dataset folders as rows, read with pyarrow alone.

Class labels that a dataset stores as numbers come back as the names kept in its schema. Sound stored inside the file
(a struct of `bytes` and `path`) comes back as it is, and is held in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clapkit.data.tables import Row, Table, columns_of
from clapkit.errors import MissingExtraError

if TYPE_CHECKING:
    import pyarrow

_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?$")


def read_parquet(path: Path) -> Table:
    """Read one parquet file."""
    return _read_shards(path.parent, [(path, None)], _load_parquet)


def is_dataset_folder(folder: Path) -> bool:
    """Whether a folder was written by `datasets.save_to_disk` or holds parquet files."""
    return bool(_arrow_shards(folder)) or any(folder.rglob("*.parquet"))


def read_dataset_folder(folder: Path) -> Table:
    """Read a dataset saved to disk (one split or several), or a folder of parquet files.

    The split of a row is its subfolder in a saved dataset, and in a parquet folder the part before `-00000-of-00004`
    of the file name, or else its subfolder; a column named `split` in the data goes before both.
    """
    shards = _arrow_shards(folder)
    if shards:
        return _read_shards(folder, shards, _load_arrow)
    files = sorted(folder.rglob("*.parquet"))
    return _read_shards(folder, [(f, _parquet_split(f.relative_to(folder))) for f in files], _load_parquet)


def _arrow_shards(folder: Path) -> list[tuple[Path, str | None]]:
    if (folder / "dataset_dict.json").is_file():
        parts = sorted(p for p in folder.iterdir() if (p / "dataset_info.json").is_file())
        return [(f, part.name) for part in parts for f in sorted(part.glob("*.arrow"))]
    if (folder / "dataset_info.json").is_file():
        return [(f, None) for f in sorted(folder.glob("*.arrow"))]
    return []


def _parquet_split(relative: Path) -> str | None:
    match = _SHARD.match(relative.stem)
    if match:
        return match["split"]
    parent = relative.parent.name
    return parent if parent not in ("", "data", "default") else None


def _read_shards(base: Path, shards: list[tuple[Path, str | None]], load: Callable[[Path], pyarrow.Table]) -> Table:
    pa = _pyarrow()
    table = Table(base)
    for path, split in shards:
        name = path.relative_to(base).as_posix()
        try:
            content = load(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            table.problems.append(f"{name}: cannot be read ({str(error).splitlines()[0]})")
            continue
        names = _class_names(content.schema)
        for number, values in enumerate(content.to_pylist(), start=1):
            named = {k: _named(v, names[k]) if k in names else v for k, v in values.items()}
            table.rows.append(Row(f"{name} row {number}", {**({"split": split} if split else {}), **named}))
    table.columns = columns_of(table.rows)
    return table


def _load_parquet(path: Path) -> pyarrow.Table:
    import pyarrow.parquet

    # One open file, not a dataset: with a path, pyarrow would also make columns of folder names such as "fold=1".
    with path.open("rb") as file:
        return pyarrow.parquet.read_table(file)


def _load_arrow(path: Path) -> pyarrow.Table:
    pa = _pyarrow()
    with path.open("rb") as file, pa.ipc.open_stream(file) as reader:
        return reader.read_all()


def _class_names(schema: pyarrow.Schema) -> dict[str, list[str]]:
    """Columns whose numbers stand for class names, from the dataset description kept in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    found = {}
    for column, feature in features.items():
        # A list of classes is written as [feature] or as {"feature": feature}, depending on the version.
        inner = feature[0] if isinstance(feature, list) and feature else feature
        inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            found[column] = list(inner.get("names") or [])
    return found


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(v, names) for v in value]
    if isinstance(value, int):
        # -1 is how such datasets write "no label" (hidden test sets).
        return names[value] if 0 <= value < len(names) else (None if value == -1 else value)
    return value


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise MissingExtraError("pyarrow", "train", "reading parquet and dataset folders") from None
    return pyarrow
