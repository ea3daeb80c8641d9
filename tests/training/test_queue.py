"""Negatives of earlier steps: against lists of strings, in a step, in a whole run, and where they are refused."""

from __future__ import annotations

import filecmp
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stepping import OBJECTIVES, Seen, batch, embeddings, gradients, small_model
from torch.nn.functional import normalize, pad

from clapkit.data.batches import Batch
from clapkit.data.clip import Clip, Event
from clapkit.errors import RecipeError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.combine import weighted
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.distill import CosineDistillation
from clapkit.objectives.label import ClassTargets
from clapkit.objectives.redundancy import Sparsity
from clapkit.objectives.siamese import Siamese
from clapkit.objectives.sigmoid import PairwiseSigmoid
from clapkit.train_settings import TuneSettings
from clapkit.training.beside.queue import KeptNegatives, Queue, reads_queue
from clapkit.training.companions import Teacher
from clapkit.training.loop import train
from clapkit.training.step import How, take_step

WIDTH = 3
# Clips with captions that others have too, with one alone, and with an event.
CLIPS = [
    Clip(f"c{n}", "", captions=(f"caption {n}", f"shared {n % 4}")[: 1 + n % 2], prompts=(f"hear {n % 7}",))
    for n in range(19)
] + [Clip("c19", "", captions=("caption 19",), events=(Event("hear 3", 0.0, 1.0),))]
SAID = {clip.id: {*clip.captions, *clip.prompts, *(e.label for e in clip.events)} for clip in CLIPS}


def drawn(rng: np.random.Generator, step: int) -> Batch:
    """A few clips with one of their texts each, some mixed with another, and texts that belong to none."""
    ids = tuple(f"c{n}" for n in rng.choice(20, int(rng.integers(2, 6)), replace=False))
    own = [sorted(SAID[name])[int(rng.integers(len(SAID[name])))] for name in ids]
    texts = tuple(dict.fromkeys((*own, *(f"caption {n}" for n in rng.choice(20, int(rng.integers(0, 4)))))))
    target_BU = np.array([[float(text in SAID[name]) for text in texts] for name in ids], np.float32)
    target_BU[0] += target_BU[1] * (step % 2)
    return Batch(step, ids, np.zeros((len(ids), 4), np.float32), np.full(len(ids), 4), texts, target_BU)


