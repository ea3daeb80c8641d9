"""Views on samples: the numbers they promise."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError
from clapkit.views.audio import Gain, NoiseAtSNR, TimeShift, rms

NOISE = np.random.default_rng(1).standard_normal(16000).astype(np.float32) * 0.1


def clip(samples, **more) -> Clip:
    return Clip("c", np.asarray(samples, np.float32), **more)


def test_rms_of_a_square_wave_is_its_height():
    assert rms(np.array([0.5, -0.5, 0.5], np.float32)) == 0.5
    assert rms(np.zeros(0, np.float32)) == 0.0


def test_a_gain_of_minus_6_db_halves_nearly():
    changed = Gain().apply(clip([1.0, -0.5]), {"gain_db": -6.0}, {})
    np.testing.assert_allclose(changed.audio, np.array([1.0, -0.5]) * 0.5011872, rtol=1e-6)


def test_gains_fill_their_range_and_no_more(rng):
    drawn = [Gain(-12.0, 6.0).draw(rng, clip([1.0]), ())["gain_db"] for _ in range(500)]
    assert -12 <= min(drawn) < -11 and 5 < max(drawn) <= 6
    assert {Gain(p=0.0).draw(rng, clip([1.0]), ())["gain_db"] for _ in range(20)} == {0.0}


def test_a_shift_turns_the_sound_round():
    moved = TimeShift().apply(clip(range(8), events=(Event("x", 0.0, 1.0),)), {"fraction": 0.25}, {})
    assert moved.audio.tolist() == [6, 7, 0, 1, 2, 3, 4, 5]
    assert moved.events == (), "their times are not true any more"


def test_no_shift_is_the_same_clip():
    given = clip(range(8), events=(Event("x", 0.0, 1.0),))
    assert TimeShift().apply(given, {"fraction": 0.0}, {}) is given


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_noise_lies_as_far_below_as_was_drawn(snr_db, colour):
    noisy = NoiseAtSNR().apply(clip(NOISE), {"snr_db": snr_db, "colour": colour, "seed": 4}, {})
    measured_db = 20 * np.log10(rms(NOISE) / rms(noisy.audio - NOISE))
    assert measured_db == pytest.approx(snr_db, abs=0.01)


@pytest.mark.parametrize(("colour", "db_per_octave"), [(0.0, 0.0), (1.0, -3.01), (2.0, -6.02)])
def test_coloured_noise_falls_as_its_name_says(colour, db_per_octave):
    silent_enough = clip(np.full(1 << 16, 1e-3))
    noisy = NoiseAtSNR().apply(silent_enough, {"snr_db": -60.0, "colour": colour, "seed": 4}, {})
    power = np.abs(np.fft.rfft(noisy.audio - silent_enough.audio)) ** 2
    octaves = [10 * np.log10(power[2**k : 2 ** (k + 1)].mean()) for k in range(7, 14)]
    assert np.mean(np.diff(octaves)) == pytest.approx(db_per_octave, abs=0.2)


def test_silence_stays_silent():
    silent = clip(np.zeros(100))
    assert NoiseAtSNR().apply(silent, {"snr_db": 10.0, "colour": 1.0, "seed": 4}, {}) is silent


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: TimeShift(p=1.5), "p is a probability between 0 and 1, not 1.5"),
        (lambda: Gain(low_db=3.0, high_db=-3.0), r"low_db=3.0 lies above high_db=-3.0"),
        (lambda: NoiseAtSNR(low_db=30.0, high_db=5.0), r"low_db=30.0 lies above high_db=5.0"),
        (lambda: NoiseAtSNR(colours=()), "colours is empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        wrong()
