"""A given model trained further: what may change changes, the rest stays to the bit, and resumed runs are the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import clapkit
from clapkit import native
from clapkit.checkpoints.load import read_model
from clapkit.cookbook import find_recipe
from clapkit.data.clip import Clip
from clapkit.errors import CheckpointError, ModelError, RecipeError, SpecError, TextTowerError
from clapkit.heads.anchors import AnchoredLinear
from clapkit.heads.emphasis import TextEmphasis
from clapkit.heads.projection import Keep
from clapkit.model import Windowing
from clapkit.objectives.contrast import InfoNCE
from clapkit.provenance import Report
from clapkit.recipe import Recipe
from clapkit.spec import derive, spec
from clapkit.text.prompts import TRAINING, fill
from clapkit.train_settings import TuneSettings
from clapkit.training.loop import train
from clapkit.training.tuning import to_training_mode

STEPS = 6


@dataclass(frozen=True)
class Watching(InfoNCE):
    """The objective of the recipe, which remembers the sound that it was given."""

    seen: ClassVar[list[torch.Tensor]] = []

    def __call__(self, z):
        self.seen.append(z.audio_BD.detach())
        return super().__call__(z)


@pytest.fixture(scope="module")
def recipe():
    """`finetune` of the whole sound side with a few steps, fast enough for every block to move."""
    short = find_recipe("finetune").at("tiny").with_set("train.steps", STEPS).with_set("train.log_every", 1)
    return short.with_set("train.lr", 1e-2).with_set("tune.learns", "audio").with_set("tune.tower_rate", 1.0)


@pytest.fixture(scope="module")
def new_clips():
    """12 clips of two kinds that the tiny model has never heard, some shorter than its windows."""
    rng = np.random.default_rng(8)
    seconds = np.arange(4800, dtype=np.float32) / 8000
    clips = []
    for number in range(12):
        rising = number % 2
        pitch_hz = rng.uniform(300, 400) + (2000 * seconds if rising else 0)
        sound = 0.3 * np.sign(np.sin(2 * np.pi * pitch_hz * seconds)).astype(np.float32)
        clips.append(Clip(f"new{number:02d}", sound[: 4800 - 300 * number], label="slide" if rising else "buzzer"))
    return tuple(clips)


@pytest.fixture
def tuned(tiny_run, recipe, new_clips, tmp_path):
    """`tuned(**tune)` -> (run, weights given, weights of the result)."""

    def make(name: str = "run", given=tiny_run.path, **settings):
        chosen = recipe
        for key, value in settings.items():
            chosen = chosen.with_set(f"tune.{key}", value)
        run = train(chosen, new_clips, out=tmp_path / name, start=native.load(given), device="cpu")
        return run, weights(given), weights(run.path)

    return make


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def changed(given, result) -> set[str]:
    return {name for name in given if not torch.equal(given[name], result[name])}


def parts_of(names) -> set[str]:
    """The parts to which the names belong."""
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("learns", ["audio_head", "audio", "full"])
def test_it_learns_the_new_sound(learns, tiny_run, recipe, new_clips, tmp_path):
    def accuracy(folder):
        clap = clapkit.load(folder, device="cpu")
        found = clap.similarity([(c.audio, 8000) for c in new_clips], ["buzzer", "slide"]).argmax(1)
        return np.mean(found == [c.label == "slide" for c in new_clips])

    longer = recipe.with_set("train.steps", 300 if learns == "audio_head" else 60).with_set("tune.learns", learns)
    run = train(longer, new_clips, out=tmp_path / "run", start=native.load(tiny_run.path), device="cpu")
    assert accuracy(tiny_run.path) < 0.6 and accuracy(run.path) > 0.75


@pytest.mark.parametrize(
    ("learns", "parts"),
    [
        ("audio", {"audio", "audio_head", "logit_scale"}),
        ("audio_head", {"audio_head", "logit_scale"}),
        ("heads", {"audio_head", "text_head", "logit_scale"}),
        ("full", {"audio", "audio_head", "text", "text_head", "logit_scale"}),
    ],
)
def test_what_learns_changes_and_nothing_else(tuned, learns, parts):
    run, given, result = tuned(learns=learns)
    moved = changed(given, result)
    assert parts_of(moved) == parts
    parameters = {name for name, _ in native.load(run.path).model.named_parameters()}
    # A weight decay alone would move every matrix; biases that a norm behind them cancels may have no gradient.
    expected = {name for name in parameters if name.split(".")[0] in parts and given[name].ndim > 1}
    assert expected <= moved
    assert native.load(run.path).model.frozen_text == (learns != "full")


def test_locked_text_keeps_every_vector(tuned, tiny_run):
    run, _, _ = tuned(learns="audio")
    texts = ["buzzer", "dog bark", "something never said"]
    before, after = clapkit.load(tiny_run.path), clapkit.load(run.path)
    assert np.array_equal(before.embed_text(texts), after.embed_text(texts))
    assert before.space_id != after.space_id == run.space_id


def test_batch_statistics_are_kept_or_follow(tuned):
    def statistics(names):
        return {name for name in names if "running" in name or name.endswith("num_batches_tracked")}

    _, given, result = tuned("frozen", batch_norm="frozen")
    assert statistics(given) and not statistics(changed(given, result))
    _, given, result = tuned("live", batch_norm="live")
    assert statistics(changed(given, result)) == statistics(given)


def test_frozen_statistics_are_those_that_training_computes_with(tiny_run, recipe, new_clips):
    """In training mode a sound has the vector that it has in use."""
    start = native.load(tiny_run.path)
    samples = torch.from_numpy(np.stack([c.audio[:1500] for c in new_clips]))
    with torch.no_grad():
        heard = start.model.encode_audio(samples)
        to_training_mode(start.model, recipe.tune)
        assert start.model.training and start.model.audio.training
        assert torch.equal(start.model.encode_audio(samples), heard)
        to_training_mode(start.model, recipe.with_set("tune.batch_norm", "live").tune)
        assert not torch.allclose(start.model.encode_audio(samples), heard, atol=1e-3)
        assert not start.model.text.training and not start.model.text_head.training


def test_the_result_lies_between_given_and_trained(tuned):
    _, given, trained = tuned("all")
    _, _, half = tuned("half", blend=0.5)
    _, _, none = tuned("none", blend=0.0)
    for name, tensor in given.items():
        assert torch.equal(none[name], tensor), name
        if tensor.is_floating_point():
            assert torch.allclose(half[name], (tensor + trained[name]) / 2, atol=1e-6), name


def test_lower_blocks_learn_more_slowly(tuned):
    """Adam's steps are about as long as the learning rate, whatever the gradient: lengths of the way show the rates."""
    _, given, even = tuned("even", layer_decay=1.0)
    _, _, slow = tuned("slow", layer_decay=0.1)

    def way(result, prefix):
        return torch.cat([(result[n] - given[n]).flatten() for n in given if n.startswith(prefix)]).abs().mean()

    ratio = {p: float(way(slow, p) / way(even, p)) for p in ("audio_head", "audio.blocks.1", "audio.blocks.0")}
    assert 0.5 < ratio["audio_head"] <= 1.5
    assert 0.05 < ratio["audio.blocks.1"] < 0.2
    assert 0.005 < ratio["audio.blocks.0"] < 0.02


