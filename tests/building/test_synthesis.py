from __future__ import annotations

import numpy as np
import pytest

from clapkit.building.synthesis import (
    Note,
    band,
    bins_hz,
    decay,
    envelope,
    fast_length,
    filtered,
    held,
    impulses,
    modes,
    resonances,
    saw,
    shaped_noise,
    sine,
    wander,
)

RATE = 32000


def spectrum(signal: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.rfft(signal)) / len(signal) * 2


def test_fast_length_is_the_smallest_product_of_2_3_5():
    def smooth(n: int) -> bool:
        for prime in (2, 3, 5):
            while n % prime == 0:
                n //= prime
        return n == 1

    for count in (1, 2, 7, 31, 97, 1000, 1025, 12345, 128000):
        assert fast_length(count) == next(n for n in range(count, 3 * count) if smooth(n))


def test_modes_equal_the_sum_of_decaying_sines():
    frequencies, gains, decays = (220.0, 1333.3, 5000.0), (1.0, 0.5, 0.25), (0.5, 0.1, 0.02)
    t = np.arange(20000) / RATE
    expected = sum(
        g * np.exp(-t / d) * np.sin(2 * np.pi * f * t) for f, g, d in zip(frequencies, gains, decays, strict=True)
    )
    found = modes(frequencies, gains, decays, count=20000, rate_hz=RATE)
    np.testing.assert_allclose(found, expected, atol=2e-3)  # a mode ends where it has fallen by 60 dB


def test_modes_that_would_alias_are_left_out():
    assert not modes((15000,), (1.0,), (0.1,), count=1000, rate_hz=RATE).any()


@pytest.mark.parametrize("start", [0.0, 0.25])
def test_sine_of_a_constant_and_of_a_changing_frequency_agree(start):
    expected = np.sin(2 * np.pi * (start + np.arange(1, 4001) * 440 / RATE))
    np.testing.assert_allclose(sine(np.full(4000, 440.0), 4000, RATE, start), expected, atol=1e-5)
    np.testing.assert_allclose(sine(440.0, 4001, RATE, start)[1:], expected, atol=1e-5)


def test_saw_has_the_harmonics_of_a_sawtooth_and_little_between_them():
    found = spectrum(saw(1000.0, RATE, RATE))  # one second: bin = Hz
    for k in (1, 2, 3, 5):
        rounding = np.sinc(1000 * k / RATE) ** 2  # the spectrum of the two-sample triangle that rounds the steps
        assert found[1000 * k] == pytest.approx(2 / (np.pi * k) * rounding, rel=0.01)
    between = np.delete(found, np.arange(0, len(found), 1000))
    assert between.max() < 1e-3


def test_saw_aliases_far_less_than_a_naive_one():
    pitch = 3100.0
    own = np.arange(pitch, RATE / 2, pitch).astype(int)
    naive = 2 * (np.arange(RATE) * pitch / RATE % 1.0) - 1
    alias = [np.delete(spectrum(wave), [0, *own])[:8000].max() for wave in (saw(pitch, RATE, RATE), naive)]
    assert alias[0] < alias[1] / 4


def test_band_passes_inside_and_loses_3_db_at_its_corners():
    gain = band(500, 4000)(np.array([20.0, 500.0, 1400.0, 4000.0, 16000.0]))
    assert gain[2] == pytest.approx(1.0, abs=0.02)
    assert gain[[1, 3]] == pytest.approx([0.707, 0.707], abs=0.01)
    assert gain[[0, 4]].max() < 0.07


def test_resonances_are_the_sum_of_one_pole_responses():
    f = bins_hz(2048, RATE)
    expected = 1.0 / (1 + 2j * (f - 700) / 100) + 0.5 / (1 + 2j * (f - 2000) / 300)
    np.testing.assert_allclose(resonances((700, 2000), (100, 300), (1.0, 0.5))(f), expected, atol=1e-5)


def test_filtered_with_unit_response_changes_nothing(rng):
    x = rng.standard_normal(5001).astype(np.float32)
    np.testing.assert_allclose(filtered(x, RATE, np.ones_like), x, atol=1e-5)


def test_filtered_scales_a_sine_by_the_gain_at_its_frequency():
    response = band(2000, 9000)
    x = sine(1000.0, RATE, RATE)
    expected = float(response(np.array([1000.0]))[0])
    assert np.std(filtered(x, RATE, response)[4000:-4000]) == pytest.approx(expected * np.std(x), rel=0.02)


def test_shaped_noise_follows_its_response_and_has_unit_rms(rng):
    response = band(1000, 2000, 4)
    x = shaped_noise(rng, 4 * RATE, RATE, response)
    power, wanted = np.abs(np.fft.rfft(x)) ** 2, response(bins_hz(len(x), RATE)) ** 2
    for low, high in ((1000, 2000), (500, 1000), (2000, 4000)):  # in Hz; four bins a Hz
        share = wanted[4 * low : 4 * high].sum() / wanted.sum()
        assert power[4 * low : 4 * high].sum() / power.sum() == pytest.approx(share, rel=0.1)
    assert np.sqrt(np.mean(x * x)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("count", [16, 999, 40000])
def test_wander_stays_in_its_range_and_has_no_jumps(rng, count):
    curve = wander(rng, count, points=6, low=0.4, high=2.0)
    assert curve.shape == (count,)
    assert curve.min() >= 0.4 - 1e-6 and curve.max() <= 2.0 + 1e-6
    assert np.abs(np.diff(curve)).max() <= 1.6 * np.pi / 2 * 6 / count * 1.3


def test_impulses_have_the_wanted_rate(rng):
    assert np.count_nonzero(impulses(rng, 10 * RATE, RATE, 50)) == pytest.approx(500, rel=0.2)


def test_envelopes_go_through_their_points():
    found = envelope(RATE, RATE, (0.25, 0.0), (0.5, 1.0), (0.75, 0.5))
    assert found[[0, 8000, 12000, 16000, 24000, 31999]] == pytest.approx([0, 0, 0.5, 1, 0.5, 0.5])
    fall = decay(RATE, RATE, 0.1)
    assert fall[[3200, 6400]] == pytest.approx(np.exp([-1, -2]), rel=1e-4)
    edges = held(1000, RATE, 0.001, 0.002)
    assert edges[[0, 500, 999]] == pytest.approx([0, 1, 0])


def test_body_repeats_while_the_stroke_does_not(rng):
    note = Note(rate_hz=RATE, rng=rng, identity=5)
    assert note.body().uniform() == note.body().uniform()
    assert note.rng.uniform() != note.rng.uniform()
    assert note.samples(0.5) == 16000 and note.samples() == RATE
