"""A store of sounds behind the server: its windows, its ids, and nothing that is no id."""

from __future__ import annotations

import httpx2 as httpx
import numpy as np
import pytest

pytest.importorskip("lancedb")

from clapkit.search.rows import Row as StoredRow
from clapkit.search.store import Store
from clapkit.server.rows import StoreRows


@pytest.fixture(scope="module")
def rows(served, tmp_path_factory):
    """The sounds of `served` in a store, with tags."""
    place = tmp_path_factory.mktemp("store") / "library"
    about = {"space_id": served.clap.space_id, "pipeline_id": served.clap.pipeline_id}
    with Store.create(place, **about, dimension=served.clap.dimension, dtype="float32") as store:
        stored = [
            StoredRow(file.as_posix(), 0, 0.0, 1.0, f"hash{n}", "pipe", tags=("tone",), metadata={"number": n})
            for n, file in enumerate(served.files)
        ]
        store.add(stored, served.clap.embed_audio(served.files))
    return StoreRows(Store.open(place))


def test_a_store_is_searched_like_the_exact_index(serve, served, rows, http):
    with serve(index=rows) as url:
        asked = {"text": "rain", "k": 6}
        by_store = httpx.get(url + "/search", params=asked).json()["results"]
        by_index = http.get("/search", params=asked).json()["results"]
        assert [hit["name"] for hit in by_store] == [hit["name"] for hit in by_index]
        assert [hit["score"] for hit in by_store] == pytest.approx([hit["score"] for hit in by_index], abs=1e-5)
        first = by_store[0]
        assert (first["metadata"].keys(), first["tags"], first["window"]) == ({"number"}, ["tone"], 0)
        assert httpx.get(url + first["audio"]).content == served.files[first["metadata"]["number"]].read_bytes()
        similar = httpx.get(url + f"/similar/{first['id']}").json()["results"]
        assert len(similar) == 5 and first["id"] not in {hit["id"] for hit in similar}


def test_only_ids_reach_the_store(rows):
    (found,) = rows.search(np.ones((1, rows.dimension), np.float32), 1)
    known = found[0][0].id
    assert rows.row(known).id == known
    assert np.linalg.norm(rows.vector(known)) == pytest.approx(1, abs=1e-5)
    for name in ("", known[:-1], known + "0", "0" * 20, f"{known}' or 'a'='a", "' OR 1=1 --", "../x"):
        assert rows.row(name) is None
        assert rows.vector(name) is None
