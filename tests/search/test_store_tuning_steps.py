"""Tuning tells what it does, and the copy of the vectors outlives the building of indexes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("lancedb")

from clapkit.search.rows import Row
from clapkit.search.store import Store
from clapkit.search.tuning import tune
from clapkit.search.view import View

WIDTH = 16


@pytest.fixture
def store(tmp_path, rng):
    with Store.create(tmp_path / "s", space_id="a", pipeline_id="p", dimension=WIDTH) as store:
        store.add([Row(f"{n}.wav", 0, 0.0, 1.0, f"h{n}", "p") for n in range(400)], rng.standard_normal((400, WIDTH)))
        yield store


def test_the_steps_are_told_in_their_order(store):
    told = []
    tune(store, recall=0.5, sample=20, on_step=told.append)
    assert told == ["copying the vectors", "comparing with every row", "building the index", "trying settings"]


def test_the_copy_of_the_vectors_is_not_made_again_for_the_tuned_version(store, rng, monkeypatch):
    queries = rng.standard_normal((5, WIDTH))
    expected = store.search(queries, 7, exact=True)
    before = store.view
    tune(store, recall=0.5, sample=20)
    (path,) = store.place.scans.iterdir()
    assert path.name.endswith(f".{store.view.version}") and store.view.version > before.version

    def again(view):
        raise AssertionError("the vectors were read from the table once more")

    monkeypatch.setattr(View, "_pieces", again)
    ids, scores = Store.open(store.place.name).search(queries, 7, exact=True)
    assert ids == expected[0]
    np.testing.assert_array_equal(scores, expected[1])
    assert before.search(queries, 7, exact=True)[0] == expected[0], "who has it open keeps it"


def test_a_copy_that_cannot_be_handed_on_is_made_anew(store, rng):
    queries = rng.standard_normal((5, WIDTH))
    expected = store.search(queries, 7, exact=True)[0]
    before = store.view
    tune(store, recall=0.5, sample=20)
    before.hand_scan_to(store.view)  # it has gone already
    assert store.search(queries, 7, exact=True)[0] == expected


def test_rows_written_beside_the_building_are_not_given_an_old_copy(store, rng, monkeypatch):
    handed = []
    monkeypatch.setattr(View, "hand_scan_to", lambda view, later: handed.append(later))
    other = rng.standard_normal((1, WIDTH))

    def beside(step):
        if step == "comparing with every row":  # as another process does it to a store behind a URL
            store._newest(store.view.space).delete("file = '3.wav'")
            store._newest(store.view.space).optimize()

    tune(store, recall=0.5, sample=20, on_step=beside)
    assert handed == []
    assert len(store.search(other, 400, exact=True)[0][0]) == 399
