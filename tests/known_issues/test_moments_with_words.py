"""Moments of a search with words too: which windows count is told by cosines, and the words only by the order.

Fused by rank, all scores lie within 0.1 of each other: compared with those, every window of every file was a moment.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("lancedb")

from clapkit.search.query import Query, find_moments
from clapkit.search.rows import Row
from clapkit.search.store import Store

COSINES = {"a": (0.9, 0.88, 0.1, 0.85), "dog": (0.84, 0.2, 0.3, 0.1), "b": (0.5, 0.4, 0.3, 0.2)}


@pytest.fixture
def store(tmp_path):
    """Three files of four windows of a second; the cosine of each with the first axis is the one above."""
    rows, vectors = [], []
    for file, cosines in COSINES.items():
        for n, cosine in enumerate(cosines):
            rows.append(Row(f"{file}.wav", n, float(n), 1.0, f"hash of {file}", "pipe"))
            vectors.append([cosine, np.sqrt(1 - cosine**2), 0])
    with Store.create(tmp_path / "s", space_id="a", pipeline_id="pipe", dimension=3, dtype="float32") as made:
        made.add(rows, np.array(vectors))
        yield made


def spans(moments):
    return [(moment.file.removesuffix(".wav"), moment.start_s, moment.end_s) for moment in moments]


def test_only_windows_near_the_best_are_moments(store):
    query = np.eye(1, 3)
    assert spans(find_moments(store.view, Query(query), within=0.1)) == [("a", 0, 2), ("a", 3, 4), ("dog", 0, 1)]
    with_words = find_moments(store.view, Query(query, words="dog"), within=0.1)
    assert set(spans(with_words)) == {("a", 0, 2), ("a", 3, 4), ("dog", 0, 1)}


def test_words_decide_the_order(store):
    """By reciprocal ranks: the windows by their cosines, and the file that the words name."""
    fused = spans(find_moments(store.view, Query(np.eye(1, 3), words="dog"), within=0.1))
    ranked = sorted(((c, file, n) for file, cosines in COSINES.items() for n, c in enumerate(cosines)), reverse=True)
    by_cosine = {(file, n): 1 / (61 + rank) for rank, (_, file, n) in enumerate(ranked)}
    assert fused[0] == ("dog", 0, 1)
    assert by_cosine["dog", 0] + 1 / 64 > by_cosine["a", 0], "even as the last of the four windows that are named so"
    assert fused[1:] == [("a", 0, 2), ("a", 3, 4)]
    assert find_moments(store.view, Query(np.eye(1, 3), words="dog"), 1)[0].file == "dog.wav"
