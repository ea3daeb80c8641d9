"""A library in the formats of others: the same rows, and the same answers as our exact search."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb")

from clapkit.adapters.collections import export, point_id, to_qdrant
from clapkit.errors import DataError, MissingExtraError, SpecError
from clapkit.search.rows import Row
from clapkit.search.store import Store

COUNT, DIMENSION, K = 700, 24, 10


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lib") / "lib"


@pytest.fixture(scope="module")
def store(place) -> Store:
    rng = np.random.default_rng(8)
    store = Store.create(place, space_id="space", pipeline_id="p", dimension=DIMENSION)
    rows = [
        Row(f"ü/f{n // 2:03d}.wav", n % 2, 1.0 * (n % 2), 2.0, f"c{n // 2}", "p", tags=("t",), metadata={"n": n})
        for n in rng.permutation(COUNT).tolist()
    ]
    store.add(rows, rng.standard_normal((COUNT, DIMENSION)))
    return store


@pytest.fixture(scope="module")
def asked(store):
    """Queries, and what our exact search answers."""
    queries = np.random.default_rng(9).standard_normal((20, DIMENSION)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries, *store.search(queries, K, exact=True)


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_numpy_files_hold_every_row(store, asked, tmp_path):
    seen: list[int] = []
    assert export(store.view, tmp_path / "out", to="numpy", on_rows=seen.append) == COUNT
    assert seen[-1] == COUNT
    rows, vectors = rows_of(tmp_path / "out"), np.load(tmp_path / "out" / "vectors.npy")
    assert [(row["file"], row["window"]) for row in rows] == sorted((row["file"], row["window"]) for row in rows)
    ids = [row["id"] for row in rows]
    assert (vectors == store.view.vectors(ids)).all()
    for row, known in zip(rows, store.view.rows(ids), strict=True):
        assert (row["file"], row["window"], row["start_s"]) == (known.file, known.window, known.start_s)
        assert (row["tags"], row["metadata"]) == (list(known.tags), known.metadata)
    about = json.loads((tmp_path / "out" / "collection.json").read_bytes())
    assert about == {
        "format_version": 1,
        "space_id": "space",
        "pipeline_id": "p",
        "dimension": DIMENSION,
        "rows": COUNT,
    }
    queries, found, scores = asked
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :K]
    assert [[ids[n] for n in row] for row in best] == found
    assert np.take_along_axis(queries @ vectors.T, best, axis=1) == pytest.approx(scores, abs=1e-5)


# FAISS brings an OpenMP of its own. In one process with that of torch, whatever else trains here gets slow or dies.
EXPORTED = """
import sys
import numpy as np
from clapkit.adapters.collections import export
from clapkit.search.store import Store
assert "torch" not in sys.modules
lib, empty, out, k = sys.argv[1:]
assert export(Store.open(empty).view, out + "-empty", to="faiss") == 0
print(export(Store.open(lib).view, out, to="faiss"))
import faiss
scores_QK, places_QK = faiss.read_index(out + "/index.faiss").search(np.load(out + ".queries.npy"), int(k))
np.savez(out + ".npz", scores_QK=scores_QK, places_QK=places_QK)
"""


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_answers_as_our_search(store, place, asked, tmp_path):
    queries, found, scores = asked
    out = tmp_path / "out"
    np.save(f"{out}.queries.npy", queries)
    Store.create(tmp_path / "empty", space_id="space", pipeline_id="p", dimension=4).close()
    words = [sys.executable, "-c", EXPORTED, str(place), str(tmp_path / "empty"), str(out), str(K)]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == COUNT
    ids = [row["id"] for row in rows_of(out)]
    answers = np.load(f"{out}.npz")
    assert [[ids[n] for n in row] for row in answers["places_QK"]] == found
    assert answers["scores_QK"] == pytest.approx(scores, abs=1e-5)
    assert json.loads((tmp_path / "out-empty" / "collection.json").read_bytes())["rows"] == 0


def test_qdrant_answers_as_our_search(store, asked, tmp_path):
    client_of = pytest.importorskip("qdrant_client").QdrantClient
    assert export(store.view, tmp_path / "out", to="qdrant") == COUNT
    assert json.loads((tmp_path / "out" / "collection.json").read_bytes())["rows"] == COUNT
    client = client_of(path=str(tmp_path / "out"))
    try:
        queries, found, scores = asked
        for query, ids, best in zip(queries, found, scores, strict=True):
            points = client.query_points("clapkit", query=query.tolist(), limit=K, with_payload=True).points
            assert [point.payload["id"] for point in points] == ids
            assert [point.id for point in points] == [point_id(name) for name in ids]
            assert [point.score for point in points] == pytest.approx(best.tolist(), abs=1e-5)
            assert points[0].payload["metadata"] == store.view.rows(ids[:1])[0].metadata
    finally:
        client.close()


def test_a_collection_that_is_there_is_not_added_to(store):
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    to_qdrant(store.view, client, collection="sounds")
    with pytest.raises(DataError, match="sounds"):
        to_qdrant(store.view, client, collection="sounds")


@pytest.mark.parametrize("to", ["numpy", "qdrant"])
def test_an_empty_library_is_an_empty_collection(to, tmp_path):
    if to != "numpy":
        pytest.importorskip("qdrant_client")
    empty = Store.create(tmp_path / "lib", space_id="space", pipeline_id="p", dimension=4)
    assert export(empty.view, tmp_path / "out", to=to) == 0
    assert json.loads((tmp_path / "out" / "collection.json").read_bytes())["rows"] == 0


def test_what_cannot_be_is_told(store, tmp_path, monkeypatch):
    with pytest.raises(SpecError, match="'milvus'"):
        export(store.view, tmp_path / "out", to="milvus")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="full"):
        export(store.view, tmp_path / "full", to="numpy")
    for module, package, to in (("faiss", "faiss-cpu", "faiss"), ("qdrant_client", "qdrant-client", "qdrant")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=package):
            export(store.view, tmp_path / "out", to=to)
    assert {path.name for path in tmp_path.iterdir()} == {"full"}


def test_what_is_stopped_leaves_nothing(store, tmp_path):
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store.view, tmp_path / "out", to="numpy", on_rows=stop)
    assert list(tmp_path.iterdir()) == []
