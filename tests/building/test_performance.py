"""Can the stated attributes be heard? Measured on clean renderings of every kind."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from clapkit.building.kinds import KINDS, kind_named
from clapkit.building.performance import PEAK_DB, in_a_room, most_strokes, perform, strength
from clapkit.errors import SpecError

RATE = 32000
NAMES = [kind.name for kind in KINDS]


@functools.cache
def played(name: str, traits: tuple = (), seed: int = 0, slot_s: float = 3.9):
    return perform(kind_named(name), dict(traits), slot_s=slot_s, rate_hz=RATE, rng=np.random.default_rng(seed))


def kinds_with(axis: str) -> list[str]:
    return [kind.name for kind in KINDS if axis in kind.axes]


def strokes_with(axis: str) -> list[str]:
    return [kind.name for kind in KINDS if axis in kind.axes and not kind.continuous]


def power_spectrum(audio: np.ndarray) -> np.ndarray:
    """Mean power over frames of 64 ms, per bin of 15.6 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, 2048)[::1024] * np.hanning(2048)
    return np.mean(np.abs(np.fft.rfft(frames, axis=1)) ** 2, axis=0)


def log_centroid_hz(audio: np.ndarray) -> float:
    """Centre of the spectrum on a logarithmic frequency axis."""
    power = power_spectrum(audio)[2:]
    f = np.fft.rfftfreq(2048, 1 / RATE)[2:]
    weight = power / f  # as much weight per octave
    return float(np.exp(np.sum(weight * np.log(f)) / np.sum(weight)))


def detected_onsets_s(audio: np.ndarray) -> np.ndarray:
    """Moments at which the short-time level rises by more than 12 dB from one 10-ms frame to the next but one."""
    frames = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    level_db = 10 * np.log10(np.mean(frames**2, axis=1) / np.max(np.mean(frames**2, axis=1)) + 1e-5)
    level_db = np.concatenate(([-50, -50], level_db))
    rising = (level_db[2:] - level_db[:-2] > 12) & (level_db[2:] > -25)
    first = rising & ~np.concatenate(([False], rising[:-1]))
    return np.flatnonzero(first) * 0.01


