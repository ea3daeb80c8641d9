"""What a scan of a mapped file leaves in the memory of the process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from clapkit.nearest import nearest, unit_rows
from clapkit.search import scan
from clapkit.search.scan import ScanFile

ROWS, DIMENSION = 20_000, 256  # 20 MB in float32


def pieces():
    rng = np.random.default_rng(0)
    for first in range(0, ROWS, 5000):
        ids = [f"{row:020d}" for row in range(first, first + 5000)]
        yield rng.standard_normal((5000, DIMENSION), np.float32), ids, np.arange(first, first + 5000, dtype=np.uint64)


def mapped_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssFile")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_scan_is_read_and_let_go(tmp_path, monkeypatch):
    made = ScanFile(tmp_path, "space", 1, ROWS, DIMENSION, "float32").open(pieces)
    queries_QD = np.random.default_rng(1).standard_normal((2, DIMENSION), np.float32)
    before = mapped_mb()
    ids, scores = made.search(queries_QD, 5)
    kept = mapped_mb() - before
    monkeypatch.setattr(scan, "_KEPT_BYTES", 2**20)
    monkeypatch.setattr(scan, "_BLOCK_BYTES", 3 * 2**20)
    again, same = made.search(queries_QD, 5)
    assert kept > 15 and mapped_mb() - before < 5
    assert again == ids and np.array_equal(same, scores)
    some, _ = made.search(queries_QD, 5, np.arange(100))
    assert all(int(name) < 100 for found in some for name in found)


def test_what_is_in_memory_alone_is_kept(monkeypatch):
    monkeypatch.setattr(scan, "_KEPT_BYTES", 0)
    made = ScanFile(None, "space", 1, ROWS, DIMENSION, "float32").open(pieces)
    queries_QD = np.random.default_rng(1).standard_normal((2, DIMENSION), np.float32)
    first, second = made.search(queries_QD, 5), made.search(queries_QD, 5)
    assert first[0] == second[0] and np.array_equal(first[1], second[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_writing_lets_go_of_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "_BLOCK_BYTES", 2**20)
    seen_mb = []

    def watched():
        for piece in pieces():
            seen_mb.append(mapped_mb())
            yield piece

    made = ScanFile(tmp_path, "space", 1, ROWS, DIMENSION, "float32").open(watched)
    assert seen_mb[-1] - seen_mb[0] < 3  # ids and places stay: 28 bytes a row
    expected_ND = np.concatenate([vectors_RD for vectors_RD, _, _ in pieces()])
    np.testing.assert_allclose(
        made.vectors, expected_ND / np.linalg.norm(expected_ND, axis=1, keepdims=True), atol=1e-6
    )


def test_blocks_find_what_one_comparison_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "_KEPT_BYTES", 0)
    monkeypatch.setattr(scan, "_BLOCK_BYTES", 7 * 4 * 4)  # seven rows
    rng = np.random.default_rng(2)
    vectors_ND = rng.integers(-1, 2, (100, 4)).astype(np.float32)  # many are equal: the first of them come first
    vectors_ND[~vectors_ND.any(axis=1)] = 1
    ids = [f"{row:020d}" for row in range(100)]
    made = ScanFile(tmp_path, "space", 1, 100, 4, "float32").open(lambda: [(vectors_ND, ids, np.arange(100))])
    queries_QD = rng.standard_normal((3, 4))
    for k in (1, 10, 100, 1000):
        found, scores = made.search(queries_QD, k)
        expected, positions = nearest(unit_rows(queries_QD), np.array(made.vectors), k)
        assert np.array_equal(scores, expected)
        assert found == [[ids[n] for n in row] for row in positions]