@pytest.mark.parametrize("settings", [{}, {"learns": "full", "batch_norm": "live"}, {"learns": "heads"}])
def test_stopped_and_resumed_is_equal(tiny_run, recipe, new_clips, tmp_path, settings):
    chosen = recipe.with_set("tune.blend", 0.7)
    for key, value in settings.items():
        chosen = chosen.with_set(f"tune.{key}", value)

    def go(name, **how):
        how = {"start": native.load(tiny_run.path), "device": "cpu", **how}
        return train(chosen, new_clips, out=tmp_path / name, **how)

    whole = go("whole")
    for stop in (2, 5):
        assert go("run", resume=True, stop_at_step=stop) is None
    run = go("run", resume=True)
    assert not changed(weights(whole.path), weights(run.path))
    assert run.space_id == whole.space_id
    assert [r["loss"] for r in run.log()] == [r["loss"] for r in whole.log()]


def test_another_start_is_refused(tiny_run, recipe, new_clips, tuned, tmp_path):
    train(recipe, new_clips, out=tmp_path / "stopped", start=native.load(tiny_run.path), stop_at_step=2)
    other, _, _ = tuned("other")
    with pytest.raises(ModelError, match=rf"began with the model {tiny_run.space_id}/.*this run with {other.space_id}"):
        train(recipe, new_clips, out=tmp_path / "stopped", start=native.load(other.path), resume=True)
    warmer = native.load(tiny_run.path)
    warmer.model.logit_scale.data += 1  # the same space at another temperature
    with pytest.raises(ModelError, match="began with the model"):
        train(recipe, new_clips, out=tmp_path / "stopped", start=warmer, resume=True)


