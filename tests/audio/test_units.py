"""Units against librosa's converters and against their own inverses."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clapkit import units

FREQUENCIES_HZ = (0.0, 1.0, 50.0, 440.0, 999.999, 1000.0, 1000.001, 4000.0, 14000.0, 24000.0)


@pytest.mark.parametrize("hz", FREQUENCIES_HZ)
def test_mel_scales_are_those_of_librosa(hz):
    assert units.hz_to_mel_slaney(hz) == pytest.approx(librosa.hz_to_mel(hz), rel=1e-12, abs=1e-12)
    assert units.hz_to_mel_htk(hz) == pytest.approx(librosa.hz_to_mel(hz, htk=True), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("mel", [0.0, 1.0, 14.999, 15.0, 15.001, 30.0, 60.0, 3000.0])
def test_inverse_mel_scales_are_those_of_librosa(mel):
    assert units.mel_to_hz_htk(mel) == pytest.approx(librosa.mel_to_hz(mel, htk=True), rel=1e-12, abs=1e-12)
    if mel < 100:  # above, the Slaney scale leaves the range of a double
        assert units.mel_to_hz_slaney(mel) == pytest.approx(librosa.mel_to_hz(mel), rel=1e-12, abs=1e-12)


@given(st.floats(0.0, 96000.0))
def test_mel_scales_invert(hz):
    assert units.mel_to_hz_slaney(units.hz_to_mel_slaney(hz)) == pytest.approx(hz, rel=1e-9, abs=1e-9)
    assert units.mel_to_hz_htk(units.hz_to_mel_htk(hz)) == pytest.approx(hz, rel=1e-9, abs=1e-9)


@given(st.integers(0, 2**40), st.sampled_from([8000, 16000, 22050, 32000, 44100, 48000, 192000]))
def test_samples_and_seconds_invert(count, rate_hz):
    assert units.seconds_to_samples(units.samples_to_seconds(count, rate_hz), rate_hz) == count


def test_seconds_are_rounded_to_the_nearest_sample():
    assert units.seconds_to_samples(0.1, 44100) == 4410
    assert units.seconds_to_samples(1 / 3, 16000) == 5333


@pytest.mark.parametrize("count", [2, 499, 500, 501, 160000])
def test_frames_are_those_of_a_centred_transform(count):
    transform = librosa.stft(
        np.zeros(count, dtype=np.float32), n_fft=2, hop_length=500, center=True, pad_mode="constant"
    )
    assert units.samples_to_frames(count, 500) == transform.shape[1]


@given(st.floats(-150.0, 60.0))
def test_decibels_invert(level_db):
    assert units.gain_to_db(units.db_to_gain(level_db)) == pytest.approx(level_db, abs=1e-9)


def test_decibels_are_those_of_librosa():
    assert units.db_to_gain(-6.0) == pytest.approx(math.sqrt(librosa.db_to_power(-6.0)))
    assert units.gain_to_db(0.25) == pytest.approx(float(librosa.amplitude_to_db(np.array([0.25]), top_db=None)[0]))


@pytest.mark.parametrize("gain", [0.0, -1.0, 1e-30])
def test_no_gain_is_the_floor(gain):
    assert units.gain_to_db(gain) == -200.0
    assert units.gain_to_db(gain, floor_db=-90.0) == -90.0
