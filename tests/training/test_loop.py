"""Whole runs of a tiny recipe: they learn, they leave what they say, and they refuse before they work."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import clapkit
from clapkit.data.clip import Clip
from clapkit.data.grouping import HardGroups
from clapkit.errors import DataError, ModelError, RecipeError, SpecError
from clapkit.objectives.redundancy import VICReg
from clapkit.recipe import Recipe
from clapkit.spec import derive
from clapkit.towers.hf import tiny
from clapkit.training import checkpoint
from clapkit.training.loop import train
from clapkit.views.captions import LabelPrompts


@dataclass(frozen=True)
class Broken:
    """A loss that is no number, or one whose gradient is none."""

    in_gradient: bool = False
    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[str] = "samples"

    def __call__(self, z):
        nothing = (z.audio_BD * 0).sum()
        return {"broken": nothing.sqrt() if self.in_gradient else nothing + float("nan")}


def short(recipe, steps: int = 2):
    return recipe.with_set("train.steps", steps)


def test_learns(tiny_recipe, toy_clips, tmp_path):
    """On its own clips: the loss falls, and the label is the nearest of the six texts far above chance (1 / 6)."""
    run = train(tiny_recipe.but(views=tiny_recipe.views[:2]), toy_clips, out=tmp_path / "run", device="cpu")
    assert run.log()[-1]["loss"] < 0.6 * run.log()[0]["loss"]
    clap = clapkit.load(run.path, device="cpu")
    labels = sorted({c.label for c in toy_clips})
    cosine = clap.similarity([(c.audio, 8000) for c in toy_clips], [f"hear {name}" for name in labels])
    right = [labels[best] == c.label for best, c in zip(cosine.argmax(1), toy_clips, strict=True)]
    assert np.mean(right) > 0.6


def test_leaves_what_it_says(tiny_run, tiny_recipe, toy_clips):
    assert tiny_run.steps == 60 and tiny_run.seconds > 0
    written = json.loads((tiny_run.path / "recipe.json").read_text(encoding="utf-8"))
    assert Recipe.from_json(written["recipe"]) == tiny_recipe and written["clapkit"] == clapkit.__version__
    data = json.loads((tiny_run.path / "data.json").read_text(encoding="utf-8"))
    assert data == {"clips": 24, "used": 24, "steps": 60, "precision": "fp32", "skipped": [], "notes": []}
    log = tiny_run.log()
    assert [r["step"] for r in log] == list(range(4, 60, 5))
    assert log[0]["lr"] == tiny_recipe.train.lr_at(4, 60) and log[0]["clips_per_s"] > 0
    assert log[0]["loss"] == pytest.approx(log[0]["audio_to_text"] + log[0]["text_to_audio"], rel=1e-4)
    assert clapkit.load(tiny_run.model_path).space_id == tiny_run.space_id
    assert [p.name for p in checkpoint.list_steps(tiny_run.path / "checkpoints")] == ["step_00000060"]


def test_frozen_text_is_really_unchanged(tiny_run, tiny_text_folder):
    trained = load_file(tiny_run.model_path / "model.safetensors")
    given = load_file(tiny_text_folder / "model.safetensors")
    kept = {k.removeprefix("text.encoder."): v for k, v in trained.items() if k.startswith("text.")}
    assert len(kept) > 20 and all(torch.equal(given[k], v) for k, v in kept.items())


def test_text_that_is_not_frozen_learns(tiny_recipe, toy_clips, tiny_text_folder, tmp_path):
    run = train(short(tiny_recipe.with_set("model.frozen_text", False)), toy_clips, out=tmp_path / "run")
    trained = load_file(run.model_path / "model.safetensors")
    given = load_file(tiny_text_folder / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(trained[f"text.encoder.{name}"], given[name])
    assert clapkit.load(run.path).embed_text(["dog"]).shape == (1, 16)


def test_a_batch_may_be_larger_than_the_data(tiny_recipe, toy_clips, tmp_path):
    run = train(short(tiny_recipe, 3), toy_clips[:5], out=tmp_path / "run")
    assert np.isfinite([r["loss"] for r in run.log()]).all()


def test_a_folder_that_holds_a_run_is_not_overwritten(tiny_run, tiny_recipe, toy_clips):
    weights = (tiny_run.model_path / "model.safetensors").read_bytes()
    with pytest.raises(DataError, match="holds a run already: go on with it"):
        train(tiny_recipe, toy_clips, out=tiny_run.path)
    unchanged = (tiny_run.model_path / "model.safetensors").read_bytes() == weights
    assert unchanged


def test_resuming_a_finished_run_changes_nothing(tiny_run, tiny_recipe, toy_clips):
    before = tiny_run.log()
    again = train(tiny_recipe, toy_clips, out=tiny_run.path, resume=True, device="cpu")
    assert again.space_id == tiny_run.space_id and again.log() == before


@pytest.mark.parametrize("in_gradient", [False, True], ids=["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_with_the_clips_and_finite_weights(
    tiny_recipe, toy_clips, tmp_path, in_gradient
):
    recipe = short(tiny_recipe.but(objective=Broken(in_gradient)), 5)
    with pytest.raises(ModelError, match=r"at step 0 .*nan.*Clips of that batch: clip\d\d, clip\d\d") as caught:
        train(recipe, toy_clips, out=tmp_path / "run")
    assert str(caught.value).count("clip") >= 8
    (kept,) = checkpoint.list_steps(tmp_path / "run" / "checkpoints")
    assert all(torch.isfinite(t).all() for t in load_file(kept / "state.safetensors").values())
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("clips", "message", "problems"),
    [
        ([], "there are no clips", []),
        ([("a", ("x",)), ("b", ()), ("c", ())], "2 of 3 clips have neither a caption nor a label", ["b", "c"]),
        ([("a", ("x",)), ("b", ("x",))], "all 2 clips have the same caption {'x'}", []),
        ([("a", ("x",)), ("a", ("y",))], "clip ids are not unique", ["a"]),
    ],
)
def test_data_that_cannot_teach_is_refused_before_anything_is_decoded(tiny_recipe, tmp_path, clips, message, problems):
    """The files do not exist: had one been opened, the error would be another."""
    made = [Clip(name, str(tmp_path / "missing.wav"), captions=captions) for name, captions in clips]
    with pytest.raises(DataError, match=message) as caught:
        train(tiny_recipe, made, out=tmp_path / "run")
    assert list(caught.value.problems) == problems and not (tmp_path / "run").exists()


def test_sound_that_cannot_be_decoded_is_reported_and_left_out(tiny_recipe, toy_clips, tmp_path):
    gone = Clip("gone", str(tmp_path / "gone.wav"), captions=("nothing",))
    train(short(tiny_recipe), [gone, *toy_clips], out=tmp_path / "run")
    data = json.loads((tmp_path / "run" / "data.json").read_text(encoding="utf-8"))
    assert (data["clips"], data["used"]) == (25, 24)
    assert data["skipped"] == [{"source": "gone", "reason": "no such file"}]


def test_a_text_tower_without_its_tokenizer_is_refused(tiny_recipe, toy_clips, tmp_path):
    recipe = tiny_recipe.but(model=derive(tiny_recipe.model, text=tiny))
    with pytest.raises(RecipeError, match="without a folder, so it has no tokenizer"):
        train(recipe, toy_clips, out=tmp_path / "run")


def test_labels_need_a_view_that_speaks(tiny_recipe, toy_clips, tmp_path):
    mute = tiny_recipe.but(views=tuple(v for v in tiny_recipe.views if not isinstance(v, LabelPrompts)))
    with pytest.raises(DataError, match="12 of 24 clips have neither a caption"):
        train(mute, toy_clips, out=tmp_path / "run")


def test_micro_batches_learn_what_the_batch_does(tiny_recipe, toy_clips, tmp_path):
    recipe = short(tiny_recipe.but(train=replace(tiny_recipe.train, batch_norm="frozen")), 3)
    whole = train(recipe, toy_clips, out=tmp_path / "whole", device="cpu")
    parts = train(
        recipe.but(train=replace(recipe.train, micro_batch=3)), toy_clips, out=tmp_path / "parts", device="cpu"
    )
    made, expected = (load_file(run.model_path / "model.safetensors") for run in (parts, whole))
    assert all(torch.allclose(made[name], expected[name], atol=1e-3) for name in expected)
    assert [r["loss"] for r in parts.log()] == pytest.approx([r["loss"] for r in whole.log()], rel=1e-3)


def test_micro_batches_of_live_statistics_are_refused_with_the_ways_out(tiny_recipe, toy_clips, tmp_path):
    recipe = tiny_recipe.but(train=replace(tiny_recipe.train, micro_batch=3))
    gone = [clip.with_(audio=str(tmp_path / "gone.wav")) for clip in toy_clips]  # had one been read, it would be told
    with pytest.raises(RecipeError, match="batch_norm='frozen'"):
        train(recipe, gone, out=tmp_path / "run", device="cpu")
    train(short(recipe.but(train=replace(recipe.train, micro_batch=8))), toy_clips, out=tmp_path / "whole")


def test_a_second_draw_is_made_for_an_objective_that_compares_two(tiny_recipe, toy_clips, tmp_path):
    recipe = short(tiny_recipe.but(objective=VICReg(against="audio_other")), 2)
    run = train(recipe, toy_clips, out=tmp_path / "run", device="cpu")
    assert all(np.isfinite(r["loss"]) for r in run.log()) and run.log()


def test_a_log_that_does_not_exist_is_told_before_anything_is_written(tiny_recipe, toy_clips, tmp_path):
    with pytest.raises(SpecError, match="there is no log 'tensorbord'; did you mean 'tensorboard'"):
        train(tiny_recipe, toy_clips, out=tmp_path / "run", services=("tensorbord",))
    assert not (tmp_path / "run").exists()


def test_a_service_gets_the_records_of_the_log(tiny_recipe, toy_clips, tmp_path, monkeypatch):
    sent: list[dict] = []
    service = SimpleNamespace(
        init=lambda **about: sent.append(about), log=lambda record, step: sent.append(record), finish=lambda: None
    )
    monkeypatch.setitem(sys.modules, "trackio", service)
    recipe = short(tiny_recipe, 2).with_set("train.log_every", 1)
    run = train(recipe, toy_clips, out=tmp_path / "run", services=("trackio",), device="cpu")
    assert sent[0]["config"] == json.loads(json.dumps(recipe.to_json()))
    assert [r["loss"] for r in sent[1:]] == [pytest.approx(r["loss"], rel=1e-5) for r in run.log()]


def test_a_sampler_that_goes_by_texts_is_given_the_frozen_tower(tiny_recipe, toy_clips, tmp_path):
    """Resumed, its batches are the same; a tower that learns would make others."""
    recipe = short(tiny_recipe.but(sampler=HardGroups(size=2)), 4)
    whole = train(recipe, toy_clips, out=tmp_path / "whole", device="cpu")
    train(recipe, toy_clips, out=tmp_path / "run", device="cpu", stop_at_step=2)
    assert train(recipe, toy_clips, out=tmp_path / "run", device="cpu", resume=True).space_id == whole.space_id
    with pytest.raises(RecipeError, match=r"HardGroups\(size=2.*freeze it \(model\.frozen_text=true\)"):
        train(recipe.with_set("model.frozen_text", False), toy_clips, out=tmp_path / "learning", device="cpu")
