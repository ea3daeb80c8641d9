"""What the server needs of a search index; the exact index on disk, and one version of a store of sounds, as such."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from clapkit.errors import SearchIndexError
from clapkit.search.exact import ExactIndex, Hit
from clapkit.search.query import Query, Shown, find, find_moments
from clapkit.search.rerank import Moment

if TYPE_CHECKING:
    from clapkit.search.rows import Row as StoredRow
    from clapkit.search.store import Store
    from clapkit.search.view import View


@dataclass(frozen=True)
class Row:
    """One indexed sound. `id` consists of letters, digits, "-" and "_", and says nothing of where the file is.

    window   its number in the file, where the index knows windows
    """

    id: str
    file: str | None
    start_s: float
    duration_s: float | None
    metadata: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    window: int | None = None


class SoundIndex(Protocol):
    """An index that can be served. Its methods are called from several threads at once."""

    @property
    def space_id(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def __len__(self) -> int: ...

    def search(self, queries_QD: np.ndarray, k: int) -> Sequence[Sequence[tuple[Row, float]]]:
        """For each unit-norm query the `k` nearest rows with their cosines, best first; fewer where there are fewer."""

    def row(self, id: str) -> Row | None:
        """The row of that id, or None."""

    def vector(self, id: str) -> np.ndarray | None:
        """The unit-norm vector of the row of that id, or None."""

    def files(self) -> Iterable[str]:
        """The files of all rows; one that several rows come from may be named again."""


class ExactRows:
    """The index that `clapkit index` writes, as a `SoundIndex`.

    The ids of the rows are fingerprints of those of the index, which are names of files: they stay the same when the
    sounds are indexed again.
    """

    def __init__(self, index: ExactIndex) -> None:
        self._index = index
        names = index.ids
        self._position_of = {_short(name): position for position, name in enumerate(names)}
        assert len(self._position_of) == len(names), "two of 2^64 fingerprints are the same"

    @property
    def space_id(self) -> str:
        return self._index.space_id

    @property
    def dimension(self) -> int:
        return self._index.dimension

    def __len__(self) -> int:
        return len(self._position_of)

    def search(self, queries_QD: np.ndarray, k: int) -> list[list[tuple[Row, float]]]:
        return [[(_row(hit), hit.score) for hit in self._index.hits(query_D, k)] for query_D in queries_QD]

    def row(self, id: str) -> Row | None:
        position = self._position_of.get(id)
        return None if position is None else _row(self._index.row(position)[0])

    def vector(self, id: str) -> np.ndarray | None:
        position = self._position_of.get(id)
        return None if position is None else self._index.row(position)[1]

    def files(self) -> Iterable[str]:
        for position in self._position_of.values():
            path = self._index.row(position)[0].path
            if path is not None:
                yield path


class StoreRows:
    """One version of a store of sounds as a `SoundIndex`, and what only a store can do.

    One row is one window of a file. What is written to the store meanwhile is not seen; `newest` looks.
    """

    def __init__(self, store: Store, view: View | None = None) -> None:
        self.store = store
        self.view = view or store.view

    @property
    def space_id(self) -> str:
        return self.view.space.space_id

    @property
    def dimension(self) -> int:
        return self.view.space.dimension

    def __len__(self) -> int:
        return len(self.view)

    def newest(self) -> StoreRows:
        """The version that the store has now; this one where nothing has changed."""
        view = self.store.refresh()
        return self if view is self.view else StoreRows(self.store, view)

    def search(self, queries_QD: np.ndarray, k: int) -> list[list[tuple[Row, float]]]:
        ids_Qk, scores_Qk = self.view.search(queries_QD, k)
        rows = {row.id: _window(row) for row in self.view.rows([id for ids in ids_Qk for id in ids])}
        found = zip(ids_Qk, scores_Qk.tolist(), strict=True)
        return [[(rows[id], score) for id, score in zip(ids, scores, strict=True)] for ids, scores in found]

    def find(self, query: Query, k: int, *, shown: Shown) -> list[tuple[Row, float]]:
        """The `k` rows that a query finds, in its order, with their cosines (less what is not wanted)."""
        return [(_window(match.row), match.cosine) for match in find(self.view, query, k, shown=shown)]

    def find_moments(self, query: Query, k: int, *, pool: int) -> list[tuple[Row, float]]:
        """The `k` best moments as rows that are as long as they are: the best of their windows, with its cosine."""
        found = find_moments(self.view, query, k, pool=pool)
        best = self.view.rows([moment.id for moment in found])
        cosines_N = query.scores(self.view.vectors([moment.id for moment in found])).tolist() if found else []
        return [(_spread(row, moment), cosine) for row, moment, cosine in zip(best, found, cosines_N, strict=True)]

    def row(self, id: str) -> Row | None:
        # The store puts ids into a query: what is no id does not come so far.
        if not re.fullmatch("[0-9a-f]{20}", id):
            return None
        try:
            return _window(self.view.rows([id])[0])
        except SearchIndexError:
            return None

    def vector(self, id: str) -> np.ndarray | None:
        return None if self.row(id) is None else self.view.vectors([id])[0]

    def windows_beside(self, id: str) -> list[Row]:
        """All windows of the file of a row, itself among them, in the order of time; none if there is no such row."""
        row = self.row(id)
        return [] if row is None or row.file is None else [_window(found) for found in self.view.windows_of(row.file)]

    def files(self) -> Iterable[str]:
        return self.view.files()


def _window(row: StoredRow) -> Row:
    return Row(row.id, row.file, row.start_s, row.duration_s, row.metadata, row.tags, row.window)


def _spread(row: StoredRow, moment: Moment) -> Row:
    return replace(_window(row), start_s=moment.start_s, duration_s=moment.end_s - moment.start_s)


def _row(hit: Hit) -> Row:
    metadata = {key: value for key, value in hit.metadata.items() if key != "duration_s"}
    return Row(_short(hit.id), hit.path, hit.start_s, hit.metadata.get("duration_s"), metadata)


def _short(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
