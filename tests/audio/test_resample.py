from __future__ import annotations

import math

import numpy as np
import pytest

from clapkit.audio.resample import MAX_RATE_HZ, checked_rate, resample, resample_blocks, resampled_length
from clapkit.errors import SpecError

PAIRS = [(44100, 48000), (48000, 16000), (8000, 48000), (192000, 32000), (22050, 16000), (999983, 48000)]


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_a_sine_stays_the_same_sine(from_hz, to_hz):
    def sine(rate_hz):
        return np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz).astype(np.float32)

    made, expected = resample(sine(from_hz), from_hz, to_hz), sine(to_hz)
    assert made.dtype == np.float32 and len(made) == to_hz
    inside = slice(to_hz // 10, -to_hz // 10)  # a sine that starts out of nothing rings at its ends
    np.testing.assert_allclose(made[inside], expected[inside], atol=2e-4)


def test_an_impulse_stays_where_it_was():
    samples = np.zeros(4410, np.float32)
    samples[2205] = 1.0
    assert np.argmax(resample(samples, 44100, 48000)) == 2400


def test_equal_rates_change_nothing(rng):
    samples = rng.standard_normal(100).astype(np.float32)
    assert np.array_equal(resample(samples, 16000, 16000), samples)


def test_channels_are_resampled_one_by_one(rng):
    samples_NC = rng.standard_normal((3000, 3)).astype(np.float32)
    together = resample(samples_NC, 44100, 16000)
    for channel in range(3):
        assert np.array_equal(together[:, channel], resample(samples_NC[:, channel], 44100, 16000))


def test_resampling_is_linear_so_that_the_downmix_may_come_first(rng):
    stereo = rng.standard_normal((5000, 2)).astype(np.float32)
    first = resample(stereo.mean(1), 48000, 44100)
    np.testing.assert_allclose(first, resample(stereo, 48000, 44100).mean(1), atol=1e-6)


@pytest.mark.parametrize(("from_hz", "to_hz"), [*PAIRS, (96000, 44100), (1_000_000, 8000), (48000, 1), (1, 48000)])
def test_length_is_exactly_the_documented_one(from_hz, to_hz):
    for count in [*range(1, 40), 240, 999, 1000]:
        if count * to_hz / from_hz > 1e6 or (to_hz == 1 and count > 2):  # the filters of 48000 to 1 take long to design
            continue
        exact = count * to_hz / from_hz
        expected = max(1, math.ceil(exact - 0.5))
        assert resampled_length(count, from_hz, to_hz) == expected
        assert len(resample(np.ones(count, np.float32), from_hz, to_hz)) == expected


def test_nothing_stays_nothing():
    assert resampled_length(0, 44100, 48000) == 0
    assert len(resample(np.zeros(0, np.float32), 44100, 48000)) == 0
    assert list(resample_blocks([], 44100, 48000)) == []


def test_half_an_output_sample_of_sound_comes_out_as_one():
    assert resample(np.ones(3, np.float32), 192000, 8000)[0] != 0


@pytest.mark.parametrize(("from_hz", "to_hz"), [*PAIRS, (16000, 16000)])
@pytest.mark.parametrize("count", [1, 2, 3, 500, 30001])
def test_blocks_join_to_the_very_samples_of_the_whole(rng, from_hz, to_hz, count):
    samples = rng.standard_normal(count).astype(np.float32)
    cuts = np.sort(rng.integers(0, count + 1, 5))
    joined = np.concatenate(list(resample_blocks(np.split(samples, cuts), from_hz, to_hz)))
    assert np.array_equal(joined, resample(samples, from_hz, to_hz))


@pytest.mark.parametrize("rate_hz", [0, -1, math.nan, math.inf, 44100.5, MAX_RATE_HZ + 1, "44100", None, True])
def test_what_is_no_rate_is_named(rate_hz):
    with pytest.raises(SpecError, match="not a sample rate") as raised:
        resample(np.zeros(10, np.float32), rate_hz, 48000)
    assert repr(rate_hz) in str(raised.value)


def test_rates_of_other_number_types_are_rates():
    assert [checked_rate(r) for r in (44100.0, np.int64(8000), np.float32(16000))] == [44100, 8000, 16000]
