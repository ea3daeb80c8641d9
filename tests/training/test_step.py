"""One step: what a batch becomes, the losses of it, and the gradients that it leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import stepping
import torch
from stepping import Beside, Seen, small_model
from torch.nn.functional import normalize

from clapkit.data.batches import Batch, event_frames, part_of
from clapkit.data.sampling import TOKENS, stream
from clapkit.errors import RecipeError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.frames import FrameSigmoid
from clapkit.spec import spec
from clapkit.towers.resnet import ResNetTower
from clapkit.training.optim import autocast, build_optimizer, resolve_precision
from clapkit.training.step import How, batch_features, take_step
from clapkit.views.spectrogram import SpecAugment

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Number:
    """Frames become the number that was drawn, so that it shows which were given to the view."""

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[str] = "mel"

    def apply(self, mel_TF, params, pool):
        return np.full_like(mel_TF, params["number"])


@pytest.fixture(scope="module")
def model(tiny_recipe):
    torch.manual_seed(1)
    return tiny_recipe.model.build().train()


def batch(lengths=(4000, 2000, 1000), *, mel_params=()) -> Batch:
    rng = np.random.default_rng(4)
    samples = np.zeros((len(lengths), 4000), np.float32)
    for row, length in zip(samples, lengths, strict=True):
        row[:length] = 0.1 * rng.standard_normal(length)
    ids, texts = tuple("abc"[: len(lengths)]), ("x", "y")
    target = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
    return Batch(0, ids, samples, np.array(lengths), texts, target, mel_params)


def encode_texts(texts):
    made = torch.arange(16.0).expand(len(texts), 16) + torch.arange(len(texts))[:, None] ** 2
    return torch.nn.functional.normalize(made.sin(), dim=-1)


def test_features_are_those_of_the_front_end(model):
    given = batch()
    features = batch_features(model, given, ())
    alone = model.frontend(torch.from_numpy(given.samples_BN[1:2, :2000]), None)
    count = int(features.mask_BT[1].sum())
    torch.testing.assert_close(features.values[1, :count], alone.values[0, :count], atol=1e-4, rtol=0)
    assert not features.values.requires_grad


def test_mel_views_change_the_real_frames_of_each_clip_alone(model):
    plain = batch_features(model, batch(), ())
    params = (tuple({"number": 10.0 * b} for b in range(3)),)
    changed = batch_features(model, batch(mel_params=params), (Number(),))
    for b in range(3):
        count = int(plain.mask_BT[b].sum())
        assert (changed.values[b, :count] == 10.0 * b).all()
        assert torch.equal(changed.values[b, count:], plain.values[b, count:]), "padding is left alone"
    assert torch.equal(changed.mask_BT, plain.mask_BT)


def test_mel_views_follow_each_other(model):
    nothing = ({"time": [], "frequency": []},) * 3
    params = (tuple({"number": 1.0} for _ in range(3)), nothing)
    changed = batch_features(model, batch(mel_params=params), (Number(), SpecAugment()))
    assert (changed.values[0] == 1.0).all()


def test_losses_and_gradients_are_the_objective_of_the_embeddings(model):
    model.train()
    given, state = batch(), {name: value.clone() for name, value in model.state_dict().items()}
    losses = take_step(model, InfoNCE(), given, How(encode_texts))
    found = stepping.gradients(model)
    model.load_state_dict(state)
    audio_BD = model.encode_features(batch_features(model, given, ()))
    z = Embeddings(audio_BD, encode_texts(given.texts), model.scale, torch.from_numpy(given.soft_target_BU))
    expected = InfoNCE()(z)
    sum(expected.values()).backward()
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in expected.items()}
    assert not any(value.requires_grad for value in losses.values())
    expected_gradients = stepping.gradients(model)
    assert found.keys() == expected_gradients.keys()
    assert all(torch.equal(found[name], value) for name, value in expected_gradients.items()), "to the bit"


def test_the_gradient_reaches_the_audio_side_and_the_scale_but_no_frozen_text(model):
    model.train()
    take_step(model, InfoNCE(), batch(), How(encode_texts))
    for name, parameter in model.named_parameters():
        if name.startswith(("audio", "logit_scale")):
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if name.startswith("text."):
            assert parameter.grad is None and not parameter.requires_grad, name
    model.zero_grad()


def test_bf16_computes_the_towers_coarsely_and_the_loss_in_full(model):
    model.eval()
    full = take_step(model, InfoNCE(), batch(), How(encode_texts))
    half = take_step(model, InfoNCE(), batch(), How(encode_texts, precision="bf16"))
    model.zero_grad()
    for name in full:
        assert half[name].dtype == torch.float32
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.05)
    assert any(half[name] != full[name] for name in full)


def test_only_bf16_hears_through_transforms_in_single_precision(model, monkeypatch):
    heard = []
    energies = model.frontend._energies
    monkeypatch.setattr(model.frontend, "_energies", lambda *x: heard.append(energies(*x)) or heard[-1])
    for precision in ("fp32", "bf16"):
        take_step(model, InfoNCE(), batch(), How(encode_texts, precision=precision))
    full, half = heard
    exact = energies(torch.from_numpy(batch().samples_BN), torch.from_numpy(batch().lengths_B))
    assert torch.equal(full, exact) and not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=1e-4, atol=1e-8)
    model.zero_grad()


def seen_by(objective: Seen, model, given: Batch, **how) -> Embeddings:
    take_step(model, objective, given, How(model.encode_texts, **how))
    model.zero_grad()
    return objective.seen[-1]


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_wrong_captions_stand_beside_their_own_clip(micro_batch):
    model, given = small_model(), stepping.batch()
    wrong = (("not this", "nor that"), (), ("nor that",), ("x", "y", "z"), (), (), ("x",))
    z = seen_by(Seen(("audio", "text", "text_private")), model, replace(given, wrong=wrong), micro_batch=micro_batch)
    assert z.text_private_BKD.shape[:2] == z.private_BK.shape == (7, 3)
    for b, texts in enumerate(wrong):
        assert z.private_BK[b].tolist() == [k < len(texts) for k in range(3)]
        for k, text in enumerate(texts):
            torch.testing.assert_close(z.text_private_BKD[b, k], model.encode_texts([text])[0])


def test_a_batch_in_which_nothing_is_wrong_has_no_room_for_it():
    z = seen_by(Seen(("audio", "text_private")), small_model(), replace(stepping.batch(), wrong=((),) * 7))
    assert z.text_private_BKD.shape == (7, 0, stepping.WIDTH) and z.private_BK.shape == (7, 0)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_what_is_known_of_the_clips_goes_with_them(micro_batch):
    model, given = small_model(), stepping.batch()
    z = seen_by(Seen(("audio", "label", "tag", "audio_other")), model, given, micro_batch=micro_batch)
    assert z.label_B.tolist() == given.label_B.tolist() and z.label_B.dtype == torch.int64
    assert z.tag_BC.tolist() == given.tag_BC.tolist()
    assert z.soft_target_BU.tolist() == given.soft_target_BU.tolist()
    other = replace(given, samples_BN=given.other_BN, lengths_B=given.other_lengths_B)
    torch.testing.assert_close(z.audio_other_BD, model.encode_features(batch_features(model, other, ())))
    assert z.bias is model.bias and z.scale == model.scale
    lean = seen_by(Seen(), model, given)
    fields = ("label_B", "tag_BC", "audio_other_BD", "text_private_BKD", "frames_BTD", "events_BUT")
    assert all(getattr(lean, name) is None for name in fields), "nothing is made that nobody reads"


def test_the_second_draw_goes_through_the_mel_views_with_its_own_parameters():
    model, given = small_model(), stepping.batch(3)
    first, second = (tuple({"number": base + b} for b in range(3)) for base in (0.0, -40.0))
    given = replace(given, mel_params=(first,), other_mel_params=(second,))
    z = seen_by(Seen(("audio", "audio_other")), model, given, mel_views=(Number(),))
    other = replace(given, samples_BN=given.other_BN, lengths_B=given.other_lengths_B, mel_params=(second,))
    torch.testing.assert_close(z.audio_other_BD, model.encode_features(batch_features(model, other, (Number(),))))
    assert not torch.allclose(z.audio_BD, z.audio_other_BD)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_frames_go_through_the_head_and_events_say_when_a_text_is_heard(micro_batch):
    model, given = small_model(), stepping.batch()
    z = seen_by(Seen(("audio", "text", "frames", "events")), model, given, micro_batch=micro_batch)
    features = batch_features(model, given, ())
    out = model.audio(features)
    torch.testing.assert_close(z.frames_BTD, normalize(model.audio_head(out.frames_BTD), dim=-1))
    torch.testing.assert_close(z.audio_BD, model.encode_features(features))
    assert torch.equal(z.frame_mask_BT, out.mask_BT)
    rate_hz = model.audio.frame_rate_hz
    for b, events in enumerate(given.events):
        for u, text in enumerate(given.texts):
            named = [(on, off) for name, on, off in events if name == text]
            for t in range(z.frames_BTD.shape[1]):
                truth = z.events_BUT[b, u, t].item()
                if not events or (not named and given.soft_target_BU[b, u] > 0):
                    assert math.isnan(truth)
                else:
                    assert truth == any(on < (t + 1) / rate_hz and off > t / rate_hz for on, off in named)
    assert {value for value in z.events_BUT.flatten().tolist() if value == value} == {0.0, 1.0}


def test_an_event_touches_frames_as_exactly_as_seconds_can_be_written():
    given = replace(stepping.batch(1, 1), events=((("a bell", 0.29, 0.31), ("a bell", -0.1, 0.01), ("rain", 0, 1)),))
    heard = event_frames(given, frames=40, rate_hz=100.0)[0, 0]
    assert heard.nonzero()[0].tolist() == [0, 29, 30]


def test_frames_of_an_objective_learn_from_micro_batches_too():
    model = small_model()
    given = stepping.batch()
    losses = take_step(model, FrameSigmoid(offset="bias"), given, How(model.encode_texts))
    expected = stepping.gradients(model)
    found = take_step(model, FrameSigmoid(offset="bias"), given, How(model.encode_texts, micro_batch=2))
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(stepping.gradients(model), expected)


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_extras_fill_what_they_make(micro_batch):
    model, beside, given = small_model(), Beside(), stepping.batch()
    needs = ("audio", "text_other", "audio_teacher", "teacher_scale", "value", "text_negative")
    z = seen_by(Seen(needs), model, given, extras=(beside,), micro_batch=micro_batch)
    made = beside(model, given, batch_features(model, given, ()), model.encode_texts)
    for name, value in made.items():
        torch.testing.assert_close(getattr(z, name), value, msg=name)


def test_dropped_tokens_are_drawn_for_each_clip_and_each_draw():
    model, given = small_model(), stepping.batch(step=5)
    seen = []

    def heard(features, keep=None):
        seen.append(keep)
        return type(model).encode_features(model, features, keep)

    model.encode_features = heard
    seen_by(Seen(("audio", "audio_other")), model, given, drop_tokens=0.6, seed=9)
    first, second = seen
    tokens = model.audio.token_count(batch_features(model, given, ()).values.shape[1])
    drawn = stream(9, TOKENS, 5).random((7, tokens)).argsort(axis=1)[:, : round(0.4 * tokens)]
    assert first.tolist() == np.sort(drawn, axis=1).tolist()
    assert first.shape == second.shape and not torch.equal(first, second)
    seen.clear()
    seen_by(Seen(), model, given, drop_tokens=0.6, seed=9, micro_batch=3)
    assert torch.equal(torch.cat(seen[:3]), first)


def test_a_part_of_a_batch_is_its_clips_and_texts():
    given = stepping.batch()
    given = replace(given, mel_params=(tuple({"number": b} for b in range(7)),))
    part = part_of(given, slice(2, 4), slice(1, 3))
    assert part.ids == ("clip2", "clip3") and part.texts == given.texts[1:3] and part.step == given.step
    assert part.soft_target_BU.tolist() == given.soft_target_BU[2:4, 1:3].tolist()
    for name in ("samples_BN", "lengths_B", "label_B", "tag_BC", "other_BN", "other_lengths_B"):
        assert np.array_equal(getattr(part, name), getattr(given, name)[2:4])
    assert part.wrong == given.wrong[2:4] and part.events == given.events[2:4]
    assert part.mel_params == (({"number": 2}, {"number": 3}),) and part.other_mel_params == ()
    bare = batch()
    assert (
        part_of(bare, slice(0, 1), slice(None)).wrong == () and part_of(bare, slice(0, 1), slice(None)).tag_BC is None
    )


@pytest.mark.parametrize("need", ["text_private", "label", "tag", "audio_other", "events", "text_teacher", "value"])
def test_a_need_that_nobody_fills_is_named(need):
    model = small_model()
    with pytest.raises(RecipeError, match=f"Seen needs '{need}'"):
        take_step(model, Seen(("audio", need)), batch(), How(model.encode_texts))


def test_extras_may_not_make_what_is_there_or_what_nobody_knows():
    model = small_model()
    how = How(model.encode_texts, extras=(lambda *_: {"audio_BD": torch.zeros(3, 8)},))
    with pytest.raises(RecipeError, match="'audio_BD', which was there"):
        take_step(model, InfoNCE(), batch(), how)
    with pytest.raises(RecipeError, match=r"'audio_teacher'.*audio_teacher_BD"):
        take_step(model, InfoNCE(), batch(), replace(how, extras=(lambda *_: {"audio_teacher": torch.zeros(3, 8)},)))


def test_tokens_are_dropped_only_where_there_are_some_and_no_frames_are_read():
    model = small_model(audio=spec(ResNetTower, width=4, depths=(1, 1)))
    with pytest.raises(RecipeError, match=r"drop_tokens=0\.5: ResNetTower"):
        take_step(model, InfoNCE(), batch(), How(model.encode_texts, drop_tokens=0.5))
    model = small_model()
    with pytest.raises(RecipeError, match="holes in time"):
        take_step(model, Seen(("audio", "frames")), batch(), How(model.encode_texts, drop_tokens=0.5))
    model.audio_head.reads = "frames"
    with pytest.raises(RecipeError, match="all frames together"):
        take_step(model, Seen(("audio", "frames")), batch(), How(model.encode_texts))


def test_settings_that_cannot_be_are_named():
    with pytest.raises(SpecError, match=r"micro_batch.*not 0"):
        How(encode_texts, micro_batch=0)
    with pytest.raises(SpecError, match=r"'froze'.*'frozen'"):
        How(encode_texts, batch_norm="froze")


def test_weight_decay_spares_norms_biases_and_the_temperature(model, tiny_recipe):
    settings = tiny_recipe.train
    decayed, spared = build_optimizer(model, settings).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (settings.weight_decay, 0.0)
    assert decayed["betas"] == (settings.beta1, settings.beta2)
    assert {p.ndim for p in spared["params"]} == {0, 1} and min(p.ndim for p in decayed["params"]) == 2
    learnt = {id(p) for _, p in model.learnt()}
    assert {id(p) for g in (decayed, spared) for p in g["params"]} == learnt
    assert id(model.logit_scale) in {id(p) for p in spared["params"]}


def test_precision_is_taken_at_its_word_or_chosen_for_the_device():
    assert resolve_precision("fp32", CPU) == "fp32" and resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")
    assert resolve_precision("auto", torch.device("meta")) == "fp32"
    for precision, expected in [("bf16", torch.bfloat16), ("fp32", torch.float32)]:
        with autocast(precision, CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
