"""Machines, vehicles and signals: each function plays one stroke or a stretch of the sound world."""

from __future__ import annotations

import numpy as np

from clapkit.building.synthesis import (
    Note,
    band,
    decay,
    envelope,
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


def siren(note: Note) -> np.ndarray:
    """A wailing horn: its pitch climbs and falls, `tempo` times the usual rate, through a loudspeaker's band."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    wails_hz = 0.8 * note.tempo * body.uniform(0.9, 1.1)
    low_hz = 560 * note.pitch * body.uniform(0.93, 1.07)
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(count) / rate * wails_hz + body.uniform(0, 1)))
    tone = saw(low_hz * body.uniform(2.0, 2.5) ** sweep, count, rate)
    return filtered(tone, rate, band(500, 3200)) * held(count, rate, 0.05, 0.08)


def car_engine(note: Note) -> np.ndarray:
    """Four cylinders that fire unevenly into an exhaust pipe, with the hiss of the intake."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    firing_hz = (
        48
        * note.pitch
        * body.uniform(0.93, 1.07)
        * wander(note.rng, count, points=int(2 + 4 * note.length_s), low=0.97, high=1.03)
    )
    strokes = np.floor(np.cumsum(firing_hz) / rate).astype(int)
    power = body.uniform(0.55, 1.0, 4)[strokes % 4] * note.rng.uniform(0.85, 1.0, strokes[-1] + 1)[strokes]
    blast = (saw(firing_hz, count, rate) + 0.25 * noise(note.rng, count)) * power
    pipe = note.pitch**0.3 * np.array([85, 190, 420, 1100])
    exhaust = filtered(blast, rate, resonances(pipe, (50, 90, 250, 900), (1.0, 0.7, 0.35, 0.12)))
    return exhaust * held(count, rate, 0.06, 0.12)


def alarm_beep(note: Note) -> np.ndarray:
    """A piezo buzzer: an odd-harmonic tone switched hard on and off."""
    body, rate = note.body(), note.rate_hz
    count = note.samples(body.uniform(0.1, 0.15))
    base_hz = 2000 * note.pitch**0.8 * body.uniform(0.93, 1.07)
    tone = sum(sine(min(k * base_hz, 0.45 * rate), count, rate) * gain for k, gain in ((1, 1.0), (3, 0.3), (5, 0.12)))
    return tone * held(count, rate, 0.004, 0.008)


def telephone_ring(note: Note) -> np.ndarray:
    """Two small gongs and a hammer that strikes them in turn, twenty times a second."""
    body, rate = note.body(), note.rate_hz
    count = note.samples(body.uniform(0.55, 0.7))
    strikes_hz = body.uniform(17, 22)
    total = np.zeros(count, np.float32)
    for gong in range(2):
        base_hz = 1300 * note.pitch**0.8 * body.uniform(0.93, 1.07) * (1.0, 1.24)[gong]
        frequencies = base_hz * np.array([1.0, 2.42, 4.1])
        ping = modes(frequencies, (1.0, 0.5, 0.2), (0.09, 0.05, 0.02), count=count, rate_hz=rate)
        for strike in range(gong, int(strikes_hz * (count / rate - 0.12)), 2):
            at = round(strike / strikes_hz * rate)
            total[at:] += ping[: count - at] * note.rng.uniform(0.85, 1.0)
    return total * held(count, rate, 0.001, 0.05)


def laser_zap(note: Note) -> np.ndarray:
    """A synthesiser's ray gun: a tone that falls four octaves in a quarter of a second."""
    body, rate = note.body(), note.rate_hz
    count = note.samples(body.uniform(0.2, 0.3))
    fall = np.exp(-np.arange(count) / rate / body.uniform(0.055, 0.085))
    pitch_hz = note.pitch * (170 + body.uniform(3000, 4200) * fall)
    tone = saw(np.minimum(pitch_hz, 0.4 * rate), count, rate) * 0.5 + sine(
        np.minimum(pitch_hz, 0.4 * rate), count, rate
    )
    return tone * decay(count, rate, 0.12, 0.002) * held(count, rate, 0.002, 0.04)


def car_horn(note: Note) -> np.ndarray:
    """Two reeds a third apart, blown hard: dense harmonics up to five kilohertz."""
    body, rate = note.body(), note.rate_hz
    count = note.samples(body.uniform(0.28, 0.42))
    base_hz = 405 * note.pitch * body.uniform(0.93, 1.07)
    reeds = saw(base_hz, count, rate) + saw(base_hz * body.uniform(1.19, 1.26), count, rate, start=0.3)
    horn = filtered(reeds, rate, resonances((900, 2300, 3600), (900, 1300, 1800), (0.8, 1.0, 0.5)))
    return horn * held(count, rate, 0.02, 0.04)


def train_whistle(note: Note) -> np.ndarray:
    """Steam through three pipes tuned to a chord, the pitch sinking as pressure falls, with hiss."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    base_hz = 310 * note.pitch * body.uniform(0.93, 1.07)
    end_s = count / rate
    pressure = envelope(count, rate, (0, 0.94), (0.15, 1.0), (0.8 * end_s, 1.0), (end_s, 0.93))
    total = 0.35 * shaped_noise(note.rng, count, rate, band(700, 6000, 1))
    for ratio in (1.0, 1.26, 1.5, 1.89):
        pitch_hz = base_hz * ratio * body.uniform(0.99, 1.01) * pressure
        start = body.uniform()
        total += (
            sine(pitch_hz, count, rate, start)
            + 0.3 * sine(2 * pitch_hz, count, rate)
            + 0.2 * sine(3 * pitch_hz, count, rate)
        )
    return total * held(count, rate, 0.08, 0.15)


def helicopter(note: Note) -> np.ndarray:
    """Blades that slap the air `tempo` times eleven a second, over the whine and rush of a turbine."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    turns = np.arange(count) / rate * 11 * note.tempo * body.uniform(0.93, 1.07) + body.uniform(0, 1)
    slap = np.exp(-7 * (turns % 1.0)) * np.where(np.floor(turns) % 2 == 0, 1.0, 0.8)
    low = shaped_noise(note.rng, count, rate, band(40, 260, 2))
    high = shaped_noise(note.rng, count, rate, band(400, 3500, 1))
    whine = sine(body.uniform(1900, 2600), count, rate)
    return ((low + 0.45 * high) * (slap + 0.06) + 0.015 * whine) * held(count, rate, 0.05, 0.1)


def vacuum_cleaner(note: Note) -> np.ndarray:
    """A motor's steady harmonics inside the broad rush of air."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    base_hz = 290 * note.pitch * body.uniform(0.93, 1.07) * wander(note.rng, count, points=8, low=0.995, high=1.005)
    motor = filtered(saw(base_hz, count, rate), rate, resonances((600, 1800), (700, 2500), (1.0, 0.6)))
    air = shaped_noise(note.rng, count, rate, band(300, 5500 * note.pitch**0.4, 1))
    return (motor + 0.35 * air) * held(count, rate, 0.12, 0.2)
