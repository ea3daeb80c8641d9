"""clapkit train finetune: a given model trained on a folder, and told what it gained and forgot."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

import clapkit as library


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a subfolder for each of two classes that the sound world does not have."""
    root = tmp_path_factory.mktemp("own") / "sounds"
    rng = np.random.default_rng(4)
    seconds = np.arange(16000) / 16000
    for number in range(8):
        for name, rising_hz in (("slide_whistle", 1500), ("steady_buzzer", 0)):
            pitch_hz = rng.uniform(300, 400) + rising_hz * seconds
            place = root / name
            place.mkdir(parents=True, exist_ok=True)
            sound = 0.3 * np.sign(np.sin(2 * np.pi * pitch_hz * seconds))
            soundfile.write(place / f"{number}.wav", sound.astype(np.float32), 16000)
    return root


@pytest.fixture(scope="module")
def tune(clapkit, run, folder):
    """`tune(*words)`: three steps from the run of the sound world on the folder."""

    def call(*words, start=run, data=folder):
        given = ("--from", start) if start else ()
        return clapkit(
            "train", "finetune", *given, "--data", data, "--scale", "tiny", "--set", "train.steps=3", *words
        )  # fmt: skip

    return call


@pytest.fixture(scope="module")
def tuned(tune, world, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "run"
    outcome = tune("--old", world, "--old-split", "split=test", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    return outcome, out, json.loads((out / "finetune.json").read_bytes())


def test_of_processes_that_train_together_the_first_alone_measures(tune, tmp_path, monkeypatch):
    from clapkit.cli import tuning
    from clapkit.training import loop

    measured = []
    monkeypatch.setattr(tuning, "Measured", lambda *about, **more: measured.append(about))
    monkeypatch.setattr(loop, "train", lambda recipe, clips, *, out, **how: loop.Run(out, 3, 0.0, ""))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in ((1, 0), (0, 1)):
        monkeypatch.setenv("RANK", str(rank))
        outcome = tune("--out", tmp_path / f"run{rank}")
        assert outcome.exit_code == 0, outcome.output
        assert len(measured) == expected


def test_new_and_old_are_scored_before_and_after(tuned, run):
    _, out, told = tuned
    new, old = told["sets"]["new"], told["sets"]["old"]
    assert (new["n"], old["n"], told["trained_on"], told["steps"]) == (4, 38, 12, 3)
    assert told["start"] == library.load(run).space_id and told["result"] == library.load(out).space_id
    for scored in (new, old):
        before, after = (scored[when]["zero-shot"]["metrics"]["accuracy"] for when in ("before", "after"))
        gain = scored["gain"]
        assert gain is None or gain["value"] == pytest.approx(after["value"] - before["value"])
        assert before["low"] <= before["value"] <= before["high"]
    assert new["gain"]["low"] <= new["gain"]["value"] <= new["gain"]["high"]
    assert new["before"]["zero-shot"]["protocol"]["classes"] == 2
    assert "retrieval" in old["before"] and "retrieval" not in new["before"], "the folder has no captions"
    assert 0 < new["cosine"] < 1 and told["texts_cosine"] == pytest.approx(1.0, abs=1e-5), "texts are locked"


def test_the_table_shows_both_sides_with_intervals(tuned):
    outcome, out, _ = tuned
    for words in ("new (4)", "old (38)", "accuracy", "cosine, before with after", "texts (40)", "change"):
        assert words in outcome.stdout
    assert "4 of 16 clips are set aside" in outcome.stderr
    assert str(out / "finetune.json") in outcome.stderr.replace("\n", "")


def test_what_is_set_aside_is_not_trained_on(tuned):
    out = tuned[1]
    assert json.loads((out / "data.json").read_bytes())["used"] == 12


def test_an_ended_run_resumed_changes_no_weight_and_tells_the_same(tune, tuned, world):
    _, out, told = tuned
    before = (out / "model" / "model.safetensors").read_bytes()
    again = tune("--old", world, "--old-split", "split=test", "--out", out, "--resume")
    assert again.exit_code == 0, again.output
    unchanged = (out / "model" / "model.safetensors").read_bytes() == before
    assert unchanged
    assert json.loads((out / "finetune.json").read_bytes()) == told


def test_clips_to_measure_on_can_be_named_or_left_out(tune, folder, world, tmp_path):
    named = tune("--val", folder, "--out", tmp_path / "named", "--set", "tune.learns=heads")
    assert named.exit_code == 0, named.output
    told = json.loads((tmp_path / "named" / "finetune.json").read_bytes())
    assert (told["trained_on"], told["sets"]["new"]["n"]) == (16, 16)
    assert "16 of the 16 clips of --val are trained on" in named.stderr
    without = tune("--hold-out", "0", "--out", tmp_path / "without")
    told = json.loads((tmp_path / "without" / "finetune.json").read_bytes())
    assert (told["trained_on"], told["sets"]) == (16, {})
    assert told["texts_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert "texts (40)" in without.stdout


def test_captions_are_scored_by_retrieval(tune, world, tmp_path):
    outcome = tune("--column", "label=", "--split", "split=test", "--out", tmp_path / "run", data=world)
    assert outcome.exit_code == 0, outcome.output
    (scored,) = json.loads((tmp_path / "run" / "finetune.json").read_bytes())["sets"].values()
    assert set(scored["before"]) == set(scored["after"]) == {"retrieval"} and scored["gain"] is None
    assert "r@1_text_to_audio" in outcome.stdout


def test_what_cannot_be_tuned_is_told_before_work_starts(tune, clapkit, run, world, folder, tmp_path):
    def told(outcome):
        assert outcome.exit_code == 2, outcome.output
        assert not (tmp_path / "out" / "checkpoints").exists()
        return " ".join(outcome.stderr.split())

    out = ("--out", tmp_path / "out")
    assert "say which with --from CHECKPOINT" in told(tune(*out, start=None))
    assert "there is no model at" in told(tune(*out, start=tmp_path / "gone"))
    assert "such as finetune" in told(clapkit("train", "soundworld", "--data", world, "--from", run, *out))
    assert "--old belong" in told(clapkit("train", "soundworld", "--data", world, "--old", world, *out))
    assert "share of clips to set aside lies in [0, 1), not 1.5" in told(tune("--hold-out", "1.5", *out))
    assert "did you mean 'heads'" in told(tune("--set", "tune.learns=head", *out))
    assert "has no 'windowing'" in told(tune("--set", "model.windowing.window_s=3", *out))
