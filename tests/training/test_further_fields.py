"""Fields beyond clips and texts: other texts, wrong sounds, values, and what is read off texts for frames."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import stepping
import torch
from stepping import Seen, small_model
from torch.nn.functional import normalize

from clapkit.data.batches import Batch, BatchSize, WrongSounds, event_frames, part_of, values_BV
from clapkit.data.cache import cache_audio
from clapkit.data.clip import Clip
from clapkit.data.sampling import Shuffled
from clapkit.data.texts import TextBank, TextChoice, other_texts
from clapkit.errors import RecipeError
from clapkit.heads.framewise import FramewiseHead
from clapkit.objectives.contrast import InfoNCE, TransformNCE
from clapkit.objectives.order import TemporalNCE
from clapkit.training.beside.priors import PriorTable, counted_log_odds
from clapkit.training.beside.transforms import Transforms
from clapkit.training.companions import Predicted
from clapkit.training.loader import Loader
from clapkit.training.step import How, batch_features, take_step
from clapkit.views.audio import Gain
from clapkit.views.captions import LabelPrompts
from clapkit.views.sequence import OrderContrast
from clapkit.views.spectrogram import SpecAugment


def clip(name: str, **about) -> Clip:
    return Clip(name, np.zeros(4, np.float32), **about)


def seen_by(objective: Seen, model, given: Batch, **how):
    take_step(model, objective, given, How(model.encode_texts, **how))
    model.zero_grad()
    return objective.seen[-1]


# ---- Other texts -----------------------------------------------------------------------------------------------------


def test_another_text_is_true_of_every_clip_that_the_text_describes():
    """Against the definition, for many draws: true of all clips with the text, another one if there is any."""
    batch = [
        clip("a", captions=("x", "y", "z")),
        clip("b", captions=("x", "z"), prompts=("p",)),
        clip("c", captions=("q",)),
        clip("d", captions=("y", "w")),
    ]
    bank = TextBank([clip("e", captions=("far", "away")), clip("f", prompts=("n", "m", "o"), label="l"), *batch])
    columns = ["x", "y", "z", "p", "q", "w", "far", "n", "name of an event"]
    drawn = {text: set() for text in columns}
    for seed in range(60):
        found = other_texts(np.random.default_rng(seed), columns, batch, bank)
        for text, other in zip(columns, found, strict=True):
            drawn[text].add(other)
    expected = {"far": {"away"}, "n": {"m", "o"}, "name of an event": {"name of an event"}}
    for text in columns[:6]:
        described = [{*c.captions, *c.prompts} for c in batch if text in (*c.captions, *c.prompts)]
        expected[text] = set.intersection(*described) - {text} or {text}
    assert drawn == expected


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_other_texts_are_encoded_beside_their_texts(micro_batch):
    model, given = small_model(), stepping.batch()
    given = replace(given, other_texts=tuple(f"again {text}" for text in given.texts))
    z = seen_by(Seen(("audio", "text", "text_other")), model, given, micro_batch=micro_batch)
    torch.testing.assert_close(z.text_other_UD, model.encode_texts(given.other_texts))


def test_transforms_make_the_other_side_of_the_vectors_themselves():
    made = Transforms(hidden_width=6)
    networks, again = (made.build(stepping.WIDTH, seed=seed).double() for seed in (3, 3))
    z = stepping.embeddings()
    objective = Predicted(TransformNCE(), networks)
    assert objective.needs == ("audio", "text") and made.adds == ("audio_other", "text_other")
    audio, text = (
        normalize(again[name](v), dim=-1) for name, v in zip(made.adds, (z.audio_BD, z.text_UD), strict=True)
    )
    expected = TransformNCE()(replace(z, audio_other_BD=audio, text_other_UD=text))
    torch.testing.assert_close(objective(z), expected)


# ---- Wrong sounds ----------------------------------------------------------------------------------------------------


def with_wrong_sounds() -> Batch:
    """Texts 1 and 3 have wrong sounds, text 3 of the second kind alone."""
    given, rng = stepping.batch(), np.random.default_rng(8)
    lengths = np.array([4000, 2500, 3000])
    samples = (0.1 * rng.standard_normal((3, 4000))).astype(np.float32)
    samples[np.arange(4000) >= lengths[:, None]] = 0.0
    return replace(given, wrong_sounds=WrongSounds(samples, lengths, np.array([1, 1, 3]), np.array([0, 1, 1]), 2))


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_wrong_sounds_stand_beside_their_text(micro_batch):
    model, given = small_model(), with_wrong_sounds()
    z = seen_by(Seen(("audio", "text", "audio_private")), model, given, micro_batch=micro_batch)
    wrong = given.wrong_sounds
    assert z.audio_private_UK.tolist() == [[False] * 2, [True] * 2, [False] * 2, [False, True], [False] * 2]
    for m, (u, k) in enumerate(zip(wrong.text_M, wrong.kind_M, strict=True)):
        alone = replace(given, samples_BN=wrong.samples_MN[m : m + 1], lengths_B=wrong.lengths_M[m : m + 1])
        expected = model.encode_features(batch_features(model, alone, ()))[0]
        torch.testing.assert_close(z.audio_private_UKD[u, k], expected)


def test_order_learns_the_same_from_micro_batches():
    model, given = small_model(), replace(with_wrong_sounds(), wrong=(("not so", "nor so"),) * 7)
    objective = TemporalNCE(weights=(1.0, 0.5))
    losses = take_step(model, objective, given, How(model.encode_texts))
    expected = stepping.gradients(model)
    found = take_step(model, objective, given, How(model.encode_texts, micro_batch=2))
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(stepping.gradients(model), expected)
    plain = take_step(model, TemporalNCE(weights=(1.0, 0.5), both_sides=False), given, How(model.encode_texts))
    assert losses["text_to_audio"] > plain["text_to_audio"] and losses["audio_to_text"] == plain["audio_to_text"]


def test_where_nobody_has_anything_wrong_it_is_plain_contrast():
    model, given = small_model(), replace(with_wrong_sounds(), wrong=((),) * 7)
    none = given.wrong_sounds.of(slice(0, 1))
    given = replace(given, wrong_sounds=replace(none, kinds=0))
    found = take_step(model, TemporalNCE(weights=(1.0, 0.5)), given, How(model.encode_texts))
    torch.testing.assert_close(found, take_step(model, InfoNCE(), given, How(model.encode_texts)))


def test_a_part_has_the_wrong_sounds_of_its_texts():
    given = with_wrong_sounds()
    part = part_of(given, slice(0, 2), slice(2, 5)).wrong_sounds
    assert part.text_M.tolist() == [1] and part.kind_M.tolist() == [1] and part.lengths_M.tolist() == [3000]
    assert np.array_equal(part.samples_MN, given.wrong_sounds.samples_MN[2:]) and part.kinds == 2
    assert part_of(given, slice(0, 1), slice(None)).wrong_sounds.text_M.tolist() == [1, 1, 3]


@pytest.fixture(scope="module")
def audio(toy_clips):
    return cache_audio(toy_clips, rate_hz=8000, workers=0)


def loader(audio, *views, **more) -> Loader:
    size = BatchSize(clips=8, clip_s=0.5)
    return Loader(audio, views=views, size=size, texts=TextChoice(bank=4), sampler=Shuffled(), seed=3, **more)


ORDERED = OrderContrast(p=0.7, longest_s=0.5, gap_s=(0.0, 0.05))


def test_wrong_sounds_belong_to_the_captions_of_their_clips(audio):
    """Replayed from what was drawn; what the views behind did to the clip they did to its wrong sounds."""
    plain = {b.ids[i]: sound for b in (loader(audio).make(0),) for i, sound in enumerate(b.samples_BN)}
    batch = loader(audio, LabelPrompts(), ORDERED, Gain(), SpecAugment()).make(0)
    told = {c.id: c for c in loader(audio, LabelPrompts()).clips}
    pool = {name: told[name].with_(audio=sound, rate_hz=8000) for name, sound in plain.items()}
    combined = 0
    for b, name in enumerate(batch.ids):
        made = ORDERED.apply(pool[name], batch.params["0:OrderContrast"][b], pool)
        rows = [m for m, u in enumerate(batch.wrong_sounds.text_M) if batch.texts[u] in made.captions]
        if not made.wrong_sounds:
            continue
        combined += 1
        assert batch.wrong_sounds.kind_M[rows].tolist() == [0, 1] and batch.wrong[b] == made.wrong
        for m, sound in zip(rows, made.wrong_sounds, strict=True):
            gained = Gain().apply(made.with_(audio=sound), batch.params["1:Gain"][b], pool).audio[:4000]
            assert batch.wrong_sounds.lengths_M[m] == len(gained)
            np.testing.assert_array_equal(batch.wrong_sounds.samples_MN[m, : len(gained)], gained)
            assert batch.wrong_sounds.mel_params[0][m] == batch.mel_params[0][b]
    assert combined == len(batch.wrong_sounds.text_M) / 2 > 2 and batch.wrong_sounds.kinds == 2


def test_a_view_that_makes_wrong_sounds_gives_every_batch_the_field(audio):
    nobody = loader(audio, LabelPrompts(), replace(ORDERED, p=0.0)).make(0).wrong_sounds
    assert nobody.kinds == 0 and len(nobody.samples_MN) == 0
    assert loader(audio, LabelPrompts()).make(0).wrong_sounds is None


def test_asking_for_other_texts_changes_nothing_else(audio):
    views = (LabelPrompts(per_clip=2), Gain())
    plain, asked = (loader(audio, *views, other_texts=asked).make(1) for asked in (False, True))
    assert plain.texts == asked.texts and plain.params == asked.params and plain.other_texts == ()
    assert len(asked.other_texts) == len(asked.texts) and set(asked.other_texts) - set(asked.texts)
    assert asked.other_texts == loader(audio, *views, other_texts=True).make(1).other_texts


# ---- Values ----------------------------------------------------------------------------------------------------------


def test_a_mixture_has_the_values_of_its_sources_in_their_shares():
    a, b, bare = clip("a", values=(2.0, 5.0)), clip("b", values=(4.0, -1.0)), clip("c")
    mixed = a.with_(sources=(("a", 0.25), ("b", 0.75)))
    unknown = a.with_(sources=(("a", 0.5), ("c", 0.5)))
    found = values_BV([a, mixed, unknown, bare], [{}, {"b": b}, {"c": bare}, {}], count=2)
    expected = [[2, 5], [0.25 * 2 + 0.75 * 4, 0.25 * 5 - 0.75], [math.nan] * 2, [math.nan] * 2]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_values_reach_the_objective_and_a_gap_is_named():
    model, given = small_model(), stepping.batch()
    values = np.arange(14, dtype=np.float32).reshape(7, 2)
    z = seen_by(Seen(("audio", "value")), model, replace(given, value_BV=values), micro_batch=3)
    assert z.value_BV.tolist() == values.tolist() and z.value_BV.dtype == torch.float64
    values[4, 1] = math.nan
    with pytest.raises(RecipeError, match="Seen needs 'value', and of the 7 clips of a batch 1 have none: clip4"):
        take_step(model, Seen(("audio", "value")), replace(given, value_BV=values), How(model.encode_texts))


# ---- What is read off texts for frames -------------------------------------------------------------------------------


def text_features(texts):
    return torch.stack([torch.linspace(-1, len(text), 12).cos() for text in texts]).double()


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_the_frame_head_says_prior_and_steepness_of_each_text(micro_batch):
    model, given = small_model(), stepping.batch()
    model.framewise = FramewiseHead(text_width=12, hidden_width=5).double()
    model.framewise.log_scale.fill_(0.3)
    needs = ("audio", "text", "text_prior", "text_scale")
    z = seen_by(Seen(needs), model, given, micro_batch=micro_batch, text_features=text_features)
    terms = model.framewise(text_features(given.texts))
    torch.testing.assert_close(z.text_prior_U, terms.bias_C)
    torch.testing.assert_close(z.text_scale_U, terms.scale_C * math.exp(0.3))


def test_log_odds_are_counted_frame_by_frame():
    batches = [stepping.batch(seed=seed) for seed in (3, 4)]
    found = counted_log_odds(batches, rate_hz=8000, frame_rate_hz=20.0)
    expected = {}
    for text in batches[0].texts:
        heard = known = 0
        for batch in batches:
            u = batch.texts.index(text)
            for b, length in enumerate(batch.lengths_B):
                frames = math.ceil(length / 8000 * 20)
                says = event_frames(part_of(batch, slice(b, b + 1), slice(u, u + 1)), frames=frames, rate_hz=20.0)[0, 0]
                heard, known = heard + (says == 1).sum(), known + (~np.isnan(says)).sum()
        expected[text] = math.log((heard + 0.5) / (known - heard + 0.5))
    assert found == pytest.approx(expected)
    nothing = replace(batches[0], events=((),) * 7)
    assert counted_log_odds([nothing], rate_hz=8000, frame_rate_hz=20.0) == {}


def test_a_table_of_priors_says_the_mean_of_texts_that_it_does_not_know():
    table = PriorTable({"a bell": -2.0, "rain": -4.0})
    z = table(None, stepping.batch(3, 4), None, None)["text_prior_U"]
    assert z.tolist() == [-2.0, -3.0, -4.0, -3.0] and z.requires_grad