def test_another_blend_of_an_ended_run_needs_no_training(tiny_run, recipe, new_clips, tuned, monkeypatch):
    run, given, trained = tuned("run")
    monkeypatch.setattr("clapkit.training.loop.take_step", None)  # a step would fail
    half = recipe.with_set("tune.blend", 0.5)
    train(half, new_clips, out=run.path, start=native.load(tiny_run.path), resume=True, device="cpu")
    name = "audio.stem.weight"
    assert torch.allclose(weights(run.path)[name], (given[name] + trained[name]) / 2)


def test_a_run_says_where_it_began_and_stands_alone(tiny_run, recipe, new_clips, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "given")
    run = train(recipe, new_clips, out=tmp_path / "run", start=native.load(tmp_path / "given"), device="cpu")
    shutil.rmtree(tmp_path / "given")
    clap = clapkit.load(run.path)
    assert clap.embed_text(["buzzer"]).shape == (1, 16)
    told = json.loads((run.path / "recipe.json").read_text(encoding="utf-8"))
    assert told["start"]["id"].startswith(tiny_run.space_id) and told["start"]["folder"].endswith("model")
    assert Recipe.from_json(told["recipe"]) == recipe
    again = train(recipe, new_clips, out=tmp_path / "again", start=native.load(run.path), device="cpu")
    assert again.space_id != run.space_id, "a tuned model can be tuned again"


def with_model(tiny_recipe, toy_clips, out, **parts):
    recipe = tiny_recipe.but(model=derive(tiny_recipe.model, **parts)).with_set("train.steps", 2)
    return train(recipe, toy_clips, out=out, device="cpu").path


def test_anchors_of_the_given_model_stay_beside_the_new(tiny_recipe, toy_clips, recipe, new_clips, tmp_path):
    """Each text stands once: tuning again with the same words adds none."""
    given = with_model(tiny_recipe, toy_clips, tmp_path / "given", audio_head=spec(AnchoredLinear))
    once = train(recipe, new_clips, out=tmp_path / "once", start=native.load(given), device="cpu").path
    twice = train(recipe, new_clips, out=tmp_path / "twice", start=native.load(once), device="cpu").path
    before, after, again = (native.load(folder).model.audio_head.anchors_KD for folder in (given, once, twice))
    assert torch.equal(after[: len(before)], before)
    assert len(after) == len(before) + 2 * len(TRAINING["sound"])
    assert torch.equal(after, again)
    heard = clapkit.load(once, device="cpu").embed_text([fill(TRAINING["sound"][3], "buzzer")])[0]
    assert np.isclose((after.numpy() @ heard).max(), 1.0, atol=1e-5)


