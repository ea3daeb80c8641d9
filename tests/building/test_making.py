"""A small model from a folder of sets, in one go."""

from __future__ import annotations

import csv
import filecmp
import json

import numpy as np
import pytest
import soundfile

import clapkit
from clapkit.building.released import making
from clapkit.building.released.card import write_card
from clapkit.building.released.making import Plan, make
from clapkit.errors import DataError
from clapkit.recipes.released.tiny import SHARES, recipe
from clapkit.towers.hf import TransformersText
from clapkit.towers.static import StaticText

RATE_HZ = 16000


def write_set(folder, name: str, licences: list[str], *, splits: list[str]) -> None:
    (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    with (folder / name / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "caption", "split", "licence"])
        for i, (licence, split) in enumerate(zip(licences, splits, strict=True)):
            soundfile.write(folder / name / f"{i}.wav", 0.1 * rng.standard_normal(RATE_HZ // 2), RATE_HZ)
            writer.writerow([f"{i}.wav", f"kind {i % 2}", f"{name} number {i}", split, licence])


@pytest.fixture
def plan(tmp_path, tiny_text_folder, monkeypatch):
    data = tmp_path / "data"
    write_set(data, "esc50", ["clip CC0 by x"] * 6 + ["clip CC-BY-NC by y"] * 2, splits=["fold1"] * 7 + ["fold5"])
    write_set(data, "berklee", ["CC BY 3.0"] * 4, splits=["train", "train", "val", "test"])
    (data / "captions").mkdir()
    (data / "captions" / "README.csv").write_text("file,licence\n", encoding="utf-8")
    monkeypatch.setattr(making, "pretrained_text", lambda: TransformersText.from_folder(tiny_text_folder))
    return Plan(data=data, out=tmp_path / "out", variant="released", shares=SHARES, width=16, world=0)


def small():
    return recipe.at("tiny").with_set("train.steps", 3).with_set("train.log_every", 1)


def test_from_the_manifests_to_a_model_that_is_used(plan):
    run = make(plan, small())
    told = json.loads((plan.out / "selection.json").read_text(encoding="utf-8"))
    assert told["clips"] == 9 and told["sets"] == {"berklee": 3, "esc50": 6}
    assert told["left_out"] == {"berklee": {"held out": 1}, "esc50": {"licence": 1, "held out": 1}}
    assert (plan.out / "ATTRIBUTION.txt").read_text(encoding="utf-8").splitlines() == [
        "berklee | CC BY 3.0",
        "esc50 | clip CC0 by x",
    ]
    clap = clapkit.load(run.model_path)
    assert isinstance(clap.model.text, StaticText) and clap.dimension == 16
    noise = (np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32), RATE_HZ)
    assert clap.similarity([noise], ["kind 0", "kind 1"]).shape == (1, 2)


def test_the_card_says_what_the_files_say(plan):
    run = make(plan, small())
    card = (run.model_path / "README.md").read_text(encoding="utf-8")
    assert "| esc50 | 6 | 1 | 1 |" in card and "| berklee | 3 | 0 | 1 |" in card
    assert run.space_id in card and "9 clips were heard in 3 steps of 16" in card
    assert "CC BY 4.0" in card and "None were measured" in card
    assert filecmp.cmp(run.model_path / "ATTRIBUTION.txt", plan.out / "ATTRIBUTION.txt", shallow=False)
    write_card(plan.out, figures={"top-1": {"value": 0.5, "low": 0.4, "high": 0.6}, "clips a second": 150})
    card = (run.model_path / "README.md").read_text(encoding="utf-8")
    assert "| top-1 | 0.500 | 0.400 - 0.600 |" in card and "| clips a second | 150 | |" in card
    clapkit.load(run.model_path)


def test_a_card_needs_a_finished_model(tmp_path):
    with pytest.raises(DataError, match=r"run/model/config\.json is missing"):
        write_card(tmp_path)


def test_what_is_there_is_not_made_again_and_a_stopped_training_goes_on(plan, monkeypatch):
    whole = make(plan, small())
    weights = (whole.model_path / "model.safetensors").read_bytes()
    other = Plan(data=plan.data, out=plan.out.with_name("again"), variant="released", shares=SHARES, width=16, world=0)
    real = making.train
    monkeypatch.setattr(making, "train", lambda *given, **ways: real(*given, **{**ways, "stop_at_step": 2}))
    with pytest.raises(AssertionError, match="stop_at_step"):
        make(other, small())
    monkeypatch.setattr(making, "train", real)

    def not_again(*given, **ways):
        raise AssertionError("the text tower was there")

    monkeypatch.setattr(making, "distil", not_again)
    unchanged = (make(other, small()).model_path / "model.safetensors").read_bytes() == weights
    assert unchanged


def test_clips_can_be_kept_out_of_an_experiment(plan):
    make(plan, small(), keep=lambda clip: clip.label != "kind 1")
    heard = json.loads((plan.out / "selection.json").read_text(encoding="utf-8"))["clips"]
    assert heard == 5


def test_shares_of_the_recipe_name_every_set_of_the_collection(shared_data):
    assert making.sets_in(shared_data).keys() | {making.WORLD} == SHARES.keys()
    assert sum(SHARES.values()) == pytest.approx(1)
