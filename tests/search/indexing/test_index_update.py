"""A store brought into step with its sources: nothing embedded twice, nothing forgotten that cannot be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from clapkit.errors import SearchIndexError
from clapkit.search.curating.tagging import Tagged, write_tags
from clapkit.search.indexing.sources import list_sources, source_of
from clapkit.search.indexing.update import FAILURES, Tried, forget_source, remember_sources, update
from clapkit.search.query import Query, find
from clapkit.search.store import Store
from clapkit.search.where import Filter

WIDTH = 8  # of the fixture `store`


def run(store, places, embedder, **settings):
    embedder.asked.clear()
    return update(store, list_sources([source_of(p) for p in places]), embedder, pipeline_id="p", **settings)


@pytest.fixture
def check(store, vector_of):
    """`check(paths)`: the store holds exactly these files, with the vectors of their content."""
    return lambda paths: _check(store, vector_of, paths)


def _check(store, vector_of, paths):
    store.refresh()
    assert sorted(store.view.files()) == sorted(path.as_posix() for path in paths)
    assert len(store) == 2 * len(paths)
    for path in paths:
        expected = vector_of(path)
        rows = store.view.windows_of(path.as_posix())
        found = store.view.vectors([row.id for row in rows])
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def files_of(folder):
    return [path for path in folder.rglob("*.wav") if not path.name.startswith(".")]


def test_only_what_is_new_or_changed_is_embedded(sounds, store, embedder, tmp_path, check):
    changes = run(store, [sounds], embedder)
    assert (changes.embedded, changes.same, len(embedder.asked)) == (6, 0, 6)
    assert not run(store, [sounds], embedder).any and embedder.asked == []
    (sounds / "s0.wav").write_bytes(b"changed")
    (sounds / "s2.wav").rename(sounds / "sub" / "moved.wav")
    (sounds / "s4.wav").unlink()
    os.utime(sounds / "sub" / "s1.wav", (1, 1))
    (sounds / "new.wav").write_bytes(b"new")
    changes = run(store, [sounds], embedder)
    assert sorted(embedder.asked) == ["new.wav", "s0.wav"]
    counts = (changes.embedded, changes.moved, changes.deleted, changes.touched, changes.same)
    assert counts == (2, 1, 1, 1, 2) and changes.any
    check(files_of(sounds))


def test_a_disk_that_is_not_there_is_not_forgotten_and_comes_back(sounds, store, embedder, tmp_path, check):
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.wav").write_bytes(b"another")
    run(store, [sounds, other], embedder)
    everything = [*files_of(sounds), other / "o.wav"]
    for away in ("renamed", "emptied"):
        spare = tmp_path / "spare"
        other.rename(spare)
        if away == "emptied":
            other.mkdir()  # a mount point without its disk
        changes = run(store, [sounds, other], embedder)
        assert (changes.kept, changes.deleted, embedder.asked) == (1, 0, [])
        assert (other / "o.wav").as_posix() in store.refresh().files()
        if away == "emptied":
            other.rmdir()
        spare.rename(other)
    assert not run(store, [sounds, other], embedder).any
    check(everything)


def test_a_source_is_forgotten_on_demand_with_the_files_that_no_other_holds(sounds, store, embedder, tmp_path, check):
    table = sounds / "m.csv"
    table.write_text("path,label\ns0.wav,a\n", encoding="utf-8")
    sources = [source_of(sounds), source_of(sounds / "sub"), source_of(table)]
    remember_sources(store, sources, {})
    run(store, sources, embedder)
    assert forget_source(store, source_of(sounds)) == 2  # s2 and s4: the others have another source
    assert store.place.read().sources == tuple(sources[1:])
    check([sounds / "s0.wav", *files_of(sounds / "sub")])
    with pytest.raises(SearchIndexError, match="is not made from"):
        forget_source(store, source_of(sounds))


def test_what_a_manifest_says_travels_and_is_renewed_without_embedding(sounds, store, embedder, check):
    table = sounds / "m.csv"
    table.write_text("path,label,licence,mood\ns0.wav,dog,CC0,glad\ns2.wav,cat,BY,sad\n", encoding="utf-8")
    run(store, [sounds, table], embedder)
    labels = lambda *where: {m.row.metadata.get("label") for m in find(store.view, query, 99)}  # noqa: E731
    query = Query(np.ones((1, WIDTH)), where=[Filter.parse("licence=CC0")])
    assert labels() == {"dog"}
    table.write_text("path,label,licence\ns0.wav,cow,CC0\ns2.wav,cat,BY\n", encoding="utf-8")
    changes = run(store, [sounds, table], embedder)
    assert (changes.described, changes.embedded, embedder.asked) == (2, 0, [])
    assert labels() == {"cow"} and len(store) == 12
    query = Query(np.ones((1, WIDTH)), where=[Filter.parse("meta.mood=glad")])
    assert labels() == set()
    check(files_of(sounds))
    assert not run(store, [sounds, table], embedder).any


def test_tags_that_were_found_by_the_model_stay_beside_those_of_a_manifest(sounds, store, embedder):
    table, file = sounds / "m.jsonl", (sounds / "s0.wav").as_posix()
    table.write_text(json.dumps({"path": "s0.wav", "tags": ["near"], "mood": "glad"}), encoding="utf-8")
    run(store, [sounds, table], embedder)
    write_tags(store.writer(), store.view, [Tagged(file, (("dog", 0.9), ("near", 0.8)))])
    assert not run(store, [sounds, table], embedder).any
    table.write_text(json.dumps({"path": "s0.wav", "tags": ["far"], "mood": "sad"}), encoding="utf-8")
    assert run(store, [sounds, table], embedder).described == 1
    assert store.refresh().about()[file] == (("far", "dog"), {"mood": "sad", "tagged": {"dog": 0.9}})


def test_what_failed_is_listed_kept_and_tried_again_only_when_it_has_changed(sounds, store, embedder):
    run(store, [sounds], embedder)
    (sounds / "bad.wav").write_bytes(b"BAD")
    (sounds / "s0.wav").write_bytes(b"BAD now")
    tried = Tried()
    for turn in range(2):
        changes = run(store, [sounds], embedder, tried=tried)
        assert sorted(path.rsplit("/", 1)[-1] for path, _ in changes.failures) == ["bad.wav", "s0.wav"]
        assert sorted(embedder.asked) == (["bad.wav", "s0.wav"] if turn == 0 else [])
        written = json.loads((store.place.local / FAILURES).read_bytes())
        assert {row["reason"] for row in written} == {"no sound in it"} and len(written) == 2
    (sounds / "bad.wav").write_bytes(b"good now")
    assert run(store, [sounds], embedder, tried=tried).embedded == 1
    assert sorted(embedder.asked) == ["bad.wav"]
    run(store, [sounds], embedder)  # without that memory: every call tries again
    assert embedder.asked == ["s0.wav"]
    assert (sounds / "s0.wav").as_posix() in store.refresh().files()


def test_an_interrupted_call_goes_on(sounds, store, make_embedder, embedder, check):
    with pytest.raises(KeyboardInterrupt):
        run(store, [sounds], make_embedder(stop_after=4), chunk_rows=4)
    assert len(store.refresh().files()) == 4
    assert run(store, [sounds], embedder, chunk_rows=4).embedded == 2
    check(files_of(sounds))


def test_a_second_writer_is_told_who_writes(sounds, store, embedder, tmp_path):
    script = f"""
        from clapkit.search.store import Store
        from clapkit.search.indexing.update import remember_sources
        remember_sources(Store.open({str(tmp_path / "lib")!r}), ["x"], {{}})
    """
    command = [sys.executable, "-c", "\n".join(line.strip() for line in script.splitlines())]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert f"is being written by process {os.getpid()}" in told
    assert store.place.read().sources == ()


def test_sources_and_columns_are_remembered(store, tmp_path):
    remember_sources(store, ["/a", "/b.csv"], {"tags": "words[;]"})
    head = Store.open(tmp_path / "lib").place.read()
    assert (head.sources, head.columns) == (("/a", "/b.csv"), {"tags": "words[;]"})
