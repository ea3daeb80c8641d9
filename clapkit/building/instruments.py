"""Bells, strings and drums: each function plays one stroke or one held note of the sound world."""

from __future__ import annotations

import math

import numpy as np

from clapkit.building.synthesis import (
    Note,
    band,
    decay,
    envelope,
    fast_length,
    filtered,
    held,
    modes,
    noise,
    resonances,
    saw,
    shaped_noise,
    sine,
    wander,
)


def church_bell(note: Note) -> np.ndarray:
    """A large bell: hum, prime, minor third, fifth, octave and the shorter upper partials."""
    body, count = note.body(), note.samples(3.2)
    ratios = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.51, 2.66, 3.01, 4.17, 5.43, 6.8])
    frequencies = 370 * note.pitch * body.uniform(0.93, 1.07) * ratios * body.uniform(0.99, 1.01, len(ratios))
    gains = np.array([0.5, 0.7, 0.6, 0.35, 1.0, 0.4, 0.35, 0.5, 0.4, 0.3, 0.2]) * body.uniform(0.6, 1.4, len(ratios))
    decays = body.uniform(1.3, 1.9) / ratios**0.9 * body.uniform(0.7, 1.2, len(ratios))
    ring = modes(frequencies, gains, decays, count=count, rate_hz=note.rate_hz)
    clapper = noise(note.rng, count) * decay(count, note.rate_hz, 0.006)
    return ring + 0.5 * clapper


def bicycle_bell(note: Note) -> np.ndarray:
    """A small bright bell that a geared clapper strikes in quick succession: tring."""
    body, count = note.body(), note.samples(0.9)
    base_hz = 2300 * note.pitch * body.uniform(0.93, 1.07)
    ratios = np.array([1.0, 1.006, 2.74, 2.76, 5.2])
    ping = modes(
        base_hz * ratios, (1, 0.8, 0.6, 0.4, 0.3), (0.18, 0.2, 0.08, 0.08, 0.04), count=count, rate_hz=note.rate_hz
    )
    total = np.zeros(count)
    spacing_s = body.uniform(0.030, 0.042)
    for strike in range(int(body.integers(7, 11))):
        at = round(strike * spacing_s * note.rate_hz)
        total[at:] += ping[: count - at] * note.rng.uniform(0.5, 1.0)
    return total


def guitar_string(note: Note) -> np.ndarray:
    """A plucked string: a burst of noise that runs round a damped loop one period long, through a wooden body."""
    body, count = note.body(), note.samples(1.2)
    base_hz = 196 * note.pitch * body.uniform(0.93, 1.07)
    loss = 10 ** (-3 / (base_hz * body.uniform(0.9, 1.5)))  # falls by 60 dB in that many seconds
    damping, pluck = body.uniform(0.25, 0.45), body.uniform(0.12, 0.3)
    period_s = 1 / base_hz
    wood = resonances((105, 210, 420), (60, 80, 200), (0.5, 0.7, 0.4))

    def string(frequency_hz: np.ndarray) -> np.ndarray:
        turn = (2j * math.pi) * frequency_hz
        averaging = (1 - damping) + damping * np.exp(-turn / note.rate_hz)
        period = np.exp(-turn * period_s)
        comb = 1 - np.exp(-turn * pluck * period_s)  # no mode has its node where the string is plucked
        return comb / (1 - loss * averaging * period) * (wood(frequency_hz) + 0.35)

    burst = np.zeros(fast_length(round(1.6 * count)), np.float32)  # long enough for the loop to die away inside
    length = round(period_s * note.rate_hz)
    burst[:length] = noise(note.rng, length)
    return filtered(burst, note.rate_hz, string)[:count] * held(count, note.rate_hz, 0.002, 0.25)


