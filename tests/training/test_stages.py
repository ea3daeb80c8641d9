"""Stages: how steps are shared out, what stays as it is in each, and runs that stop in the middle of one."""

from __future__ import annotations

import filecmp
import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from clapkit.errors import RecipeError, SpecError
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.label import SupCon
from clapkit.objectives.sigmoid import PairwiseSigmoid
from clapkit.recipe import Recipe
from clapkit.train_settings import Stage
from clapkit.training.loop import train
from clapkit.training.stages import check_names, freeze, stretches

STAGES = (Stage(share=1, frozen=("audio",)), Stage(share=2, objective=InfoNCE(balance=0.2), lr=1e-3))


@pytest.fixture
def staged(tiny_recipe):
    return tiny_recipe.but(stages=STAGES, train=replace(tiny_recipe.train, steps=9, log_every=1, warmup_steps=2))


def state(run_folder, step: int):
    return load_file(run_folder / "checkpoints" / f"step_{step:08d}" / "state.safetensors")


def test_steps_are_shared_out_and_each_stretch_has_its_own_schedule(staged):
    first, second = stretches(staged, 9)
    assert (first.first, first.end, second.first, second.end) == (0, 3, 3, 9)
    assert (first.objective, second.objective) == (staged.objective, InfoNCE(balance=0.2))
    assert [first.lr_at(s) for s in range(3)] == [staged.train.lr_at(s, 3) for s in range(3)]
    slower = replace(staged.train, lr=1e-3)
    assert [second.lr_at(s) for s in range(3, 9)] == [slower.lr_at(s, 6) for s in range(6)]


@pytest.mark.parametrize("total", [3, 7, 10, 100, 12345])
def test_every_step_is_in_one_stretch(tiny_recipe, total):
    recipe = tiny_recipe.but(stages=(Stage(share=0.2), Stage(share=0.5), Stage(share=0.3)))
    made = stretches(recipe, total)
    assert [s.first for s in made] == [0, *(s.end for s in made[:-1])] and made[-1].end == total
    for stretch, share in zip(made, (0.2, 0.5, 0.3), strict=True):
        assert abs(stretch.end - stretch.first - share * total) <= 1


def test_without_stages_a_run_is_one_stretch(tiny_recipe):
    (only,) = stretches(tiny_recipe, 60)
    assert (only.first, only.end, only.frozen) == (0, 60, ())
    assert [only.lr_at(s) for s in range(60)] == [tiny_recipe.train.lr_at(s, 60) for s in range(60)]


def test_what_is_frozen_takes_no_gradient_and_is_in_eval_mode(staged):
    model = staged.model.build().train()
    learning = tuple(model.learnt())
    first, second = stretches(staged, 9)
    freeze(model, first, learning)
    assert {name.split(".")[0] for name, _ in model.learnt()} == {"audio_head", "text_head", "logit_scale"}
    assert not any(m.training for m in model.audio.modules()) and model.audio_head.training
    freeze(model, second, learning)
    assert [name for name, _ in model.learnt()] == [name for name, _ in learning]
    assert not any(p.requires_grad for p in model.text.parameters()), "what the recipe freezes stays frozen"


def test_a_run_goes_through_them(staged, toy_clips, tmp_path):
    """In the first the tower and its statistics stay to the bit, in the second they learn."""
    run = train(staged, toy_clips, out=tmp_path / "run", device="cpu", stop_at_step=3)
    assert run is None
    torch.manual_seed(staged.train.seed)
    built, middle = staged.model.build().state_dict(), state(tmp_path / "run", 3)
    for name in built:
        if name.startswith("audio."):
            assert torch.equal(middle[f"model.{name}"], built[name]), name
    assert not torch.equal(middle["model.audio_head.linear.weight"], built["audio_head.linear.weight"])
    run = train(staged, toy_clips, out=tmp_path / "run", device="cpu", resume=True)
    end = load_file(run.model_path / "model.safetensors")
    for name in ("audio.stem.weight", "audio.stem_norm.running_mean"):
        assert not torch.equal(end[name], built[name]), name
    assert [r["lr"] for r in run.log()] == [pytest.approx(r, rel=1e-5) for r in rates(staged)]


