"""Another model for a library: beside the old one, in one step, resumed after an interruption."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.errors import SearchIndexError, SpaceMismatchError
from clapkit.search.indexing.sources import list_sources, source_of
from clapkit.search.indexing.switching import NewSpace, switch_model
from clapkit.search.indexing.update import remember_sources, update
from clapkit.search.store import Store

WIDTH = 8  # of the fixture `store`
NEW = NewSpace("b", "pb", 5, model="a-better-model", dtype="float32")


@pytest.fixture
def library(sounds, store, embedder):
    """A store of six files with labels for two."""
    (sounds / "m.csv").write_text("path,label,tags\ns0.wav,dog,near\ns2.wav,cat,far\n", encoding="utf-8")
    sources = [source_of(sounds), source_of(sounds / "m.csv")]
    remember_sources(store, sources, {})
    update(store, list_sources(sources), embedder, pipeline_id="p")
    return store


def test_the_old_space_is_searched_until_all_is_done_and_kept_after_it(
    library, sounds, make_embedder, vector_of, tmp_path
):
    reader = Store.open(tmp_path / "lib")
    new = make_embedder(salt=1, width=5)
    seen = []

    def watched(files):
        for result in new(files):
            seen.append(reader.refresh().space.space_id)
            yield result

    done = switch_model(library, NEW, watched, chunk_rows=2)
    assert (done.embedded, done.before, done.failures) == (6, 0, ())
    assert set(seen) == {"a"} and reader.refresh().space.space_id == "b"
    assert reader.place.model_of(reader.view.space) == "a-better-model"
    assert len(reader) == 12
    for path in (sounds / "s0.wav", sounds / "sub" / "s1.wav"):
        rows = reader.view.windows_of(path.as_posix())
        expected = vector_of(path, 1, 5)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(reader.view.vectors([row.id for row in rows]), expected, atol=1e-6)
    (first, _) = reader.view.windows_of((sounds / "s0.wav").as_posix())
    assert first.tags == ("near",) and first.metadata == {"label": "dog"} and first.pipeline_id == "pb"
    assert len(Store.open(tmp_path / "lib", space_id="a")) == 12
    library.drop_space("a")
    with pytest.raises(SpaceMismatchError):
        Store.open(tmp_path / "lib", space_id="a")


def test_interrupted_it_goes_on_where_it_was(library, sounds, make_embedder, vector_of, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        switch_model(library, NEW, make_embedder(salt=1, width=5, stop_after=4), chunk_rows=4)
    reader = Store.open(tmp_path / "lib")
    assert reader.view.space.space_id == "a" and len(reader) == 12
    (sounds / "s0.wav").write_bytes(b"changed meanwhile")
    again = make_embedder(salt=1, width=5)
    done = switch_model(library, NEW, again)
    assert done.before + done.embedded == 6 and done.embedded == len(again.asked) < 6
    reader.refresh()
    assert reader.view.space.space_id == "b" and len(reader) == 12
    rows = reader.view.windows_of((sounds / "s0.wav").as_posix())
    expected = vector_of(sounds / "s0.wav", 1, 5)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(reader.view.vectors([row.id for row in rows]), expected, atol=1e-6)


def test_a_file_that_is_gone_or_bad_costs_itself(library, sounds, make_embedder):
    (sounds / "s4.wav").unlink()
    (sounds / "s2.wav").write_bytes(b"BAD")
    done = switch_model(library, NEW, make_embedder(width=5))
    assert sorted(path.rsplit("/", 1)[-1] for path, _ in done.failures) == ["s2.wav", "s4.wav"]
    assert len(library.refresh().files()) == 4


def test_nothing_is_switched_where_sounds_cannot_be_reached(library, sounds, make_embedder, tmp_path):
    spare = tmp_path / "spare"
    sounds.rename(spare)
    with pytest.raises(SearchIndexError, match=r"sounds, which .* is made from, is not there"):
        switch_model(library, NEW, make_embedder(width=5))
    spare.rename(sounds)
    for path in sounds.rglob("*.wav"):
        path.write_bytes(b"BAD")
    with pytest.raises(SearchIndexError, match="could be embedded with the new model: not switched"):
        switch_model(library, NEW, make_embedder(width=5))
    assert library.refresh().space.space_id == "a" and len(library) == 12


def test_a_space_that_was_begun_otherwise_is_refused(library, make_embedder):
    library.begin_space("b", pipeline_id="pb", dimension=WIDTH, dtype="float32")
    with pytest.raises(SearchIndexError, match=f"was begun with {WIDTH} dimensions"):
        switch_model(library, NEW, make_embedder(width=5))
