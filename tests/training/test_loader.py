"""Batches: a pure function of the step, complete, and made ahead without leaving a thread behind."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from clapkit.data.batches import BatchSize
from clapkit.data.cache import cache_audio
from clapkit.data.clip import Clip
from clapkit.data.sampling import Shuffled
from clapkit.data.texts import TextChoice
from clapkit.training.loader import Loader, prefetched
from clapkit.views.audio import Gain, TimeShift
from clapkit.views.captions import LabelPrompts
from clapkit.views.mixtures import MixClips, mix
from clapkit.views.spectrogram import SpecAugment

ALL_VIEWS = (LabelPrompts(per_clip=2), TimeShift(), Gain(), MixClips(p=0.7), SpecAugment())


@pytest.fixture
def audio(toy_clips):
    return cache_audio(toy_clips, rate_hz=8000, workers=0)


def loader(audio, *, views=ALL_VIEWS, clips: int = 8, clip_s: float = 0.5, seed: int = 3, **texts) -> Loader:
    size, choice = BatchSize(clips=clips, clip_s=clip_s), TextChoice(**{"bank": 4, **texts})
    return Loader(audio, views=views, size=size, texts=choice, sampler=Shuffled(), seed=seed)


def assert_equal(a, b) -> None:
    assert (a.step, a.ids, a.texts, a.mel_params, a.params) == (b.step, b.ids, b.texts, b.mel_params, b.params)
    for name in ("samples_BN", "lengths_B", "soft_target_BU"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_batch_is_a_function_of_its_step(audio):
    one, other = loader(audio), loader(audio)
    batches = [one.make(step) for step in range(4)]
    for step in (3, 0, 2):
        assert_equal(other.make(step), batches[step])
    assert not np.array_equal(batches[0].samples_BN, batches[1].samples_BN)
    assert not np.array_equal(loader(audio, seed=4).make(0).samples_BN, batches[0].samples_BN)


def test_a_batch_is_whole(audio):
    for step in range(5):
        batch = loader(audio).make(step)
        assert batch.samples_BN.shape == (8, 4000) and batch.samples_BN.dtype == np.float32
        assert batch.lengths_B.tolist() == [4000] * 8 and len(batch.ids) == 8
        assert len(set(batch.texts)) == len(batch.texts)
        assert batch.soft_target_BU.shape == (8, len(batch.texts))
        np.testing.assert_allclose(batch.soft_target_BU.sum(1), 1.0, rtol=1e-6)
        json.dumps([batch.params, batch.mel_params])


def test_an_epoch_shows_every_clip_once(audio, toy_clips):
    seen = [name for step in range(3) for name in loader(audio).make(step).ids]
    assert sorted(seen) == sorted(c.id for c in toy_clips)


def test_what_was_drawn_explains_the_sound(audio):
    """A batch with one view, replayed by hand from its logged parameters and the plain batch."""
    plain = loader(audio, views=()).make(2)
    mixed = loader(audio, views=(MixClips(p=0.7),)).make(2)
    sound = dict(zip(plain.ids, plain.samples_BN, strict=True))
    (drawn,) = mixed.params.values()
    assert 2 < sum(bool(p) for p in drawn) < 8
    for name, samples, params in zip(mixed.ids, mixed.samples_BN, drawn, strict=True):
        expected = mix(sound[name], sound[params["partner"]], params["share"]) if params else sound[name]
        np.testing.assert_allclose(samples, expected, atol=1e-6)


def test_a_mixed_clip_is_described_by_its_partner_too(audio):
    batch = loader(audio, views=(LabelPrompts(), MixClips(p=1.0)), bank=0).make(0)
    (drawn,) = batch.params.values()
    for b, params in enumerate(drawn):
        if params:
            own = batch.soft_target_BU[batch.ids.index(params["partner"])] > 0
            assert batch.soft_target_BU[b, own].sum() >= 1 - params["share"] - 1e-5


def test_the_crop_lies_inside_the_clip_and_moves(audio):
    """Long clips are heard from different places; what is heard is a stretch of the stored sound."""
    starts = set()
    for step in range(6):
        batch = loader(audio, views=(), clip_s=0.25).make(step)
        for name, samples in zip(batch.ids, batch.samples_BN, strict=True):
            whole = audio.samples(int(name[4:]))
            places = np.flatnonzero(whole == samples[0])
            (start,) = [p for p in places if np.array_equal(whole[p : p + 2000], samples)]
            starts.add(int(start))
    assert len(starts) > 20 and max(starts) <= 2800


def test_short_clips_are_padded_and_their_length_is_told(audio):
    batch = loader(audio, views=(), clip_s=1.0).make(0)
    assert batch.samples_BN.shape == (8, 8000) and batch.lengths_B.tolist() == [4800] * 8
    assert not batch.samples_BN[:, 4800:].any()


def test_a_batch_larger_than_the_data_repeats_clips(toy_clips):
    few = cache_audio(toy_clips[:3], rate_hz=8000, workers=0)
    batch = loader(few).make(0)
    assert len(batch.ids) == 8 and set(batch.ids) == {"clip00", "clip01", "clip02"}
    np.testing.assert_allclose(batch.soft_target_BU.sum(1), 1.0, rtol=1e-6)


def test_the_bank_adds_columns_and_equal_labels_share_them(audio):
    plain, banked = loader(audio, bank=0).make(0), loader(audio, bank=6).make(0)
    assert len(plain.texts) < len(banked.texts) <= len(plain.texts) + 6
    assert set(banked.texts) <= set(loader(audio).all_texts())


def test_all_texts_are_those_of_the_clips(audio):
    made = loader(audio)
    assert made.all_texts() == list(dict.fromkeys(t for c in made.clips for t in (*c.captions, *c.prompts)))
    assert all(len(c.prompts) == 2 for c in made.clips)


def test_batches_made_ahead_come_in_order(audio):
    made = loader(audio)
    for step, batch in zip(range(2, 6), prefetched(made, 2, 6), strict=True):
        assert_equal(batch, made.make(step))
    assert list(prefetched(made, 3, 3)) == []


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "clapkit-loader"]


def test_leaving_early_ends_the_thread(audio):
    batches = prefetched(loader(audio), 0, 1000)
    next(batches)
    assert threads() == ["clapkit-loader"]
    batches.close()
    assert threads() == []


def test_an_error_in_the_thread_is_raised_to_the_caller(audio):
    class Failing(Shuffled):
        def rows(self, count, batch_size, step, seed):
            if step == 2:
                raise ValueError("row 2 is broken")
            return super().rows(count, batch_size, step, seed)

    made = Loader(audio, views=(), size=BatchSize(8, 0.5), texts=TextChoice(), sampler=Failing(), seed=0)
    got = []
    with pytest.raises(ValueError, match="row 2 is broken"):
        got.extend(batch.step for batch in prefetched(made, 0, 5))
    assert threads() == []


def test_text_views_speak_once_for_the_whole_run(audio):
    drawn = loader(audio).clips
    assert [c.prompts for c in drawn] == [c.prompts for c in loader(audio).clips]
    assert len({c.prompts for c in drawn if c.label == "rain"}) > 1, "each clip draws for itself"


@pytest.mark.parametrize(
    ("fill", "expected", "heard"),
    [
        ("mask", [1, 2, 3, 0, 0, 0, 0, 0], 3),
        ("zeros", [1, 2, 3, 0, 0, 0, 0, 0], 8),
        ("repeat", [1, 2, 3, 1, 2, 3, 1, 2], 8),
        ("repeat-pad", [1, 2, 3, 1, 2, 3, 0, 0], 8),
    ],
)
def test_a_short_clip_is_filled_as_the_windows_of_the_model(fill, expected, heard):
    counts = np.array([1, 2, 3], np.float32) / 32767
    clips = [Clip("a", counts, captions=("a",)), Clip("b", counts[::-1].copy(), captions=("b",))]
    audio = cache_audio(clips, rate_hz=8000, workers=0)
    size = BatchSize(clips=2, clip_s=8 / 8000)
    made = Loader(audio, views=(), size=size, texts=TextChoice(), sampler=Shuffled(), seed=0, fill=fill).make(0)
    row = made.ids.index("a")
    assert (made.samples_BN[row] * 32767).round().tolist() == expected
    assert made.lengths_B.tolist() == [heard, heard]
