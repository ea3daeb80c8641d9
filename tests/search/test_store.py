"""The store: against the exact index, versions and readers, two spaces, one writer, what is damaged or refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb")

from clapkit.errors import DataError, SearchIndexError, SpaceMismatchError, SpecError
from clapkit.search import view as views
from clapkit.search.exact import ExactIndex
from clapkit.search.rows import Row
from clapkit.search.store import Store
from clapkit.search.tuning import tune
from clapkit.search.where import Filter

WIDTH = 8


def some_rows(count: int, *, mark: str = "a", windows: int = 4, **about) -> list[Row]:
    return [
        Row(
            f"lib/{mark}{n // windows}.wav",
            n % windows,
            n % windows * 5.0,
            5.0,
            f"hash-{mark}{n // windows}",
            "pipe",
            **about,
        )
        for n in range(count)
    ]


def new_store(folder: Path, **settings) -> Store:
    return Store.create(folder, **{"space_id": "space-a", "pipeline_id": "pipe", "dimension": WIDTH, **settings})


@pytest.fixture
def filled(tmp_path, rng):
    """A store of 40 rows, and their vectors, not of unit length."""
    store = new_store(tmp_path / "s", dtype="float32")
    vectors = rng.standard_normal((40, WIDTH)) * 3
    rows = some_rows(40)
    store.add(rows, vectors)
    yield store, rows, vectors
    store.close()


@pytest.mark.parametrize("k", [1, 7, 40, 10**9])
def test_it_finds_what_the_exact_index_finds(filled, tmp_path, rng, k):
    store, rows, vectors = filled
    oracle = ExactIndex.create(tmp_path / "oracle", space_id="space-a", pipeline_id="pipe", dimension=WIDTH)
    oracle.add([row.id for row in rows], vectors)
    queries = rng.standard_normal((5, WIDTH))
    ids, scores = store.search(queries, k)
    expected_ids, expected = oracle.search(queries, k)
    assert ids == expected_ids
    np.testing.assert_array_equal(scores, expected)


def test_half_precision_costs_half_and_changes_cosines_by_little(tmp_path, rng):
    vectors = rng.standard_normal((60, 64))
    whole, half = new_store(tmp_path / "w", dimension=64, dtype="float32"), new_store(tmp_path / "h", dimension=64)
    for store in (whole, half):
        store.add(some_rows(60), vectors)
        store.close()
    assert half.view.space.dtype == "float16"
    queries = rng.standard_normal((4, 64))
    np.testing.assert_allclose(half.search(queries, 60)[1], whole.search(queries, 60)[1], atol=1e-3)


def test_rows_come_back_as_they_were_given(filled):
    store, rows, vectors = filled
    odd = Row(
        "Ordner/ñandú 'x' 雨.wav", 0, 1.25, 2.5, "h", "pipe", 12.5, 99, ("rain", "o'b"), {"bpm": 90, "list": [1, {}]}
    )
    store.add([odd], vectors[:1])
    assert store.view.rows([odd.id, rows[3].id, odd.id]) == [odd, rows[3], odd]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(store.view.vectors([rows[5].id, odd.id]), unit[[5, 0]], atol=1e-6)
    assert store.view.vectors([]).shape == (0, WIDTH)
    assert [row.window for row in store.view.windows_of("lib/a2.wav")] == [0, 1, 2, 3]
    with pytest.raises(SearchIndexError, match="no row 'nobody'"):
        store.view.rows([rows[0].id, "nobody"])


def test_the_same_row_twice_is_one_row_and_the_last_counts(filled, rng):
    store, rows, vectors = filled
    store.add([replace(rows[3], tags=("new",))], vectors[9:10])
    assert len(store) == 40
    assert store.view.rows([rows[3].id])[0].tags == ("new",)
    assert set(store.search(vectors[9:10], 2)[0][0]) == {rows[3].id, rows[9].id}


def test_words_are_found_in_names_tags_and_metadata(filled):
    store, _, vectors = filled
    extra = [
        Row("foley/GlassBreaking_02.wav", 0, 0, 1, "g", "pipe"),
        Row("foley/x.wav", 0, 0, 1, "x", "pipe", tags=("thunder",), metadata={"title": "Distant storm at sea"}),
    ]
    store.add(extra, vectors[:2])
    assert store.view.words("breaking glass", 1)[0][0] == extra[0].id
    assert store.view.words("storms", 1)[0][0] == extra[1].id, "words are stemmed"
    assert store.view.words("THUNDER", 5)[0][0] == extra[1].id
    assert {i for i, _ in store.view.words("foley", 10)} == {row.id for row in extra}
    for nothing in ("", "  ", "\x00\n", "()*:\"'", "zzzz"):
        assert store.view.words(nothing, 5) == []
    assert store.view.words("glass\" OR (x:*) AND '", 1)[0][0] == extra[0].id, "signs of a query language are no signs"
    assert len(store.view.words("glass " * 10_000, 5)) == 1
    with pytest.raises(SpecError, match="k is 0"):
        store.view.words("glass", 0)


def test_a_reader_sees_a_version_until_it_refreshes(filled, tmp_path, rng):
    store, rows, vectors = filled
    reader = Store.open(tmp_path / "s")
    before = reader.search(vectors, 40)
    store.add(some_rows(4, mark="b"), rng.standard_normal((4, WIDTH)))
    store.writer().forget(["lib/a0.wav"])
    assert reader.search(vectors, 40)[0] == before[0]
    assert reader.view.rows([rows[0].id]) == [rows[0]], "also what has been removed since"
    assert len(reader.refresh()) == len(store) == 40
    assert "lib/a0.wav" not in reader.view.files()


def test_reading_while_another_thread_writes_never_sees_half_of_a_call(filled, tmp_path, rng):
    store, _, _ = filled
    writer, seen, errors = store.writer(), set(), []
    done = threading.Event()

    def read():
        reader = Store.open(tmp_path / "s")
        try:
            while not done.is_set():
                view = reader.refresh()
                ids, scores = view.search(np.ones((1, WIDTH)), 1000)
                assert len(set(ids[0])) == len(view) == scores.shape[1]
                seen.add(len(view))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(6):
        writer.replace_files(some_rows(20, mark=f"n{n}-"), rng.standard_normal((20, WIDTH)))
    done.set()
    for thread in threads:
        thread.join()
    assert not errors and seen and seen <= {40 + 20 * n for n in range(7)}


def test_a_second_space_is_filled_beside_the_first_and_switched_to_at_once(filled, tmp_path, rng):
    store, rows, vectors = filled
    reader, pinned = Store.open(tmp_path / "s"), Store.open(tmp_path / "s", space_id="space-a")
    other = store.begin_space("space-b", pipeline_id="pipe-b", dimension=3)
    other.add(rows[:6], rng.standard_normal((6, 3)))
    store.begin_space("space-b", pipeline_id="pipe-b", dimension=3).add(rows[4:8], rng.standard_normal((4, 3)))
    assert len(store.search(vectors[:1], 99)[0][0]) == 40, "the first is searched all the while"

    store.switch("space-b")
    assert (store.view.space.space_id, len(store)) == ("space-b", 8)
    assert len(store.search(rng.standard_normal((1, 3)), 99, space_id="space-b")[0][0]) == 8
    with pytest.raises(SpaceMismatchError, match=r"space-b.*space-a"):
        store.search(vectors[:1], 3, space_id="space-a")
    assert len(reader.search(vectors[:1], 99, space_id="space-a")[0][0]) == 40, "a reader goes on with its own"
    reader.refresh()
    with pytest.raises(DataError, match="8 columns"):
        reader.search(vectors[:1], 3)
    assert len(pinned.refresh()) == 40
    with pytest.raises(SearchIndexError, match="space-b is the one that is searched"):
        store.drop_space("space-b")
    store.drop_space("space-a")
    with pytest.raises(SpaceMismatchError, match=r"space-b.*space-a"):
        Store.open(tmp_path / "s", space_id="space-a")
    with pytest.raises(SpaceMismatchError, match="space-c"):
        store.switch("space-c")


def test_a_switch_under_load_fails_no_query_and_mixes_no_spaces(filled, tmp_path):
    store, _, _ = filled
    other = store.begin_space("space-b", pipeline_id="p", dimension=WIDTH)
    other.add(some_rows(12, mark="b"), np.ones((12, WIDTH)))
    names = {"space-a": "lib/a", "space-b": "lib/b"}
    seen, errors, done = [], [], threading.Event()

    shared = Store.open(tmp_path / "s")  # by all threads, as a server does it

    def ask():
        try:
            while not done.is_set():
                view = shared.refresh()
                space_id = view.space.space_id
                ids, _ = view.search(np.ones((1, WIDTH)), 5)
                files = {row.file for row in view.rows(ids[0])}
                assert all(file.startswith(names[space_id]) for file in files)
                seen.append(space_id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(9):
        store.switch("space-b" if n % 2 == 0 else "space-a")
    done.set()
    for thread in threads:
        thread.join()
    assert not errors and seen


def test_one_writer_and_the_next_takes_over_when_it_has_died(tmp_path):
    script = f"""
        import sys, numpy as np
        from clapkit.search.store import Store
        store = Store.create({str(tmp_path / "s")!r}, space_id="a", pipeline_id="p", dimension=8)
        print("ready", flush=True)
        sys.stdin.read()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline().strip() == "ready"
    store = Store.open(tmp_path / "s")
    with pytest.raises(SearchIndexError, match=rf"process {child.pid} on "):
        store.add(some_rows(4), np.ones((4, WIDTH)))
    assert store.search(np.ones((1, WIDTH)), 3)[0] == [[]], "searching is possible all the while"
    child.kill()
    child.communicate()
    store.add(some_rows(4), np.ones((4, WIDTH)))
    assert json.loads((tmp_path / "s" / "writer.json").read_text())["pid"] == os.getpid()
    store.close()
    assert not (tmp_path / "s" / "writer.json").exists()


