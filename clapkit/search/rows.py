"""What a store knows about one window of sound, and how that stands in a table of LanceDB.

A row is named by file, content and window together: two files of the same content are two rows, a file that was written
anew has other rows than before, and the same row written twice is still one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from clapkit.errors import MissingExtraError, SearchIndexError

if TYPE_CHECKING:
    import pyarrow

COMMON = ("licence", "source", "label")  # keys of the metadata that have a column of their own
_HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Row:
    """One window of one file.

    file          as it is to be found: a path with forward slashes, or a URL
    window        number of the window in its file, from 0
    start_s       where the window begins; duration_s: how long it is
    content_hash  of the bytes of the file (`content_hash`); mtime_s, size_bytes: of the file, to see that it changed
    pipeline_id   decoder, resampler and precision that the vector came through
    tags          words that the sound is filed under
    metadata      plain JSON; `licence`, `source` and `label` have columns of their own
    SearchIndexError where a value is of no use: it names the file.
    """

    file: str
    window: int
    start_s: float
    duration_s: float
    content_hash: str
    pipeline_id: str
    mtime_s: float = 0.0
    size_bytes: int = 0
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.file.encode()
            json.dumps(dict(self.metadata), allow_nan=False)
        except (AttributeError, ValueError, TypeError) as error:
            raise SearchIndexError(
                f"the row of {self.file!r} cannot be stored ({error}): expected a name that is valid Unicode and "
                "metadata that is plain JSON"
            ) from error
        if not self.file or self.window < 0 or not all(map(math.isfinite, (self.start_s, self.duration_s))):
            raise SearchIndexError(
                f"the row of {self.file!r} has window {self.window}, start_s {self.start_s}, duration_s "
                f"{self.duration_s}: expected a file name, a number from 0, and seconds"
            )

    @property
    def id(self) -> str:
        """20 hexadecimal digits out of file, content and window."""
        name = "\0".join((self.file, self.content_hash, str(self.window)))
        return hashlib.blake2b(name.encode(), digest_size=10).hexdigest()

    @property
    def words(self) -> str:
        """What a search by words looks through: the name and folders of the file, tags, and texts of the metadata."""
        texts = [self.file, *self.tags, *(v for v in self.metadata.values() if isinstance(v, str))]
        return " ".join(map(split_words, texts))


def split_words(text: str) -> str:
    """A text with its words apart, as file names run them together: `kickDrum01` is three."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|[\W_]+", " ", text)


def content_hash(path: str | Path) -> str:
    """32 hexadecimal digits of the bytes of a file, read in pieces. OSError where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(_HASHED_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def lance() -> Any:
    """The module `lancedb`; MissingExtraError says how to install it."""
    try:
        import lancedb
    except ImportError:
        raise MissingExtraError("lancedb", "search", "A store of sounds") from None
    return lancedb


def schema(dimension: int, dtype: str) -> pyarrow.Schema:
    """The columns of a table of rows; `dtype` is that of the vectors, float16 or float32."""
    import pyarrow as pa

    text, words, seconds = pa.string(), pa.list_(pa.string()), pa.float64()
    return pa.schema(
        [
            ("id", text),
            ("file", text),
            ("folder", text),
            ("window", pa.int32()),
            ("start_s", seconds),
            ("duration_s", seconds),
            ("content_hash", text),
            ("pipeline_id", text),
            ("mtime_s", seconds),
            ("size_bytes", pa.int64()),
            ("tags", words),
            *((name, text) for name in COMMON),
            ("metadata", text),
            ("pairs", words),
            ("words", text),
            ("vector", pa.list_(pa.float16() if dtype == "float16" else pa.float32(), dimension)),
        ]
    )


def table_of(rows: Sequence[Row], vectors_ND: np.ndarray, *, dtype: str) -> pyarrow.Table:
    """Rows and their vectors as a table with the columns of `schema`."""
    import pyarrow as pa

    shape = schema(vectors_ND.shape[1], dtype)
    flat = pa.array(np.ascontiguousarray(vectors_ND, np.dtype(dtype)).ravel())
    columns = {
        "id": [row.id for row in rows],
        "folder": [PurePosixPath(row.file).parent.as_posix() for row in rows],
        "tags": [list(row.tags) for row in rows],
        **{name: [_text(row.metadata.get(name)) for row in rows] for name in COMMON},
        "metadata": [json.dumps(dict(row.metadata)) for row in rows],
        "pairs": [pairs(row.metadata) for row in rows],
        "words": [row.words for row in rows],
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1]),
    }
    plain = [name for name in shape.names if name not in columns]
    columns |= {name: [getattr(row, name) for row in rows] for name in plain}
    return pa.table({name: columns[name] for name in shape.names}, schema=shape)


def rows_in(table: pyarrow.Table) -> list[Row]:
    """The rows of a table with the columns of `schema`, its vectors left out."""
    names = ("file", "window", "start_s", "duration_s", "content_hash", "pipeline_id", "mtime_s", "size_bytes")
    return [
        Row(**{name: found[name] for name in names}, tags=tuple(found["tags"]), metadata=json.loads(found["metadata"]))
        for found in table.select([*names, "tags", "metadata"]).to_pylist()
    ]


def vectors_in(table: pyarrow.Table) -> np.ndarray:
    """The vectors [N, D] of a table, in the type in which they are stored."""
    column = table["vector"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def pairs(metadata: Mapping[str, Any]) -> list[str]:
    """`key=value` of each value of the metadata that is no list or object: what filters compare."""
    return [f"{key}={_text(value)}" for key, value in metadata.items() if not isinstance(value, (dict, list))]


def distinct_files(rows: Iterable[Row]) -> list[str]:
    """The files of rows, each once, in the order in which they come."""
    return list(dict.fromkeys(row.file for row in rows))


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