def test_an_emphasis_that_was_given_stays(tiny_recipe, toy_clips, recipe, new_clips, tmp_path):
    parts = {"text_head": spec(TextEmphasis), "dimension": 32}
    given = with_model(tiny_recipe, toy_clips, tmp_path / "given", **parts)
    run = train(recipe, new_clips, out=tmp_path / "run", start=native.load(given), device="cpu")
    assert torch.equal(weights(given)["text_head.matrix_DD"], weights(run.path)["text_head.matrix_DD"])


@pytest.mark.parametrize("filled", ["mask", "zeros", "repeat", "repeat-pad"])
def test_short_clips_are_filled_as_the_model_fills_them(tiny_recipe, toy_clips, recipe, new_clips, tmp_path, filled):
    """The vectors of a batch are those that the engine gives for the same clips."""
    windowing = Windowing(window_s=0.55, hop_s=0.55, fill=filled)
    given = with_model(tiny_recipe, toy_clips, tmp_path / "given", windowing=windowing)
    short = [c.with_(audio=c.audio[: 2000 + 150 * i]) for i, c in enumerate(new_clips)]
    plain = recipe.but(views=recipe.views[:1], objective=Watching()).with_set("batch.clips", 12)
    train(plain.with_set("train.steps", 1), short, out=tmp_path / "run", start=native.load(given), device="cpu")
    engine = clapkit.load(given, device="cpu").embed_audio([(c.audio, 8000) for c in short])
    cosines = Watching.seen.pop().numpy() @ engine.T
    assert np.allclose(np.sort(cosines.max(axis=1)), 1.0, atol=1e-4), "each clip of the batch is one of the engine's"
    assert len(set(cosines.argmax(axis=1))) == 12


def test_clips_are_as_long_as_the_windows_of_the_model():
    from clapkit.data.batches import BatchSize
    from clapkit.training.beginning import fitted

    batch = BatchSize(clips=4, clip_s=10.0)
    assert fitted(batch, Windowing(5.0, 2.5)) == BatchSize(4, 5.0)
    assert fitted(batch, Windowing(120.0, 120.0)) == batch, "a tower of any length is not given minutes"
    assert fitted(batch, Windowing(5.0, 2.5, fill="repeat")) == BatchSize(4, 5.0)
    assert fitted(batch, Windowing(15.0, 2.5, fill="zeros")) == BatchSize(4, 15.0)


def test_what_does_not_go_together_is_refused(tiny_run, tiny_recipe, recipe, new_clips, tmp_path):
    with pytest.raises(RecipeError, match=r"trains a model further and was given none.*--from"):
        train(recipe, new_clips, out=tmp_path / "run")
    with pytest.raises(RecipeError, match="builds its own model"):
        train(tiny_recipe, new_clips, out=tmp_path / "run", start=native.load(tiny_run.path))
    with pytest.raises(RecipeError, match="this one has both"):
        tiny_recipe.but(tune=TuneSettings())
    with pytest.raises(RecipeError, match="this one has neither"):
        tiny_recipe.but(model=None)


def test_heads_without_weights_cannot_learn(tiny_recipe, toy_clips, recipe, new_clips, tmp_path):
    parts = {"text_head": spec(Keep), "audio_head": spec(Keep), "dimension": 32}
    wide = tiny_recipe.with_set("model.audio.width", 8)  # 2 stages: 8 * 2 channels, mean and maximum
    given = with_model(wide, toy_clips, tmp_path / "given", **parts)
    with pytest.raises(
        RecipeError, match=r"tune\.learns=heads: audio_head and text_head of this model have no weights"
    ):
        train(recipe.with_set("tune.learns", "heads"), new_clips, out=tmp_path / "run", start=native.load(given))


def test_a_model_without_words_is_refused_with_its_reason(tiny_run, recipe, new_clips, tmp_path):
    start = native.load(tiny_run.path)
    start.model.text, start.model.text_missing = None, "the file holds the audio tower alone: give text=..."
    with pytest.raises(
        RecipeError, match="cannot be trained on sound with words: the file holds the audio tower alone"
    ):
        train(recipe, new_clips, out=tmp_path / "run", start=start)