def test_there_are_many_kinds_with_different_names_and_sayings():
    assert len(KINDS) >= 28
    for field in ("name", "does", "doing"):
        assert len({getattr(kind, field) for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_is_finite_sound_of_the_stated_strength(name):
    for seed in range(3):
        performance = played(name, (), seed)
        assert performance.audio.dtype == np.float32
        assert np.isfinite(performance.audio).all()
        assert np.abs(performance.audio).max() <= 1.0
        assert PEAK_DB[None][0] <= 20 * np.log10(strength(performance.audio, RATE)) + 1e-3 <= PEAK_DB[None][1] + 2e-3
        assert len(performance.audio) <= round(3.9 * RATE)


@pytest.mark.parametrize("name", NAMES)
def test_sound_begins_and_ends_where_the_spans_say(name):
    performance = played(name, (), 4)
    floor = 0.002 * np.abs(performance.audio).max()
    first_s, last_s = (f(b) for f, b in zip((min, max), zip(*performance.spans_s, strict=True), strict=True))
    heard = np.flatnonzero(np.abs(performance.audio) > floor) / RATE
    assert heard[0] == pytest.approx(first_s, abs=0.002)
    assert heard[-1] == pytest.approx(last_s, abs=0.02)
    assert last_s == pytest.approx(len(performance.audio) / RATE, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_draws_give_the_same_sound_and_others_another(name):
    again = perform(kind_named(name), {}, slot_s=3.9, rate_hz=RATE, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(again.audio, played(name).audio)
    other = played(name, (), 1).audio
    count = min(len(other), len(again.audio))
    assert not np.allclose(other[:count], again.audio[:count])


@pytest.mark.parametrize("name", kinds_with("pitch"))
def test_pitch_moves_the_spectrum(name):
    low, high = (
        np.mean([np.log(log_centroid_hz(played(name, (("pitch", v),), s).audio)) for s in range(3)])
        for v in ("low-pitched", "high-pitched")
    )
    assert high - low > np.log(1.2)


@pytest.mark.parametrize("name", ["violin", "owl hoot", "xylophone note", "alarm beep"])
def test_pitch_moves_the_strongest_partial_by_octaves(name):
    def peak_hz(value: str) -> float:
        return float(np.argmax(power_spectrum(played(name, (("pitch", value),)).audio)) * RATE / 2048)

    assert peak_hz("high-pitched") > 1.8 * peak_hz("low-pitched")


@pytest.mark.parametrize("name", NAMES)
def test_loudness_differs_by_more_than_20_db(name):
    quiet, loud = (strength(played(name, (("loudness", v),)).audio, RATE) for v in ("quiet", "loud"))
    assert 20 * np.log10(loud / quiet) > 20


@pytest.mark.parametrize("name", strokes_with("tempo"))
def test_tempo_changes_the_time_between_strokes(name):
    def interval_s(value: str) -> float:
        return float(np.mean(np.diff([a for a, _ in played(name, (("tempo", value),)).spans_s])))

    assert interval_s("slow") > 2 * interval_s("fast")


@pytest.mark.parametrize("name", [k.name for k in KINDS if "tempo" in k.axes and k.continuous])
def test_tempo_changes_the_inner_rhythm_of_continuous_sounds(name):
    def turns(value: str) -> float:
        audio = played(name, (("tempo", value),)).audio
        if name == "siren":  # its rhythm is in the pitch
            frames = np.lib.stride_tricks.sliding_window_view(audio, 2048)[::640] * np.hanning(2048)
            curve = np.argmax(np.abs(np.fft.rfft(frames, axis=1))[:, :130], axis=1).astype(float)
        else:
            curve = np.abs(audio[: len(audio) // 320 * 320]).reshape(-1, 320).mean(axis=1)
        strength_per_hz = np.abs(np.fft.rfft(curve - curve.mean(), 4096))
        return float(np.argmax(strength_per_hz))

    assert turns("fast") > 1.8 * turns("slow")


@pytest.mark.parametrize("name", strokes_with("count"))
def test_count_is_the_number_of_strokes(name):
    assert most_strokes(kind_named(name), 4.0) >= 2
    for count in range(1, 1 + most_strokes(kind_named(name), 4.0)):
        spans_s = played(name, (("count", count),)).spans_s
        assert len(spans_s) == count
        assert np.all(np.diff([a for a, _ in spans_s]) > 0.25)


@pytest.mark.parametrize("name", ["door knock", "kick drum", "dog bark", "hand clap", "snare drum", "owl hoot"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_strokes_are_heard_where_the_spans_say(name, count):
    if count > most_strokes(kind_named(name), 4.0):
        pytest.skip(f"{name} is too slow for {count} strokes in 4 s")
    performance = played(name, (("count", count),), seed=count)
    np.testing.assert_allclose(detected_onsets_s(performance.audio), [a for a, _ in performance.spans_s], atol=0.06)


@pytest.mark.parametrize("name", kinds_with("length"))
def test_length_can_be_heard(name):
    short, unstated, long = (len(played(name, (("length", v),) if v else ()).audio) for v in ("short", None, "long"))
    assert 2 * short < unstated < long / 1.2


def test_strokes_of_one_series_resemble_each_other_more_than_those_of_another():
    """One dog, one bell: the spectra of two strokes agree better within a series than between series."""

    def stroke_spectra(seed: int) -> list[np.ndarray]:
        performance = played("xylophone note", (("count", 2),), seed)
        starts = [round(a * RATE) for a, _ in performance.spans_s]
        return [np.log(power_spectrum(performance.audio[at : at + 6000]) + 1e-9) for at in starts]

    series = [stroke_spectra(seed) for seed in range(6)]
    within = np.mean([np.linalg.norm(a - b) for a, b in series])
    between = np.mean([np.linalg.norm(series[i][0] - series[i - 1][0]) for i in range(6)])
    assert within < 0.8 * between


def test_kinds_can_be_told_apart_by_their_mean_spectrum():
    """A nearest-centroid classifier on mean log spectra: far above chance on performances it has not seen."""

    def features(name: str, seed: int) -> np.ndarray:
        power = power_spectrum(played(name, (), seed).audio)
        edges = np.unique(np.geomspace(2, len(power), 33).astype(int))
        bands = np.log(np.add.reduceat(power, edges[:-1]) / np.diff(edges) + 1e-9)
        return bands - bands.mean()

    centroids = np.stack([np.mean([features(name, seed) for seed in range(3)], axis=0) for name in NAMES])
    hits = [
        np.argmin(np.linalg.norm(centroids - features(name, seed), axis=1)) == number
        for number, name in enumerate(NAMES)
        for seed in (10, 11)
    ]
    assert np.mean(hits) > 0.75  # chance: 1 / 42


def test_a_room_keeps_the_strength_and_the_place_of_a_sound(rng):
    audio = np.zeros(4 * RATE, np.float32)
    knock = played("door knock", (("count", 1),)).audio
    audio[RATE : RATE + len(knock)] = knock
    wet = in_a_room(audio, rate_hz=RATE, rng=rng)
    assert wet.shape == audio.shape and wet.dtype == np.float32
    assert strength(wet, RATE) == pytest.approx(strength(audio, RATE), rel=1e-4)
    assert np.argmax(np.abs(wet)) == pytest.approx(np.argmax(np.abs(audio)), abs=0.03 * RATE)
    assert 0 < np.abs(wet[: RATE // 2]).max() < 0.02


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(SpecError, match=r"no kind 'dog brak'; did you mean 'dog bark'\?"):
        kind_named("dog brak")
