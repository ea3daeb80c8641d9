"""clapkit train and clapkit recipes."""

from __future__ import annotations

import filecmp
import json
import re
import sys
import types
from pathlib import Path

import clapkit.recipes


def test_a_run_is_left_behind_and_its_data_accounted_for(trained):
    outcome, run = trained
    assert (run / "model" / "model.safetensors").is_file()
    assert json.loads((run / "data.json").read_bytes())["used"] == 48
    assert "48 of 98 rows" in outcome.stderr
    assert "kept as meta: " in outcome.stderr
    assert "8 steps in " in outcome.stderr


def test_val_is_scored_at_the_end(trained):
    outcome, run = trained
    scores = json.loads((run / "val.json").read_bytes())
    assert set(scores) == {"zero-shot", "retrieval"}
    assert scores["zero-shot"]["n"] == scores["retrieval"]["n"] == 38
    last = json.loads((run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["step"] == 8
    accuracy = scores["zero-shot"]["metrics"]["accuracy"]["value"]
    assert abs(last["val accuracy"] - accuracy) < 1e-5
    assert "r@1_text_to_audio" in outcome.stdout
    assert "trained on" not in outcome.stderr


def test_an_ended_run_is_not_trained_over_and_resume_changes_nothing(clapkit, train_words, trained, world):
    run = trained[1]
    before = (run / "model" / "model.safetensors").read_bytes()
    again = clapkit(*train_words, "--out", run)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    resumed = clapkit(*train_words, "--out", run, "--resume", "--val", world, "--val-split", "split=train")
    assert resumed.exit_code == 0
    unchanged = (run / "model" / "model.safetensors").read_bytes() == before
    assert unchanged
    assert "48 of the 48 clips of --val are trained on" in resumed.stderr
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(steps) == len(set(steps))


def test_what_cannot_be_trained_is_told_before_work_starts(clapkit, world, tmp_path):
    def told(*words):
        outcome = clapkit("train", *words, "--out", tmp_path / "run")
        assert outcome.exit_code == 2, outcome.output
        assert not (tmp_path / "run" / "checkpoints").exists()
        return outcome.stderr

    assert "did you mean 'soundworld'?" in told("soundwrld", "--data", world)
    assert "train' or" not in told("soundworld", "--data", tmp_path / "gone.csv")
    assert "did you mean 'steps'?" in told("soundworld", "--data", world, "--set", "train.step=5")
    assert "--set key=value" in told("soundworld", "--data", world, "--set", "train.steps")
    assert "did you mean 'tiny'?" in told("soundworld", "--data", world, "--scale", "tinny")
    assert "there is no column 'splt'" in told("soundworld", "--data", world, "--split", "splt=train")
    assert "gone.csv: no such file" in told("soundworld", "--data", tmp_path / "gone.csv")
    assert "no column 'title'" in told("soundworld", "--data", world, "--column", "caption=title")


def test_recipes_are_listed_from_their_files(clapkit):
    listed = clapkit("recipes", "list").stdout
    files = [p for p in Path(clapkit_recipes()).glob("*/*.py") if p.stem != "__init__"]
    assert len(files) >= 2
    for path in files:
        assert path.stem in listed
    assert "four-second clips of a procedural sound world" in listed


def clapkit_recipes() -> str:
    return clapkit.recipes.__path__[0]


def test_a_recipe_is_shown_with_the_place_of_each_part(clapkit):
    shown = clapkit("recipes", "show", "soundworld", "--scale", "tiny").stdout
    assert "Differs from `contrastive`" in shown
    assert re.search(r"model: DualEncoder clapkit/model\.py:\d+", shown)
    assert re.search(r"audio: ResNetTower clapkit/towers/resnet\.py:\d+", shown)
    assert "width = 8" in shown
    assert re.search(r"SpecAugment clapkit/views/spectrogram\.py:\d+", shown)


def test_an_unknown_recipe_is_corrected(clapkit):
    outcome = clapkit("recipes", "show", "contrastiv")
    assert outcome.exit_code == 2
    assert "did you mean 'contrastive'?" in outcome.stderr


def test_a_recipe_of_one_s_own_lies_in_the_current_folder(clapkit, world, tmp_path, monkeypatch):
    (tmp_path / "my_method.py").write_text(
        "from clapkit.recipes.dual.contrastive import recipe as parent\n"
        'recipe = parent.at("tiny").with_set("train.steps", 2)\n',
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    done = clapkit("train", "my_method:recipe", "--data", str(world), "--out", "mine")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "mine" / "model" / "config.json").is_file()


def test_a_plan_is_told_and_nothing_is_decoded_or_written(clapkit, world, tmp_path):
    cache = tmp_path / "cache"
    words = ("train", "soundworld", "--data", world, "--split", "split=train", "--scale", "paper", "--plan")
    told = clapkit(*words, "--out", tmp_path / "run", CLAPKIT_CACHE=str(cache))
    assert told.exit_code == 0, told.output
    for what in ("parameters", "learnt", "steps", "memory in all", "expected time", "one accelerator with"):
        assert what in told.stdout
    assert " on cpu" in told.stdout and "not measured" not in told.stdout
    assert not (tmp_path / "run").exists() and not cache.exists()
    untimed = clapkit(*words, "--no-timing")  # without --out too
    assert untimed.exit_code == 0 and "not measured: not asked for" in untimed.stdout


def test_a_run_needs_a_folder(clapkit, world):
    outcome = clapkit("train", "soundworld", "--data", world)
    assert outcome.exit_code == 2 and "--out FOLDER" in outcome.stderr


def test_a_log_is_shown_elsewhere_and_what_is_missing_is_told_first(clapkit, train_words, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused = clapkit(*train_words, "--out", tmp_path / "run", "--log", "wandb")
    assert refused.exit_code == 2 and 'pip install "clapkit[wandb]"' in refused.stderr
    assert not (tmp_path / "run").exists()
    service = types.ModuleType("trackio")
    sent = []
    service.init = lambda **given: sent.append(given["project"])  # type: ignore[attr-defined]
    service.log = lambda values, *, step: sent.append((step, sorted(values)))  # type: ignore[attr-defined]
    service.finish = lambda: sent.append("finished")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", service)
    done = clapkit(*train_words, "--out", tmp_path / "run", "--log", "trackio")
    assert done.exit_code == 0, done.output
    assert sent[0] == "clapkit" and sent[-1] == "finished"
    [(step, names)] = sent[1:-1]
    assert step == 7 and {"loss", "lr", "scale", "clips_per_s"} <= set(names)


def test_a_run_is_scored_as_it_goes_and_ends_the_same(clapkit, train_words, world, trained, tmp_path):
    scored = ("--eval-data", world, "--eval-split", "split=test_kinds", "--set", "evaluate.every_steps=3")
    done = clapkit(*train_words, *scored, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [r["step"] for r in map(json.loads, lines) if "eval accuracy" in r and "eval r@1_text_to_audio" in r]
    assert steps == [2, 5, 7]
    files = [folder / "model" / "model.safetensors" for folder in (tmp_path / "run", trained[1])]
    assert filecmp.cmp(files[0], files[1], shallow=False)
    assert "--eval-data are trained on" not in done.stderr
    again = clapkit(*train_words, "--eval-data", world, "--out", tmp_path / "run", "--resume")
    assert "48 of the 98 clips of --eval-data are trained on" in again.stderr


def test_a_batch_larger_than_the_data_is_said_and_logged(clapkit, train_words, tmp_path):
    words = ("--set", "batch.clips=60", "--set", "train.steps=1")
    done = clapkit(*train_words, *words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    told = "warning: a batch has 60 clips and the data 48: every batch holds clips more than once"
    assert told in " ".join(done.stderr.split()) and ".py:" not in done.stderr
    (first,) = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(first)["warning"].startswith(told.removeprefix("warning: "))
    assert json.loads((tmp_path / "run" / "data.json").read_bytes())["notes"][0] == json.loads(first)["warning"]
