"""Room, speed, band and bits: measured at what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError
from clapkit.views.audio import rms
from clapkit.views.channels import Band, EightBits, Polarity, Room, Speed, transform_length

RATE_HZ = 16000


def clip(samples, **more) -> Clip:
    return Clip("c", np.asarray(samples, np.float32), rate_hz=RATE_HZ, **more)


def tone(frequency_hz: float, seconds: float = 1.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)


NOISE = 0.1 * np.random.default_rng(3).standard_normal(RATE_HZ)


def measured_rt60_s(response: np.ndarray) -> float:
    """Schroeder: the energy still to come falls in a line; its slope from -5 to -25 dB, carried on to -60."""
    remaining = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    decay_db = 10 * np.log10(remaining / remaining[0])
    inside = np.flatnonzero((decay_db < -5) & (decay_db > -25))
    slope = np.polyfit(inside / RATE_HZ, decay_db[inside], 1)[0]
    return -60.0 / slope


@pytest.mark.parametrize("rt60_s", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_room_decays_as_its_time_says(rt60_s, seed):
    click = np.zeros(round(1.5 * RATE_HZ))
    click[0] = 0.5
    heard = Room().apply(clip(click), {"rt60_s": rt60_s, "direct_db": 0.0, "seed": seed}, {}).audio
    assert measured_rt60_s(heard[1:]) == pytest.approx(rt60_s, rel=0.06)


@pytest.mark.parametrize("direct_db", [-3.0, 0.0, 12.0])
def test_the_direct_sound_stands_as_far_out_as_was_drawn(direct_db):
    click = np.zeros(2 * RATE_HZ)
    click[100] = 0.5
    heard = Room().apply(clip(click), {"rt60_s": 0.4, "direct_db": direct_db, "seed": 5}, {}).audio.astype(np.float64)
    assert int(np.argmax(np.abs(heard))) == 100, "the direct sound stays where it was"
    measured_db = 10 * np.log10(heard[100] ** 2 / (heard[101:] ** 2).sum())
    assert measured_db == pytest.approx(direct_db, abs=0.01)
    np.testing.assert_allclose(heard[:100], 0.0, atol=1e-7)


def test_a_room_is_a_convolution_that_keeps_length_and_level():
    params = {"rt60_s": 0.15, "direct_db": 3.0, "seed": 2}
    click = np.zeros(3000)
    click[0] = 1.0
    response = Room().apply(clip(click), params, {}).audio.astype(np.float64)
    heard = Room().apply(clip(NOISE[:2000]), params, {}).audio
    slow = np.array([sum(response[k] * NOISE[n - k] for k in range(n + 1)) for n in range(2000)])
    np.testing.assert_allclose(heard, slow * rms(NOISE[:2000]) / rms(slow), atol=1e-5)
    assert rms(heard) == pytest.approx(rms(NOISE[:2000]), rel=1e-5)


def test_transforms_have_the_next_length_made_of_small_primes():
    def smooth(n: int) -> bool:
        for prime in (2, 3, 5):
            while n % prime == 0:
                n //= prime
        return n == 1

    for count in [*range(1, 400), 531234]:
        assert transform_length(count) == next(n for n in range(count, 2 * count + 1) if smooth(n))


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_speed_changes_pitch_and_length_together(factor):
    bell = (Event("bell", 0.25, 0.5), Event("end", 0.9, 1.0))
    played = Speed().apply(clip(tone(1000.0), events=bell), {"factor": factor}, {})
    spectrum = np.abs(np.fft.rfft(played.audio * np.hanning(len(played.audio)), 1 << 18))
    assert np.argmax(spectrum) * RATE_HZ / (1 << 18) == pytest.approx(1000.0 * factor, abs=0.5)
    assert len(played.audio) == min(RATE_HZ, round(RATE_HZ / factor))
    assert (played.events[0].onset_s, played.events[0].offset_s) == pytest.approx((0.25 / factor, 0.5 / factor))
    assert len(played.events) == (1 if factor == 0.8 else 2), "what is cut off is no event any more"


def test_an_event_is_heard_where_it_was_moved_to():
    sound = np.zeros(RATE_HZ)
    sound[8000:8400] = NOISE[:400]
    played = Speed().apply(clip(sound, events=(Event("x", 0.5, 0.525),)), {"factor": 1.25}, {})
    loud = np.flatnonzero(np.abs(played.audio) > 0.02)
    assert (loud[0] / RATE_HZ, loud[-1] / RATE_HZ) == pytest.approx(
        (played.events[0].onset_s, played.events[0].offset_s), abs=0.002
    )


@pytest.mark.parametrize(
    ("params", "frequency_hz", "gain_db"),
    [
        ({"below_hz": 1000.0}, 1000.0, -3.01),
        ({"below_hz": 1000.0}, 2000.0, -24.1),
        ({"below_hz": 1000.0}, 250.0, 0.0),
        ({"above_hz": 1000.0}, 1000.0, -3.01),
        ({"above_hz": 1000.0}, 500.0, -24.1),
        ({"above_hz": 300.0, "below_hz": 3400.0}, 1000.0, 0.0),
        ({"above_hz": 300.0, "below_hz": 3400.0}, 150.0, -24.1),
        ({"above_hz": 300.0, "below_hz": 3400.0}, 6800.0, -24.1),
        ({"below_hz": 9000.0}, 7000.0, 0.0),
    ],
)
def test_filters_fall_as_they_say(params, frequency_hz, gain_db):
    heard = Band().apply(clip(tone(frequency_hz)), params, {}).audio
    middle = slice(4000, 12000)
    assert 20 * np.log10(rms(heard[middle]) / rms(tone(frequency_hz)[middle])) == pytest.approx(gain_db, abs=0.1)


def test_filters_delay_nothing():
    click = np.zeros(2000)
    click[700] = 1.0
    assert int(np.argmax(Band().apply(clip(click), {"below_hz": 3000.0}, {}).audio)) == 700


def test_each_kind_of_band_is_drawn(rng):
    drawn = [Band(p=1.0).draw(rng, clip([0.0]), ()) for _ in range(300)]
    assert {tuple(sorted(d)) for d in drawn} == {("below_hz",), ("above_hz",), ("above_hz", "below_hz")}
    corners = [d["below_hz"] for d in drawn if set(d) == {"below_hz"}]
    assert 2000 <= min(corners) < 2300 and 7000 < max(corners) <= 8000
    assert Band(kinds=("telephone",), p=1.0).draw(rng, clip([0.0]), ()) == {"above_hz": 300.0, "below_hz": 3400.0}


def slow_mu_law(x: float) -> float:
    """Compand, round to 127 steps on either side of zero, expand: sample by sample."""
    y = math.copysign(math.log(1 + 255 * abs(x)) / math.log(256), x)
    step = math.floor(abs(y) * 127 + 0.5) / 127
    return math.copysign((256**step - 1) / 255, y)


def test_mu_law_is_the_formula_and_finer_where_it_is_soft():
    samples = np.concatenate([NOISE[:500], [0.0, 1.0, -1.0, 1.5, -2.0]])
    coded = EightBits().apply(clip(samples), {"law": "mu"}, {}).audio
    given = np.clip(samples.astype(np.float32), -1, 1)
    np.testing.assert_allclose(coded, [slow_mu_law(float(x)) for x in given], atol=1e-6)
    soft = 0.01 * tone(500.0)
    error = {law: rms(EightBits().apply(clip(soft), {"law": law}, {}).audio - soft) for law in ("mu", "linear")}
    assert error["mu"] < error["linear"] / 5
    assert len(set(EightBits().apply(clip(np.linspace(-1, 1, 100001)), {"law": "mu"}, {}).audio)) == 255


def test_eight_even_bits_have_256_values():
    coded = EightBits().apply(clip(np.linspace(-1.2, 1.2, 5000)), {"law": "linear"}, {}).audio
    assert sorted(set(coded.tolist())) == [k / 128 for k in range(-128, 128)]
    assert np.abs(coded - np.linspace(-1.2, 1.2, 5000))[500:4500].max() <= 1 / 256 + 1e-6


def test_upside_down_twice_is_the_clip_again():
    once = Polarity().apply(clip(NOISE), {"turned": True}, {})
    np.testing.assert_array_equal(once.audio, -clip(NOISE).audio)
    np.testing.assert_array_equal(Polarity().apply(once, {"turned": True}, {}).audio, clip(NOISE).audio)


@pytest.mark.parametrize("view", [Room(p=0.0), Speed(p=0.0), Band(p=0.0), EightBits(p=0.0), Polarity(p=0.0)], ids=repr)
def test_a_probability_of_zero_changes_nothing(view, rng):
    given = clip(NOISE)
    assert all(view.apply(given, view.draw(rng, given, ()), {}) is given for _ in range(20))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Room(rt60_s=(0.0, 1.0)), r"rt60_s=\(0.0, 1.0\): a decay takes more than 0 seconds"),
        (lambda: Room(direct_db=(3.0, 1.0)), r"direct_db is a pair \(low, high\), not \(3.0, 1.0\)"),
        (lambda: Speed(slowest=1.2, fastest=1.1), "slowest=1.2, fastest=1.1"),
        (lambda: Band(kinds=()), "kinds is empty"),
        (lambda: Band(kinds=("telefone",)), "kinds has no 'telefone'; did you mean 'telephone'"),
        (lambda: Band(low_pass_hz=(0.0, 10.0)), r"low_pass_hz=\(0.0, 10.0\): a corner lies above 0 Hz"),
        (lambda: EightBits(laws=("a",)), "laws has no 'a'; known: linear, mu"),
        (lambda: Polarity(p=3), "p is a probability between 0 and 1, not 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        wrong()


def test_without_a_rate_nothing_is_guessed():
    for view, params in ((Speed(), {"factor": 1.1}), (Band(), {"below_hz": 100.0})):
        with pytest.raises(SpecError, match="clip 'c' holds samples without rate_hz"):
            view.apply(clip(NOISE).with_(rate_hz=None), params, {})
