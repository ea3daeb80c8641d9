"""From a kind of sound and its traits to samples: series of strokes, levels, and the room around them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from clapkit.building.kinds import Kind, Traits
from clapkit.building.synthesis import Note, bins_hz, fast_length, noise
from clapkit.units import db_to_gain

Ranges = dict[str | None, tuple[float, float]]

# Ranges that an attribute is drawn from; None = not stated. Gaps lie between them, so that a stated value can be heard.
PITCH: Ranges = {"low-pitched": (0.50, 0.64), None: (0.93, 1.07), "high-pitched": (1.6, 2.0)}
PEAK_DB: Ranges = {"quiet": (-36.0, -30.0), None: (-18.0, -13.0), "loud": (-4.0, -1.0)}
INTERVAL: Ranges = {"slow": (1.55, 1.85), None: (0.92, 1.08), "fast": (0.42, 0.54)}
LENGTH_SHARE: Ranges = {"short": (0.12, 0.2), None: (0.4, 0.65), "long": (0.86, 0.94)}

_AUDIBLE = db_to_gain(-46.0)  # relative to its peak: below this a stroke counts as over
_FADE_S = 0.012


@dataclass(frozen=True)
class Performance:
    """One kind of sound as it was played: samples [N] and, in seconds, where each stroke begins and ends."""

    audio: np.ndarray
    spans_s: tuple[tuple[float, float], ...]

    def moved(self, start_s: float) -> tuple[tuple[float, float], ...]:
        """The spans when the performance starts `start_s` into a clip, to the microsecond."""
        return tuple((round(start_s + a, 6), round(start_s + b, 6)) for a, b in self.spans_s)


def strength(audio: np.ndarray, rate_hz: int) -> float:
    """How strong a sound is: its peak, or three times its largest RMS over 30 ms where that is more.

    A tone, a noise and a click of equal strength are about equally loud, and none of them exceeds 1.
    """
    window = max(1, round(0.03 * rate_hz))
    whole = audio[: len(audio) // window * window].reshape(-1, window)
    loudest = float(np.sqrt(np.einsum("ij,ij->i", whole, whole).max() / window)) if len(whole) else 0.0
    return max(float(np.abs(audio).max()), 3.0 * loudest)


def perform(
    kind: Kind, traits: Traits, *, slot_s: float, rate_hz: int, rng: np.random.Generator, fill: bool = False
) -> Performance:
    """Play `kind` with `traits` so that it lasts at most `slot_s`; its strength is that of its loudness trait.

    `fill` asks for a sound that lasts nearly the whole slot, as a background does.
    """
    note = Note(
        rate_hz=rate_hz,
        rng=rng,
        identity=int(rng.integers(2**62)),
        pitch=_drawn(PITCH, traits.get("pitch"), rng),
        tempo=1.0 / _drawn(INTERVAL, traits.get("tempo"), rng),
    )
    if kind.continuous:
        length = "long" if fill else traits.get("length")
        played = _stretch(kind, note, slot_s * _drawn(LENGTH_SHARE, length, rng))
    else:
        played = _series(kind, note, traits, slot_s)
    wanted = db_to_gain(_drawn(PEAK_DB, traits.get("loudness"), rng))
    gain = np.float32(wanted / (strength(played.audio, rate_hz) + 1e-12))
    return Performance(played.audio * gain, played.spans_s)


def _drawn(ranges: Ranges, value: str | int | None, rng: np.random.Generator) -> float:
    return float(rng.uniform(*ranges[None if value is None else str(value)]))


def _stretch(kind: Kind, note: Note, length_s: float) -> Performance:
    audio = _trimmed(kind.play(replace(note, length_s=length_s)), note.rate_hz)
    return Performance(audio, ((0.0, len(audio) / note.rate_hz),))


def _series(kind: Kind, note: Note, traits: Traits, slot_s: float) -> Performance:
    """Strokes one after another, each an own rendering by the same body."""
    onsets_s = _onsets(kind, note, traits, slot_s)
    rate, rng = note.rate_hz, note.rng
    total = np.zeros(round(slot_s * rate), np.float32)
    spans = []
    for number, onset_s in enumerate(onsets_s):
        stroke = kind.play(replace(note, number=number, pitch=note.pitch * rng.uniform(0.985, 1.015)))
        stroke = _trimmed(stroke * np.float32(rng.uniform(0.85, 1.0)), rate)
        at = round(onset_s * rate)
        stroke = _cut(stroke, len(total) - at, rate)
        total[at : at + len(stroke)] += stroke
        spans.append((at / rate, (at + len(stroke)) / rate))
    end = round(max(b for _, b in spans) * rate)
    return Performance(total[:end], tuple(spans))


def most_strokes(kind: Kind, slot_s: float) -> int:
    """How many strokes (at most 4) of a countable kind fit into a slot at their usual pace; 0: it is not countable."""
    if "count" not in kind.axes:
        return 0
    return min(4, 1 + int(_room_s(kind, slot_s) / kind.interval_s))


def _room_s(kind: Kind, slot_s: float) -> float:
    """The part of a slot where strokes may begin: the last one needs time to be heard."""
    return slot_s - min(0.8 * kind.interval_s, 0.45 * slot_s)


def _onsets(kind: Kind, note: Note, traits: Traits, slot_s: float) -> np.ndarray:
    """When the strokes of a series begin, in seconds from its start."""
    rng, interval_s = note.rng, kind.interval_s / note.tempo
    room_s = _room_s(kind, slot_s)
    if "count" in traits:
        number = int(traits["count"])
        interval_s = min(interval_s, room_s / max(1, number - 1))
    elif "tempo" in traits or not kind.plural:
        number = 1 + int(room_s * rng.uniform(0.75, 1.0) / interval_s)
        number = max(number, 3 if "tempo" in traits else 1)
        interval_s = min(interval_s, room_s / max(1, number - 1))
    else:
        number = int(rng.integers(2, 5))
        number = min(number, max(2, 1 + int(room_s / interval_s)))
        interval_s = min(interval_s, room_s / (number - 1))
    jitter = rng.uniform(-0.5, 0.5, number) * kind.unevenness * interval_s
    onsets_s = np.arange(number) * interval_s + jitter
    return np.clip(onsets_s - onsets_s[0], 0.0, room_s)


def _trimmed(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """The audible part, faded at its end: what is left begins and ends with sound."""
    audio = np.asarray(audio, np.float32)
    heard = np.flatnonzero(np.abs(audio) > _AUDIBLE * np.abs(audio).max())
    first, last = int(heard[0]), min(len(audio), int(heard[-1]) + 1 + round(_FADE_S * rate_hz))
    return _cut(audio[first:last], last - first, rate_hz)


def _cut(audio: np.ndarray, count: int, rate_hz: int) -> np.ndarray:
    """At most `count` samples, with a short fade at the end so that nothing clicks."""
    audio = audio[:count].copy()
    fade = min(len(audio), round(_FADE_S * rate_hz))
    audio[len(audio) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return audio


def in_a_room(audio: np.ndarray, *, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """`audio` [N] as a microphone in some room would pick it up: faint hiss, a decaying echo, a mild colour.

    The strength of the sound stays what it was.
    """
    before = strength(audio, rate_hz)
    hiss = np.float32(db_to_gain(rng.uniform(-82.0, -68.0)))
    size = fast_length(len(audio) + round(0.3 * rate_hz))
    tail = round(0.3 * rate_hz)
    delay = round(rng.uniform(0.003, 0.012) * rate_hz)
    echo = noise(rng, tail) * np.exp(-np.arange(tail) / (rng.uniform(0.015, 0.07) * rate_hz))
    echo *= db_to_gain(rng.uniform(-24.0, -9.0)) / np.sqrt(np.sum(echo * echo))
    response = np.concatenate((np.zeros(delay), echo)).astype(np.float32)
    response[0] = 1.0
    octaves = np.log2(np.maximum(bins_hz(size, rate_hz), 60.0) / 1000.0)
    tilt_db = rng.uniform(-1.2, 1.2) * octaves
    bump_db = rng.uniform(-4.0, 4.0) * np.exp(-((octaves - rng.uniform(-3.0, 3.0)) ** 2))
    colour = 10.0 ** ((tilt_db + bump_db) / 20.0)
    spectrum = (
        np.fft.rfft(audio + hiss * noise(rng, len(audio)), size)
        * np.fft.rfft(response, size)
        * colour.astype(np.float32)
    )
    wet = np.fft.irfft(spectrum, size)[: len(audio)].astype(np.float32)
    return wet * np.float32(before / strength(wet, rate_hz))