def rates(recipe) -> list[float]:
    return [s.lr_at(step) for s in stretches(recipe, 9) for step in range(s.first, s.end)]


def test_one_stage_with_nothing_frozen_is_the_plain_run(tiny_recipe, toy_clips, tmp_path):
    plain = tiny_recipe.with_set("train.steps", 4)
    runs = [train(r, toy_clips, out=tmp_path / name, device="cpu") for name, r in (
        ("plain", plain), ("one", plain.but(stages=(Stage(),))),
    )]  # fmt: skip
    assert runs[0].space_id == runs[1].space_id


@pytest.mark.parametrize("stops", [(1,), (3,), (2, 4, 7)], ids=str)
def test_stopped_in_any_stage_and_resumed_is_equal_to_the_last_bit(staged, toy_clips, tmp_path, stops):
    recipe = staged.but(train=replace(staged.train, ema=0.8))
    whole = train(recipe, toy_clips, out=tmp_path / "whole", device="cpu")
    for stop in (*stops, None):
        run = train(recipe, toy_clips, out=tmp_path / "run", device="cpu", resume=stop != stops[0], stop_at_step=stop)
    assert filecmp.cmp(run.model_path / "model.safetensors", whole.model_path / "model.safetensors", shallow=False)
    kept = ("step", "loss", "lr", "scale")
    assert [{k: r[k] for k in kept} for r in run.log()] == [{k: r[k] for k in kept} for r in whole.log()]


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (("audi",), r"stage 0 freezes 'audi', which does not learn; did you mean 'audio'"),
        (("text",), r"stage 0 freezes 'text', which does not learn"),
        (("audio.stemm",), r"stage 0 freezes 'audio\.stemm', .*did you mean 'audio\.stem"),
        (("audio", "audio_head", "text_head", "logit_scale"), "stage 0 freezes everything that learns: audio, audio_h"),
    ],
)
def test_names_that_freeze_nothing_or_everything_are_refused(tiny_recipe, frozen, message):
    recipe = tiny_recipe.but(stages=(Stage(frozen=frozen),))
    with pytest.raises(RecipeError, match=message):
        check_names(stretches(recipe, 60), recipe.model.build())


def test_a_stage_without_a_step_is_refused(staged):
    with pytest.raises(RecipeError, match=r"stage 0 has no step: 1 steps are too few for shares of 1"):
        stretches(staged, 1)


def test_needs_of_every_stage_are_checked(tiny_recipe, toy_clips, tmp_path):
    class Needy(InfoNCE):
        needs: ClassVar[tuple[str, ...]] = ("text_negative",)

    with pytest.raises(RecipeError, match=r"Needy needs \['text_negative'\] but no view adds it"):
        tiny_recipe.but(stages=(Stage(), Stage(objective=Needy())))
    with pytest.raises(RecipeError, match=r"stages are made of Stage.*not of 0\.5"):
        tiny_recipe.but(stages=(0.5,))
    mute = [clip.with_(label=None, captions=(f"sound {clip.id}",)) for clip in toy_clips]
    with pytest.raises(RecipeError, match="SupCon needs 'label': none of the 24 clips has it, no view adds it"):
        train(tiny_recipe.but(stages=(Stage(), Stage(objective=SupCon()))), mute, out=tmp_path / "run")


def test_a_staged_recipe_comes_back_from_json(staged):
    recipe = staged.but(stages=(*STAGES, Stage(objective=PairwiseSigmoid())))
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert recipe.with_set("stages.0.share", 3).stages[0].share == 3.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"share": 0.0}, "share has to be a number above 0, not 0.0"),
        ({"lr": -1.0}, "lr has to be a number above 0, or none for the recipe's, not -1.0"),
        ({"frozen": "audio"}, "frozen is a tuple of names, not the text 'audio'"),
    ],
)
def test_settings_out_of_range_are_refused(given, message):
    with pytest.raises(SpecError, match=message):
        Stage(**given)
