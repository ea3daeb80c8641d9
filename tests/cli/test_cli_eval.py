"""clapkit eval: the numbers are those of the evaluation of the vectors, the JSON has its agreed shape."""

from __future__ import annotations

import json

import numpy as np
import pytest

import clapkit as library
from clapkit.cli.scoring import Gallery
from clapkit.data.manifest import read
from clapkit.evaluation.zero_shot import class_vectors

SPLIT = ("--split", "split=test")


@pytest.fixture(scope="module")
def test_clips(world):
    return read(world, splits={"split": ["test"]}).clips


@pytest.fixture(scope="module")
def vectors(run, test_clips):
    return library.load(run).embed_audio([clip.audio for clip in test_clips])


def scored(clapkit, tmp_path, *words):
    outcome = clapkit("eval", *words, "--json", tmp_path / "scores.json")
    assert outcome.exit_code == 0, outcome.output
    return outcome, json.loads((tmp_path / "scores.json").read_bytes())


def test_zero_shot_json(clapkit, run, world, test_clips, vectors, tmp_path):
    outcome, scores = scored(clapkit, tmp_path, "zero-shot", run, "--data", world, *SPLIT)
    clap = library.load(run)
    names = sorted({clip.label for clip in test_clips})
    text = class_vectors(clap.embed_text, names, ["this is the sound of {}"])
    right = [names[i] == clip.label for i, clip in zip((vectors @ text.T).argmax(axis=1), test_clips, strict=True)]
    assert (scores["task"], scores["n"], scores["pipeline_id"]) == ("zero-shot", 38, clap.pipeline_id)
    assert scores["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    for score in scores["metrics"].values():
        assert 0 <= score["low"] <= score["high"] <= 1
    assert set(scores["per_class"]) == set(names)
    assert scores["protocol"]["split"] == {"split": ["test"]}
    assert scores["protocol"]["templates"] == ["this is the sound of {}"]
    assert "split: split = test; 38 clips scored, 0 skipped" in outcome.stderr
    assert "accuracy" in outcome.stdout
    assert "chance" in outcome.stdout


def test_other_columns_classes_and_templates(clapkit, run, world, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("low-pitched\tdeep\nhigh-pitched\tshrill\n", encoding="utf-8")
    words = ("--label-column", "pitch", "--labels-file", classes, "--template", "a {} sound", "--template", "{}")
    outcome, scores = scored(clapkit, tmp_path, "zero-shot", run, "--data", world, *SPLIT, *words, "--per-class")
    assert 0 < scores["n"] < 38
    assert scores["protocol"]["without_label"] == 38 - scores["n"]
    assert scores["protocol"]["templates"] == ["a {} sound", "{}"]
    assert scores["protocol"]["words_differ_from_names"] is True
    assert set(scores["per_class"]) == {"low-pitched", "high-pitched"}
    assert "have no pitch and are left out" in outcome.stderr
    assert "zero-shot by class" in outcome.stdout


def test_several_labels_a_clip(clapkit, run, world, tmp_path):
    words = ("--split", "split=test_scenes", "--label-column", "tags", "--ensemble")
    _, scores = scored(clapkit, tmp_path, "zero-shot", run, "--data", world, *words)
    assert set(scores["metrics"]) == {"map"}
    assert len(scores["protocol"]["templates"]) >= 10


def test_recordings_are_resampled_together(clapkit, run, world, tmp_path):
    words = ("zero-shot", run, "--data", world, *SPLIT)
    _, alone = scored(clapkit, tmp_path, *words)
    _, grouped = scored(clapkit, tmp_path, *words, "--group-column", "loudness")
    assert alone["protocol"]["interval"]["resampled"] == "clips"
    assert grouped["protocol"]["interval"]["resampled"] == "recordings"
    assert grouped["protocol"]["group_column"] == "loudness"
    assert grouped["metrics"]["accuracy"]["value"] == alone["metrics"]["accuracy"]["value"]


def test_confusion_plot(clapkit, run, world, tmp_path):
    outcome = clapkit("eval", "zero-shot", run, "--data", world, *SPLIT, "--plot", tmp_path / "c.png")
    assert outcome.exit_code == 0
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_retrieval_json(clapkit, run, world, test_clips, vectors, tmp_path):
    _, scores = scored(clapkit, tmp_path, "retrieval", run, "--data", world, *SPLIT)
    clap = library.load(run)
    texts = [(i, text) for i, clip in enumerate(test_clips) for text in clip.captions]
    best = (clap.embed_text([text for _, text in texts]) @ vectors.T).argmax(axis=1)
    expected = np.mean([found == owner for found, (owner, _) in zip(best, texts, strict=True)])
    assert scores["task"] == "retrieval"
    assert scores["metrics"]["r@1_text_to_audio"]["value"] == pytest.approx(expected)
    assert {"r@10_audio_to_text", "map@10_text_to_audio", "median_rank_text_to_audio"} <= set(scores["metrics"])


def test_label_search_json(clapkit, run, world, tmp_path):
    _, scores = scored(clapkit, tmp_path, "search", run, "--data", world, *SPLIT)
    assert set(scores["metrics"]) == {"r_precision", "label_map"}
    assert set(next(iter(scores["per_class"].values()))) == {"n", "r_precision", "ap"}


def test_ranges_of_a_file_are_scored_as_ranges(clapkit, run, test_clips, tmp_path):
    """Rows that cut the same file at different places get different vectors."""
    path = test_clips[0].audio
    rows = [{"path": path, "start_s": s, "duration_s": 1.0, "label": f"part {s}", "id": str(s)} for s in (0, 1, 2)]
    (tmp_path / "parts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, scores = scored(clapkit, tmp_path, "zero-shot", run, "--data", tmp_path / "parts.jsonl")
    assert scores["n"] == 3


def test_a_broken_clip_is_left_out_and_counted(clapkit, run, test_clips, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound", encoding="utf-8")
    rows = [f"{clip.audio},{clip.label}" for clip in test_clips[:4]] + ["bad.wav,rain"]
    (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    outcome, scores = scored(clapkit, tmp_path, "zero-shot", run, "--data", tmp_path / "m.csv")
    assert (scores["n"], scores["protocol"]["skipped"]) == (4, 1)
    assert "bad.wav" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("zero-shot", "--label-column", "colour"), "no column 'colour'"),
        (("zero-shot", "--group-column", "recrding"), "no column 'recrding' to group by"),
        (("zero-shot", "--template", "no place"), "no place"),
        (("zero-shot", "--ensemble", "--template", "{}"), "--ensemble brings its own"),
        (("zero-shot", "--split", "split=tset"), "no row has split=tset"),
        (("zero-shot", "--split", "split=test_scenes"), "--label-column tags"),
        (("retrieval", "--column", "caption="), "none of the"),
        (("retrieval", "--duplicates", "maybe"), "maybe"),
    ],
)
def test_what_cannot_be_scored_is_told(clapkit, run, world, words, told):
    split = () if "--split" in words else SPLIT
    outcome = clapkit("eval", words[0], run, "--data", world, *split, *words[1:])
    assert outcome.exit_code == 2, outcome.output
    assert told in outcome.stderr


@pytest.mark.parametrize("classes, told", [("dog\ncat\n", "label(s) are none of the 2 classes"), ("\n", "is empty")])
def test_a_file_of_other_classes_is_refused_before_anything_is_heard(
    clapkit, run, world, tmp_path, monkeypatch, classes, told
):
    def heard(*_, **__):
        raise AssertionError("a sound was embedded")

    monkeypatch.setattr(Gallery, "of", heard)
    (tmp_path / "classes.txt").write_text(classes, encoding="utf-8")
    outcome = clapkit("eval", "zero-shot", run, "--data", world, "--labels-file", tmp_path / "classes.txt")
    assert outcome.exit_code == 2 and told in " ".join(outcome.stderr.split()), outcome.output
