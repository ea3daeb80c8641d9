"""Exact nearest neighbours on arrays, in bounded memory.

`nearest` multiplies chunk by chunk in float32, then scores what it will return once more in float64, row by row. The
product of two matrices rounds a row differently at the edge of a block than in its middle; after the second scoring
equal vectors have equal scores, and a result depends neither on the chunk size nor on the other queries of the call.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clapkit.errors import DataError, SpecError

_SPARE = 16  # candidates kept beyond k, so that rounding near the k-th place seldom needs a second pass
_QUERY_BLOCK = 256
_UNIT_BLOCK = 16384
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
    for start in range(0, len(vectors_ND), chunk_rows):
        chunk_RD = np.asarray(vectors_ND[start : start + chunk_rows], np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            scores_QR = queries_QD @ chunk_RD.T
        # A value that is not finite spoils the scores of its row, so looking at them spares a pass over the vectors.
        if not np.isfinite(scores_QR).all():
            finite_R = np.isfinite(scores_QR).all(axis=0)
            _refuse_rows(
                np.logical_not(finite_R), what="vectors_ND", why="not finite or too large for float32", first=start
            )
        yield start, scores_QR


def _settle(query_D: np.ndarray, vectors_ND: np.ndarray, keys_K: np.ndarray, k: int, chunk_rows: int) -> np.ndarray:
    """The k best keys, best first, after scoring the candidates exactly."""
    rough_K, positions_K = _unpack(keys_K)
    candidates_KD = np.asarray(vectors_ND[positions_K], np.float64)
    best_k = _best(_exact_keys(query_D, candidates_KD, positions_K), k)
    if len(keys_K) == len(vectors_ND):
        return best_k
    lengths = np.linalg.norm(query_D.astype(np.float64)) * np.linalg.norm(candidates_KD, axis=1).max()
    rounding = (4 + 2 * len(query_D) ** 0.5) * np.finfo(np.float32).eps * lengths
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
