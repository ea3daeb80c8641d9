"""Exact nearest neighbours, and exact ranks, on arrays, in bounded memory.

`nearest` multiplies chunk by chunk in float32, then scores what it will return once more in float64, row by row. The
product of two matrices rounds a row differently at the edge of a block than in its middle; after the second scoring
equal vectors have equal scores, and a result depends neither on the chunk size nor on the other queries of the call.
`count_levels` does the same for ranks: scores that rounding could put on the wrong side are scored once more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from clapkit.errors import DataError, SpecError

_SPARE = 16  # candidates kept beyond k, so that rounding near the k-th place seldom needs a second pass
_QUERY_BLOCK = 256
_HALF_BLOCK = 2**18  # numbers of float16 that are made float32, and multiplied, while they stay in a processor's cache
_UNIT_BLOCK = 1024  # rows in float64 that stay in a processor's cache
_PAIR_BLOCK = 4096
_STRIP_SCORES = 2**18  # as many as stay in a processor's cache while they are compared with one level after another
_MOST_THREADS = 4
_CLOSE_SHARE = 64  # one score in so many close to a level: from here on a float64 product is cheaper than pair by pair
_POSITION_BITS = 32
_POSITION_MASK = (1 << _POSITION_BITS) - 1


def nearest(
    queries_QD: np.ndarray, vectors_ND: np.ndarray, k: int, *, chunk_rows: int = 8192
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` rows of `vectors_ND` with the largest inner product with each query, best first.

    Returns scores [Q, min(k, N)] float32 and positions [Q, min(k, N)] int64; of equal scores the lower position comes
    first. For cosines give unit rows (`unit_rows`). `vectors_ND` may be an `np.memmap`: no more than `chunk_rows` rows
    of it are in memory at a time. Raises DataError for shapes that do not fit and for values that are not finite,
    SpecError for `k` or `chunk_rows` below 1.
    """
    for name, number in (("k", k), ("chunk_rows", chunk_rows)):
        if number < 1:
            raise SpecError(f"{name} is {number}; it has to be at least 1")
    queries_QD = _matrix(queries_QD, what="queries_QD")
    vectors_ND = _matrix(vectors_ND, what="vectors_ND")
    if queries_QD.shape[1] != vectors_ND.shape[1]:
        raise DataError(
            f"queries_QD has {queries_QD.shape[1]} columns and vectors_ND has {vectors_ND.shape[1]}: "
            "both have to come from the same model"
        )
    _refuse_rows(~np.isfinite(queries_QD).all(axis=1), what="queries_QD", why="not finite")
    k = min(k, len(vectors_ND))
    scores_Qk = np.empty((len(queries_QD), k), np.float32)
    positions_Qk = np.empty((len(queries_QD), k), np.int64)
    if k == 0:
        return scores_Qk, positions_Qk
    for start in range(0, len(queries_QD), _QUERY_BLOCK):
        block_QD = queries_QD[start : start + _QUERY_BLOCK]
        kept_QK = _candidates(block_QD, vectors_ND, k + _SPARE, chunk_rows)
        for row, (query_D, keys_K) in enumerate(zip(block_QD, kept_QK, strict=True), start):
            best_k = _settle(query_D, vectors_ND, keys_K, k, chunk_rows)
            scores_Qk[row], positions_Qk[row] = _unpack(best_k)
    return scores_Qk, positions_Qk


def unit_rows(vectors_ND: np.ndarray, *, what: str = "vectors") -> np.ndarray:
    """A float32 copy with rows of length 1. Raises DataError, naming the rows, where a row is zero or not finite."""
    vectors_ND = _matrix(vectors_ND, what=what)
    unit_ND = np.empty(vectors_ND.shape, np.float32)
    endless_N, zero_N = np.zeros(len(vectors_ND), bool), np.zeros(len(vectors_ND), bool)
    for start in range(0, len(vectors_ND), _UNIT_BLOCK):
        block = slice(start, start + _UNIT_BLOCK)
        exact_RD = np.asarray(vectors_ND[block], np.float64)
        largest_R = np.abs(exact_RD).max(axis=1, initial=0.0)
        endless_N[block], zero_N[block] = ~np.isfinite(largest_R), largest_R == 0
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled_RD = exact_RD / largest_R[:, None]  # squares of extreme values would leave the range of a float
            unit_ND[block] = scaled_RD / np.linalg.norm(scaled_RD, axis=1, keepdims=True)
    _refuse_rows(endless_N, what=what, why="not finite: leave out what could not be embedded")
    _refuse_rows(zero_N, what=what, why="zero, a vector without a direction")
    return unit_ND


