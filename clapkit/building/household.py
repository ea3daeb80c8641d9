"""Sounds of a house and of people moving in it: each function plays one stroke or a stretch of the sound world."""

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
    shaped_noise,
    sine,
    wander,
)


def door_knock(note: Note) -> np.ndarray:
    """Knuckles on a wooden panel: a few quickly damped low modes and a dull click."""
    body, count, rate = note.body(), note.samples(0.25), note.rate_hz
    ratios = np.array([1.0, 1.62, 2.3, 3.4, 4.9, 7.2]) * body.uniform(0.95, 1.05, 6)
    frequencies = 170 * note.pitch * body.uniform(0.93, 1.07) * ratios
    panel = modes(frequencies, body.uniform(0.5, 1.2, 6) / ratios**0.5, 0.035 / ratios**0.5, count=count, rate_hz=rate)
    knuckle = shaped_noise(note.rng, count, rate, band(200, 2500)) * decay(count, rate, 0.006)
    return panel + 0.25 * knuckle


def footsteps(note: Note) -> np.ndarray:
    """One step: the thump of the heel, then the sole rolling off, on a floor between stone and gravel."""
    body, count, rate = note.body(), note.samples(0.26), note.rate_hz
    thump = modes((75, 130, 240), (1.0, 0.6, 0.4), (0.025, 0.02, 0.012), count=count, rate_hz=rate)
    corner_hz, grit = body.uniform(1200, 3500), body.uniform(0.2, 0.5)
    toe_s = body.uniform(0.07, 0.11)
    heel = decay(count, rate, 0.012)
    roll = envelope(count, rate, (0.02, 0.0), (toe_s, 0.6), (toe_s + 0.05, 0.25), (toe_s + 0.12, 0))
    grain = np.abs(noise(note.rng, count)) * 0.7  # the sole meets many small stones
    scuff = shaped_noise(note.rng, count, rate, band(300, corner_hz)) * (heel + roll * grain)
    return thump * note.rng.uniform(0.8, 1.2) + grit * scuff


def hand_clap(note: Note) -> np.ndarray:
    """Two palms: a few slaps within ten milliseconds that excite the air between the hands."""
    body, count, rate = note.body(), note.samples(0.18), note.rate_hz
    centre_hz = body.uniform(1000, 1700)
    slap = np.zeros(count)
    for delay_s in (0.0, *np.sort(note.rng.uniform(0.001, 0.010, 2))):
        at = round(delay_s * rate)
        slap[at:] += note.rng.uniform(0.5, 1.0) * decay(count - at, rate, 0.004, 0.0003)
    tail = 0.25 * decay(count, rate, 0.025)
    hollow = resonances((centre_hz, 2.3 * centre_hz), (500, 1500), (1.0, 0.4))
    return filtered(noise(note.rng, count) * (slap + tail), rate, lambda f: hollow(f) * band(400, 9000)(f))


def clock_ticking(note: Note) -> np.ndarray:
    """An escapement: a tick, then a lower tock, each two tiny metal impacts inside a case."""
    body, count, rate = note.body(), note.samples(0.12), note.rate_hz
    register = body.uniform(0.9, 1.1) * (1.0 if note.number % 2 == 0 else 0.78)
    frequencies = register * np.array([900, 2100, 3400, 5200, 7600]) * body.uniform(0.94, 1.06, 5)
    tick = modes(
        frequencies, (0.35, 1.0, 0.8, 0.5, 0.3), (0.014, 0.009, 0.006, 0.004, 0.003), count=count, rate_hz=rate
    )
    second = round(body.uniform(0.008, 0.016) * rate)
    tick[second:] += 0.5 * tick[: count - second]
    return tick


def keyboard_typing(note: Note) -> np.ndarray:
    """One key: the stroke, the bottom of its travel, and the softer release."""
    body, rng, count, rate = note.body(), note.rng, note.samples(0.16), note.rate_hz
    case_hz = body.uniform(350, 600) * rng.uniform(0.85, 1.2)
    click = shaped_noise(rng, count, rate, band(body.uniform(1800, 2800), 7500))
    release_s = rng.uniform(0.06, 0.1)
    hits = decay(count, rate, 0.004, 0.0005)
    for delay_s, gain in ((rng.uniform(0.008, 0.014), 0.7), (release_s, 0.35)):
        at = round(delay_s * rate)
        hits[at:] += gain * decay(count - at, rate, 0.005, 0.0005)
    case = modes((case_hz, 2.4 * case_hz), (0.5, 0.3), (0.012, 0.007), count=count, rate_hz=rate)
    return rng.uniform(0.6, 1.0) * (click * hits + case)


def glass_breaking(note: Note) -> np.ndarray:
    """A pane bursts: a bright crack, then fragments that ring high and fall for half a second."""
    rng, count, rate = note.rng, note.samples(1.3), note.rate_hz
    crack = shaped_noise(rng, count, rate, band(1500, 14000, 1)) * decay(count, rate, rng.uniform(0.03, 0.06), 0.0005)
    total = 0.9 * crack
    for _ in range(int(rng.integers(28, 42))):
        at = round(min(rng.exponential(0.22), 1.0) * rate)
        partials = rng.uniform(2200, 5500) * np.array([1.0, 1.47, 2.09, 2.56]) * rng.uniform(0.95, 1.05, 4)
        ring_s = rng.uniform(0.008, 0.05)
        length = min(count - at, round(7 * ring_s * rate))
        shard = modes(partials, rng.uniform(0.2, 1, 4), np.full(4, ring_s), count=length, rate_hz=rate)
        total[at : at + length] += shard * 0.5 * rng.uniform(0.2, 1.0) * np.exp(-at / rate / 0.45)
    return total


def door_creak(note: Note) -> np.ndarray:
    """A dry hinge: it sticks and slips, slowly and then faster, and each slip rings through the wood."""
    body, count, rate = note.body(), note.samples(), note.rate_hz
    slips_hz = note.pitch * wander(note.rng, count, points=int(2 + 3 * note.length_s), low=16, high=125)
    slips_hz = slips_hz * wander(note.rng, count, points=int(60 * note.length_s), low=0.93, high=1.07)
    turns = np.cumsum(slips_hz) / rate
    train = np.zeros(count)
    at = np.flatnonzero(np.diff(np.floor(turns)) > 0)
    train[at] = note.rng.uniform(0.5, 1.0, len(at))
    centres = note.pitch * np.array([430, 980, 1650, 2700]) * body.uniform(0.9, 1.1, 4)
    wood = filtered(train, rate, resonances(centres, (60, 90, 140, 250), (0.7, 1.0, 0.8, 0.5)))
    return (
        wood * held(count, rate, 0.04, 0.08) * wander(note.rng, count, points=int(4 * note.length_s), low=0.45, high=1)
    )


def water_drip(note: Note) -> np.ndarray:
    """A drop falls into water: a tiny splash, then an air bubble that rings and rises in pitch."""
    body, count, rate = note.body(), note.samples(0.22), note.rate_hz
    t = np.arange(count) / rate
    base_hz = 950 * note.pitch * body.uniform(0.93, 1.07) * note.rng.uniform(0.97, 1.03)
    tau_s = body.uniform(0.022, 0.035)
    bubble = sine(base_hz * (1 + body.uniform(4, 7) * t), count, rate) * decay(count, rate, tau_s, 0.002)
    splash = shaped_noise(note.rng, count, rate, band(2000, 9000)) * decay(count, rate, 0.002, 0.0005)
    start = round(body.uniform(0.008, 0.014) * rate)
    total = 0.15 * splash
    total[start:] += bubble[: count - start]
    return total