def test_the_copy_of_the_vectors_is_made_once_and_again_when_stale_or_damaged(filled, tmp_path, rng):
    store, _, vectors = filled
    expected = store.search(vectors, 3)[0]
    (path,) = (tmp_path / "s" / "scans").glob("*/vectors.npy")
    made = path.stat().st_mtime_ns
    assert Store.open(tmp_path / "s").search(vectors, 3)[0] == expected
    assert path.stat().st_mtime_ns == made
    path.write_bytes(path.read_bytes()[:200])
    assert Store.open(tmp_path / "s").search(vectors, 3)[0] == expected
    store.add(some_rows(4, mark="z"), rng.standard_normal((4, WIDTH)))
    store.search(vectors, 3)
    (newer,) = (tmp_path / "s" / "scans").iterdir()
    assert newer != path.parent, "older ones and unfinished ones are removed"


def test_where_the_copy_cannot_be_written_it_is_held_in_memory(filled, tmp_path):
    _, rows, vectors = filled
    scans = tmp_path / "s" / "scans"
    scans.write_text("a file where the folder should be")
    assert Store.open(tmp_path / "s").search(vectors, 1)[0] == [[row.id] for row in rows]


def test_an_index_is_tuned_to_the_recall_that_is_measured(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(views, "EXACT_ROWS", 500)
    monkeypatch.setattr(views, "FILTERED_ROWS", 100)
    centres = rng.standard_normal((40, 32)) * 2
    vectors = (centres[:, None] + rng.standard_normal((40, 50, 32))).reshape(-1, 32)
    store = new_store(tmp_path / "s", dimension=32)
    store.add(some_rows(2000, tags=("rain",)), vectors)
    queries = vectors[::40] + 0.3 * rng.standard_normal((50, 32))
    exact = store.search(queries, 10, exact=True)[0]
    assert store.search(queries, 10)[0] == exact, "without an index every row is compared"

    tuning = tune(store, recall=0.95, queries_QD=queries)
    assert Store.open(tmp_path / "s").view.space.tuning == tuning
    near, scores = store.search(queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, exact, strict=True)])
    assert recall == pytest.approx(tuning.recall) and recall >= 0.95
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    np.testing.assert_allclose(scores[0], store.view.vectors(near[0]) @ unit[0], atol=2e-3)
    assert store.search(queries, 10, exact=True)[0] == exact

    for few in (Filter("start_s", "=", 5.0), Filter("file", "in", [f"lib/a{n}.wav" for n in range(20)])):  # 500, 80
        near, exact = (store.search(queries, 10, few, exact=exact)[0] for exact in (False, True))
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, exact, strict=True)]) >= 0.9

    store.add(some_rows(1, mark="late"), queries[:1])
    assert store.search(queries[:1], 1)[0] == [[some_rows(1, mark="late")[0].id]], "rows since then are found too"
    store.close()


