"""Teachers and predictors: what they make of a batch, what learns, what is left behind, and what is refused."""

from __future__ import annotations

import filecmp
import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

import clapkit
from clapkit import native
from clapkit.data.batches import Batch
from clapkit.errors import RecipeError, SpecError
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.distill import AffinityDistillation, CosineDistillation
from clapkit.objectives.siamese import Siamese
from clapkit.recipe import Recipe
from clapkit.train_settings import TuneSettings
from clapkit.training.companions import Companions, Predictors, Teacher
from clapkit.training.loop import train
from clapkit.training.step import How, batch_features, take_step
from clapkit.views.spectrogram import SpecAugment

TAUGHT = ("audio_prediction_BD", "text_prediction_UD", "audio_teacher_BD", "text_teacher_UD", "teacher_scale")


@dataclass(frozen=True)
class Watching:
    """Siamese that keeps what it was given."""

    needs: ClassVar[tuple[str, ...]] = (*Siamese.needs, "teacher_scale")
    reduces: ClassVar[str] = "samples"
    seen: ClassVar[list] = []

    def __call__(self, z):
        self.seen.append(z)
        return Siamese()(z)


@pytest.fixture
def slap(tiny_recipe):
    train_settings = replace(tiny_recipe.train, steps=6, ema=0.9, ema_result=False)
    return tiny_recipe.but(objective=Siamese(), beside=(Teacher(), Predictors(hidden_width=24)), train=train_settings)


@pytest.fixture
def model(tiny_recipe):
    torch.manual_seed(1)
    return tiny_recipe.model.build().train()


def batch() -> Batch:
    samples = (0.1 * np.random.default_rng(4).standard_normal((3, 4000))).astype(np.float32)
    target = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
    return Batch(0, ("a", "b", "c"), samples, np.full(3, 4000), ("x", "yy"), target)


def encoder_of(model):
    """Texts by the head of `model`, from features that their lengths decide."""

    def encode(texts):
        features = torch.stack([torch.linspace(-1, len(text), 32).cos() for text in texts])
        return model.project_text(features)

    return encode


def beside(recipe, model) -> Companions:
    return Companions(recipe, model, encoder_of=encoder_of, precision="fp32")


def how(model, companions, objective, **more) -> How:
    return How(encoder_of(model), extras=companions.extras(objective), **more)


def test_the_fields_are_what_teacher_and_predictors_make(slap, model):
    companions = beside(slap, model)
    with torch.no_grad():
        companions.predictors["audio_prediction"].network[-1].linear.weight.normal_()
        companions.average.model.audio_head.linear.weight.mul_(-1)  # so that teacher and model differ
        companions.average.model.logit_scale.fill_(2.0)
    Watching.seen.clear()
    take_step(model, companions.with_predictions(Watching()), batch(), how(model, companions, Watching()))
    (z,) = Watching.seen
    teacher, networks = companions.average.model, companions.predictors
    features = batch_features(model, batch(), ())
    with torch.no_grad():
        expected = {
            "audio_teacher_BD": teacher.encode_features(features),
            "text_teacher_UD": encoder_of(teacher)(("x", "yy")),
            "teacher_scale": torch.tensor(2.0).exp(),
            "audio_prediction_BD": normalize(networks["audio_prediction"](z.audio_BD), dim=-1),
            "text_prediction_UD": normalize(networks["text_prediction"](z.text_UD), dim=-1),
        }
    for name in TAUGHT:
        torch.testing.assert_close(z[name].detach(), expected[name])
        assert z[name].requires_grad == ("prediction" in name), name
    assert torch.allclose(z.audio_prediction_BD.norm(dim=1), torch.ones(3))


def test_predictors_and_model_take_a_gradient_and_the_teacher_takes_none(slap, model):
    companions = beside(slap, model)
    take_step(model, companions.with_predictions(Siamese()), batch(), how(model, companions, Siamese()))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in companions.parameters())
    assert all(p.grad is not None for name, p in model.learnt() if name != "logit_scale")
    assert all(p.grad is None for p in companions.average.model.parameters())


