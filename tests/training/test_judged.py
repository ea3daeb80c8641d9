"""Scores during a run: when, of what, and that they change nothing."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import clapkit
from clapkit.errors import DataError, RecipeError, SpecError
from clapkit.evaluation.retrieval import retrieval
from clapkit.evaluation.zero_shot import class_vectors, zero_shot
from clapkit.judging import ClipJudge, evaluated, judge_by
from clapkit.objectives.siamese import Siamese
from clapkit.spec import derive, spec
from clapkit.towers.vit import PatchTransformer
from clapkit.train_settings import Evaluate, TuneSettings
from clapkit.training.companions import Predictors, Teacher
from clapkit.training.loop import train
from clapkit.training.watch import Judged, check_judge

EVERY = Evaluate(every_steps=3)


@pytest.fixture
def short(tiny_recipe):
    return tiny_recipe.with_set("train.steps", 8).with_set("train.log_every", 4)


@pytest.fixture
def heard(toy_clips):
    """Clips to be judged by."""
    return toy_clips[4:16]


def averaged(recipe):
    return recipe.with_set("train.ema", 0.7)


def predicted(recipe):
    """The heads of the result are others than those that train; dropout draws numbers; the text tower learns."""
    taught = recipe.but(objective=Siamese(), beside=(Teacher(source="ema"), Predictors(hidden_width=16, result=True)))
    return taught.with_set("train.ema", 0.7).with_set("train.ema_result", False).with_set("model.frozen_text", False)


@pytest.mark.parametrize("change", [lambda recipe: recipe, averaged, predicted])
def test_scored_or_not_the_weights_are_the_same_to_the_bit(short, toy_clips, heard, tmp_path, change):
    recipe = change(short)
    plain = train(recipe, toy_clips, out=tmp_path / "plain", device="cpu")
    asked = recipe.but(evaluate=EVERY)
    scored = train(asked, toy_clips, out=tmp_path / "scored", device="cpu", judge=judge_by(heard, asked))
    for stop in (2, 7):  # before the first evaluation, and after one that is then not repeated
        judge = judge_by(heard, asked)
        stopped = {"out": tmp_path / "run", "resume": True, "device": "cpu", "stop_at_step": stop, "judge": judge}
        assert train(asked, toy_clips, **stopped) is None
    other = recipe.but(evaluate=Evaluate(every_steps=2))  # how often changes no weight either
    resumed = train(other, toy_clips, out=tmp_path / "run", resume=True, device="cpu", judge=judge_by(heard, other))
    files = [load_file(run.model_path / "model.safetensors") for run in (plain, scored, resumed)]
    for later in files[1:]:
        assert later.keys() == files[0].keys()
        assert all(np.array_equal(later[name].numpy(), tensor.numpy()) for name, tensor in files[0].items())
    assert plain.space_id == scored.space_id == resumed.space_id
    by_step = {r["step"]: "eval accuracy" in r for r in scored.log()}
    assert by_step == {2: True, 3: False, 5: True, 7: True}
    assert "eval accuracy" not in json.dumps(plain.log())


@pytest.mark.parametrize("change", [lambda recipe: recipe, averaged, predicted])
def test_the_last_scores_are_those_of_the_result(short, toy_clips, heard, tmp_path, change):
    recipe = change(short).but(evaluate=EVERY)
    run = train(recipe, toy_clips, out=tmp_path / "run", device="cpu", judge=judge_by(heard, recipe))
    clap = clapkit.load(run.path, device="cpu")
    audio_ND = clap.embed_audio([(clip.audio, 8000) for clip in heard])
    labels = [clip.label for clip in heard]
    names = sorted(set(labels))
    said = zero_shot(audio_ND, labels, names, class_vectors(clap.embed_text, names, EVERY.templates), samples=1)
    pairs = [(i, text) for i, clip in enumerate(heard) for text in clip.captions]
    owners, texts = zip(*pairs, strict=True)
    found = retrieval(audio_ND, clap.embed_text(texts), owners, samples=1)
    expected = {f"eval {k}": s.value for result in (said, found) for k, s in result.metrics.items()}
    last = run.log()[-1]
    assert {k for k in last if k.startswith("eval ")} == set(expected)
    assert {k: last[k] for k in expected} == pytest.approx(expected, abs=1e-5)


def test_only_what_is_asked_and_possible_is_scored(short, toy_clips, heard, tmp_path):
    recipe = short.but(evaluate=Evaluate(every_steps=100, tasks=("retrieval",)))
    run = train(recipe, toy_clips, out=tmp_path / "words", device="cpu", judge=judge_by(heard, recipe))
    assert "eval r@1_text_to_audio" in run.log()[-1] and "eval accuracy" not in run.log()[-1]
    recipe = short.but(evaluate=Evaluate(every_steps=100))
    judge = judge_by([clip.with_(captions=()) for clip in heard], recipe)
    run = train(recipe, toy_clips, out=tmp_path / "labels", device="cpu", judge=judge)
    assert "eval accuracy" in run.log()[-1] and "eval r@1_text_to_audio" not in run.log()[-1]


def test_services_are_sent_the_scores_too(short, toy_clips, heard, tmp_path, monkeypatch):
    sent = []

    class Recorder:
        package = "json"

        def __init__(self, run, *, first_step, about):
            pass

        def write(self, record):
            sent.append(record)

        def close(self):
            pass

    monkeypatch.setitem(__import__("clapkit.training.log", fromlist=["SERVICES"]).SERVICES, "recorder", Recorder)
    recipe = short.but(evaluate=EVERY)
    judge = judge_by(heard, recipe)
    train(recipe, toy_clips, out=tmp_path / "run", device="cpu", judge=judge, services=("recorder",))
    assert [r["step"] for r in sent if "eval accuracy" in r] == [2, 5, 7]


def test_adapters_are_judged_with_the_model_that_they_stand_in(tiny_recipe, toy_clips, heard, tmp_path):
    tower = spec(PatchTransformer, width=16, depth=1, heads=2, expansion=2)
    before = tiny_recipe.but(model=derive(tiny_recipe.model, audio=tower)).with_set("train.steps", 4)
    train(before, toy_clips, out=tmp_path / "before", device="cpu")
    recipe = before.but(model=None, tune=TuneSettings(lora_rank=2), evaluate=Evaluate(every_steps=2), scales={})
    start = clapkit.load(tmp_path / "before", device="cpu").loaded
    run = train(recipe, toy_clips, out=tmp_path / "run", start=start, device="cpu", judge=judge_by(heard, recipe))
    clap = clapkit.load(run.path, device="cpu")
    audio_ND, names = clap.embed_audio([(c.audio, 8000) for c in heard]), sorted({c.label for c in heard})
    vectors_CD = class_vectors(clap.embed_text, names, EVERY.templates)
    said = zero_shot(audio_ND, [c.label for c in heard], names, vectors_CD, samples=1)
    assert run.log()[-1]["eval map"] == pytest.approx(said.metrics["map"].value, abs=1e-5)


def test_a_clip_that_cannot_be_decoded_is_named_before_the_first_step(short, toy_clips, heard, tmp_path, monkeypatch):
    recipe = short.but(evaluate=EVERY)
    broken = [*heard, clapkit.Clip("lost", str(tmp_path / "lost.wav"), label="bell")]
    with pytest.warns(UserWarning, match=r"1 of the 13 clips to evaluate on are left out: lost: "):
        run = train(recipe, toy_clips, out=tmp_path / "run", device="cpu", judge=judge_by(broken, recipe))
    assert "eval accuracy" in run.log()[-1]
    monkeypatch.setattr("clapkit.training.loop.take_step", None)  # a step would fail otherwise
    with pytest.raises(DataError, match="none of the 1 clips could be decoded"):
        train(recipe, toy_clips, out=tmp_path / "none", device="cpu", judge=judge_by(broken[-1:], recipe))


def test_what_cannot_be_asked_is_refused(short, toy_clips, heard, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RecipeError, match=r"its recipe does not say when it is asked: evaluate=Evaluate\(\)"):
        train(short, toy_clips, out=out, device="cpu", judge=ClipJudge(heard))
    silent = [clip.with_(label=None, captions=()) for clip in heard]
    with pytest.raises(DataError, match="none of the 12 clips to evaluate on has a label or a caption"):
        judge_by(silent, evaluated(short))
    with pytest.raises(RecipeError, match=r"evaluate is Evaluate\(every_steps=\.\.\.\) or None, not 5"):
        short.but(evaluate=5)
    assert not out.exists()


def test_a_recipe_that_nobody_judges_says_so(short, toy_clips, tmp_path):
    recipe = short.but(evaluate=EVERY)
    with pytest.warns(UserWarning, match=r"evaluated every 3 steps, and there are no clips for it \(--eval-data"):
        run = train(recipe, toy_clips, out=tmp_path / "run", device="cpu")
    assert not any(name.startswith("eval") for record in run.log() for name in record)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"every_steps": 0}, "every_steps is a number of steps, 1 or more, not 0"),
        ({"tasks": ("zero_shot",)}, "cannot hold 'zero_shot'; did you mean 'zero-shot'"),
        ({"tasks": "retrieval"}, "evaluate.tasks is a list of texts, not empty, and not 'retrieval'"),
        ({"templates": ()}, r"evaluate.templates is a list of texts, not empty, and not \(\)"),
        ({"templates": ("a sound",)}, r"\{\}"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, told):
    with pytest.raises(SpecError, match=told):
        Evaluate(**settings)


def test_a_recipe_is_written_with_it_and_without_as_before(short):
    assert "evaluate" not in short.to_json()
    recipe = short.but(evaluate=replace(EVERY, templates=("{} heard",)))
    assert type(recipe).from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert recipe.with_set("evaluate.every_steps", 5).evaluate.every_steps == 5


class Meeting:
    """Stands for the processes of a run, and counts how often they waited for the first."""

    def __init__(self, *, is_first):
        self.is_first, self.met = is_first, 0

    def of_first(self, value):
        self.met += 1
        return value


@pytest.mark.parametrize("is_first", [True, False])
def test_of_several_processes_the_first_is_asked_and_all_meet(tiny_recipe, is_first):
    asked, model, meeting = [], tiny_recipe.model.build(), Meeting(is_first=is_first)

    def judge(shown, embed_text, settings):
        asked.append(embed_text(["a", "b"]).shape)
        return {"accuracy": 0.5}

    def encoder_of(shown):
        return lambda texts: torch.zeros(len(texts), 16)

    judged = Judged(judge, EVERY, lambda: nullcontext(model), encoder_of, total=7, processes=meeting)
    scores = [judged.scores(done) for done in range(1, 8)]
    there = {"eval accuracy": 0.5} if is_first else {}
    assert scores == [{}, {}, there, {}, {}, there, there] and meeting.met == 3
    assert asked == ([(2, 16)] * 3 if is_first else []) and judged.note == ("  accuracy 0.500" if is_first else "")


def test_shares_of_weights_are_not_judged(tiny_recipe, heard):
    with pytest.raises(RecipeError, match=r"parallel='fsdp' cannot be evaluated as it trains.*use 'ddp'"):
        check_judge(ClipJudge(heard), evaluated(tiny_recipe), sharded=True)
