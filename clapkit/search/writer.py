"""Writing into one table of a store. Each call is one version of the table: it is there whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from clapkit.errors import SearchIndexError
from clapkit.nearest import unit_rows
from clapkit.search.place import Space
from clapkit.search.rows import Row, distinct_files, rows_in, table_of, vectors_in
from clapkit.search.where import files_sql


class Writer:
    """The table of one space; made by `Store.writer` and `Store.begin_space`, which hold the lock."""

    def __init__(self, table: Any, space: Space, on_written: Callable[[], object]) -> None:
        self._table, self._on_written = table, on_written
        self.space = space

    def add(self, rows: Sequence[Row], vectors_ND: np.ndarray) -> None:
        """Write rows; one with an id that is there replaces it. Vectors are stored at unit length.

        SearchIndexError for vectors of another shape and for rows that come twice, DataError for vectors that are zero
        or not finite: nothing is written then.
        """
        self._write(rows, vectors_ND, None)

    def replace_files(self, rows: Sequence[Row], vectors_ND: np.ndarray, *, files: Sequence[str] = ()) -> None:
        """Write all rows of some files, and remove what else the table holds of these files, and of `files`."""
        self._write(rows, vectors_ND, files_sql([*distinct_files(rows), *files]))

    def forget(self, files: Sequence[str]) -> None:
        """Remove all rows of these files."""
        if files:
            with self._told():
                self._table.delete(files_sql(files))

    def move(self, names: Mapping[str, str], states: Mapping[str, tuple[float, int]]) -> None:
        """Give files other names, old to new, with their vectors; `states`: mtime_s and size_bytes by new name.

        The ids of their rows change with the names. Names without rows are passed over.
        """
        if not names:
            return
        found = self._table.search().where(files_sql(list(names))).to_arrow()
        rows = []
        for row in rows_in(found):
            mtime_s, size_bytes = states[names[row.file]]
            rows.append(replace(row, file=names[row.file], mtime_s=mtime_s, size_bytes=size_bytes))
        if rows:
            self.replace_files(rows, vectors_in(found), files=[old for old in names if old not in set(names.values())])

    def touch(self, states: Mapping[str, tuple[float, int]]) -> None:
        """Note another mtime_s and size_bytes of files whose content has stayed the same."""
        self.move({name: name for name in states}, states)

    def describe(self, about: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]]) -> None:
        """Give files other tags and metadata, in place of those they have; their vectors and ids stay.

        Names without rows are passed over. SearchIndexError for metadata that is not plain JSON.
        """
        if not about:
            return
        found = self._table.search().where(files_sql(list(about))).to_arrow()
        rows = [replace(row, tags=tuple(about[row.file][0]), metadata=about[row.file][1]) for row in rows_in(found)]
        self._write(rows, vectors_in(found), None)

    def settle(self) -> None:
        """Join small pieces and bring the indexes up to date: after much was written, searching is quicker."""
        with self._told():
            self._table.optimize()

    def build(self, configs: Mapping[str, Any]) -> None:
        """Build an index (`lancedb.index`) for each of these columns, in place of the one that is there."""
        with self._told():
            for column, config in configs.items():
                self._table.create_index(column, config=config)

    def _write(self, rows: Sequence[Row], vectors_ND: np.ndarray, replaced: str | None) -> None:
        if not rows:
            return
        vectors_ND = unit_rows(vectors_ND, what="the vectors to add")
        if vectors_ND.shape != (len(rows), self.space.dimension):
            raise SearchIndexError(
                f"{len(rows)} rows and vectors {vectors_ND.shape}: expected as many of each, and "
                f"{self.space.dimension} columns"
            )
        ids: set[str] = set()
        for row in rows:
            if row.id in ids:
                raise SearchIndexError(f"window {row.window} of {row.file!r} comes twice in one call: give it once")
            ids.add(row.id)
        data = table_of(rows, vectors_ND, dtype=self.space.dtype)
        with self._told():
            upsert = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            if replaced is not None:
                upsert = upsert.when_not_matched_by_source_delete(replaced)
            upsert.execute(data)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:  # what LanceDB raises
            raise SearchIndexError(
                f"cannot write the table of space {self.space.space_id}: {error}. What was there is kept"
            ) from error
        self._on_written()