def test_micro_batches_give_the_gradients_of_the_batch(slap, model):
    model.eval()
    companions = beside(slap, model)
    with torch.no_grad():
        companions.predictors["text_prediction"].network[-1].linear.weight.normal_()
        companions.average.model.audio_head.linear.weight.mul_(-1)
    learnt = [p for _, p in model.learnt()] + list(companions.parameters())
    found = []
    for micro_batch in (None, 1):
        for p in learnt:
            p.grad = None
        settings = how(model, companions, Siamese(), micro_batch=micro_batch)
        losses = take_step(model, companions.with_predictions(Siamese()), batch(), settings)
        found.append((losses, [p.grad for p in learnt]))
    for name in found[0][0]:
        assert found[0][0][name].item() == pytest.approx(found[1][0][name].item(), rel=1e-5, abs=1e-6)
    for whole, parts in zip(found[0][1], found[1][1], strict=True):
        if whole is not None:
            torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_only_what_the_objective_needs_is_made(slap, model):
    companions = beside(slap, model)
    assert companions.extras(InfoNCE()) == () and companions.with_predictions(InfoNCE()) == InfoNCE()
    (teaching,) = companions.extras(CosineDistillation("audio"))
    made = teaching(model, batch(), batch_features(model, batch(), ()), encoder_of(model))
    assert set(made) == {"audio_teacher_BD", "teacher_scale"}


