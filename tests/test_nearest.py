from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clapkit.errors import DataError, SpecError
from clapkit.nearest import nearest, unit_rows


def slow_nearest(queries_QD, vectors_ND, k):
    """Every pair by itself, sorted by (score, position)."""
    scores_Qk, positions_Qk = [], []
    for query in np.asarray(queries_QD, np.float64):
        pairs = [(-np.float32(sum(query * np.asarray(v, np.float64))), n) for n, v in enumerate(vectors_ND)]
        best = sorted(pairs)[:k]
        scores_Qk.append([-score for score, _ in best])
        positions_Qk.append([n for _, n in best])
    return np.array(scores_Qk), np.array(positions_Qk)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 60),
    k=st.integers(1, 70),
    chunk_rows=st.integers(1, 70),
    levels=st.sampled_from([1, 2, 1000]),
)
def test_equals_the_double_loop_with_many_ties(seed, rows, k, chunk_rows, levels):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-levels, levels + 1, (rows, 3)) / levels
    queries = rng.integers(-levels, levels + 1, (4, 3)) / levels
    scores, positions = nearest(queries, vectors, k, chunk_rows=chunk_rows)
    slow_scores, slow_positions = slow_nearest(queries, vectors, k)
    np.testing.assert_array_equal(positions, slow_positions)
    np.testing.assert_allclose(scores, slow_scores, rtol=0, atol=0)
    assert scores.dtype == np.float32
    assert positions.dtype == np.int64


def test_no_result_depends_on_chunks_or_on_the_other_queries(rng):
    vectors = unit_rows(rng.standard_normal((700, 48)))
    queries = unit_rows(rng.standard_normal((300, 48)))
    together = nearest(queries, vectors, 20)
    for chunk_rows in (1, 33, 699, 5000):
        for one, other in zip(together, nearest(queries, vectors, 20, chunk_rows=chunk_rows), strict=True):
            np.testing.assert_array_equal(one, other)
    for row in (0, 150, 299):
        for one, other in zip(together, nearest(queries[row : row + 1], vectors, 20), strict=True):
            np.testing.assert_array_equal(one[row], other[0])


def test_equal_vectors_tie_exactly_however_many_there_are(rng):
    """Two hundred copies of one vector among others: the first copies win, in order."""
    vectors = unit_rows(rng.standard_normal((1000, 64)))
    copies = np.sort(rng.choice(1000, 200, replace=False))
    vectors[copies] = vectors[copies[0]]
    scores, positions = nearest(vectors[copies[:1]], vectors, 7, chunk_rows=37)
    np.testing.assert_array_equal(positions[0], copies[:7])
    assert len(set(scores[0].tolist())) == 1
    _, behind = nearest(-vectors[copies[:1]], vectors, 1000)
    np.testing.assert_array_equal(behind[0, -200:], copies)


def test_a_memory_map_gives_the_same(tmp_path, rng):
    vectors = unit_rows(rng.standard_normal((90, 8)))
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    _, positions = nearest(vectors[:5], mapped, 4, chunk_rows=16)
    np.testing.assert_array_equal(positions, nearest(vectors[:5], vectors, 4)[1])


def test_no_vectors_and_no_queries_give_empty_answers():
    assert [a.shape for a in nearest(np.ones((2, 3)), np.empty((0, 3)), 5)] == [(2, 0), (2, 0)]
    assert [a.shape for a in nearest(np.empty((0, 3)), np.ones((4, 3)), 5)] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("name", ["k", "chunk_rows"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(SpecError, match=f"{name} is 0"):
        nearest(np.ones((1, 2)), np.ones((1, 2)), **{"k": 1, "chunk_rows": 1, name: 0})


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(DataError, match="queries_QD has 3 columns and vectors_ND has 2"):
        nearest(np.ones((1, 3)), np.ones((1, 2)), 1)
    with pytest.raises(DataError, match=r"queries_QD is an array of shape \(3,\)"):
        nearest(np.ones(3), np.ones((1, 3)), 1)
    with pytest.raises(DataError, match=r"vectors_ND is .*type <U1"):
        nearest(np.ones((1, 1)), np.array([["a"]]), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named_by_row(value):
    spoiled = np.ones((30, 4))
    spoiled[17, 2] = value
    with pytest.raises(DataError, match=r"vectors_ND are not finite.*rows 17\)"):
        nearest(np.ones((2, 4)), spoiled, 1, chunk_rows=8)
    with pytest.raises(DataError, match=r"queries_QD are not finite \(rows 17\)"):
        nearest(spoiled, np.ones((2, 4)), 1)


def test_unit_rows_have_length_one_whatever_their_scale(rng):
    rows = rng.standard_normal((20, 6)) * 10.0 ** rng.integers(-200, 200, (20, 1))
    unit = unit_rows(rows)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    largest = np.abs(rows).argmax(axis=1, keepdims=True)
    ratios = unit / np.take_along_axis(unit, largest, 1)
    np.testing.assert_allclose(ratios, rows / np.take_along_axis(rows, largest, 1), rtol=1e-5)


def test_rows_without_direction_are_refused():
    with pytest.raises(DataError, match=r"1 row\(s\) of texts are zero.*rows 1"):
        unit_rows(np.array([[1.0, 0], [0, 0]]), what="texts")
    with pytest.raises(DataError, match=r"12 row\(s\) of vectors are not finite.*rows 0, 1.*\.\.\."):
        unit_rows(np.full((12, 2), np.nan))


def test_float16_is_compared_as_the_float32_it_stands_for(rng, monkeypatch, tmp_path):
    every_H = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite_H = every_H[np.isfinite(every_H)]  # with the smallest, and both zeros
    tables = {
        "all numbers": finite_H.reshape(-1, 4),
        "columns of another": rng.standard_normal((4, 900)).astype(np.float16).T,
        "mapped": np.memmap(tmp_path / "m", np.float16, "w+", shape=(900, 4)),
        "none": np.empty((0, 4), np.float16),
    }
    tables["mapped"][:] = tables["columns of another"]
    queries_QD = rng.standard_normal((3, 4))
    monkeypatch.setattr("clapkit.nearest._HALF_BLOCK", 4 * 100)
    for vectors_ND in tables.values():
        scores_Qk, found_Qk = nearest(queries_QD, vectors_ND, 50)
        expected_Qk, places_Qk = nearest(queries_QD, np.array(vectors_ND, np.float32), 50)
        np.testing.assert_array_equal(found_Qk, places_Qk)
        np.testing.assert_array_equal(scores_Qk, expected_Qk)
    for bad in (np.inf, np.nan):
        vectors_ND = rng.standard_normal((900, 4)).astype(np.float16)
        vectors_ND[701, 2] = bad
        with pytest.raises(DataError, match="701"):
            nearest(queries_QD, vectors_ND, 1)
