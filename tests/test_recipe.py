"""Recipes: derived, scaled, set from text, written and read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest

from clapkit.errors import RecipeError, SpecError
from clapkit.objectives.contrast import InfoNCE
from clapkit.recipe import Recipe
from clapkit.recipes.dual.contrastive import recipe as contrastive
from clapkit.views.audio import Gain, NoiseAtSNR
from clapkit.views.spectrogram import SpecAugment


@dataclass(frozen=True)
class NeedsMore:
    needs: ClassVar[tuple[str, ...]] = ("audio", "text", "text_negative")
    reduces: ClassVar[str] = "rows"


@dataclass(frozen=True)
class AddsNegative(Gain):
    adds: ClassVar[tuple[str, ...]] = ("text_negative",)


def test_the_resolved_recipe_comes_back_from_json_whole():
    assert Recipe.from_json(json.loads(json.dumps(contrastive.to_json()))) == contrastive


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_scale_of_the_contrastive_recipe_can_be_built(scale):
    scaled = contrastive.at(scale)
    assert Recipe.from_json(json.loads(json.dumps(scaled.to_json()))) == scaled
    assert scaled.objective == contrastive.objective and scaled.views == contrastive.views


def test_at_changes_what_the_scale_says():
    tiny = contrastive.at("tiny")
    assert (tiny.model.arguments["audio"].arguments["width"], tiny.batch.clips, tiny.train.epochs) == (8, 16, 2.0)
    assert contrastive.batch.clips == 64, "the recipe itself is unchanged"
    with pytest.raises(RecipeError, match="no scale 'tini'; did you mean 'tiny'"):
        contrastive.at("tini")


def test_but_derives_and_names_what_does_not_exist():
    assert contrastive.but(objective=InfoNCE(balance=0.2)).objective.balance == 0.2
    with pytest.raises(RecipeError, match="no field 'veiws'; did you mean 'views'"):
        contrastive.but(veiws=())


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("train.steps", 500, lambda r: r.train.steps),
        ("train.lr", 1e-3, lambda r: r.train.lr),
        ("train.precision", "fp32", lambda r: r.train.precision),
        ("batch.clips", 32, lambda r: r.batch.clips),
        ("objective.smoothing", 0.1, lambda r: r.objective.smoothing),
        ("views.3.p", 0.25, lambda r: r.views[3].p),
        ("model.audio.width", 48, lambda r: r.model.arguments["audio"].arguments["width"]),
        ("model.audio.stem_kernel", 5, lambda r: r.model.arguments["audio"].arguments["stem_kernel"]),
        ("model.frozen_text", False, lambda r: r.model.arguments["frozen_text"]),
        ("model.windowing.window_s", 4.0, lambda r: r.model.arguments["windowing"].window_s),
        ("model.audio.depths", (1, 2), lambda r: r.model.arguments["audio"].arguments["depths"]),
    ],
)
def test_with_set_takes_values_and_their_text(path, value, read):
    text = value if isinstance(value, str) else json.dumps(value)
    for given in (value, text):
        found = read(contrastive.with_set(path, given))
        assert found == value and type(found) is type(value)


def test_whole_numbers_become_fractions_and_back():
    assert contrastive.with_set("train.lr", 1).train.lr == 1.0
    steps = contrastive.with_set("train.steps", 10).with_set("train.steps", "20.0").train.steps
    assert steps == 20 and isinstance(steps, int)


def test_a_fraction_is_taken_where_the_recipe_says_a_whole_number_of_what_may_be_any():
    assert type(contrastive.train.epochs) is int
    assert contrastive.with_set("train.epochs", "0.5").train.epochs == 0.5


def test_none_takes_away_what_may_be_none():
    averaged = contrastive.with_set("train.ema", "0.9").with_set("train.micro_batch", "8.0")
    assert averaged.train.ema == 0.9 and type(averaged.train.micro_batch) is int
    assert averaged.with_set("train.ema", "none").train.ema is None
    with pytest.raises(RecipeError, match="is of another kind"):
        contrastive.with_set("train.lr", "none")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.stepz", 5, "TrainSettings has no 'stepz'; did you mean 'steps'"),
        ("trian.steps", 5, "Recipe has no 'trian'; did you mean 'train'"),
        ("model.audio.widht", 5, "ResNetTower has no 'widht'; did you mean 'width'"),
        ("views.9.p", 0.5, "tuple has no '9'"),
        ("train.lr.x", 0.5, "float has no 'x'"),
        ("train.lr", "fast", "'train.lr' cannot be set to 'fast'"),
        ("train.lr", True, "is of another kind"),
        ("train.warmup_steps", 2.5, "is a whole number .100., not 2.5"),
        ("train.warmup_steps", float("inf"), "is a whole number"),
        ("train.lr", -1.0, "lr has to be a number above 0, not -1.0"),
        ("train.precision", "fp64", "precision is auto, fp32 or bf16, not 'fp64'"),
        ("train.precision", 3, "is of another kind"),
        ("objective", "InfoNCE", "'objective' is a part"),
        ("model.audio", 3, "'model.audio' is a part"),
        ("views", 3, "is of another kind"),
        ("train.steps", "2.5", "'train.steps' is a whole number or none, not 2.5"),
        ("train.steps", "true", "'train.steps' is a whole number or none, not True"),
        ("train.ema", "[1]", "'train.ema' is a number or none, not .1."),
        ("views.1.p", "{}", "is of another kind"),
    ],
)
def test_what_cannot_be_set_is_told_with_its_path(path, value, message):
    with pytest.raises(RecipeError, match=message):
        contrastive.with_set(path, value)


def test_a_need_that_no_view_fills_is_told():
    with pytest.raises(RecipeError, match=r"NeedsMore needs \['text_negative'\] but no view adds it"):
        contrastive.but(objective=NeedsMore())
    assert contrastive.but(objective=NeedsMore(), views=(AddsNegative(),)).objective == NeedsMore()


def test_sound_is_changed_before_its_mel():
    with pytest.raises(RecipeError, match="NoiseAtSNR changes samples and has to stand before the mel views"):
        contrastive.but(views=(SpecAugment(), NoiseAtSNR()))


def test_a_file_that_holds_something_else_is_refused():
    with pytest.raises(RecipeError, match="holds a InfoNCE, not a recipe"):
        Recipe.from_json({"part": "clapkit.objectives.contrast:InfoNCE"})


def test_strangers_parts_need_trust():
    data = contrastive.to_json()
    data["objective"] = {"part": "os:system"}
    with pytest.raises(SpecError, match="part 'os:system' of package 'os'"):
        Recipe.from_json(data)
