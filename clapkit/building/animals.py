"""Animal voices: each function plays one call or a stretch of the sound world.

Voices with a throat share one model: a sawtooth with breath and roughness, through formants that move from one vowel
to the next while the pitch follows a contour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clapkit.building.synthesis import (
    Note,
    band,
    envelope,
    filtered,
    held,
    noise,
    resonances,
    saw,
    shaped_noise,
    sine,
    wander,
)

Vowel = tuple[float, float, float]  # centres of three formants in Hz


def _throat(
    note: Note, pitch_hz: np.ndarray, vowels: Sequence[Vowel], *, breath: float, rough: float, width: float = 0.12
) -> np.ndarray:
    """The voice [N] that follows `pitch_hz` [N] through `vowels`, spread evenly over time and blended.

    `breath` is the share of noise in the source, `rough` the depth of a fast random wobble of the pitch, `width` the
    bandwidth of the formants as a share of their centres.
    """
    body, count, rate = note.body(), len(pitch_hz), note.rate_hz
    wobble = wander(note.rng, count, points=max(2, int(150 * count / rate)), low=1 - rough, high=1 + rough)
    source = saw(pitch_hz * wobble, count, rate) + breath * noise(note.rng, count)
    size = body.uniform(0.94, 1.06) * note.pitch**0.4  # a deeper voice comes from a larger animal
    position = np.linspace(0, len(vowels) - 1, count) if len(vowels) > 1 else np.zeros(count)
    total = np.zeros(count, np.float32)
    for number, vowel in enumerate(vowels):
        centres = size * np.array(vowel)
        shape = resonances(centres, 60 + width * centres, (1.0, 0.6, 0.35))
        total += filtered(source, rate, shape) * np.clip(1 - np.abs(position - number), 0, 1)
    return total


def _contour(count: int, base_hz: float, *ratios: float) -> np.ndarray:
    """A pitch curve [count] that glides through `ratios` of `base_hz`, evenly spread."""
    return base_hz * np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(ratios)), ratios)


def dog_bark(note: Note) -> np.ndarray:
    """A short rough cry whose pitch jumps up and falls, from a mouth that opens and shuts."""
    body = note.body()
    base_hz = 400 * note.pitch * body.uniform(0.93, 1.07)
    count, rate = note.samples(body.uniform(0.17, 0.24) / note.pitch**0.3), note.rate_hz
    pitch_hz = _contour(count, base_hz, 0.85, 1.2, 1.1, 0.85, 0.6) * note.rng.uniform(0.97, 1.03)
    voice = _throat(note, pitch_hz, ((450, 1100, 2400), (800, 1500, 2900), (500, 1000, 2400)), breath=0.5, rough=0.09)
    end_s = count / rate
    return voice * envelope(count, rate, (0, 0), (0.012, 1), (0.45 * end_s, 0.8), (end_s, 0)) ** 1.5


def cat_meow(note: Note) -> np.ndarray:
    """m-i-a-u: the pitch arches while the mouth opens wide and closes again."""
    body = note.body()
    base_hz = 560 * note.pitch * body.uniform(0.93, 1.07)
    count, rate = note.samples(body.uniform(0.6, 0.9)), note.rate_hz
    pitch_hz = _contour(count, base_hz, 0.8, 1.1, 1.25, 1.2, 1.05, 0.8)
    pitch_hz = pitch_hz * (1 + 0.012 * sine(body.uniform(5, 7), count, rate))
    voice = _throat(
        note,
        pitch_hz,
        ((420, 2300, 3300), (950, 1900, 3400), (900, 1450, 3200), (450, 900, 2700)),
        breath=0.05,
        rough=0.008,
    )
    end_s = count / rate
    return voice * envelope(count, rate, (0, 0), (0.08, 0.7), (0.4 * end_s, 1), (0.75 * end_s, 0.6), (end_s, 0))


def cow_moo(note: Note) -> np.ndarray:
    """A long deep call: lips closed at first, then an open vowel, the pitch sagging at the end."""
    body = note.body()
    base_hz = 125 * note.pitch * body.uniform(0.93, 1.07)
    count, rate = note.samples(body.uniform(1.1, 1.5)), note.rate_hz
    pitch_hz = _contour(count, base_hz, 0.85, 1.0, 1.12, 1.1, 0.95, 0.8)
    voice = _throat(
        note,
        pitch_hz,
        ((230, 600, 2100), (320, 750, 2200), (480, 950, 2300), (300, 700, 2100)),
        breath=0.06,
        rough=0.02,
    )
    end_s = count / rate
    return voice * envelope(count, rate, (0, 0), (0.1, 0.4), (0.35 * end_s, 1), (0.8 * end_s, 0.8), (end_s, 0))


def sheep_bleat(note: Note) -> np.ndarray:
    """An open nasal vowel that trembles nine times a second."""
    body = note.body()
    base_hz = 330 * note.pitch * body.uniform(0.93, 1.07)
    count, rate = note.samples(body.uniform(0.6, 0.9)), note.rate_hz
    tremble = sine(body.uniform(8, 10.5), count, rate, start=note.rng.uniform())
    pitch_hz = _contour(count, base_hz, 0.95, 1.05, 1.0, 0.85) * (1 + 0.05 * tremble)
    voice = _throat(note, pitch_hz, ((700, 1750, 2700), (620, 1600, 2600)), breath=0.12, rough=0.02)
    return voice * (1 + 0.6 * tremble) * held(count, rate, 0.05, 0.15)


def crow_caw(note: Note) -> np.ndarray:
    """A harsh call: half voice, half noise, with hard formants."""
    body = note.body()
    base_hz = 500 * note.pitch * body.uniform(0.93, 1.07)
    count, rate = note.samples(body.uniform(0.3, 0.45)), note.rate_hz
    pitch_hz = _contour(count, base_hz, 0.9, 1.1, 1.1, 1.0, 0.8)
    voice = _throat(
        note, pitch_hz, ((1150, 1900, 3400), (1400, 2200, 3600), (1100, 1800, 3200)), breath=0.35, rough=0.1, width=0.15
    )
    return voice * held(count, rate, 0.03, 0.12)


def frog_croak(note: Note) -> np.ndarray:
    """A slow train of damped pulses that a throat sac lets ring, quicker towards the end."""
    body = note.body()
    count, rate = note.samples(body.uniform(0.35, 0.5)), note.rate_hz
    turns = np.cumsum(_contour(count, body.uniform(32, 42), 0.8, 1.0, 1.25)) / rate
    train = np.zeros(count)
    train[np.flatnonzero(np.diff(np.floor(turns), prepend=-1) > 0)] = 1.0
    train += 0.004 * noise(note.rng, count)
    centres = note.pitch * np.array([620, 1350, 2500]) * body.uniform(0.93, 1.07)
    sac = filtered(train, rate, resonances(centres, (90, 160, 300), (1.0, 0.7, 0.25)))
    return sac * envelope(count, rate, (0, 0.5), (0.6 * count / rate, 1), (0.9 * count / rate, 0.8), (count / rate, 0))


def bird_chirp(note: Note) -> np.ndarray:
    """Two to four whistled syllables, each a quick sweep of nearly pure tone; the tune belongs to the bird."""
    body, rate = note.body(), note.rate_hz
    base_hz = 3600 * note.pitch**0.8 * body.uniform(0.93, 1.07)
    parts = []
    for _ in range(int(body.integers(2, 5))):
        count = note.samples(body.uniform(0.04, 0.09))
        sweep_hz = _contour(count, base_hz, *body.uniform(0.78, 1.28, 3)) * note.rng.uniform(0.99, 1.01)
        tone = sine(sweep_hz, count, rate) + 0.12 * sine(2 * np.minimum(sweep_hz, 0.22 * rate), count, rate)
        parts += [
            tone * np.sin(np.pi * np.linspace(0, 1, count)) ** 0.7,
            np.zeros(note.samples(body.uniform(0.01, 0.04))),
        ]
    return np.concatenate(parts)


def owl_hoot(note: Note) -> np.ndarray:
    """A soft, almost pure low tone with a little breath, that swells and sinks."""
    body, rate = note.body(), note.rate_hz
    base_hz = 380 * note.pitch * body.uniform(0.93, 1.07)
    count = note.samples(body.uniform(0.4, 0.65))
    pitch_hz = _contour(count, base_hz, 0.93, 1.0, 1.02, 1.0, 0.92)
    tone = sine(pitch_hz, count, rate) + 0.12 * sine(2 * pitch_hz, count, rate) + 0.05 * sine(3 * pitch_hz, count, rate)
    breath = shaped_noise(note.rng, count, rate, band(0.7 * base_hz, 2.2 * base_hz))
    return (tone + 0.06 * breath) * np.sin(np.pi * np.linspace(0, 1, count)) ** 0.8


def crickets(note: Note) -> np.ndarray:
    """Scrapers on a summer night: a high carrier in pulses, three to five pulses a chirp, several insects."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    t = np.arange(count) / rate
    total = np.zeros(count, np.float32)
    for number in range(2):
        carrier_hz = 4400 * note.pitch**0.5 * body.uniform(0.94, 1.06)
        chirps_hz, pulses = 2.6 * note.tempo * body.uniform(0.9, 1.1), int(body.integers(3, 6))
        pulse_hz = max(28.0, 1.7 * pulses * chirps_hz)
        inside = (t + body.uniform(0, 1)) * chirps_hz % 1.0 / chirps_hz  # seconds since this chirp began
        gate = np.where(inside < pulses / pulse_hz, np.sin(np.pi * (inside * pulse_hz % 1.0)) ** 2, 0.0)
        total += (1.0, 0.35)[number] * gate * sine(carrier_hz, count, rate)
    return (total + 0.01 * noise(note.rng, count)) * held(count, rate, 0.02, 0.05)


def bee_buzzing(note: Note) -> np.ndarray:
    """Wings: a low sawtooth whose pitch and distance wander as the bee flies about."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    base_hz = 210 * note.pitch * body.uniform(0.93, 1.07)
    turns = int(2 + 3 * note.length_s)
    pitch_hz = base_hz * wander(note.rng, count, points=turns, low=0.92, high=1.1)
    pitch_hz = pitch_hz * wander(note.rng, count, points=20 * turns, low=0.985, high=1.015)
    wings = filtered(saw(pitch_hz, count, rate), rate, resonances((350, 900, 2300), (300, 700, 1500), (1.0, 0.7, 0.4)))
    return wings * wander(note.rng, count, points=turns, low=0.4, high=1.0) * held(count, rate, 0.05, 0.1)
