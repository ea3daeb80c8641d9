"""All vectors of one version of a table in a memory map beside it, compared with a query one by one.

LanceDB takes ten times as long to compare with 100,000 rows as a matrix product does, so up to some size the vectors
are kept once more as a plain array. Its name holds the version of the table: a version never changes, so the copy is
either right or not looked at.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from clapkit.nearest import nearest, unit_rows

_ID_TYPE = "S20"
_PARTS = ("ids", "places", "vectors")
_UNFINISHED = ".unfinished-"
_LEFT_S = 3600.0  # nobody takes so long to write a scan
# Vectors above this size are read, and written, in blocks that are let go one by one: as long as they are mapped they
# count as memory of the process, though the system could take them back at any time. They stay in its cache of files.
_KEPT_BYTES, _BLOCK_BYTES = 2**29, 2**27
Piece = tuple[np.ndarray, list[str], np.ndarray]


@dataclass(frozen=True)
class Scan:
    """The vectors [N, D] of a version, their ids [N], and where LanceDB keeps them [N]."""

    vectors: np.ndarray
    ids: np.ndarray
    places: np.ndarray

    def search(
        self, queries_QD: np.ndarray, k: int, at_K: np.ndarray | None = None
    ) -> tuple[list[list[str]], np.ndarray]:
        """Ids and cosines of the `k` nearest rows; of those at the positions `at_K` only, where they are given."""
        queries_QD = unit_rows(queries_QD, what="the queries")
        ids = self.ids if at_K is None else self.ids[at_K]
        if at_K is None and self.vectors.nbytes > _KEPT_BYTES:
            scores_Qk, found_Qk = _nearest_by_blocks(queries_QD, self.vectors, k)
        else:
            scores_Qk, found_Qk = nearest(queries_QD, self.vectors if at_K is None else self.vectors[at_K], k)
        return [[name.decode() for name in ids[found].tolist()] for found in found_Qk], scores_Qk

    def named(self, ids: Sequence[str]) -> np.ndarray:
        """The positions of the rows with these ids, in no order; ids that are not there are passed over."""
        if not len(self.ids):
            return np.empty(0, np.int64)
        wanted = np.array([name.encode() for name in ids if name.isascii()], np.bytes_)
        place_K = np.minimum(np.searchsorted(self.ids, wanted, sorter=self._by_id), len(self.ids) - 1)
        found_K = self._by_id[place_K]
        return found_K[self.ids[found_K] == wanted]

    @cached_property
    def _by_id(self) -> np.ndarray:
        return np.argsort(self.ids)

    def positions(self, places_K: np.ndarray) -> np.ndarray:
        """The positions, ascending, of the rows that LanceDB keeps at these places."""
        if not len(self.places):
            return np.empty(0, np.int64)
        nth_K = np.minimum(np.searchsorted(self.places, places_K, sorter=self._by_place), len(self.places) - 1)
        found_K = self._by_place[nth_K]
        return np.sort(found_K[self.places[found_K] == places_K])

    @cached_property
    def _by_place(self) -> np.ndarray:
        return np.argsort(self.places, kind="stable")


def _nearest_by_blocks(queries_QD: np.ndarray, vectors_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`clapkit.nearest.nearest`, with no more than a block of the mapped vectors in memory."""
    scores_Qk, found_Qk = np.empty((len(queries_QD), 0), np.float32), np.empty((len(queries_QD), 0), np.int64)
    _let_go(vectors_ND)  # what filters have left
    rows = max(1, _BLOCK_BYTES // vectors_ND[:1].nbytes)
    for first in range(0, len(vectors_ND), rows):
        scores_QK, found_QK = nearest(queries_QD, vectors_ND[first : first + rows], k)
        scores_QK = np.concatenate([scores_Qk, scores_QK], axis=1)
        order_Qk = np.argsort(-scores_QK, axis=1, kind="stable")[:, :k]  # of equal scores the lower position first
        scores_Qk = np.take_along_axis(scores_QK, order_Qk, axis=1)
        found_Qk = np.take_along_axis(np.concatenate([found_Qk, first + found_QK], axis=1), order_Qk, axis=1)
        _let_go(vectors_ND)
    return scores_Qk, found_Qk


def _let_go(vectors: np.ndarray) -> None:
    """Pages of a mapped file leave the memory of the process, where the system can be told so; nothing is lost."""
    if isinstance(vectors.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        vectors.base.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class ScanFile:
    """Where the scan of one version lies, and its shape; `folder` None keeps it in memory."""

    folder: Path | None
    name: str
    version: int
    rows: int
    dimension: int
    dtype: str

    def open(self, pieces: Callable[[], Iterable[Piece]]) -> Scan:
        """The scan, made of the pieces (vectors, ids, places) where it is not there yet.

        Where the folder cannot be written, the scan is held in memory.
        """
        if self.folder is None or self.rows == 0:
            return self._gather(pieces(), self._in_memory)
        with suppress(OSError, ValueError):
            return self._read()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make(pieces())
            return self._read()
        except (OSError, ValueError):
            return self._gather(pieces(), self._in_memory)

    def hand_to(self, version: int) -> None:
        """Let it be the scan of another version, which holds the same rows; where that fails it is made anew."""
        if self.folder is not None:
            with suppress(OSError):
                os.rename(self._path, replace(self, version=version)._path)

    def _make(self, pieces: Iterable[Piece]) -> None:
        """Write all parts, which then appear together; who makes the same at the same time does no harm."""
        assert self.folder is not None
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=self.folder, ignore_cleanup_errors=True) as partial:
            made = Path(partial) / "scan"
            made.mkdir()
            self._gather(pieces, lambda part: self._on_disk(made / f"{part}.npy", part))
            try:
                os.rename(made, self._path)
            except OSError:  # it is there by now: another has made it, or it is the damaged one
                with suppress(OSError, ValueError):
                    self._read()
                    return
                shutil.rmtree(self._path)
                os.rename(made, self._path)
        self._forget_others()

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {
            "ids": ((self.rows,), _ID_TYPE),
            "places": ((self.rows,), "uint64"),
            "vectors": ((self.rows, self.dimension), self.dtype),
        }

    def _gather(self, pieces: Iterable[Piece], make: Callable[[str], np.ndarray]) -> Scan:
        arrays = {part: make(part) for part in _PARTS}
        done = mapped = 0
        for vectors_RD, ids_R, places_R in pieces:
            here = slice(done, done + len(ids_R))
            arrays["vectors"][here] = unit_rows(vectors_RD, what="the stored vectors")
            arrays["ids"][here] = ids_R
            arrays["places"][here] = places_R
            done += len(ids_R)
            mapped += arrays["vectors"][here].nbytes
            if mapped > _BLOCK_BYTES:
                _let_go(arrays["vectors"])
                mapped = 0
        assert done == self.rows, "a version of a table holds as many rows as it counts"
        for array in arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        return Scan(**arrays)

    def _in_memory(self, part: str) -> np.ndarray:
        shape, dtype = self._shapes()[part]
        return np.empty(shape, dtype)

    def _on_disk(self, path: Path, part: str) -> np.ndarray:
        shape, dtype = self._shapes()[part]
        return np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)

    def _read(self) -> Scan:
        arrays = {part: np.load(self._path / f"{part}.npy", mmap_mode="r") for part in _PARTS}
        for part, (shape, dtype) in self._shapes().items():
            if arrays[part].shape != shape or arrays[part].dtype != np.dtype(dtype):
                raise ValueError(f"{self._path} is no scan of this version")
        return Scan(arrays["vectors"], np.array(arrays["ids"]), np.array(arrays["places"]))

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}.{self.version}"

    def _forget_others(self) -> None:
        """Remove the scans of older versions, and what killed processes left; who has one open keeps its file."""
        assert self.folder is not None
        for path in self.folder.iterdir():
            older = path.name.startswith(f"{self.name}.") and int(path.suffix[1:]) < self.version
            with suppress(OSError):
                left = path.name.startswith(_UNFINISHED) and time.time() - path.stat().st_mtime > _LEFT_S
                if older or left:
                    shutil.rmtree(path)
