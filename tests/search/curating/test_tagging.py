"""Tags of a library: file vectors against the windows one by one, labels, probabilities, and writing into the rows."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("lancedb")

from clapkit.audio.windows import plan_windows
from clapkit.errors import DataError, SpaceMismatchError, SpecError
from clapkit.search.curating.calibration import fit_calibration
from clapkit.search.curating.files import file_table
from clapkit.search.curating.labels import Label, label_vectors, parse_labels, read_labels_file
from clapkit.search.curating.tagging import Tagged, calibrate_on, own_part, tag_files, with_tagged, write_tags
from clapkit.search.indexing.sources import About, Listing
from clapkit.search.indexing.update import update
from clapkit.search.rows import Row
from clapkit.search.store import Store
from clapkit.search.sync import FileVectors, list_files
from clapkit.search.where import Filter

DIMENSION = 12


def store_of(folder, lengths_s: dict[str, float], rng, contents: dict[str, str] | None = None) -> tuple[Store, dict]:
    """A store of files of some lengths in windows of 2 s every 1 s; the vectors of each file."""
    store = Store.create(folder, space_id="space", pipeline_id="p", dimension=DIMENSION, dtype="float32")
    given = {}
    for file, long_s in lengths_s.items():
        windows = plan_windows(round(1000 * long_s), 2000, 1000)
        vectors = rng.standard_normal((len(windows), DIMENSION))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        content = (contents or {}).get(file, file)
        rows = [
            Row(file, n, w.start / 1000, w.length / 1000, content, "p", tags=("own",)) for n, w in enumerate(windows)
        ]
        store.add(rows, vectors)
        given[file] = vectors, [w.weight for w in windows]
    return store, given


@pytest.fixture
def planted(tmp_path, rng):
    """60 files; label n is planted in the files whose number leaves n when divided by 6."""
    store = Store.create(tmp_path / "lib", space_id="space", pipeline_id="p", dimension=DIMENSION, dtype="float32")
    text_CD = np.eye(DIMENSION)[:6]
    vectors = 0.25 * rng.standard_normal((60, DIMENSION)) + text_CD[np.arange(60) % 6]
    store.add([Row(f"f{n:02d}.wav", 0, 0.0, 1.0, f"c{n}", "p", tags=("own",)) for n in range(60)], vectors)
    return store, tuple(Label(f"label {n}") for n in range(6)), text_CD


def test_a_file_is_the_weighted_mean_of_its_windows(tmp_path, rng):
    lengths_s = {"b.wav": 7.3, "a.wav": 0.4, "c.wav": 2.0, "d.wav": 3.7}
    store, given = store_of(tmp_path / "lib", lengths_s, rng)
    table = file_table(store.view)
    assert table.files == tuple(sorted(lengths_s))
    assert table.durations_s == pytest.approx([lengths_s[file] for file in table.files])
    for file, vector_D in zip(table.files, table.vectors_FD, strict=True):
        vectors, weights = given[file]
        mean_D = sum(weight * one for weight, one in zip(weights, vectors, strict=True))
        assert vector_D == pytest.approx(mean_D / np.linalg.norm(mean_D), abs=1e-6)


def test_copies_are_told_and_an_empty_library_is_an_empty_table(tmp_path, rng):
    store, _ = store_of(tmp_path / "lib", dict.fromkeys("abc", 1.0), rng, {"a": "x", "b": "y", "c": "x"})
    assert file_table(store.view).without_copies().tolist() == [0, 1]
    empty, _ = store_of(tmp_path / "empty", {}, rng)
    assert len(file_table(empty.view)) == 0


def test_labels_are_read_with_prompts_and_wider_labels(tmp_path):
    text = "\ufeff# sounds\n\ndog_bark\nrain\train on a roof\t a downpour \t\nanimal > dog > terrier\n"
    labels = parse_labels(text)
    assert labels == (
        Label("dog bark"),
        Label("rain", ("rain on a roof", "a downpour")),
        Label("terrier", (), ("animal", "dog")),
    )
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8")
    assert read_labels_file(tmp_path / "labels.txt") == labels


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no label"),
        ("a\na\n", "'a' comes twice"),
        (" > b", "empty name"),
        ("a\n\tprompt", "line 2"),
        ("a > a", "within itself"),
    ],
)
def test_lines_that_are_no_labels_are_named(text, told):
    with pytest.raises(DataError, match=told):
        parse_labels(text)


def test_a_labels_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("gone.txt", "bytes.txt"):
        with pytest.raises(DataError, match=name):
            read_labels_file(tmp_path / name)


def test_the_vector_of_a_label_is_the_mean_of_its_prompts(rng):
    known = {text: rng.standard_normal(4) for text in ("hear rain", "one", "two")}
    labels = (Label("rain"), Label("x", ("one", "two")))
    found = label_vectors(lambda texts: np.stack([known[t] for t in texts]), labels, template="hear {}")
    unit = {text: vector / np.linalg.norm(vector) for text, vector in known.items()}
    mean = (unit["one"] + unit["two"]) / 2
    assert found == pytest.approx(np.stack([unit["hear rain"], mean / np.linalg.norm(mean)]), abs=1e-6)


def test_planted_labels_are_found_with_probabilities(planted):
    store, labels, text_CD = planted
    table = file_table(store.view)
    calibration = calibrate_on(table, labels, text_CD, per_file=1.0)
    found = list(tag_files(table, labels, text_CD, calibration, space_id="space"))
    assert sum(len(one.tags) for one in found) == 60
    assert sum(one.tags[:1] != () and one.tags[0][0] == f"label {n % 6}" for n, one in enumerate(found)) >= 57
    slow = fit_calibration(table.vectors_FD @ text_CD.T, [label.name for label in labels], per_clip=1.0)
    chances_NC = slow(table.vectors_FD @ text_CD.T)
    for one, chance_C in zip(found, chances_NC, strict=True):
        best = sorted(((-p, f"label {c}") for c, p in enumerate(chance_C) if p >= slow.threshold))
        assert [(name, pytest.approx(-minus)) for minus, name in best] == list(one.tags)


def test_a_threshold_counts_in_probability(planted):
    store, labels, text_CD = planted
    table = file_table(store.view)
    calibration = calibrate_on(table, labels, text_CD, per_file=1.0)
    counts = []
    for threshold in (0.0, 0.3, 0.8, 1.0):
        found = list(tag_files(table, labels, text_CD, calibration, threshold=threshold))
        assert all(chance >= threshold for one in found for _, chance in one.tags)
        counts.append(sum(len(one.tags) for one in found))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 60 * 6


def test_a_wider_label_is_as_probable_as_the_best_within_it(planted):
    store, plain, text_CD = planted
    within = {1: ("label 0",), 2: ("all", "label 0"), 3: ("all",)}
    labels = tuple(Label(label.name, (), within.get(n, ())) for n, label in enumerate(plain))
    table = file_table(store.view)
    calibration = calibrate_on(table, labels, text_CD, per_file=1.0)
    alone = [dict(one.tags) for one in tag_files(table, plain, text_CD, calibration, threshold=0)]
    joined = [dict(one.tags) for one in tag_files(table, labels, text_CD, calibration, threshold=0)]
    for one, both in zip(alone, joined, strict=True):
        assert both.pop("all") == max(one["label 2"], one["label 3"])
        assert both["label 0"] == max(one["label 0"], one["label 1"], one["label 2"])
        assert {**one, "label 0": None} == {**both, "label 0": None}


def test_what_does_not_fit_is_refused_by_name(planted, tmp_path, rng):
    store, labels, text_CD = planted
    table = file_table(store.view)
    calibration = calibrate_on(table, labels, text_CD, per_file=1.0)
    with pytest.raises(SpaceMismatchError, match="elsewhere"):
        list(tag_files(table, labels, text_CD, calibration, space_id="elsewhere"))
    with pytest.raises(SpecError, match=r"1\.5"):
        list(tag_files(table, labels, text_CD, calibration, threshold=1.5))
    with pytest.raises(DataError, match="label 5"):
        list(tag_files(table, labels[:5], text_CD[:5], calibration))
    small, _ = store_of(tmp_path / "small", dict.fromkeys("abc", 1.0), rng)
    with pytest.raises(DataError, match="3 different files: expected at least 20"):
        calibrate_on(file_table(small.view), labels, text_CD, per_file=1.0)


def test_tags_are_written_beside_those_of_the_files_own(planted):
    store, _, _ = planted
    ids = [row.id for row in store.view.windows_of("f00.wav")]
    before = store.view.vectors(ids)
    first = [Tagged("f00.wav", (("dog", 0.91234), ("own", 0.8))), Tagged("gone.wav", (("dog", 0.9),))]
    assert write_tags(store.writer(), store.view, first) == 1
    (row,) = store.view.windows_of("f00.wav")
    assert row.tags == ("own", "dog")
    assert row.metadata == {"tagged": {"dog": 0.9123}}
    assert [row.id for row in store.view.windows_of("f00.wav")] == ids
    assert (store.view.vectors(ids) == before).all()
    assert store.search(np.eye(DIMENSION)[:1], 5, Filter("tags", "=", "dog"))[0] == [ids]
    assert store.view.words("dog", 5)[0][0] == ids[0]
    assert write_tags(store.writer(), store.view, first) == 0  # nothing new
    assert write_tags(store.writer(), store.view, [Tagged("f00.wav", (("cat", 0.7),))]) == 1
    assert store.view.windows_of("f00.wav")[0].tags == ("own", "cat")
    write_tags(store.writer(), store.view, [Tagged("f00.wav", ())])
    assert (store.view.windows_of("f00.wav")[0].tags, store.view.windows_of("f00.wav")[0].metadata) == (("own",), {})


def test_writing_goes_in_chunks_that_stand_when_it_is_stopped(tmp_path, rng):
    files = [f"{n:03d}" for n in range(450)]
    store = Store.create(tmp_path / "lib", space_id="space", pipeline_id="p", dimension=DIMENSION)
    store.add([Row(file, 0, 0.0, 1.0, file, "p") for file in files], rng.standard_normal((450, DIMENSION)))
    tagged = [Tagged(file, (("dog", 0.5),)) for file in files]

    def stop(done: int) -> None:
        if done == 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tags(store.writer(), store.view, tagged, on_chunk=stop)
    store.refresh()
    assert sum(tags == ("dog",) for tags, _ in store.view.about().values()) == 400
    assert write_tags(store.writer(), store.view, tagged) == 50
    assert len(store) == 450


def test_own_part_and_with_tagged_undo_each_other():
    own = (("a", "b"), {"x": 1})
    assert own_part(*with_tagged(*own, {"b": 0.9, "c": 0.8})) == own
    assert with_tagged(*own, {}) == own


def test_what_a_manifest_says_later_leaves_what_was_tagged(tmp_path, rng):
    store = Store.create(tmp_path / "lib", space_id="space", pipeline_id="p", dimension=DIMENSION)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (found,), _ = list_files([tmp_path / "a.wav"])

    def embed(files):
        return (FileVectors(file, rng.standard_normal((1, DIMENSION)), [0.0], [1.0]) for file in files)

    def told(*tags, **metadata) -> int:
        about = {found.file: About(tags, metadata)}
        return update(store, Listing([found], about), embed, pipeline_id="p").described

    told("old")
    write_tags(store.writer(), store.refresh(), [Tagged(found.file, (("dog", 0.9),))])
    assert told("old") == 0
    assert told("new", "wet", label="x") == 1
    (row,) = store.refresh().windows_of(found.file)
    assert row.tags == ("new", "wet", "dog")
    assert row.metadata == {"label": "x", "tagged": {"dog": 0.9}}
