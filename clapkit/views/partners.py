"""Two clips for one: who goes with whom, which part of them is heard, and what is said of both together.

Shared by the views that put clips one after another (`sequence`) and one over another (`layers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError
from clapkit.units import db_to_gain, samples_to_seconds, seconds_to_samples
from clapkit.views.audio import rms, samples_of
from clapkit.views.base import Params
from clapkit.views.connectives import bare, connect

SILENT = 1e-4  # rms below which nobody hears a clip: a caption of it would be false
_FRAME_S = 0.01
_GATE_DB = -40.0  # below the strongest frame


@dataclass(frozen=True)
class Piece:
    """A part of a clip: its samples, and its events in seconds from the first of them."""

    samples: np.ndarray
    events: tuple[Event, ...]


def check_range(name: str, pair: tuple[float, float]) -> None:
    """Refuse what is no (low, high)."""
    if len(pair) != 2 or pair[0] > pair[1]:
        raise SpecError(f"{name} is a pair (low, high), not {pair}")


def check_longest(longest_s: float) -> None:
    """Refuse a length that holds no two events."""
    if longest_s <= 0:
        raise SpecError(f"longest_s is a length above 0 seconds, not {longest_s}")


def rate_of(clip: Clip) -> int:
    """Samples a second of a decoded clip. SpecError where nobody said."""
    if clip.rate_hz is None:
        raise SpecError(f"clip '{clip.id}' holds samples without rate_hz, and this view works in seconds: set it")
    return clip.rate_hz


def sayings(clip: Clip) -> tuple[str, ...]:
    """What can be said of a clip: its captions, else its prompts, else its label."""
    return clip.captions or clip.prompts or ((clip.label,) if clip.label else ())


def names_of(clip: Clip) -> tuple[str, ...]:
    """Tags and label of a clip, as tags of a clip that it became a part of."""
    return tuple(dict.fromkeys((*clip.tags, *((clip.label,) if clip.label else ()))))


def name_of(clip: Clip) -> str:
    """What an event is called that is the whole clip."""
    return clip.label or bare(sayings(clip)[0])


def can_be_told(clip: Clip) -> bool:
    """Whether one sentence can speak of the clip: it is heard, something is said, and it is no mixture in shares."""
    return bool(sayings(clip)) and not clip.sources and rms(samples_of(clip)) >= SILENT


def draw_partner(rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Clip | None:
    """Another clip of the pool of which something else is said; None where the draw falls on none.

    Two clips of one label or of one caption never meet: their wrong caption would be true.
    """
    if not can_be_told(clip):
        return None
    said = {text.casefold() for text in sayings(clip)}
    others = [
        other
        for other in pool
        if other.id != clip.id
        and not (clip.label and clip.label == other.label)
        and said.isdisjoint(text.casefold() for text in sayings(other))
    ]
    partner = others[int(rng.integers(len(others)))] if others else None
    return partner if partner is not None and can_be_told(partner) else None


def drawn_partner(clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
    """The partner that `params` name. SpecError where it has another sample rate than the clip."""
    partner = pool[params["partner"]]
    if rate_of(partner) != rate_of(clip):
        raise SpecError(
            f"clip '{clip.id}' has {rate_of(clip)} Hz and its partner '{partner.id}' {rate_of(partner)} Hz: "
            "resample them to one rate"
        )
    return partner


def spans(samples: np.ndarray, rate_hz: int, *, gap_s: float = 0.15) -> list[tuple[int, int]]:
    """(first, end) in samples of each stretch that is heard: within 40 dB of the strongest 10 ms.

    Stretches with less than `gap_s` between them are one.
    """
    frame = max(1, seconds_to_samples(_FRAME_S, rate_hz))
    starts = np.arange(0, len(samples), frame)
    if not len(starts):
        return []
    power = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    loud = np.flatnonzero(power > power.max() * db_to_gain(_GATE_DB) ** 2)
    if not len(loud):
        return []
    breaks = np.flatnonzero(np.diff(loud) > gap_s / _FRAME_S + 1)
    first, last = loud[np.append(0, breaks + 1)], loud[np.append(breaks, -1)]
    return [(int(a) * frame, min(len(samples), (int(b) + 1) * frame)) for a, b in zip(first, last, strict=True)]


def level(samples: np.ndarray, rate_hz: int) -> float:
    """rms from the first moment that is heard to the last: silence around a sound makes it no quieter."""
    heard = spans(samples, rate_hz)
    return rms(samples[heard[0][0] : heard[-1][1]]) if heard else 0.0


def at_level(samples: np.ndarray, rate_hz: int, wanted: float) -> np.ndarray:
    """The samples brought to a level (rms); silence stays silence."""
    found = level(samples, rate_hz)
    return samples * np.float32(wanted / found if found else 1.0)


def heard_span(clip: Clip) -> tuple[int, int]:
    """(first, end) in samples from the first moment that is heard to the last; the whole clip if nothing is."""
    heard = spans(samples_of(clip), rate_of(clip))
    return (heard[0][0], heard[-1][1]) if heard else (0, len(samples_of(clip)))


def excerpt(clip: Clip, longest_samples: int, *, trim: bool = True) -> Piece:
    """The part of a clip that is heard (`trim`; else all of it), cut to its strongest `longest_samples`.

    Events outside are left out. A clip without events becomes one event, as long as it is heard.
    """
    samples, rate_hz = samples_of(clip), rate_of(clip)
    heard = heard_span(clip)
    first, end = heard if trim else (0, len(samples))
    if end - first > longest_samples:
        first += _strongest(samples[first:end], longest_samples)
        end = first + longest_samples
    onset_s, offset_s = (samples_to_seconds(count, rate_hz) for count in heard)
    events = clip.events or (Event(name_of(clip), onset_s, offset_s),)
    cut = shifted(events, -samples_to_seconds(first, rate_hz), samples_to_seconds(end - first, rate_hz))
    return Piece(samples[first:end], cut)


def _strongest(samples: np.ndarray, count: int) -> int:
    """Where the `count` samples with the most energy begin."""
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    return int(np.argmax(energy[count:] - energy[: len(energy) - count]))


def shifted(events: Iterable[Event], by_s: float, length_s: float) -> tuple[Event, ...]:
    """Events moved by `by_s`, cut to a clip of `length_s`; what lies outside is left out."""
    moved = (Event(e.label, max(0.0, e.onset_s + by_s), min(length_s, e.offset_s + by_s)) for e in events)
    return tuple(e for e in moved if e.offset_s > e.onset_s)


def limited(samples: np.ndarray) -> np.ndarray:
    """The samples, turned down as a whole where a peak would leave [-1, 1]."""
    peak = float(np.max(np.abs(samples), initial=0.0))
    return samples / np.float32(peak) if peak > 1.0 else samples


def pairs(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """As many pairs as the longer list has, the shorter one repeated; none where one is empty."""
    count = max(len(first), len(second)) if first and second else 0
    return [(first[i % len(first)], second[i % len(second)]) for i in range(count)]


def told(first: Clip, second: Clip, *, template: str, false: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(captions, wrong) of two clips in a relation.

    `template` holds for A = first, B = second, the `false` ones do not. What is wrong about one of the clips is wrong
    about both.
    """
    a, b = sayings(first), sayings(second)
    captions = dict.fromkeys(connect(template, x, y) for x, y in pairs(a, b))
    wrong = [connect(t, x, y) for t in false for x, y in pairs(a, b)]
    wrong += [connect(template, x, y) for x, y in (*pairs(first.wrong, b), *pairs(a, second.wrong))]
    return tuple(captions), tuple(w for w in dict.fromkeys(wrong) if w not in captions)


def turned(template: str) -> str:
    """The template with A and B exchanged."""
    return template.replace("{A}", "{}").replace("{B}", "{A}").replace("{}", "{B}")


def combined(clip: Clip, samples: np.ndarray, events: Iterable[Event], parts: Sequence[Clip], **changes) -> Clip:
    """`clip` with the sound, events and tags of several; it has no label and no prompts of its own any more."""
    tags = tuple(dict.fromkeys(name for part in parts for name in names_of(part)))
    return clip.with_(
        audio=limited(samples),
        start_s=0.0,
        duration_s=samples_to_seconds(len(samples), rate_of(clip)),
        events=tuple(sorted(events, key=lambda e: e.onset_s)),
        tags=tags,
        label=None,
        prompts=(),
        values=(),
        **changes,
    )