def violin(note: Note) -> np.ndarray:
    """A bowed string: a sawtooth with vibrato that grows, through the resonances of the body, with some bow noise."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    base_hz = 440 * note.pitch * body.uniform(0.93, 1.07)
    vibrato = sine(body.uniform(4.8, 6.2), count, rate) * envelope(
        count, rate, (0.1, 0), (0.6, body.uniform(0.006, 0.012))
    )
    pitch_hz = base_hz * (1 + vibrato) * wander(note.rng, count, points=int(12 * note.length_s), low=0.997, high=1.003)
    bow = wander(note.rng, count, points=int(6 * note.length_s), low=0.75, high=1.0)
    string = saw(pitch_hz, count, rate) + 0.06 * noise(note.rng, count)
    centres = np.array([290, 480, 1000, 2600, 4200]) * body.uniform(0.94, 1.06, 5)
    tone = filtered(string, rate, resonances(centres, (90, 140, 400, 900, 1500), (0.7, 1.0, 0.5, 0.7, 0.25)))
    return tone * bow * held(count, rate, 0.12, 0.15)


def xylophone(note: Note) -> np.ndarray:
    """A wooden bar tuned so that its upper modes lie near 4 and 9 times the lowest, struck with a hard mallet."""
    body, count = note.body(), note.samples(0.7)
    base_hz = 750 * note.pitch * body.uniform(0.93, 1.07)
    frequencies = base_hz * np.array([1.0, body.uniform(3.85, 4.0), body.uniform(9.0, 9.4)])
    bar = modes(
        frequencies, (1.0, 0.5, 0.25), (body.uniform(0.1, 0.18), 0.045, 0.018), count=count, rate_hz=note.rate_hz
    )
    return bar + 0.15 * noise(note.rng, count) * decay(count, note.rate_hz, 0.004)


def kick_drum(note: Note) -> np.ndarray:
    """A large skin: a low tone that falls quickly in pitch, with the click of the beater."""
    body, count, rate = note.body(), note.samples(0.4), note.rate_hz
    t = np.arange(count) / rate
    base_hz = 52 * body.uniform(0.9, 1.15)
    tone = sine(base_hz * (1 + body.uniform(2.0, 4.0) * np.exp(-t / 0.025)), count, rate)
    beater = shaped_noise(note.rng, count, rate, band(800, 4000)) * decay(count, rate, 0.004)
    return tone * decay(count, rate, body.uniform(0.09, 0.14)) + body.uniform(0.1, 0.25) * beater


def snare_drum(note: Note) -> np.ndarray:
    """Two modes of a tight skin and the longer rattle of the wires below it."""
    body, count, rate = note.body(), note.samples(0.35), note.rate_hz
    base_hz = 185 * body.uniform(0.9, 1.15)
    skin = modes((base_hz, 1.78 * base_hz), (0.8, 0.5), (0.05, 0.035), count=count, rate_hz=rate)
    wires = shaped_noise(note.rng, count, rate, band(body.uniform(1200, 2200), 11000)) * decay(
        count, rate, body.uniform(0.05, 0.08)
    )
    return skin + 0.45 * wires


def hi_hat(note: Note) -> np.ndarray:
    """Two thin plates: dense inharmonic modes in the highest octaves, short."""
    body, count, rate = note.body(), note.samples(0.2), note.rate_hz
    frequencies = np.sort(body.uniform(5500, 14000, 24))
    tau_s = body.uniform(0.022, 0.04)
    plates = modes(frequencies, body.uniform(0.1, 0.4, 24), np.full(24, tau_s), count=count, rate_hz=rate)
    sizzle = shaped_noise(note.rng, count, rate, band(7500, 15000, 3)) * decay(count, rate, tau_s, 0.0005)
    return 0.3 * plates + sizzle


def human_whistle(note: Note) -> np.ndarray:
    """Pursed lips: nearly a pure tone that glides between two or three notes, with a breath of narrow noise."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    base_hz = 1350 * note.pitch * body.uniform(0.93, 1.07)
    steps = np.array([1.0, *body.choice((0.84, 0.89, 1.12, 1.19, 1.26), 2)])
    knots = np.repeat(steps, 2)
    pitch_hz = base_hz * np.interp(np.linspace(0, 1, count), (0, 0.3, 0.36, 0.6, 0.66, 1), knots)
    pitch_hz = pitch_hz * (1 + 0.006 * sine(body.uniform(4.5, 6), count, rate))
    breath = shaped_noise(note.rng, count, rate, band(0.8 * base_hz, 1.5 * base_hz, 2))
    return (sine(pitch_hz, count, rate) + 0.03 * breath) * held(count, rate, 0.04, 0.08)
