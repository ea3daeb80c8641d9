"""One sound over another: the level, the place, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError
from clapkit.views.layers import Background, LoudnessOrder, Overlap

RATE_HZ = 8000


def noise(seed: int, seconds: float, height: float) -> np.ndarray:
    return height * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ)).astype(np.float32)


DOG = Clip("d", noise(1, 3.0, 0.05), captions=("a dog barks",), label="dog", tags=("animal",), rate_hz=RATE_HZ)
BELL = Clip("b", noise(2, 1.0, 0.004), captions=("a bell rings",), wrong=("a quiet bell",), rate_hz=RATE_HZ)
BY_ID = {"d": DOG, "b": BELL}


def slow_rms(samples) -> float:
    return (sum(float(x) ** 2 for x in samples) / len(samples)) ** 0.5


def overlap(**changes) -> Clip:
    params = {"partner": "b", "snr_db": 0.0, "onset": 0.5, "connective": 0, "wrong_connective": 0}
    return Overlap().apply(DOG, {**params, "wrong_clip_first": True, **changes}, BY_ID)


@pytest.mark.parametrize("snr_db", [-6.0, 0.0, 12.5])
def test_the_partner_lies_as_far_below_as_was_drawn(snr_db):
    over = overlap(snr_db=snr_db).audio - DOG.audio
    part = over[np.flatnonzero(over)[0] : np.flatnonzero(over)[-1] + 1]
    assert 20 * np.log10(slow_rms(DOG.audio) / slow_rms(part)) == pytest.approx(snr_db, abs=0.01)


@pytest.mark.parametrize("onset", [0.0, 0.37, 1.0])
def test_the_partner_sounds_where_its_event_says(onset):
    made = overlap(onset=onset)
    bell = next(e for e in made.events if e.label == "a bell rings")
    lag = int(np.argmax(np.correlate(made.audio, BELL.audio, mode="valid")))
    assert (bell.onset_s, bell.offset_s) == pytest.approx((lag / RATE_HZ, lag / RATE_HZ + 1.0), abs=1e-9)
    assert next(e for e in made.events if e.label == "dog") == Event("dog", 0.0, 3.0)
    assert len(made.audio) == len(DOG.audio)


def test_a_longer_partner_is_cut_to_the_clip_and_the_clip_to_the_limit():
    params = {"partner": "d", "snr_db": 0.0, "onset": 0.9, "connective": 0, "wrong_connective": 0}
    short = Overlap().apply(BELL, {**params, "wrong_clip_first": True}, BY_ID)
    assert len(short.audio) == RATE_HZ and {(e.onset_s, e.offset_s) for e in short.events} == {(0.0, 1.0)}
    cut = Overlap(longest_s=0.5).apply(DOG, {**params, "partner": "b", "wrong_clip_first": True}, BY_ID)
    assert len(cut.audio) == 0.5 * RATE_HZ


def test_at_once_is_said_and_one_after_the_other_is_wrong():
    made = overlap()
    assert made.captions == ("a dog barks while a bell rings",)
    assert made.wrong == ("a dog barks, then a bell rings", "a dog barks while a quiet bell")
    assert overlap(wrong_clip_first=False).wrong[0] == "a bell rings, then a dog barks"
    assert made.tags == ("animal", "dog") and made.label is None and made.sources == ()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("connective", range(4))
def test_the_louder_one_is_named_so(sign, connective):
    params = {"partner": "b", "snr_db": sign * 10.0, "onset": 0.2, "connective": connective}
    made = LoudnessOrder().apply(DOG, params, BY_ID)
    over = made.audio - DOG.audio
    part = over[np.flatnonzero(over)[0] : np.flatnonzero(over)[-1] + 1]
    louder, quieter = (
        ("dog barks", "bell rings") if slow_rms(DOG.audio) > slow_rms(part) else ("bell rings", "dog barks")
    )
    assert (louder == "dog barks") == (sign > 0)
    true = {
        f"a {louder} louder than a {quieter}",
        f"a {quieter} quieter than a {louder}",
        f"loudly a {louder}, quietly a {quieter}",
        f"quietly a {quieter}, loudly a {louder}",
    }
    assert set(made.captions) < true and not set(made.wrong) & true


def test_both_are_the_louder_one_now_and_then(rng):
    drawn = [LoudnessOrder(p=1.0).draw(rng, DOG, [DOG, BELL])["snr_db"] for _ in range(200)]
    assert {d > 0 for d in drawn} == {True, False} and all(8.0 <= abs(d) <= 16.0 for d in drawn)


@pytest.mark.parametrize("snr_db", [6.0, 13.3])
def test_a_bed_lies_under_the_whole_of_the_clip(snr_db):
    made = Background().apply(DOG, {"partner": "b", "snr_db": snr_db, "connective": 0}, BY_ID)
    bed = made.audio - DOG.audio
    assert 20 * np.log10(slow_rms(DOG.audio) / slow_rms(bed)) == pytest.approx(snr_db, abs=0.01)
    np.testing.assert_allclose(bed[:RATE_HZ], bed[RATE_HZ : 2 * RATE_HZ], atol=1e-6)  # a bed of 1 s, three times
    assert made.captions == ("a dog barks with a bell rings in the background",)
    assert made.wrong[0] == "a bell rings with a dog barks in the background"
    assert set(made.events) == {Event("dog", 0.0, 3.0), Event("a bell rings", 0.0, 3.0)}


def test_silence_in_the_clip_is_kept_and_does_not_count_for_its_level():
    padded = DOG.with_(audio=np.concatenate([np.zeros(RATE_HZ, np.float32), DOG.audio]))
    made = Background().apply(padded, {"partner": "b", "snr_db": 10.0, "connective": 0}, BY_ID)
    bed = made.audio - padded.audio
    assert 20 * np.log10(slow_rms(DOG.audio) / slow_rms(bed)) == pytest.approx(10.0, abs=0.01)
    assert next(e for e in made.events if e.label == "dog") == Event("dog", 1.0, 4.0)


def test_peaks_stay_within_full_scale_and_the_snr_too():
    loud = DOG.with_(audio=DOG.audio * (0.99 / np.abs(DOG.audio).max()).astype(np.float32))
    params = {"partner": "b", "snr_db": 0.0, "onset": 0.5, "connective": 0, "wrong_connective": 0}
    made = Overlap().apply(loud, {**params, "wrong_clip_first": True}, BY_ID)
    assert np.abs(made.audio).max() == pytest.approx(1.0, abs=1e-6)
    gain = made.audio[0] / loud.audio[0]
    over = made.audio / gain - loud.audio
    part = over[np.abs(over) > 1e-6]
    assert 20 * np.log10(slow_rms(loud.audio) / slow_rms(part)) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Overlap(snr_db=(3.0, -3.0)), r"snr_db is a pair \(low, high\), not \(3.0, -3.0\)"),
        (lambda: Overlap(longest_s=-1.0), "longest_s is a length above 0 seconds, not -1.0"),
        (lambda: LoudnessOrder(difference_db=(0.0, 3.0)), r"difference_db=\(0.0, 3.0\): the louder one"),
        (lambda: Background(snr_db=(-3.0, 3.0)), r"snr_db=\(-3.0, 3.0\): a bed lies under"),
        (lambda: Background(p=-0.1), "p is a probability between 0 and 1, not -0.1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        wrong()
