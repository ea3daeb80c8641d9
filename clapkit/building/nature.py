"""Weather, water and fire: each function plays a stretch of continuous sound of the sound world."""

from __future__ import annotations

import numpy as np

from clapkit.building.synthesis import (
    Note,
    band,
    decay,
    filtered,
    held,
    impulses,
    modes,
    resonances,
    shaped_noise,
    wander,
)


def rain(note: Note) -> np.ndarray:
    """A wash of thousands of far drops, with near ones that stand out."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    wash = shaped_noise(note.rng, count, rate, band(body.uniform(800, 1500), body.uniform(9000, 13000), 1))
    drops = filtered(impulses(note.rng, count, rate, 180), rate, resonances((2600, 5200), (1200, 2500), (1.0, 0.8)))
    near = body.uniform(0.3, 0.6) / (np.std(drops) + 1e-9)
    return (wash + near * drops) * held(count, rate, 0.08, 0.12)


def wind(note: Note) -> np.ndarray:
    """Air round corners: noise in narrow bands that fade into each other as gusts come and go."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    register = note.pitch * body.uniform(0.93, 1.07)
    turns = int(3 + 1.5 * note.length_s)
    gust = wander(note.rng, count, points=turns, low=0.35, high=1.0)
    place = 2.2 * (gust - 0.35) / 0.65  # the stronger the gust, the higher it howls
    total = 0.5 * shaped_noise(note.rng, count, rate, band(60, 300, 1)) * gust
    for number, centre_hz in enumerate((330, 500, 760)):
        howl = resonances((centre_hz * register, 2.1 * centre_hz * register), (70, 200), (1.0, 0.15))
        total += shaped_noise(note.rng, count, rate, howl) * gust * np.clip(1 - np.abs(place - number), 0, 1)
    return total * held(count, rate, 0.12, 0.2)


def ocean_waves(note: Note) -> np.ndarray:
    """Surf: each wave rears up, breaks into white foam and draws back with a hiss."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    turns = np.arange(count) / rate * 0.55 * note.tempo * body.uniform(0.9, 1.1) + body.uniform(0, 0.4)
    phase = turns % 1.0
    swell = np.where(phase < 0.35, (phase / 0.35) ** 2, np.exp(-(phase - 0.35) / 0.22))
    heights = note.rng.uniform(0.75, 1.0, int(turns[-1]) + 2)[np.floor(turns).astype(int)]
    roar = shaped_noise(note.rng, count, rate, band(80, 600, 1))
    foam = shaped_noise(note.rng, count, rate, band(900, 7000, 1))
    return ((roar * (0.15 + swell)) + 0.9 * foam * (0.05 + swell**1.6)) * heights * held(count, rate, 0.1, 0.15)


def thunder(note: Note) -> np.ndarray:
    """A crack, then a rumble that rolls back from farther and farther away."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    rumble = shaped_noise(note.rng, count, rate, band(25, 110, 1)) + 0.35 * shaped_noise(
        note.rng, count, rate, band(100, 500, 1)
    )
    rolling = np.zeros(count)
    for delay_s in (0.0, *np.sort(note.rng.uniform(0.08, 0.75, int(body.integers(3, 6)))) * note.length_s):
        at = min(count - 16, round(delay_s * rate))
        strength = np.exp(-1.2 * delay_s / note.length_s) * note.rng.uniform(0.5, 1.0)
        rolling[at:] += strength * decay(count - at, rate, 0.22 * note.length_s, 0.09)
    crack = shaped_noise(note.rng, count, rate, band(150, 5000, 1)) * decay(
        count, rate, body.uniform(0.05, 0.12), 0.004
    )
    return (rumble * rolling + body.uniform(0.5, 1.0) * crack) * held(count, rate, 0.003, 0.3)


def stream(note: Note) -> np.ndarray:
    """Running water: hundreds of bubbles, each ringing for a few hundredths of a second, over a soft rush."""
    body, rng, count, rate = note.body(), note.rng, note.samples(), note.rate_hz
    total = 0.12 * shaped_noise(rng, count, rate, band(400, 4000, 1))
    register = body.uniform(0.9, 1.1)
    for _ in range(int(55 * note.length_s)):
        centre_hz = register * 420 * 2 ** rng.uniform(0, 2.3)
        ring_s = rng.uniform(5, 14) / centre_hz
        length = min(count, round(6 * ring_s * rate))
        at = int(rng.integers(0, count - length + 1))
        bubble = modes((centre_hz, 1.06 * centre_hz), (1, 0.6), (ring_s, 0.6 * ring_s), count=length, rate_hz=rate)
        total[at : at + length] += bubble * rng.exponential(0.5)
    return total * held(count, rate, 0.06, 0.1)


def fire_crackling(note: Note) -> np.ndarray:
    """Burning wood: a soft low roar and sap that bursts in clusters of sharp pops."""
    body, rng, count, rate = note.body(), note.rng, note.samples(), note.rate_hz
    roar = shaped_noise(rng, count, rate, band(60, 350, 1)) * wander(
        rng, count, points=int(3 + 6 * note.length_s), low=0.4, high=1
    )
    fine = filtered(
        impulses(rng, count, rate, 90 * body.uniform(0.8, 1.2)), rate, resonances((3000, 6500), (2500, 5000), (1, 1))
    )
    pops = filtered(
        impulses(rng, count, rate, 9 * body.uniform(0.8, 1.2)), rate, resonances((900, 2200), (500, 1500), (1, 1))
    )
    fine, pops = fine / (np.std(fine) + 1e-9), pops / (np.std(pops) + 1e-9)
    return (0.15 * roar + 0.35 * fine + 0.9 * pops) * held(count, rate, 0.05, 0.1)
