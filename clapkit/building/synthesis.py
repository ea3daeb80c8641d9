"""The blocks that every sound of the sound world is made of: oscillators, noise, filters, modes, envelopes.

All signals are one-dimensional float arrays. Filters work on the whole signal in the frequency domain, where a response
is a function of frequency in Hz; no block keeps state, and all randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Numbers = Sequence[float] | np.ndarray
Response = Callable[[np.ndarray], np.ndarray]  # frequencies in Hz -> gains, real or complex


@dataclass(frozen=True)
class Note:
    """What a kind of sound is asked to play: one stroke of a series, or a stretch of continuous sound.

    rng        randomness of this stroke alone
    identity   seed of what all strokes of a series share (this dog, this door); see `body`
    pitch      factor on all frequencies of the kind, 1 = its usual register
    tempo      factor on its inner rhythm, where it has one
    length_s   how long a continuous sound lasts (a stroke decides itself)
    number     which stroke of the series this is, from 0
    """

    rate_hz: int
    rng: np.random.Generator
    identity: int = 0
    pitch: float = 1.0
    tempo: float = 1.0
    length_s: float = 1.0
    number: int = 0

    def body(self) -> np.random.Generator:
        """A generator that starts anew for each stroke of a series, so that all strokes share its draws."""
        return np.random.default_rng(self.identity)

    def samples(self, length_s: float | None = None) -> int:
        """Number of samples in `length_s` seconds (default: the length of the note)."""
        return max(16, round((self.length_s if length_s is None else length_s) * self.rate_hz))


def fast_length(count: int) -> int:
    """The smallest length of at least `count` samples whose only prime factors are 2, 3 and 5: a quick transform."""
    best = 1 << (count - 1).bit_length()
    power_5 = 1
    while power_5 < best:
        power_15 = power_5
        while power_15 < best:
            best = min(best, power_15 << max(0, (-(-count // power_15) - 1).bit_length()))
            power_15 *= 3
        power_5 *= 5
    return best


@functools.lru_cache(maxsize=64)
def bins_hz(count: int, rate_hz: int) -> np.ndarray:
    """Frequencies [count // 2 + 1] of a real transform of `count` samples; the bin at 0 Hz stands at half a bin."""
    frequencies = np.fft.rfftfreq(count, 1.0 / rate_hz).astype(np.float32)
    frequencies[0] = 0.5 * frequencies[1]  # responses may divide by the frequency
    return frequencies


# Oscillators


def cycles(frequency_hz: float | np.ndarray, count: int, rate_hz: int, start: float = 0.0) -> np.ndarray:
    """Phase [count] in cycles, not wrapped, of a constant or changing frequency."""
    if np.ndim(frequency_hz) == 0:
        return start + np.arange(count) * (float(frequency_hz) / rate_hz)
    return start + np.cumsum(frequency_hz) / rate_hz


def sine(frequency_hz: float | np.ndarray, count: int, rate_hz: int, start: float = 0.0) -> np.ndarray:
    """Sine wave [count]; `start` is its first phase in cycles."""
    phase = cycles(frequency_hz, count, rate_hz, start)
    return np.sin((2 * math.pi * (phase - np.floor(phase))).astype(np.float32))


def saw(frequency_hz: float | np.ndarray, count: int, rate_hz: int, start: float = 0.0) -> np.ndarray:
    """Sawtooth wave [count] whose steps are rounded over two samples, which keeps most aliasing away."""
    phase = cycles(frequency_hz, count, rate_hz, start)
    phase = (phase - np.floor(phase)).astype(np.float32)
    step = np.broadcast_to(np.asarray(frequency_hz, np.float32) / rate_hz, phase.shape)
    wave = 2 * phase - 1
    after = np.flatnonzero(phase < step)
    t = phase[after] / step[after]
    wave[after] -= 2 * t - t * t - 1
    before = np.flatnonzero(phase > 1 - step)
    t = (phase[before] - 1) / step[before]
    wave[before] -= t * t + 2 * t + 1
    return wave


def modes(
    frequencies_hz: Numbers,
    gains: Numbers,
    decays_s: Numbers,
    *,
    count: int,
    rate_hz: int,
) -> np.ndarray:
    """Sum [count] of decaying sines, all starting at phase 0: what a struck solid body radiates.

    `decays_s` are the times in which each mode falls to 1/e. Modes above 0.45 of the sampling rate are left out.
    """
    block = max(1, math.isqrt(count))
    rows = -(-count // block)
    total = np.zeros((rows, block), np.float32)
    for frequency_hz, gain, decay_s in zip(frequencies_hz, gains, decays_s, strict=True):
        if frequency_hz > 0.45 * rate_hz:
            continue
        # exp(a (i B + j)) = exp(a i B) exp(a j): two short exponentials instead of one per sample.
        rate = (2j * math.pi * frequency_hz - 1.0 / decay_s) / rate_hz
        used = min(rows, 1 + int(7 * decay_s * rate_hz) // block)  # below -60 dB a mode is silent
        coarse = gain * np.exp(rate * block * np.arange(used))
        fine = np.exp(rate * np.arange(block))
        total[:used] += np.outer(coarse.real, fine.imag).astype(np.float32)
        total[:used] += np.outer(coarse.imag, fine.real).astype(np.float32)
    return total.ravel()[:count]


# Noise and slow random curves


def noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """White noise [count] of unit variance."""
    return rng.standard_normal(count, dtype=np.float32)


def shaped_noise(rng: np.random.Generator, count: int, rate_hz: int, response: Response) -> np.ndarray:
    """Noise [count] of unit RMS whose amplitude spectrum follows `response`."""
    size = fast_length(count)
    spectrum = noise(rng, 2 * (size // 2 + 1)).view(np.complex64) * response(bins_hz(size, rate_hz)).astype(
        np.complex64
    )
    shaped = np.fft.irfft(spectrum, size)[:count].astype(np.float32)
    return shaped / (np.sqrt(np.mean(shaped * shaped)) + 1e-12)


def wander(rng: np.random.Generator, count: int, *, points: int, low: float, high: float) -> np.ndarray:
    """A smooth random curve [count] between `low` and `high` with about `points` turns."""
    knots = rng.uniform(low, high, max(2, points))
    step = max(1, min(64, count // (8 * len(knots))))  # drawn on a coarse grid, which costs next to nothing
    position = np.linspace(0, len(knots) - 1.001, -(-count // step) + 1)
    left = position.astype(int)
    rise = 0.5 - 0.5 * np.cos(math.pi * (position - left))
    coarse = (knots[left] * (1 - rise) + knots[left + 1] * rise).astype(np.float32)
    between = np.arange(step, dtype=np.float32) / step
    return (coarse[:-1, None] + np.diff(coarse)[:, None] * between).ravel()[:count]


def impulses(rng: np.random.Generator, count: int, rate_hz: int, per_second: float) -> np.ndarray:
    """Sparse impulses [count] at random moments, with gains that are mostly small and now and then large."""
    number = max(1, rng.poisson(per_second * count / rate_hz))
    train = np.zeros(count, np.float32)
    np.add.at(train, rng.integers(0, count, number), rng.choice((-1.0, 1.0), number) * rng.exponential(1.0, number))
    return train


# Filters


def filtered(signal: np.ndarray, rate_hz: int, response: Response) -> np.ndarray:
    """`signal` [N] through `response`; what rings on after its end is cut off."""
    size = fast_length(len(signal) + rate_hz // 50)  # 20 ms of room, so that ringing does not wrap to the start
    spectrum = np.fft.rfft(np.asarray(signal, np.float32), size) * _single(response(bins_hz(size, rate_hz)))
    return np.fft.irfft(spectrum, size)[: len(signal)].astype(np.float32)


def _single(gains: np.ndarray) -> np.ndarray:
    """In single precision, real or complex: transforms of float32 take half the time."""
    return gains.astype(np.complex64 if np.iscomplexobj(gains) else np.float32, copy=False)


def band(low_hz: float, high_hz: float, order: int = 2) -> Response:
    """Pass what lies between two corner frequencies; slopes of 6 dB per octave and order."""

    def response(frequency_hz: np.ndarray) -> np.ndarray:
        above, below = np.square(low_hz / frequency_hz), np.square(frequency_hz / high_hz)
        if order > 1:
            above, below = above**order, below**order
        return 1.0 / np.sqrt((1 + above) * (1 + below))

    return response


def resonances(centres_hz: Numbers, widths_hz: Numbers, gains: Numbers) -> Response:
    """Parallel resonators (formants of a throat, bands of a body): each rings at its centre."""

    def response(frequency_hz: np.ndarray) -> np.ndarray:
        total = np.zeros(len(frequency_hz), np.complex64)
        for centre, width, gain in zip(centres_hz, widths_hz, gains, strict=True):
            off = (frequency_hz - np.float32(centre)) * np.float32(2 / width)
            real = np.float32(gain) / (1 + off * off)  # gain / (1 + i off)
            total.real += real
            total.imag -= real * off
        return total

    return response


# Envelopes


def envelope(count: int, rate_hz: int, *points: tuple[float, float]) -> np.ndarray:
    """Straight lines [count] through (time in seconds, gain) points; constant before the first and after the last."""
    times_s, gains = zip(*points, strict=True)
    return np.interp(np.arange(count), np.array(times_s) * rate_hz, gains).astype(np.float32)


def decay(count: int, rate_hz: int, decay_s: float, attack_s: float = 0.001) -> np.ndarray:
    """A quick rise followed by an exponential fall to 1/e in `decay_s`; silent after 10 times that."""
    total = np.zeros(count, np.float32)
    used = min(count, 1 + int(10 * decay_s * rate_hz))
    t = np.arange(used, dtype=np.float32) / np.float32(rate_hz)
    total[:used] = np.minimum(t / np.float32(attack_s), 1) * np.exp(-t / np.float32(decay_s))
    return total


def held(count: int, rate_hz: int, attack_s: float = 0.03, release_s: float = 0.05) -> np.ndarray:
    """A steady sound that fades in and out."""
    attack, release = (max(1, min(round(s * rate_hz), int(0.4 * count))) for s in (attack_s, release_s))
    total = np.ones(count, np.float32)
    total[:attack] = np.linspace(0, 1, attack, dtype=np.float32)
    total[count - release :] = np.linspace(1, 0, release, dtype=np.float32)
    return total