def said_by_teacher(given: Batch, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    rows = {"audio_teacher_BD": len(given.ids), "text_teacher_UD": len(given.texts)}
    return {name: torch.from_numpy(rng.standard_normal((n, WIDTH)).astype(np.float32)) for name, n in rows.items()}


class ByLists:
    """The same with lists of (vector, names)."""

    def __init__(self, size: int) -> None:
        self.size, self.sounds, self.texts = size, [], []

    def step(self, given: Batch) -> tuple[list, list]:
        present = {*given.ids, *given.texts}.union(*(SAID[name] for name in given.ids))
        return tuple([v for v, names in line if not names & present] for line in (self.sounds, self.texts))

    def advance(self, given: Batch, made: dict[str, torch.Tensor]) -> None:
        true = given.soft_target_BU > 0
        for b, name in enumerate(given.ids):
            texts = {text for u, text in enumerate(given.texts) if true[b, u]}
            mixed = {other for c, other in enumerate(given.ids) if (true[b] & true[c]).any()}
            if texts:
                self.sounds.append((made["audio_teacher_BD"][b].tolist(), {name, *mixed, *texts, *SAID[name]}))
        for u, text in enumerate(given.texts):
            clips = {name for b, name in enumerate(given.ids) if true[b, u]}
            if clips:
                self.texts.append((made["text_teacher_UD"][u].tolist(), {text, *clips}))
        self.sounds, self.texts = self.sounds[-self.size :], self.texts[-self.size :]


@pytest.mark.parametrize("size", [1, 3, 11, 40], ids="size {}".format)
def test_it_is_the_list_of_what_was_said_before(size):
    """Over 12 steps, in which the small ones go round several times, and are smaller than a batch."""
    rng = np.random.default_rng(size)
    queue, slow = Queue(size).build(WIDTH, clips=CLIPS), ByLists(size)
    counts = []
    for step in range(12):
        given = drawn(rng, step)
        made = said_by_teacher(given, rng)
        found = queue(given, made)
        sounds, texts = slow.step(given)
        assert sorted(found["audio_negative_FD"].tolist()) == sorted(sounds)
        assert sorted(found["text_negative_ED"].tolist()) == sorted(texts)
        counts.append((len(sounds), len(texts)))
        queue.advance()
        slow.advance(given, made)
    assert counts[0] == (0, 0) and (size < 11 or min(max(column) for column in zip(*counts, strict=True)) > 4)


def one(name: str, *texts: str, without: tuple[str, ...] = ()) -> Batch:
    """A batch of one clip with some texts, and texts `without` a clip."""
    target = np.array([[1.0] * len(texts) + [0.0] * len(without)], np.float32)
    return Batch(0, (name,), np.zeros((1, 4), np.float32), np.full(1, 4), (*texts, *without), target)


def sizes(queue: KeptNegatives, given: Batch) -> tuple[int, int]:
    """How many sounds and texts a step of this batch is given."""
    found = queue(given, said_by_teacher(given, np.random.default_rng(0)))
    return len(found["audio_negative_FD"]), len(found["text_negative_ED"])


def test_whatever_may_be_true_in_a_batch_is_left_out_of_it():
    clips = [Clip("bell", "", captions=("a bell", "ringing")), Clip("gong", "", captions=("a gong", "a bell"))]
    queue = Queue(size=8).build(WIDTH, clips=clips)
    assert sizes(queue, one("bell", "a bell", without=("rain",))) == (0, 0)
    assert sizes(queue, one("rain", "rain")) == (0, 0), "the step before was not taken"
    sizes(queue, one("bell", "a bell", without=("rain",)))
    queue.advance()
    assert sizes(queue, one("rain", "rain")) == (1, 1), "the text without a clip was not kept"
    assert sizes(queue, one("bell", "metal")) == (0, 0), "the same clip, whatever is said of it"
    assert sizes(queue, one("other", "a bell")) == (0, 0), "the same caption"
    assert sizes(queue, one("other", "ringing")) == (0, 1), "another text of the clip: its sound would be right"
    assert sizes(queue, one("gong", "a gong")) == (0, 0), "the text would be right for this clip, though not drawn"
    assert sizes(queue, one("other", "x", without=("ringing",))) == (0, 1)
    assert sizes(queue, one("a bell", "bell")) == (1, 1), "a clip is no caption"


def test_a_mixture_is_known_by_what_was_mixed_in():
    queue = Queue(size=8).build(WIDTH)
    mixed = np.array([[0.6, 0.4], [0.0, 1.0]], np.float32)
    sizes(queue, replace(one("bell", "a bell", "rain"), ids=("bell", "rain"), soft_target_BU=mixed))
    queue.advance()
    assert sizes(queue, one("rain", "wet")) == (0, 1), "both sounds hold rain; a bell was told of the other alone"
    assert sizes(queue, one("bell", "brass")) == (0, 0)


def test_nothing_is_a_negative_of_its_own_step_and_steps_that_fail_leave_nothing():
    queue, rng = Queue(size=100).build(WIDTH), np.random.default_rng(1)
    for step in range(5):
        given = one(f"clip {step}", f"text {step}")
        for _ in range(2):  # not taken the first time
            assert sizes(queue, given) == (step, step)
        queue(given, said_by_teacher(given, rng))
        queue.advance()
        queue.advance()
    assert int(queue.audio.pushed) == int(queue.text.pushed) == 5


# ---- In a step -------------------------------------------------------------------------------------------------------


class Taught:
    """A teacher in the model's own space, without gradient."""

    def __call__(self, model, given, features, encode_texts):
        with torch.no_grad():
            audio_BD, text_UD = model.encode_features(features), encode_texts(given.texts)
        turned = {"audio_teacher_BD": audio_BD.roll(1, 1), "text_teacher_UD": text_UD.roll(2, 1)}
        return {name: value.requires_grad_() for name, value in turned.items()}


def filled(model) -> KeptNegatives:
    """A queue in which the teacher's vectors of one other batch stand, 6 sounds and 4 texts."""
    queue = Queue(size=6).build(8).double()
    other = batch(7, 4, seed=5)
    other = replace(other, ids=tuple(f"other {n}" for n in range(7)), texts=tuple(f"text {n}" for n in range(4)))
    take_step(model, Seen(), other, How(model.encode_texts, extras=(Taught(),), negatives=queue))
    gradients(model)
    queue.advance()
    return queue


@pytest.fixture(scope="module")
def model():
    return small_model()


def test_infonce_with_a_queue_is_infonce_on_a_batch_with_more_rows_that_have_no_target(model):
    queue, seen = filled(model), Seen()
    how = How(model.encode_texts, extras=(Taught(),), negatives=queue)
    take_step(model, seen, batch(), how)
    gradients(model)
    losses = take_step(model, InfoNCE(balance=0.3), batch(), how)
    (z,) = seen.seen
    assert z.audio_negative_FD.shape == (6, 8) and z.text_negative_ED.shape == (4, 8)
    assert not z.audio_negative_FD.requires_grad and not z.text_negative_ED.requires_grad
    joined = Embeddings(
        torch.cat([z.audio_BD, queue.audio.vectors_ND]),
        torch.cat([z.text_UD, queue.text.vectors_ND[:4]]),
        z.scale,
        pad(z.soft_target_BU, (0, 4, 0, 6)),
    )
    for name, value in InfoNCE(balance=0.3)(joined).items():
        torch.testing.assert_close(losses[name], value.detach() * 13 / 7)  # a mean over 7 clips, not 13
    empty = Queue(size=6).build(8).double()
    plain = take_step(model, InfoNCE(), batch(), How(model.encode_texts))
    first = take_step(model, InfoNCE(), batch(), replace(how, negatives=empty))
    assert first == plain, "the first step has the negatives of its batch alone"


@pytest.mark.parametrize("objective", [InfoNCE(), InfoNCE(smoothing=0.1), PairwiseSigmoid(), InfoNCE(balance=0.9)])
@pytest.mark.parametrize("at_once", [8, 2**20])
def test_micro_batches_have_the_queue_of_the_plain_step(model, objective, at_once, monkeypatch):
    monkeypatch.setattr("clapkit.training.step.LOGITS_AT_ONCE", at_once)
    found = []
    for micro_batch in (None, 3, 1):
        queue = filled(model)
        how = How(model.encode_texts, extras=(Taught(),), negatives=queue, micro_batch=micro_batch)
        losses = take_step(model, objective, batch(), how)
        queue.advance()
        found.append((losses, gradients(model), queue.state_dict()))
    for losses, slopes, kept in found[1:]:
        for mine, plain in zip((losses, slopes, kept), found[0], strict=True):
            assert mine.keys() == plain.keys()
            for name, value in plain.items():
                torch.testing.assert_close(mine[name], value, rtol=1e-6, atol=1e-9)
    assert found[0][2]["audio.pushed"] == 14 and found[0][2]["text.pushed"] == 9


def test_who_is_said_to_read_the_queue_does():
    """And nobody else does, but for ClassTargets, and AttendedNCE, whose sounds are frames."""

    def total(objective, z):
        return sum(objective(z).values()).item()

    z = embeddings()
    without = replace(z, text_negative_ED=None, audio_negative_FD=None)
    for objective in OBJECTIVES:
        plain = total(objective, without)
        texts = total(objective, replace(without, text_negative_ED=normalize(z.audio_BD + 0.01, dim=-1)))
        sounds = total(objective, replace(without, audio_negative_FD=normalize(z.text_UD + 0.01, dim=-1)))
        reads = texts != plain and sounds != plain and not isinstance(objective, ClassTargets)
        assert reads_queue(objective) == reads, objective


# ---- In a run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def queued(tiny_recipe):
    settings = replace(tiny_recipe.train, steps=6, ema=0.9, ema_result=False, log_every=1, warmup_steps=0)
    texts = replace(tiny_recipe.texts, bank=0)  # of six classes, a bank would name every one
    batch_size = replace(tiny_recipe.batch, clips=3)
    return tiny_recipe.but(beside=(Teacher(), Queue(size=10)), train=settings, texts=texts, batch=batch_size)


def test_stopped_and_resumed_is_equal_to_the_last_bit(queued, toy_clips, tmp_path):
    whole = train(queued, toy_clips, out=tmp_path / "whole", device="cpu")
    for stop in (2, 5, None):
        run = train(queued, toy_clips, out=tmp_path / "run", device="cpu", resume=stop != 2, stop_at_step=stop)
    folders = [path / "checkpoints" / "step_00000006" / "state.safetensors" for path in (run.path, whole.path)]
    assert filecmp.cmp(folders[0], folders[1], shallow=False)
    kept = load_file(folders[0])
    assert kept["queue.audio.pushed"] == 18 and 6 < kept["queue.text.pushed"] <= 36
    assert kept["queue.audio.vectors_ND"].norm(dim=1).allclose(torch.ones(10))


def test_more_to_tell_apart_costs_more(queued, toy_clips, tmp_path):
    """Of weights that stay nearly as they were; the first step has no more than its batch."""
    logs = []
    for name, beside in (("with", queued.beside), ("without", ())):
        recipe = queued.but(beside=beside).with_set("train.lr", 1e-7)
        logs.append(train(recipe, toy_clips, out=tmp_path / name, device="cpu").log())
    assert logs[0][0]["loss"] == logs[1][0]["loss"]
    more = [with_queue["loss"] - plain["loss"] for with_queue, plain in zip(*logs, strict=True)]
    assert max(more) > 0.3 and min(more) > -1e-3


def test_a_sigmoid_and_what_is_made_of_several_train_with_it(queued, toy_clips, tmp_path):
    objective = weighted((PairwiseSigmoid(), 1.0), (Sparsity(), 0.1))
    recipe = queued.but(objective=objective).with_set("model.pair_bias", -2.0).with_set("train.micro_batch", 2)
    run = train(recipe.with_set("train.batch_norm", "frozen"), toy_clips, out=tmp_path / "run", device="cpu")
    assert all(isinstance(record["loss"], float) for record in run.log())


@dataclass(frozen=True)
class Outside:
    """An objective of somebody else that says that it reads other texts."""

    needs: ClassVar[tuple[str, ...]] = ("audio", "text", "text_negative")
    reduces: ClassVar[str] = "rows"

    def __call__(self, z):
        return {"wrong": (z.audio_BD @ z.text_negative_ED.T).square().sum() + z.audio_BD.sum()}


def test_an_objective_from_outside_reads_it_by_saying_so(queued, toy_clips, tmp_path):
    assert train(queued.but(objective=Outside()), toy_clips, out=tmp_path / "run", device="cpu") is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beside": (Queue(),)}, r"Queue\(size=4096\) holds what a slowly.*Teacher\(source='ema'\).*train\.ema=0\.995"),
        ({"beside": (Queue(size=5), Teacher(), Queue())}, "at most one Queue, this one has 2"),
        (
            {"objective": CosineDistillation()},
            "negatives, and CosineDistillation reads none.*InfoNCE, KappaNCE",
        ),
        ({"objective": ClassTargets()}, "ClassTargets reads none"),
        ({"objective": weighted((Sparsity(), 1.0))}, "Weighted reads none"),
    ],
)
def test_what_cannot_use_it_is_refused_before_anything_is_written(queued, toy_clips, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        train(queued.but(**changes), toy_clips, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_given_model_is_no_teacher_that_follows(queued, toy_clips, tmp_path):
    given = queued.but(model=None, tune=TuneSettings(), beside=(Teacher(source="given"), Queue()))
    with pytest.raises(RecipeError, match="slowly following teacher"):
        train(given, toy_clips, out=tmp_path / "run")


def test_a_queue_has_room_for_something():
    with pytest.raises(SpecError, match="at least 1, not 0"):
        Queue(size=0)
    assert not reads_queue(Siamese())