def test_tuning_refuses_what_cannot_be(tmp_path, filled):
    store, _, _ = filled
    for wrong in ({"recall": 0.0}, {"recall": 1.5}, {"k": 0}, {"bits": 0}):
        with pytest.raises(SpecError, match=rf"{next(iter(wrong))} {next(iter(wrong.values()))}"):
            tune(store, **wrong)
    with new_store(tmp_path / "empty") as empty, pytest.raises(SearchIndexError, match="has no rows"):
        tune(empty)


def test_what_does_not_fit_is_refused_and_nothing_is_written(filled):
    store, rows, vectors = filled
    version = store.view.version
    with pytest.raises(SearchIndexError, match=r"2 rows and vectors \(3, 8\)"):
        store.add(rows[:2], vectors[:3])
    with pytest.raises(SearchIndexError, match=r"\(1, 5\).*8 columns"):
        store.add(rows[:1], np.ones((1, 5)))
    with pytest.raises(SearchIndexError, match=r"window 0 of 'lib/a0.wav' comes twice"):
        store.add([rows[0], rows[0]], vectors[:2])
    with pytest.raises(DataError, match="not finite"):
        store.add(rows[:1], np.full((1, WIDTH), np.nan))
    with pytest.raises(SpecError, match="k is 0"):
        store.search(vectors[:1], 0)
    with pytest.raises(SearchIndexError, match=r"'x.wav' has window -1"):
        replace(rows[0], file="x.wav", window=-1)
    for wrong in ({"metadata": {"x": float("nan")}}, {"file": "bad\udcff.wav"}, {"metadata": {"x": object()}}):
        with pytest.raises(SearchIndexError, match="cannot be stored"):
            replace(rows[0], **wrong)
    assert store.refresh().version == version
    store.add([], np.empty((0, WIDTH)))