def test_a_tower_of_sound_alone_joins_the_space_of_a_text_encoder(
    tiny_recipe, recipe, new_clips, tiny_text_folder, tmp_path
):
    """Its head is new, of the width of the texts; the tower stays, and the head alone is enough to tell two sounds."""
    width = tiny_recipe.model.build().audio.width
    alone = derive(tiny_recipe.model, text=None, text_head=None, audio_head=spec(Keep), dimension=width)
    torch.manual_seed(0)
    native.save(alone.build(), alone, tmp_path / "alone" / "model", tokenizer=None)
    with pytest.raises(CheckpointError, match="were not trained together"):
        read_model(tmp_path / "alone", text=tiny_text_folder)
    start, again = (read_model(tmp_path / "alone", text=tiny_text_folder, join=True) for _ in range(2))
    assert start.model.dimension == start.model.text.width == 32 and start.space_id == again.space_id
    assert "the head of the sound side is new" in str(start.report)
    given = {name: tensor.clone() for name, tensor in start.model.audio.state_dict().items()}
    chosen = recipe.with_set("train.steps", 200).with_set("tune.learns", "audio_head")
    run = train(chosen, new_clips, out=tmp_path / "run", start=start, device="cpu")
    clap = clapkit.load(run.path, device="cpu")
    assert all(torch.equal(tensor, given[name]) for name, tensor in clap.model.audio.state_dict().items())
    found = clap.similarity([(c.audio, 8000) for c in new_clips], ["buzzer", "slide"]).argmax(1)
    assert np.mean(found == [c.label == "slide" for c in new_clips]) > 0.75


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("learns", "head", "did you mean 'heads'"),
        ("batch_norm", "off", "batch_norm cannot be 'off'"),
        ("tower_rate", 0.0, "tower_rate is a factor above 0 and at most 1, not 0.0"),
        ("layer_decay", 0.0, "above 0 and at most 1, not 0.0"),
        ("layer_decay", 1.5, "above 0 and at most 1, not 1.5"),
        ("blend", -0.1, "between 0 and 1, not -0.1"),
        ("blend", 2.0, "between 0 and 1, not 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, message):
    with pytest.raises(SpecError, match=message):
        TuneSettings(**{setting: value})


def test_a_tokenizer_that_is_missing_is_looked_for_by_its_name(tiny_run, tiny_text_folder, recipe, new_clips, tmp_path):
    start = native.load(tiny_run.path)
    with pytest.raises(RecipeError, match=r"came without its tokenizer: put its tokenizer\.json beside it"):
        train(recipe, new_clips, out=tmp_path / "run", start=replace(start, tokenizer=None))
    report = replace(start.report, tokenizer="nobody/no-such-tokenizer")
    with pytest.raises(TextTowerError, match="nobody/no-such-tokenizer"):
        train(recipe, new_clips, out=tmp_path / "run", start=replace(start, tokenizer=None, report=report))


def test_where_the_weights_came_from_goes_with_the_tuned_model(tiny_run, recipe, new_clips, tmp_path):
    start = native.load(tiny_run.path)
    origin = {"report": Report(family="laion", licence="CC0", notes=("a quirk",)), "aside": {"odd": torch.ones(3)}}
    run = train(recipe, new_clips, out=tmp_path / "run", start=replace(start, **origin), device="cpu")
    again = native.load(run.path)
    assert (again.report.family, again.report.licence) == ("laion", "CC0")
    assert again.report.notes == ("a quirk", f"trained further with clapkit from {tiny_run.space_id}")
    assert torch.equal(again.aside["odd"], torch.ones(3))


def test_the_public_function_takes_a_start(tiny_run, new_clips, tmp_path):
    run = clapkit.train("finetune", list(new_clips), out=tmp_path / "run", start=tiny_run.path, scale="tiny")
    assert run.steps == 3 and parts_of(changed(weights(tiny_run.path), weights(run.path))) == {
        "audio_head",
        "logit_scale",
    }
