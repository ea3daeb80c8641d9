"""clapkit search: what is found, in every form in which it can be asked for and shown."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest

import clapkit as library

pytest.importorskip("lancedb")

LABELS = ("anvil", "bell", "cork", "drum")


@pytest.fixture(scope="module")
def folder(sounds, tmp_path_factory):
    """Four sounds with a manifest of labels and tags."""
    folder = tmp_path_factory.mktemp("searched")
    shutil.copytree(sounds, folder / "sounds")
    paths = sorted((folder / "sounds").glob("*.flac"))
    lines = ["path,label,tags,licence"]
    lines += [f"sounds/{p.name},{LABELS[n]},all|t{n % 2},CC0" for n, p in enumerate(paths)]
    (folder / "sounds.csv").write_text("\n".join(lines).replace("|", ";"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def lib(clapkit, run, folder):
    outcome = clapkit(
        "index",
        folder / "sounds",
        folder / "sounds.csv",
        "--model",
        run,
        "--out",
        folder / "lib",
        "--column",
        "tags=tags[;]",
    )
    assert outcome.exit_code == 0, outcome.output
    assert "4 embedded, 0 skipped" in outcome.stderr
    return folder / "lib"


@pytest.fixture(scope="module")
def windows(run, folder):
    """(file, start_s, vector) of every window, straight from the model."""
    clap = library.load(run)
    found = []
    for path in sorted((folder / "sounds").glob("*.flac")):
        vectors, starts_s, _ = clap.embed_windows(str(path))
        found += [(path.as_posix(), start_s, vector) for vector, start_s in zip(vectors, starts_s, strict=True)]
    return found


def searched(clapkit, *words):
    outcome = clapkit("search", *words, "--json")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def unit(vector):
    return vector / np.linalg.norm(vector)


def check(hits, windows, scores, k):
    """The hits are the windows with the best scores; float16 of the store allowed for."""
    best = np.argsort(-np.asarray(scores))[:k]
    assert [hit["score"] for hit in hits] == pytest.approx([scores[n] for n in best], abs=2e-3)
    by_place = {(file, round(start_s, 3)): scores[n] for n, (file, start_s, _) in enumerate(windows)}
    assert [hit["score"] for hit in hits] == pytest.approx(
        [by_place[hit["path"], hit["start_s"]] for hit in hits], abs=2e-3
    )


def test_words_sounds_regions_and_what_is_not_wanted(clapkit, run, folder, lib, windows):
    clap = library.load(run)
    paths = sorted((folder / "sounds").glob("*.flac"))
    rain, wind = clap.embed_text(["rain falling", "wind"])
    sound = clap.embed_audio([paths[2]])[0]
    samples, rate_hz = library.decode(paths[2], rate_hz=clap.rate_hz).samples, clap.rate_hz
    region = clap.embed_audio([(samples[rate_hz // 2 : rate_hz], rate_hz)])[0]
    vectors = np.stack([vector for *_, vector in windows])
    queries = {
        ("rain falling",): vectors @ rain,
        ("rain falling", "wind"): vectors @ unit(rain + wind),
        ("rain falling", "wind", "--any"): np.maximum(vectors @ rain, vectors @ wind),
        ("--like", paths[2]): vectors @ sound,
        ("--audio", paths[2]): vectors @ sound,
        ("--like", f"{paths[2]}:0.5-1"): vectors @ region,
        ("rain falling", "--like", paths[2]): vectors @ unit(rain + sound),
        ("rain falling", "--without", "wind"): vectors @ rain - 0.5 * np.maximum(vectors @ wind, 0),
        ("rain falling", "--without", "wind", "--less", 2): vectors @ rain - 2 * np.maximum(vectors @ wind, 0),
    }
    for words, scores in queries.items():
        hits = searched(clapkit, lib, *words, "-k", 3)
        assert hits[0].keys() == {"id", "score", "path", "start_s", "end_s", "tags", "metadata"}
        check(hits, windows, scores, 3)
        check(searched(clapkit, lib, *words, "-k", 3, "--exact"), windows, scores, 3)
    best = searched(clapkit, lib, "rain falling", "-k", 1)[0]
    assert searched(clapkit, lib, "--like", best["id"], "-k", 1)[0]["score"] == pytest.approx(1, abs=1e-3)


def test_filters_on_what_the_manifest_says(clapkit, folder, lib, monkeypatch):
    found = lambda *where: {  # noqa: E731
        hit["metadata"]["label"]
        for hit in searched(clapkit, lib, "a sound", *(w for f in where for w in ("--where", f)))
    }
    assert found("tags=t0") == {"anvil", "cork"}
    assert found("label in bell,cork", "tags=t0") == {"cork"}
    assert found("licence=CC0", "duration_s>=0.01") == {"anvil", "bell", "cork", "drum"}
    monkeypatch.chdir(folder)
    assert found("folder under sounds") == found(f"folder under {(folder / 'sounds').as_posix()}") != set()
    assert found("duration_s>1000") == set()


def test_words_in_names_and_metadata_come_to_the_top(clapkit, lib):
    for label in ("bell", "drum"):
        for words in ((label, "--words", label), ("--words", label)):
            assert searched(clapkit, lib, *words, "-k", 1)[0]["metadata"]["label"] == label


def test_moments_variety_copies_and_hubs(clapkit, lib, windows):
    (moment, *_) = searched(clapkit, lib, "rain falling", "--moments", "-k", 2)
    starts = [start_s for file, start_s, _ in windows if file == moment["path"]]
    assert moment["start_s"] in [round(s, 3) for s in starts] and moment["end_s"] > moment["start_s"]
    plain = searched(clapkit, lib, "rain falling", "-k", 4)
    varied = searched(clapkit, lib, "rain falling", "-k", 4, "--variety", 0.9)
    assert varied[0]["id"] == plain[0]["id"]
    assert len(searched(clapkit, lib, "rain falling", "--copies-above", -1)) == 1
    for hubs in ("csls", "qbnorm"):
        assert len(searched(clapkit, lib, "rain falling", "--hubs", hubs, "-k", 3)) == 3


def test_table_csv_and_playlist(clapkit, folder, lib):
    shown = clapkit("search", lib, "a clap", "-k", 4).stdout
    assert "a clap: 4 of" in shown and shown.count(".flac") == 4 and "anvil, all, t0" in shown
    rows = list(csv.DictReader(io.StringIO(clapkit("search", lib, "a clap", "--csv", "-k", 2).stdout)))
    hits = searched(clapkit, lib, "a clap", "-k", 2)
    assert [(row["path"], row["id"], float(row["start_s"])) for row in rows] == [
        (hit["path"], hit["id"], hit["start_s"]) for hit in hits
    ]
    assert rows[0]["rank"] == "1" and rows[0]["tags"].startswith("all;t") and rows[0]["label"] in LABELS
    lines = clapkit("search", lib, "a clap", "--m3u", "-k", 2).stdout.splitlines()
    assert lines[0] == "#EXTM3U" and [line for line in lines if not line.startswith("#")] == [h["path"] for h in hits]
    assert f"#EXTVLCOPT:stop-time={hits[0]['end_s']:.3f}" in lines


def test_a_model_of_another_space_is_refused_with_both_ids(clapkit, run, lib, train_words, tmp_path):
    clapkit(*train_words, "--set", "train.seed=1", "--set", "train.steps=1", "--out", tmp_path / "other")
    outcome = clapkit("search", lib, "rain", "--model", tmp_path / "other")
    assert outcome.exit_code == 2
    for model in (run, tmp_path / "other"):
        assert library.load(model).space_id in outcome.stderr


def test_a_library_whose_model_is_gone_asks_for_it(clapkit, run, folder, sounds, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    assert clapkit("index", sounds, "--model", tmp_path / "run", "--out", tmp_path / "lib").exit_code == 0
    shutil.rmtree(tmp_path / "run")
    outcome = clapkit("search", tmp_path / "lib", "rain")
    assert outcome.exit_code == 2 and "is not where it was: name it with --model" in outcome.stderr
    assert clapkit("search", tmp_path / "lib", "rain", "--model", run).exit_code == 0
    assert clapkit("index", tmp_path / "lib").exit_code == 2
    assert clapkit("index", tmp_path / "lib", "--model", run).exit_code == 0
    assert clapkit("search", tmp_path / "lib", "rain").exit_code == 0  # remembered from now on


def test_files_that_were_deleted_since_are_told(clapkit, run, folder, tmp_path):
    shutil.copytree(folder / "sounds", tmp_path / "sounds")
    clapkit("index", tmp_path / "sounds", "--model", run, "--out", tmp_path / "lib")
    for path in (tmp_path / "sounds").iterdir():
        path.unlink()
    outcome = clapkit("search", tmp_path / "lib", "rain", "-k", 99)
    assert outcome.exit_code == 0 and "4 of these files are not where they were" in outcome.stderr


def test_an_index_of_the_older_kind_is_searched_and_told_how_to_renew(clapkit, run, sounds, tmp_path):
    clap, paths = library.load(run), [str(path) for path in sorted(sounds.glob("*.flac"))]
    library.Index.build(tmp_path / "old", clap, paths)
    outcome = clapkit("search", tmp_path / "old", "rain falling", "--audio", paths[2], "--json", "-k", 2)
    assert "clapkit index FOLDER --model MODEL --out" in " ".join(outcome.stderr.split())
    scores = clap.embed_audio(paths) @ unit(clap.embed_text(["rain falling"])[0] + clap.embed_audio(paths)[2])
    hits = json.loads(outcome.stdout)
    assert [hit["path"] for hit in hits] == [paths[n] for n in np.argsort(-scores)[:2]]
    assert hits[0]["score"] == pytest.approx(scores.max(), abs=1e-5)
    for words in (("rain", "--without", "wind"), ("rain", "wind"), ("rain", "--moments"), ("rain", "--any")):
        outcome = clapkit("search", tmp_path / "old", *words)
        assert outcome.exit_code == 2 and "older kind" in outcome.stderr
    outcome = clapkit("index", sounds, "--model", run, "--out", tmp_path / "old")
    assert outcome.exit_code == 2 and "older kind" in outcome.stderr and "NEW_LIBRARY" in outcome.stderr


def test_what_cannot_be_searched(clapkit, lib, tmp_path):
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "store.json").write_text('{"format_version": 99}', encoding="utf-8")
    for words, told in (
        ((lib,), "--like FILE"),
        ((lib, " "), "is empty"),
        ((tmp_path / "none", "rain"), "does not exist"),
        ((tmp_path, "rain"), "holds no store.json"),
        ((tmp_path / "newer", "rain"), "format_version 99"),
        ((lib, "--like", tmp_path / "gone.wav"), "gone.wav"),
        ((lib, "--like", "0123456789abcdef0123"), "there is no row '0123456789abcdef0123'"),
        ((lib, "--like", "gone.wav:3-2"), "a start before the end"),
        ((lib, "--like", "gone.wav:1-2"), "gone.wav"),
        ((lib, "rain", "--where", "loud=1"), "no field 'loud'"),
        ((lib, "rain", "--where", "loud"), "is no filter"),
        ((lib, "rain", "--hubs", "all"), "csls or qbnorm"),
        ((lib, "rain", "--moments", "--variety", "0.5"), "--moments joins"),
        ((lib, "rain", "--json", "--csv"), "choose one"),
        ((lib, "rain", "-k", 0), "greater than or equal to 1"),
    ):
        outcome = clapkit("search", *words)
        assert outcome.exit_code == 2, outcome.output
        assert told in " ".join(outcome.stderr.split()), outcome.stderr