def test_create_and_open_say_what_is_wrong(tmp_path, filled):
    with pytest.raises(SearchIndexError, match="already holds a store"):
        new_store(tmp_path / "s")
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "dog.wav").write_bytes(b"woof")
    with pytest.raises(SearchIndexError, match=r"not empty.*dog\.wav"):
        new_store(tmp_path / "sounds")
    with pytest.raises(SearchIndexError, match="dimension is 0"):
        new_store(tmp_path / "n", dimension=0)
    with pytest.raises(SearchIndexError, match="'float64'"):
        new_store(tmp_path / "n", dtype="float64")
    with pytest.raises(SearchIndexError, match="nowhere does not exist"):
        Store.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(SearchIndexError, match=r"sounds holds no store\.json"):
        Store.open(tmp_path / "sounds")
    filled[0].begin_space("b", pipeline_id="p", dimension=3)
    with pytest.raises(SearchIndexError, match=r"begun with 3 dimensions of float16, not with 4"):
        filled[0].begin_space("b", pipeline_id="p", dimension=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: {**head, "format_version": 9}, "format_version 9; this clapkit reads 1"),
        (lambda head: {**head, "active": "gone"}, "damaged.*gone"),
        (lambda head: {**head, "spaces": {"space-a": {"bits": 3}}}, "damaged"),
        (lambda head: [head], "damaged"),
        (lambda head: None, "damaged"),
    ],
)
def test_a_damaged_head_is_named(filled, tmp_path, change, message):
    path = tmp_path / "s" / "store.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(SearchIndexError, match=message):
        Store.open(tmp_path / "s")


def test_a_missing_table_is_named(filled, tmp_path):
    (tmp_path / "s" / "tables").rename(tmp_path / "elsewhere")
    with pytest.raises(SearchIndexError, match="table of space space-a cannot be opened"):
        Store.open(tmp_path / "s")


def test_a_store_at_a_url(tmp_path, rng):
    store = new_store(f"file://{(tmp_path / 'u').as_posix()}")
    store.add(some_rows(8), rng.standard_normal((8, WIDTH)))
    store.close()
    assert len(Store.open(tmp_path / "u")) == 8


def test_it_works_without_torch(tmp_path):
    script = f"""
        import sys
        sys.modules["torch"] = None
        import numpy as np
        from clapkit.search.store import Store
        from clapkit.search.rows import Row
        import clapkit.search.query, clapkit.search.sync, clapkit.search.tuning
        store = Store.create({str(tmp_path / "s")!r}, space_id="s", pipeline_id="p", dimension=2)
        store.add([Row("x", 0, 0, 1, "h", "p"), Row("y", 0, 0, 1, "h", "p")], np.eye(2))
        print(store.view.rows(store.search(np.array([[0.2, 1]]), 1)[0][0])[0].file)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "y"


def test_a_store_remembers_its_model_by_path_or_by_name(tmp_path):
    (tmp_path / "run").mkdir()
    store = new_store(tmp_path / "at" / "s", model=tmp_path / "run")
    assert store.place.model_of(store.view.space) == str((tmp_path / "run").resolve())
    store.begin_space("named", pipeline_id="p", dimension=2, model="some-name")
    assert store.place.model_of(store.place.read().spaces["named"]) == "some-name"
    store.close()
    shutil.copytree(tmp_path / "at" / "s", tmp_path / "elsewhere" / "deep" / "s")  # the store alone has moved
    moved = Store.open(tmp_path / "elsewhere" / "deep" / "s")
    assert moved.place.model_of(moved.view.space) == str((tmp_path / "run").resolve())
    shutil.move(tmp_path / "run", tmp_path / "elsewhere" / "run")  # and now both have, together
    assert moved.place.model_of(moved.view.space) == str((tmp_path / "elsewhere" / "run").resolve())
    shutil.rmtree(tmp_path / "elsewhere" / "run")
    assert moved.place.model_of(moved.view.space) is None
    unknown = new_store(tmp_path / "without")
    assert unknown.place.model_of(unknown.view.space) is None
