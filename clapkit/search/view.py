"""One version of one table of a store, to read from: what is written meanwhile is not seen, nor half of it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clapkit.errors import SearchIndexError, SpecError
from clapkit.nearest import unit_rows
from clapkit.search.place import Space, Tuning
from clapkit.search.rows import Row, rows_in, split_words, vectors_in
from clapkit.search.scan import Piece, Scan, ScanFile
from clapkit.search.where import Filter, ids_sql, sql_of

EXACT_ROWS = 200_000  # up to here every query is compared with every row
FILTERED_ROWS = 20_000  # and with every row that filters leave: the index finds a fifth of the nearest among 1 %
_FILTERED_REFINE = 12  # half of the rows of a million: finds 0.97 of ten, where 4 find 0.86
_PIECE_ROWS = 8192
_ASKED_IDS = 2000
_FILTERS = 16  # are remembered, with the places of the rows that match


@dataclass(frozen=True)
class FileState:
    """What was known of a file when it was indexed."""

    content_hash: str
    mtime_s: float
    size_bytes: int


class View:
    """A version of a table; made by `Store`."""

    def __init__(self, table: Any, *, space: Space, folder: Path | None) -> None:
        self._table, self._folder = table, folder
        self._lock = threading.Lock()
        self._scan: Scan | None = None
        self._kept: dict[str, np.ndarray | int] = {}
        self.space = space
        self.version: int = table.version
        self._rows: int = table.count_rows()

    def __len__(self) -> int:
        return self._rows

    def search(
        self, queries_QD: np.ndarray, k: int, *, where: Filter | Sequence[Filter] | None = None, exact: bool = False
    ) -> tuple[list[list[str]], np.ndarray]:
        """The ids of the `k` rows nearest to each query, best first, and their cosines [Q, min(k, rows that match)].

        Every row is compared up to 200,000 rows, where filters leave no more than 20,000, where `exact` is asked for,
        and where there is no vector index.
        SpecError for k < 1 and for filters that do not fit, DataError for queries that do not.
        """
        if k < 1:
            raise SpecError(f"k is {k}; it has to be at least 1")
        sql = sql_of(where)
        tuning = None if exact or len(self) <= EXACT_ROWS else self.space.tuning
        if sql is None:
            if tuning is None:
                return self.scan().search(queries_QD, k)
            return self.approximate(queries_QD, k, tuning=tuning)
        kept = self._matching(sql)
        if isinstance(kept, int) and tuning is None:
            kept = self.scan().positions(self._places(sql, None))
        if not isinstance(kept, int):
            return self.scan().search(queries_QD, k, kept)
        assert tuning is not None, "rows that nothing tells how to find are compared"
        # The fewer rows a filter leaves, the more parts hold as many of them as were looked at when this was tuned; and
        # the nearest of them are farther away, where codes tell less.
        parts, refine = tuning.parts * math.ceil(len(self) / kept), max(tuning.refine, _FILTERED_REFINE)
        tuning = replace(tuning, parts=parts, refine=refine)
        return self.approximate(queries_QD, k, tuning=tuning, sql=sql)

    def approximate(
        self, queries_QD: np.ndarray, k: int, *, tuning: Tuning, sql: str | None = None
    ) -> tuple[list[list[str]], np.ndarray]:
        """What `search` finds by the vector index, asked as `tuning` says; some of the nearest rows may be missed."""
        queries_QD = unit_rows(queries_QD, what="the queries")
        ids: list[list[str]] = []
        scores: list[np.ndarray] = []
        for query_D in queries_QD:
            query = self._table.search(query_D, vector_column_name="vector").distance_type("cosine")
            query = query.nprobes(tuning.parts).refine_factor(tuning.refine).limit(min(k, len(self)))
            if sql is not None:
                query = query.where(sql)
            found = query.select(["id", "_distance"]).to_arrow()
            ids.append(found["id"].to_pylist())
            scores.append(1 - found["_distance"].to_numpy())
        fewest = min((len(names) for names in ids), default=0)  # all of a filter's rows, unless parts were left out
        return [names[:fewest] for names in ids], np.array([row[:fewest] for row in scores], np.float32)

    def words(self, text: str, k: int, *, where: Filter | Sequence[Filter] | None = None) -> list[tuple[str, float]]:
        """The ids of the `k` rows whose names, tags and metadata fit the words best (BM25), and their scores.

        A text without a letter or digit finds nothing. SpecError for k < 1.
        """
        if k < 1:
            raise SpecError(f"k is {k}; it has to be at least 1")
        if not any(sign.isalnum() for sign in text) or not len(self):
            return []
        from lancedb import query as kinds

        match: Any = kinds.MatchQuery
        query = self._table.search(match(split_words(text), "words")).select(["id", "_score"]).limit(min(k, len(self)))
        if sql := sql_of(where):
            query = query.where(sql)
        found = query.to_arrow()
        return list(zip(found["id"].to_pylist(), found["_score"].to_pylist(), strict=True))

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """What is known of rows. SearchIndexError names the first id that is not there."""
        found: dict[str, Row] = {}
        for table in self._asked(ids, None):
            found |= {row.id: row for row in rows_in(table)}
        return [found[name] for name in self._present(ids, found)]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """The unit vectors [N, D] of rows, float32. SearchIndexError names the first id that is not there."""
        found: dict[str, np.ndarray] = {}
        for table in self._asked(ids, ["id", "vector"]):
            found |= dict(zip(table["id"].to_pylist(), vectors_in(table), strict=True))
        if not ids:
            return np.empty((0, self.space.dimension), np.float32)
        return unit_rows(np.stack([found[name] for name in self._present(ids, found)]), what="the stored vectors")

    def windows_of(self, file: str) -> list[Row]:
        """The windows of one file in the order of time; none where the file is not there."""
        found = self._table.search().where(Filter("file", "=", file).sql()).to_arrow()
        return sorted(rows_in(found), key=lambda row: row.window)

    def files(self) -> dict[str, FileState]:
        """All files that are there, and how they were when they were indexed."""
        states: dict[str, FileState] = {}
        for batch in self._table.search().select(["file", "content_hash", "mtime_s", "size_bytes"]).to_batches():
            for found in batch.to_pylist():
                states[found["file"]] = FileState(found["content_hash"], found["mtime_s"], found["size_bytes"])
        return states

    def about(self, *, limit: int | None = None) -> dict[str, tuple[tuple[str, ...], dict[str, Any]]]:
        """Tags and metadata of all files, as their first windows have them; of `limit` files at most."""
        found: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {}
        query = self._table.search().where("window = 0").select(["file", "tags", "metadata"])
        for batch in (query if limit is None else query.limit(limit)).to_batches():
            for row in batch.to_pylist():
                found[row["file"]] = tuple(row["tags"]), json.loads(row["metadata"])
        return found

    def scan(self) -> Scan:
        """All vectors of this version, for comparing with every one; made on disk when it is first asked for."""
        with self._lock:
            if self._scan is None:
                self._scan = self._scan_file().open(self._pieces)
            return self._scan

    def hand_scan_to(self, later: View) -> None:
        """Spare a later version of the same rows (only indexes were built since) the making of its scan."""
        self._scan_file().hand_to(later.version)

    def _scan_file(self) -> ScanFile:
        dtype = "float32" if len(self) <= EXACT_ROWS else "float16"
        return ScanFile(self._folder, self.space.table, self.version, len(self), self.space.dimension, dtype)

    def _matching(self, sql: str) -> np.ndarray | int:
        """Where in the scan the rows are that match; where they are too many to compare with all, how many.

        Kept, as far as there is room: whoever has set a filter asks more than once.
        """
        found = self._kept.get(sql)
        if found is None:
            most = EXACT_ROWS if len(self) <= EXACT_ROWS else FILTERED_ROWS
            places_K = self._places(sql, most + 1)
            found = self.scan().positions(places_K) if len(places_K) <= most else self._table.count_rows(sql)
            if len(self._kept) >= _FILTERS:
                self._kept.clear()
            self._kept[sql] = found
        return found

    def _places(self, sql: str, most: int | None) -> np.ndarray:
        query = self._table.search().where(sql).select(["_rowid"]).with_row_id(True)  # which needs no column read
        return (query if most is None else query.limit(most)).to_arrow()["_rowid"].to_numpy()

    def _pieces(self) -> Iterator[Piece]:
        import pyarrow as pa

        query = self._table.search().select(["id", "vector"]).with_row_id(True)
        for batch in query.to_batches(batch_size=_PIECE_ROWS):
            table = pa.Table.from_batches([batch])
            yield vectors_in(table), table["id"].to_pylist(), table["_rowid"].to_numpy()

    def _asked(self, ids: Sequence[str], columns: list[str] | None) -> Iterator[Any]:
        wanted = list(dict.fromkeys(ids))
        for start in range(0, len(wanted), _ASKED_IDS):
            part = wanted[start : start + _ASKED_IDS]
            if len(self) <= EXACT_ROWS:  # the scan knows where they are
                query = self._table.take_row_ids(self.scan().places[self.scan().named(part)].tolist())
            else:
                query = self._table.search().where(ids_sql(part))
            yield (query.select(columns) if columns else query).to_arrow()

    def _present(self, ids: Sequence[str], found: dict[str, Any]) -> Sequence[str]:
        for name in ids:
            if name not in found:
                raise SearchIndexError(f"there is no row {name!r} in the store: it may have been removed since")
        return ids


def columns(view: View, names: Sequence[str], *, firsts: bool = False) -> Any:
    """These columns of all rows as a pyarrow.Table, in no order; `firsts`: only of the first window of each file."""
    query = view._table.search().select(list(names))
    return (query.where("window = 0") if firsts else query).to_arrow()
