"""What curating works on: one vector for each file of a library, out of those of its windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clapkit.errors import SearchIndexError
from clapkit.nearest import unit_rows
from clapkit.search.view import View, columns

_ROWS_AT_ONCE = 16384


@dataclass(frozen=True)
class FileTable:
    """The files of one version of a library, in the order of their names.

    files        names, as they stand in the library
    vectors_FD   float32, unit length: the mean of the windows, each weighted with the time that it answers for
    durations_s  [F], to the end of the last window
    contents     content hashes: equal ones are the same bytes under two names
    space_id     of the vectors
    """

    files: tuple[str, ...]
    vectors_FD: np.ndarray
    durations_s: np.ndarray
    contents: tuple[str, ...]
    space_id: str

    def __len__(self) -> int:
        return len(self.files)

    def without_copies(self) -> np.ndarray:
        """Positions, ascending, of the first file of each content."""
        first: dict[str, int] = {}
        for position, content in enumerate(self.contents):
            first.setdefault(content, position)
        return np.array(sorted(first.values()), np.int64)


def file_table(view: View) -> FileTable:
    """The files of a view. An overlap of two windows is halved between them, as when a file is embedded whole."""
    names = ("id", "file", "window", "start_s", "duration_s", "content_hash")
    found = columns(view, names).sort_by([("file", "ascending"), ("window", "ascending")])
    ids, names_N = found["id"].to_pylist(), found["file"].to_pylist()
    start_N, long_N = found["start_s"].to_numpy(), found["duration_s"].to_numpy()
    first_F = np.flatnonzero([n == 0 or names_N[n] != names_N[n - 1] for n in range(len(names_N))])
    weight_N = _weights(start_N, long_N, first_F)
    file_N = np.zeros(len(ids), np.int64)
    file_N[first_F[1:]] = 1
    sums_FD = _sums(view, ids, weight_N, np.cumsum(file_N), len(first_F))
    contents = found["content_hash"].to_pylist()
    return FileTable(
        tuple(names_N[n] for n in first_F),
        unit_rows(sums_FD, what="the vectors of the files") if len(first_F) else sums_FD.astype(np.float32),
        np.maximum.reduceat(start_N + long_N, first_F) if len(first_F) else np.zeros(0),
        tuple(contents[n] for n in first_F),
        view.space.space_id,
    )


def _weights(start_N: np.ndarray, long_N: np.ndarray, first_F: np.ndarray) -> np.ndarray:
    """The seconds that each window answers for; rows stand in the order of file and window."""
    end_N = start_N + long_N
    border_N = (start_N[1:] + end_N[:-1]) / 2  # the middle of an overlap, or of a gap
    left_N, right_N = np.concatenate([start_N[:1], border_N]), np.concatenate([border_N, end_N[-1:]])
    left_N[first_F] = start_N[first_F]
    right_N[first_F[1:] - 1] = end_N[first_F[1:] - 1]
    return np.maximum(right_N - left_N, 1e-6)


def vector_places(view: View, ids: list[str]) -> np.ndarray:
    """Where the vectors of all rows, named in some order, stand in `view.scan()` [N].

    SearchIndexError where the scan has other rows than these.
    """
    scan = view.scan()
    if not ids:
        return np.zeros(0, np.int64)
    by_id = np.argsort(scan.ids)
    asked_N = np.array([name.encode() for name in ids], np.bytes_)
    place_N = by_id[np.minimum(np.searchsorted(scan.ids, asked_N, sorter=by_id), len(by_id) - 1)]
    if len(scan.ids) != len(ids) or not (scan.ids[place_N] == asked_N).all():
        raise SearchIndexError("the vectors beside the library are not those of its rows: remove its folder scans/")
    return place_N


def _sums(view: View, ids: list[str], weight_N: np.ndarray, file_N: np.ndarray, files: int) -> np.ndarray:
    sums_FD = np.zeros((files, view.space.dimension))
    place_N = vector_places(view, ids)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        vectors_RD = np.asarray(view.scan().vectors[place_N[part]], np.float64)
        np.add.at(sums_FD, file_N[part], vectors_RD * weight_N[part, None])
    return sums_FD
