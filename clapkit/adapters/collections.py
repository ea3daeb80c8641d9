"""A library as a collection for others: plain numpy files, a FAISS index, or a Qdrant collection, with what is known.

Each holds all rows of one version of a library (a row is a window of a file) in the order of file and window, and their
vectors at unit length, so that inner products are the cosines of `clapkit search`.

  numpy   vectors.npy float32 [N, D], rows.jsonl with a JSON object a row, collection.json with space_id and the rest
  faiss   the same, with index.faiss (IndexFlatIP: exact) in place of vectors.npy; position n is line n of rows.jsonl
  qdrant  a collection "clapkit" with cosine distance; what is known of a row is the payload of its point
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clapkit.errors import DataError, MissingExtraError, SpecError
from clapkit.nearest import unit_rows
from clapkit.search.curating.files import vector_places
from clapkit.search.view import View, columns

KINDS = ("numpy", "faiss", "qdrant")
COLLECTION = "clapkit"
FORMAT_VERSION = 1
_BLOCK = 4096
_POINTS_AT_ONCE = 256
_KNOWN = ("id", "file", "window", "start_s", "duration_s", "content_hash", "tags", "metadata")
Progress = Callable[[int], None]


def export(view: View, out: str | os.PathLike[str], *, to: str, on_rows: Progress | None = None) -> int:
    """Write all rows of a view into the new folder `out`; how many. It appears when it is whole.

    to       one of `KINDS`
    on_rows  is called with the number of rows that are written
    SpecError for another `to`, DataError for a folder that holds something, MissingExtraError where the package of the
    kind is not installed.
    """
    if to not in KINDS:
        raise SpecError(f"to is {to!r}: expected one of {', '.join(KINDS)}")
    package = {"faiss": _faiss, "qdrant": _qdrant}.get(to, lambda: None)()  # told before anything is written
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists: remove it, or name a new folder for the collection")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".collection-", dir=out.parent, ignore_cleanup_errors=True) as partial:
        made = Path(partial) / "made"
        made.mkdir()
        if to == "qdrant":
            client = package.QdrantClient(path=str(made))
            try:
                rows = to_qdrant(view, client, on_rows=on_rows)
            finally:
                client.close()
            _write_about(view, made, rows)
        else:
            rows = _to_files(view, made, package, on_rows)
        if out.is_dir():
            out.rmdir()
        shutil.move(made, out)
    return rows


def to_qdrant(view: View, client: Any, *, collection: str = COLLECTION, on_rows: Progress | None = None) -> int:
    """Put all rows of a view into a new collection of a `QdrantClient`, local or of a server; how many.

    The id of a point is a UUID made of the id of the row, which stands in the payload as well. DataError where the
    client has such a collection.
    """
    models = _qdrant().models
    if client.collection_exists(collection):
        raise DataError(f"there is a collection {collection!r} already: delete it, or name another one")
    size = models.VectorParams(size=view.space.dimension, distance=models.Distance.COSINE)
    client.create_collection(collection, vectors_config=size)
    done = 0
    for rows, vectors_RD in _blocks(view, _POINTS_AT_ONCE):
        points = [
            models.PointStruct(id=point_id(row["id"]), vector=vector_D.tolist(), payload=row)
            for row, vector_D in zip(rows, vectors_RD, strict=True)
        ]
        client.upsert(collection, points)
        done += len(rows)
        if on_rows:
            on_rows(done)
    return done


def point_id(row_id: str) -> str:
    """The id of a point of Qdrant for the id of a row: its 20 digits and zeros, as a UUID."""
    return str(uuid.UUID(hex=row_id.ljust(32, "0")))


def _to_files(view: View, folder: Path, faiss: Any, on_rows: Progress | None) -> int:
    shape = len(view), view.space.dimension
    index = faiss.IndexFlatIP(shape[1]) if faiss else None
    flat = None if faiss else np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.dtype(np.float32), shape)
    done = 0
    with open(folder / "rows.jsonl", "w", encoding="utf-8", newline="\n") as lines:
        for rows, vectors_RD in _blocks(view, _BLOCK):
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            if index is not None:
                index.add(vectors_RD)
            else:
                assert flat is not None
                flat[done : done + len(rows)] = vectors_RD
            done += len(rows)
            if on_rows:
                on_rows(done)
    if flat is not None:
        flat.flush()
        del flat  # or Windows would not let the folder be moved
    if index is not None:
        faiss.write_index(index, str(folder / "index.faiss"))
    _write_about(view, folder, done)
    return done


def _write_about(view: View, folder: Path, rows: int) -> None:
    space = view.space
    about = {
        "format_version": FORMAT_VERSION,
        "space_id": space.space_id,
        "pipeline_id": space.pipeline_id,
        "dimension": space.dimension,
        "rows": rows,
    }
    (folder / "collection.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _blocks(view: View, size: int) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
    """What is known of rows, and their unit vectors, so many at once."""
    if not len(view):
        return
    known = columns(view, _KNOWN).sort_by([("file", "ascending"), ("window", "ascending")])
    place_N = vector_places(view, known["id"].to_pylist())
    for start in range(0, known.num_rows, size):
        rows = known.slice(start, size).to_pylist()
        for row in rows:
            row["metadata"] = json.loads(row["metadata"])
        vectors_RD = np.asarray(view.scan().vectors[place_N[start : start + size]])
        if vectors_RD.dtype != np.float32:  # of large libraries the scan holds 16 bits, whose lengths are rounded
            vectors_RD = unit_rows(vectors_RD, what="the stored vectors")
        yield rows, vectors_RD


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("faiss-cpu", "collections", "An export to FAISS") from None
    return faiss


def _qdrant() -> Any:
    try:
        import qdrant_client
    except ImportError:
        raise MissingExtraError("qdrant-client", "collections", "An export to Qdrant") from None
    return qdrant_client
