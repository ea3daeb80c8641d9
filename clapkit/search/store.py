"""A store of sounds: one row a window in LanceDB tables, one table a space, searched by vectors, words and filters.

The folder (or URL) holds
  store.json     format_version, the spaces, and which of them is searched; replaced in one step
  tables/        a LanceDB table for each space; each write is one version of it, and a version never changes
  scans/         the vectors of the newest version as plain arrays, made again where they are missing
  writer.lock    held by the one process that writes;  readers/: files held by servers, one for each space they read
A killed writer leaves the version that was there before its last call. A reader sees one version until `refresh`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from clapkit.errors import SearchIndexError, SpaceMismatchError
from clapkit.search.lock import readers_of
from clapkit.search.place import Head, Place, Space
from clapkit.search.rows import Row, lance, schema
from clapkit.search.view import View
from clapkit.search.where import Filter
from clapkit.search.writer import Writer

_DTYPES = ("float16", "float32")
_LOOK_S = 0.2


class Store:
    """A store, opened with `create` or `open`. Any number may read; the first call that writes takes the lock.

    view   the version that is searched (`clapkit.search.view.View`): rows, vectors, words and files are its methods,
           and `view.space` says what its vectors are
    """

    view: View

    def __init__(self, place: Place, space_id: str | None) -> None:
        self.place = place
        self._wanted = space_id
        place.read()  # LanceDB makes the folder that it is pointed at, so what is no store is told before
        self._tables = lance().connect(place.tables)
        self.refresh()

    @classmethod
    def create(
        cls,
        place: str | os.PathLike[str],
        *,
        space_id: str,
        pipeline_id: str,
        dimension: int,
        dtype: str = "float16",
        model: str | os.PathLike[str] | None = None,
    ) -> Store:
        """A new, empty store, held for writing.

        dtype   float16 or float32: how vectors are stored
        model   path or name of the model that makes the vectors, to be found again by `Place.model_of`
        SearchIndexError where the folder holds a store or anything else, or a setting does not fit.
        """
        where = Place(place)
        space = _new_space(space_id, pipeline_id, dimension, dtype)
        space = replace(space, model=() if model is None else where.note_of(model))
        where.begin()
        where.claim()
        try:
            _new_table(lance().connect(where.tables), space)
            where.write(Head(space_id, {space_id: space}))
            store = cls(where, None)
        except BaseException:
            where.close()
            raise
        return store

    @classmethod
    def open(cls, place: str | os.PathLike[str], *, space_id: str | None = None) -> Store:
        """The store as it stands now, for reading until something is written.

        space_id   a space beside the one that is searched; default: that one
        SearchIndexError for a place that is missing, holds no store, is damaged or of another format;
        SpaceMismatchError, with both ids, where it has no such space.
        """
        return cls(Place(place), space_id)

    def close(self) -> None:
        """Let others write."""
        self.place.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.view)

    def refresh(self) -> View:
        """Look at the newest version, and where the store has been switched, at the new space; returns the view."""
        head = self.place.read()
        space = _space_of(head, self._wanted or head.active)
        table = self._newest(space)
        view = getattr(self, "view", None)
        if view is not None and view.space == space and view.version == table.version:
            return view  # with its scan
        self.view = View(table, space=space, folder=self.place.scans)
        return self.view

    def search(
        self,
        queries_QD: np.ndarray,
        k: int,
        where: Filter | Sequence[Filter] | None = None,
        *,
        exact: bool = False,
        space_id: str | None = None,
    ) -> tuple[list[list[str]], np.ndarray]:
        """`View.search`; SpaceMismatchError where `space_id`, that of the queries, is not that of the rows."""
        view = self.view  # another thread may refresh meanwhile
        if space_id is not None and space_id != view.space.space_id:
            raise SpaceMismatchError(view.space.space_id, space_id)
        return view.search(queries_QD, k, where=where, exact=exact)

    def add(self, rows: Sequence[Row], vectors_ND: np.ndarray) -> None:
        """`Writer.add` to the space that is looked at; the rows can be searched at once."""
        self.writer().add(rows, vectors_ND)

    def writer(self) -> Writer:
        """Takes the lock, and writes into the space that is looked at."""
        self.place.claim()
        space = self.refresh().space
        return Writer(self._newest(space), space, self.refresh)

    def begin_space(
        self,
        space_id: str,
        *,
        pipeline_id: str,
        dimension: int,
        dtype: str = "float16",
        model: str | os.PathLike[str] | None = None,
    ) -> Writer:
        """A second space beside the first, to be filled while the first is searched; `switch` puts it in its place.

        Called again after an interruption it goes on with what is there. SearchIndexError for another dimension or
        type than it was begun with.
        """
        self.place.claim()
        head = self.place.read()
        space = _new_space(space_id, pipeline_id, dimension, dtype)
        space = replace(space, model=() if model is None else self.place.note_of(model))
        begun = head.spaces.get(space_id)
        if begun is None:
            _new_table(self._tables, space)
            self.place.write(head.with_space(space))
        elif (begun.dimension, begun.dtype) != (dimension, dtype):
            raise SearchIndexError(
                f"space {space_id} was begun with {begun.dimension} dimensions of {begun.dtype}, not with {dimension} "
                f"of {dtype}: drop it first"
            )
        space = begun or space
        return Writer(self._newest(space), space, self.refresh)

    def switch(self, space_id: str) -> None:
        """Let this space be the one that is searched, in one step; the other stays until `drop_space`.

        Readers go on with theirs until they refresh. SpaceMismatchError where there is no such space.
        """
        self.place.claim()
        head = self.place.read()
        _space_of(head, space_id)
        self.place.write(replace(head, active=space_id))
        self.refresh()

    def drop_space(self, space_id: str, *, patience_s: float = 60.0) -> None:
        """Remove a space that is no longer searched.

        A server that still answers from it (`lock.ReaderMark`) is waited for, for so long; other readers are not known.
        SearchIndexError for the one that is searched, and for one that is still read; SpaceMismatchError where there is
        no such space.
        """
        self.place.claim()
        head = self.place.read()
        space = _space_of(head, space_id)
        if space_id == head.active:
            raise SearchIndexError(f"space {space_id} is the one that is searched: switch to another one first")
        self._wait_for_readers(space, patience_s)
        self.place.write(head.without(space_id))
        self._tables.drop_table(space.table, ignore_missing=True)

    def _wait_for_readers(self, space: Space, patience_s: float) -> None:
        give_up = time.monotonic() + patience_s
        while self.place.local is not None and (readers := readers_of(self.place.local, space.table)):
            if time.monotonic() >= give_up:
                raise SearchIndexError(
                    f"space {space.space_id} is still read by process {readers[0]}: a server takes the new space up by "
                    "itself, or says in its log why it cannot. Wait for it, or end it"
                )
            time.sleep(_LOOK_S)

    def _newest(self, space: Space) -> Any:
        try:
            return self._tables.open_table(space.table)
        except (OSError, RuntimeError, ValueError) as error:  # what LanceDB raises
            raise SearchIndexError(
                f"{self.place.name} is damaged: the table of space {space.space_id} cannot be opened ({error}). "
                "Index the sounds again"
            ) from error


def _new_space(space_id: str, pipeline_id: str, dimension: int, dtype: str) -> Space:
    if dimension < 1:
        raise SearchIndexError(f"the dimension is {dimension}; expected the length of the vectors, at least 1")
    if dtype not in _DTYPES:
        raise SearchIndexError(f"vectors are stored as {' or '.join(_DTYPES)}, not as {dtype!r}")
    name = "space_" + hashlib.blake2b(space_id.encode(), digest_size=8).hexdigest()
    return Space(space_id, pipeline_id, dimension, dtype, name)


def _new_table(tables: Any, space: Space) -> None:
    """An empty table that can be searched by words; one that a killed writer left without a head goes first."""
    from lancedb.index import FTS

    tables.drop_table(space.table, ignore_missing=True)
    table = tables.create_table(space.table, schema=schema(space.dimension, space.dtype))
    table.create_index("words", config=FTS(with_position=False, stem=True, remove_stop_words=False))


def _space_of(head: Head, space_id: str) -> Space:
    if space_id not in head.spaces:
        raise SpaceMismatchError(" and ".join(head.spaces), space_id)
    return head.spaces[space_id]