@dataclass(frozen=True)
class Counts:
    """How many items score above a level, and how many exactly as much; int64, shaped as the levels are."""

    above: np.ndarray
    tied: np.ndarray

    @classmethod
    def nothing(cls, shape: tuple[int, ...]) -> Counts:
        """Zeros, to be added to."""
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    def add(self, part: slice, counts: Counts) -> None:
        """Add to the rows of `part`."""
        self.above[part] += counts.above
        self.tied[part] += counts.tied


def pair_scores(rows_ND: np.ndarray, columns_MD: np.ndarray, row_P: np.ndarray, column_P: np.ndarray) -> np.ndarray:
    """The inner product [P] of row row_P[p] and column column_P[p], float32 rounded from float64.

    Equal vectors give exactly equal scores, whatever else is in the call.
    """
    scores_P = np.empty(len(row_P), np.float32)
    for start in range(0, len(row_P), _PAIR_BLOCK):
        block = slice(start, start + _PAIR_BLOCK)
        left_KD, right_KD = (
            np.asarray(vectors[places[block]], np.float64)
            for vectors, places in ((rows_ND, row_P), (columns_MD, column_P))
        )
        scores_P[block] = np.einsum("kd,kd->k", left_KD, right_KD)
    return scores_P


def count_levels(
    rows_ND: np.ndarray,
    columns_MD: np.ndarray,
    row_levels_NL: np.ndarray,
    column_levels_MK: np.ndarray,
    *,
    block_rows: int = 2048,
    block_columns: int = 8192,
) -> tuple[Counts, Counts]:
    """For each row how many columns score above, and at, each of its levels; and for each column how many rows do.

    The scores are the inner products of rows and columns, as `pair_scores` gives them, and so must be the levels: the
    rank of a column among all columns is 1 + the count above its own score. NaN stands for no level and counts
    nothing; a side without any question has levels of width 0. The N x M products are made once for both sides, a
    block at a time, and nothing is sorted. Raises DataError for shapes that do not fit and for values that are not
    finite, SpecError for blocks below 1 or above 65,535.
    """
    for name, number in (("block_rows", block_rows), ("block_columns", block_columns)):
        if not 1 <= number <= np.iinfo(np.uint16).max:
            raise SpecError(f"{name} is {number}; it has to be from 1 to 65535")
    rows_ND, columns_MD = _matrix(rows_ND, what="rows_ND"), _matrix(columns_MD, what="columns_MD")
    if rows_ND.shape[1] != columns_MD.shape[1]:
        raise DataError(f"rows_ND has {rows_ND.shape[1]} columns and columns_MD has {columns_MD.shape[1]}")
    by_row, by_column = _levels(row_levels_NL, rows_ND, "row"), _levels(column_levels_MK, columns_MD, "column")
    lengths = _longest(rows_ND, what="rows_ND") * _longest(columns_MD, what="columns_MD")
    rounding = np.float32(_rounding(rows_ND.shape[1]) * lengths)
    found = Counts.nothing(by_row.shape), Counts.nothing(by_column.shape)
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        for rows in _slices(len(rows_ND), block_rows):
            for columns in _slices(len(columns_MD), block_columns):
                tile = _Tile(
                    np.asarray(rows_ND[rows], np.float32), np.asarray(columns_MD[columns], np.float32), rounding
                )
                strips = list(_slices(rows.stop - rows.start, max(1, _STRIP_SCORES // block_columns)))
                counted = pool.map(
                    lambda strip, t=tile, r=rows, c=columns: t.strip(strip, by_row[r], by_column[c]), strips
                )
                for strip, (row_counts, column_counts) in zip(strips, counted, strict=True):
                    found[0].add(slice(rows.start + strip.start, rows.start + strip.stop), row_counts)
                    found[1].add(columns, column_counts)
    return found[0], found[1]


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


class _Tile:
    """The scores of some rows with some columns."""

    def __init__(self, rows_BD: np.ndarray, columns_RD: np.ndarray, rounding: np.float32) -> None:
        self._rows_BD, self._columns_RD, self._rounding = rows_BD, columns_RD, rounding
        self._rough_BR = rows_BD @ columns_RD.T

    def strip(self, rows: slice, row_levels: np.ndarray, column_levels: np.ndarray) -> tuple[Counts, Counts]:
        """The counts of some of the rows, and what these rows add to the counts of all columns."""
        strip = _Strip(self._rows_BD[rows], self._columns_RD, self._rough_BR[rows], self._rounding)
        return strip.counts(row_levels[rows], by_columns=False), strip.counts(column_levels, by_columns=True)


@dataclass
class _Strip:
    """Rows whose scores are in the cache, and how many of them lie above and at a level."""

    rows_BD: np.ndarray
    columns_RD: np.ndarray
    rough_BR: np.ndarray
    rounding: np.float32

    @cached_property
    def _exact_BR(self) -> np.ndarray:
        return (self.rows_BD.astype(np.float64) @ self.columns_RD.astype(np.float64).T).astype(np.float32)

    def counts(self, levels_AL: np.ndarray, *, by_columns: bool) -> Counts:
        counts = Counts.nothing(levels_AL.shape)
        for place, level_A in enumerate(levels_AL.T):
            if not np.isnan(level_A).all():
                counts.above[:, place], counts.tied[:, place] = self._tally(level_A, by_columns=by_columns)
        return counts

    def _tally(self, level_A: np.ndarray, *, by_columns: bool) -> tuple[np.ndarray, np.ndarray]:
        scores_AB = self.rough_BR.T if by_columns else self.rough_BR
        high_A1, low_A1 = (level_A + self.rounding)[:, None], (level_A - self.rounding)[:, None]
        above_A = _true(scores_AB > high_A1)
        close_A = _true(scores_AB >= low_A1) - above_A
        if close_A.sum() > scores_AB.size // _CLOSE_SHARE:
            exact_AB = self._exact_BR.T if by_columns else self._exact_BR
            return _true(exact_AB > level_A[:, None]), _true(exact_AB == level_A[:, None])
        asked = np.flatnonzero(close_A)
        part_AB = scores_AB[asked]
        place_P, other_P = np.nonzero((part_AB >= low_A1[asked]) & (part_AB <= high_A1[asked]))
        mine_P = asked[place_P]
        rows, columns = (other_P, mine_P) if by_columns else (mine_P, other_P)
        exact_P = pair_scores(self.rows_BD, self.columns_RD, rows, columns)
        above_A += np.bincount(mine_P[exact_P > level_A[mine_P]], minlength=len(level_A))
        return above_A, np.bincount(mine_P[exact_P == level_A[mine_P]], minlength=len(level_A))


def _true(mask_AB: np.ndarray) -> np.ndarray:
    """How many of each row are true; bytes summed into 16 bits, ten times as quick as a sum of booleans."""
    return mask_AB.view(np.uint8).sum(axis=1, dtype=np.uint16).astype(np.int64)


def _levels(levels_NL: np.ndarray, vectors_ND: np.ndarray, side: str) -> np.ndarray:
    levels_NL = np.asarray(levels_NL)
    if levels_NL.ndim != 2 or len(levels_NL) != len(vectors_ND) or levels_NL.dtype != np.float32:
        raise DataError(
            f"the levels of the {side}s are {levels_NL.shape} of type {levels_NL.dtype}; expected float32 "
            f"[{len(vectors_ND)}, any number], as pair_scores gives them"
        )
    return levels_NL


def _longest(vectors_ND: np.ndarray, *, what: str) -> float:
    longest = 0.0
    for start in range(0, len(vectors_ND), _UNIT_BLOCK):
        block_RD = np.asarray(vectors_ND[start : start + _UNIT_BLOCK], np.float64)
        endless_R = np.logical_not(np.isfinite(block_RD).all(axis=1))
        _refuse_rows(endless_R, what=what, why="not finite", first=start)
        longest = max(longest, float(np.linalg.norm(block_RD, axis=1).max(initial=0.0)))
    return longest


def _rounding(width: int) -> float:
    """How far a float32 product of two vectors of length 1 can be off, with a wide margin."""
    return float((4 + 2 * width**0.5) * np.finfo(np.float32).eps)


def _matrix(values: np.ndarray, *, what: str) -> np.ndarray:
    values = values if isinstance(values, np.ndarray) else np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(f"{what} is an array of shape {values.shape} and type {values.dtype}; expected numbers [N, D]")
    return values


def _refuse_rows(bad_N: np.ndarray, *, what: str, why: str, first: int = 0) -> None:
    if bad_N.any():
        rows = first + np.flatnonzero(bad_N)
        shown = ", ".join(str(r) for r in rows[:10]) + (", ..." if len(rows) > 10 else "")
        raise DataError(f"{len(rows)} row(s) of {what} are {why} (rows {shown})")


def _candidates(queries_QD: np.ndarray, vectors_ND: np.ndarray, size: int, chunk_rows: int) -> np.ndarray:
    """Keys [Q, min(size, N)] of the best rows by the float32 product, in no order."""
    kept_QK = np.empty((len(queries_QD), 0), np.int64)
    for start, scores_QR in _chunk_scores(queries_QD, vectors_ND, chunk_rows):
        kept_QK = np.concatenate([kept_QK, _pack(scores_QR, np.arange(start, start + scores_QR.shape[1]))], axis=1)
        if kept_QK.shape[1] > size:
            kept_QK = np.partition(kept_QK, kept_QK.shape[1] - size, axis=1)[:, -size:]
    return kept_QK


def _chunk_scores(queries_QD: np.ndarray, vectors_ND: np.ndarray, chunk_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    queries_QD = np.asarray(queries_QD, np.float32)
    if vectors_ND.dtype == np.float16:
        chunk_rows = max(1, min(chunk_rows, _HALF_BLOCK // max(1, vectors_ND.shape[1])))
    for start in range(0, len(vectors_ND), chunk_rows):
        chunk_RD = _as_float32(vectors_ND[start : start + chunk_rows])
        with np.errstate(invalid="ignore", over="ignore"):
            scores_QR = queries_QD @ chunk_RD.T
        # A value that is not finite spoils the scores of its row, so looking at them spares a pass over the vectors.
        if not np.isfinite(scores_QR).all():
            finite_R = np.isfinite(scores_QR).all(axis=0)
            _refuse_rows(
                np.logical_not(finite_R), what="vectors_ND", why="not finite or too large for float32", first=start
            )
        yield start, scores_QR


def _as_float32(vectors_RD: np.ndarray) -> np.ndarray:
    if vectors_RD.dtype != np.float16:
        return np.asarray(vectors_RD, np.float32)
    return _halves().take(vectors_RD.view(np.uint16), mode="clip")  # numpy's own conversion takes twice as long


@cache
def _halves() -> np.ndarray:
    """What each of the 65,536 numbers of float16 is in float32, by its bits."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _settle(query_D: np.ndarray, vectors_ND: np.ndarray, keys_K: np.ndarray, k: int, chunk_rows: int) -> np.ndarray:
    """The k best keys, best first, after scoring the candidates exactly."""
    rough_K, positions_K = _unpack(keys_K)
    candidates_KD = np.asarray(vectors_ND[positions_K], np.float64)
    best_k = _best(_exact_keys(query_D, candidates_KD, positions_K), k)
    if len(keys_K) == len(vectors_ND):
        return best_k
    lengths = np.linalg.norm(query_D.astype(np.float64)) * np.linalg.norm(candidates_KD, axis=1).max()
    rounding = _rounding(len(query_D)) * lengths
    floor = float(_unpack(best_k[-1:])[0][0]) - rounding
    if rough_K.min() < floor:
        return best_k
    # More rows than were kept score the same as the k-th (a library with many equal vectors): look at all of those.
    best_k = np.empty(0, np.int64)
    for start, scores_1R in _chunk_scores(query_D[None], vectors_ND, chunk_rows):
        positions = start + np.flatnonzero(scores_1R[0] >= floor)
        keys = _exact_keys(query_D, np.asarray(vectors_ND[positions], np.float64), positions)
        best_k = _best(np.concatenate([best_k, keys]), k)
    return best_k


def _exact_keys(query_D: np.ndarray, rows_KD: np.ndarray, positions_K: np.ndarray) -> np.ndarray:
    scores_K = np.einsum("kd,d->k", rows_KD, query_D.astype(np.float64))
    return _pack(scores_K.astype(np.float32), positions_K)


def _best(keys_K: np.ndarray, k: int) -> np.ndarray:
    return np.sort(keys_K)[::-1][:k]


def _pack(scores: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One int64 that sorts by score and then by lower position: selection by it is exact and needs no index arrays."""
    bits = np.ascontiguousarray(scores + np.float32(0)).view(np.int32)  # + 0 makes one zero of the two
    ordered = np.where(bits < 0, np.int32(-(2**31)) - bits - 1, bits).astype(np.int64)
    return (ordered << _POSITION_BITS) | (_POSITION_MASK - positions)


def _unpack(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ordered = (keys >> _POSITION_BITS).astype(np.int32)
    bits = np.where(ordered < 0, np.int32(-(2**31)) - ordered - 1, ordered).astype(np.int32)
    return bits.view(np.float32), _POSITION_MASK - (keys & _POSITION_MASK)
