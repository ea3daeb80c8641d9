"""clapkit index and clapkit search."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import clapkit as library


@pytest.fixture(scope="module")
def index(clapkit, run, sounds, tmp_path_factory):
    """An index of four sounds, beside a file that is none."""
    folder = tmp_path_factory.mktemp("index")
    shutil.copytree(sounds, folder / "sounds")
    (folder / "sounds" / "text.wav").write_text("no sound", encoding="utf-8")
    outcome = clapkit("index", folder / "sounds", "--model", run, "--out", folder / "index")
    assert outcome.exit_code == 0, outcome.output
    assert "4 embedded, 1 skipped" in outcome.stderr
    return folder / "index"


def test_what_was_skipped_is_kept_with_the_index(index):
    (failure,) = json.loads((index / "failures.json").read_bytes())
    assert failure["path"].endswith("text.wav")


def test_search_by_words_by_sound_and_by_both(clapkit, run, index):
    clap, folder = library.load(run), index.parent / "sounds"
    paths = [str(p) for p in sorted(folder.glob("*.flac"))]
    sounds, text = clap.embed_audio(paths), clap.embed_text(["rain falling"])[0]
    queries = {
        ("rain falling",): text,
        ("--audio", paths[2]): sounds[2],
        ("rain falling", "--audio", paths[2]): (text + sounds[2]) / np.linalg.norm(text + sounds[2]),
    }
    for words, query in queries.items():
        outcome = clapkit("search", index, *words, "--k", 3, "--json")
        assert outcome.exit_code == 0, outcome.output
        hits = json.loads(outcome.stdout)
        scores = sounds @ query
        best = np.argsort(-scores)[:3]
        assert [hit["path"] for hit in hits] == [paths[i] for i in best]
        assert [hit["score"] for hit in hits] == pytest.approx(scores[best].tolist(), abs=1e-5)
        assert hits[0].keys() == {"id", "score", "path", "start_s", "metadata"}


def test_the_table_names_file_and_score(clapkit, index):
    shown = clapkit("search", index, "a clap").stdout
    assert "a clap: 4 of 4 sounds" in shown
    assert shown.count(".flac") == 4


def test_an_index_is_refused_by_another_model_with_both_ids(clapkit, run, index, train_words, tmp_path):
    clapkit(*train_words, "--set", "train.seed=1", "--set", "train.steps=1", "--out", tmp_path / "other")
    outcome = clapkit("search", index, "rain", "--model", tmp_path / "other")
    assert outcome.exit_code == 2
    for folder in (run, tmp_path / "other"):
        assert library.load(folder).space_id in outcome.stderr


def test_an_index_whose_model_is_gone_asks_for_it(clapkit, run, index, tmp_path):
    moved = tmp_path / "deep" / "er" / "index"
    shutil.copytree(index, moved)
    outcome = clapkit("search", moved, "rain")
    assert outcome.exit_code == 2
    assert "--model" in outcome.stderr
    assert clapkit("search", moved, "rain", "--model", run).exit_code == 0


def test_what_cannot_be_searched(clapkit, index, tmp_path):
    for words, told in (
        ((index,), "--audio FILE"),
        ((tmp_path, "rain"), "holds no index.json"),
        ((index, "--audio", tmp_path / "gone.wav"), "gone.wav"),
    ):
        outcome = clapkit("search", *words)
        assert outcome.exit_code == 2
        assert told in outcome.stderr


def test_an_index_is_not_written_over_anything(clapkit, run, index, sounds, tmp_path):
    (tmp_path / "mine.txt").write_text("precious", encoding="utf-8")
    for out in (index, tmp_path):
        outcome = clapkit("index", sounds, "--model", run, "--out", out)
        assert outcome.exit_code == 2
        assert "exists" in outcome.stderr
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "precious"


def test_an_interrupted_index_leaves_nothing(clapkit, run, sounds, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("clapkit.api.Clap.embed_each", interrupted)
    assert clapkit("index", sounds, "--model", run, "--out", tmp_path / "index").exit_code == 130
    assert not (tmp_path / "index").exists()


def test_strict_index(clapkit, run, index, tmp_path):
    words = ("index", index.parent / "sounds", "--model", run, "--strict", "--out", tmp_path / "index")
    assert clapkit(*words).exit_code == 1
    nothing = clapkit("index", index.parent / "sounds" / "text.wav", "--model", run, "--out", tmp_path / "none")
    assert nothing.exit_code == 1
    assert "0 embedded, 1 skipped" in nothing.stderr