def test_predictors_are_decided_by_the_seed_and_touch_no_other_random_numbers():
    state = torch.random.get_rng_state()
    one, same, other = (Predictors(hidden_width=8).build(4, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    name = "audio_prediction.network.0.linear.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


def test_predictors_begin_as_no_change_and_say_the_same_of_a_clip_in_any_company():
    network = Predictors(hidden_width=8).build(4, seed=3)["text_prediction"]
    x_BD = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network(x_BD), x_BD)
    torch.nn.init.normal_(network.network[-1].linear.weight)
    torch.testing.assert_close(network(x_BD)[2:3], network(x_BD[2:3]))


def test_a_run_learns_them_and_leaves_them_behind(slap, toy_clips, tmp_path):
    run = train(slap, toy_clips, out=tmp_path / "run", device="cpu")
    (kept,) = (run.path / "checkpoints").iterdir()
    state = load_file(kept / "state.safetensors")
    fresh = slap.beside[1].build(16, seed=slap.train.seed).state_dict()
    learnt = {name.removeprefix("predictors."): t for name, t in state.items() if name.startswith("predictors.")}
    assert learnt.keys() == fresh.keys() and all(not torch.equal(learnt[name], fresh[name]) for name in fresh)
    plain = native.load(run.path).model.state_dict()
    assert set(load_file(run.model_path / "model.safetensors")) == set(plain)
    assert set(run.log()[0]) >= {"text_from_audio", "audio_from_text", "audio_from_audio", "text_from_text"}


def test_sound_and_language_meet_without_negatives(slap, toy_clips, tmp_path):
    """The label is the nearest of the six texts far above chance (1 / 6), and vectors have not become all alike."""
    recipe = slap.but(views=slap.views[:2], train=replace(slap.train, steps=250, lr=1e-2, ema=0.95, ema_warmup=False))
    clap = clapkit.load(train(recipe, toy_clips, out=tmp_path / "run", device="cpu").path, device="cpu")
    labels = sorted({c.label for c in toy_clips})
    audio_BD = clap.embed_audio([(c.audio, 8000) for c in toy_clips])
    nearest_B = (audio_BD @ clap.embed_text([f"hear {name}" for name in labels]).T).argmax(1)
    assert np.mean([labels[best] == c.label for best, c in zip(nearest_B, toy_clips, strict=True)]) > 0.5
    assert np.linalg.norm(audio_BD.mean(0)) < 0.7, "1 where all sounds have the same vector"


def test_stopped_and_resumed_is_equal_to_the_last_bit(slap, toy_clips, tmp_path):
    whole = train(slap, toy_clips, out=tmp_path / "whole", device="cpu")
    for stop in (2, 5, None):
        run = train(slap, toy_clips, out=tmp_path / "run", device="cpu", resume=stop != 2, stop_at_step=stop)
    assert filecmp.cmp(run.model_path / "model.safetensors", whole.model_path / "model.safetensors", shallow=False)
    folders = [path / "checkpoints" / "step_00000006" / "state.safetensors" for path in (run.path, whole.path)]
    assert filecmp.cmp(folders[0], folders[1], shallow=False)


def test_a_text_tower_that_learns_is_taught_by_the_average_of_itself(slap, toy_clips, tmp_path):
    Watching.seen.clear()
    recipe = slap.with_set("model.frozen_text", False).but(objective=Watching()).with_set("train.lr", 0.05)
    train(recipe.with_set("train.steps", 3), toy_clips, out=tmp_path / "run", device="cpu")
    cosines = [(z.text_UD * z.text_teacher_UD).sum(1).mean().item() for z in Watching.seen]
    # The first step teaches what the model is, up to the dropout of its text tower; then the model moves away.
    assert cosines[0] > 0.9 and cosines[-1] < 0.999


def test_the_given_model_teaches_as_it_was(tiny_run, slap, toy_clips, tmp_path):
    """At the first step it says what the student says; the student moves, the teacher does not, resumed or not."""
    given = slap.but(
        model=None,
        tune=TuneSettings(learns="full", batch_norm="frozen"),
        objective=AffinityDistillation(),
        beside=(Teacher(source="given"),),
        views=slap.views[:1],
        train=replace(slap.train, ema=None),
    )
    for stop in (1, None):
        start = native.load(tiny_run.path)
        run = train(given, toy_clips, out=tmp_path / "run", start=start, resume=True, device="cpu", stop_at_step=stop)
    assert run.log()[0]["loss"] < 0.05


def test_a_recipe_says_it_and_comes_back_from_json(slap, tiny_recipe):
    assert Recipe.from_json(json.loads(json.dumps(slap.to_json()))) == slap
    assert not {"beside", "stages"} & set(tiny_recipe.to_json()) and "ema" not in json.dumps(tiny_recipe.to_json())
    assert slap.with_set("beside.1.hidden_width", 5).beside[1] == Predictors(hidden_width=5)
    with pytest.raises(RecipeError, match=r"Siamese needs \['audio_prediction', .*nor what stands beside the model"):
        tiny_recipe.but(objective=Siamese())
    with pytest.raises(RecipeError, match=r"says what it adds, and Siamese\(inter=0.5\) does not"):
        tiny_recipe.but(beside=(Siamese(),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beside": (Teacher(), Teacher(source="given"), Predictors())}, "at most one Teacher, this one has 2"),
        ({"beside": (Teacher(source="given"), Predictors())}, "source='given'.*this recipe builds its own"),
        (
            {"beside": (Teacher(), Predictors(), SpecAugment())},
            r"beside a model stand Teacher.* and HiddenPatches, not SpecA",
        ),
    ],
)
def test_what_cannot_stand_beside_it_is_refused_before_anything_is_written(slap, toy_clips, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        train(slap.but(**changes), toy_clips, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_needs_an_average(slap, toy_clips, tmp_path):
    with pytest.raises(RecipeError, match=r"moving average of the weights: say how slow.*train\.ema=0\.995"):
        train(slap.but(train=replace(slap.train, ema=None)), toy_clips, out=tmp_path / "run")


def test_settings_out_of_range_are_refused():
    with pytest.raises(SpecError, match="source of a teacher cannot be 'emma'; did you mean 'ema'"):
        Teacher(source="emma")
    with pytest.raises(SpecError, match="at least 1, not 0"):
        Predictors(hidden_width=0)
