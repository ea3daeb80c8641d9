"""Views on order and number: one clip after another, one event several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError, nearest_name
from clapkit.units import db_to_gain, samples_to_seconds, seconds_to_samples
from clapkit.views.audio import check_probability, samples_of
from clapkit.views.base import Domain, Params
from clapkit.views.connectives import OVERLAP, SEQUENCE, bare, connect
from clapkit.views.partners import (
    Piece,
    at_level,
    can_be_told,
    check_longest,
    check_range,
    combined,
    draw_partner,
    drawn_partner,
    excerpt,
    heard_span,
    level,
    limited,
    name_of,
    pairs,
    rate_of,
    sayings,
    shifted,
    spans,
    told,
    turned,
)

TIMES = ("once", "twice", "three times", "four times", "five times", "six times")
_REPEATED = ("{} {}", "{}, {}")
_EDGE_S = 0.005  # ramps that keep a cut from clicking


@dataclass(frozen=True)
class Concatenate:
    """Two clips one after the other; the captions say which came first (cards 006, 026, 028, 061).

    Only what is heard of each is kept, and the whole is never longer than `longest_s`: set it to the length of a clip
    in the batch, because a crop that loses the second event would make every caption false. Where both are too long,
    each keeps its strongest half. The partner is brought to the level of the clip, `spread_db` up or down at most.

    gap_s       range of the silence between them; below 0 they overlap by as much, in a fade of equal power
    captions    joined by a drawn temporal connective; wrong: the same sentence with the events exchanged. What was
                wrong about one of them stays wrong
    events      moved to where they sound; a clip that had none becomes one event

    Captions that speak of the whole of a clip (its length, its number of events) may be false for the part that is
    kept. Views that turn the sound round or crop it have to stand before this one.
    """

    longest_s: float = 5.0
    gap_s: tuple[float, float] = (-0.1, 0.5)
    spread_db: float = 6.0
    p: float = 0.5

    adds: ClassVar[tuple[str, ...]] = ("text_private", "events")
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        check_longest(self.longest_s)
        check_range("gap_s", self.gap_s)
        if self.gap_s[1] > self.longest_s / 2:
            raise SpecError(f"gap_s={self.gap_s} leaves no room for two events in longest_s={self.longest_s}")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        return _drawn_pair(self, rng, clip, pool)

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if not params:
            return clip
        partner, rate_hz = drawn_partner(clip, params, pool), rate_of(clip)
        first, second = (clip, partner) if params["clip_first"] else (partner, clip)
        gap = seconds_to_samples(params["gap_s"], rate_hz)
        pieces, sounds = _levelled(clip, partner, params, seconds_to_samples(self.longest_s, rate_hz) - max(gap, 0))
        joined, start = _joined(sounds[0], sounds[1], gap, seconds_to_samples(_EDGE_S, rate_hz))
        moved = shifted(pieces[1].events, samples_to_seconds(start, rate_hz), samples_to_seconds(len(joined), rate_hz))
        template = SEQUENCE[params["connective"]]
        captions, wrong = told(first, second, template=template, false=(turned(template),))
        note = f"{first.id}, then {second.id} after {params['gap_s']:.3f} s"
        return combined(
            clip,
            joined,
            (*pieces[0].events, *moved),
            (first, second),
            captions=captions,
            wrong=wrong,
            provenance=(*clip.provenance, note),
        )


Kind = Literal["reverse", "overlay"]


@dataclass(frozen=True)
class OrderContrast:
    """Two clips one after the other, and what is wrong about their time alone, as a caption and as a sound (card 026).

    Both are chosen, cut and brought to one level as by `Concatenate`. Of several captions one of each is drawn.

    kinds    what is wrong, in this order in `wrong` and in `wrong_sounds`. "reverse": the second came first.
             "overlay": both began at once
    gap_s    range of the silence between them, 0 or more

    A clip that is left alone (1 - `p`, or without a partner) loses the wrong captions that it had: place k of `wrong`
    means kind k for everybody who reads it (`TemporalNCE`). No other view that adds wrong captions goes with it.
    """

    longest_s: float = 5.0
    gap_s: tuple[float, float] = (0.0, 0.5)
    spread_db: float = 6.0
    kinds: tuple[Kind, ...] = ("reverse", "overlay")
    p: float = 0.5

    adds: ClassVar[tuple[str, ...]] = ("text_private", "audio_private", "events")
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        check_longest(self.longest_s)
        check_range("gap_s", self.gap_s)
        if not 0.0 <= self.gap_s[0] <= self.gap_s[1] <= self.longest_s / 2:
            raise SpecError(f"gap_s={self.gap_s}: silences from 0 to half of longest_s={self.longest_s}")
        for kind in self.kinds:
            if kind not in get_args(Kind):
                raise SpecError(f"there is no kind {kind!r}; {nearest_name(str(kind), get_args(Kind))}")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise SpecError(f"kinds are different ones of {get_args(Kind)}, at least one, not {self.kinds}")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if not (params := _drawn_pair(self, rng, clip, pool)):
            return {}
        return {**params, "overlay_connective": int(rng.integers(len(OVERLAP))), "saying": float(rng.random())}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if not params:
            return clip.with_(wrong=(), wrong_sounds=())
        partner, rate_hz = drawn_partner(clip, params, pool), rate_of(clip)
        first, second = (clip, partner) if params["clip_first"] else (partner, clip)
        gap, edge = (seconds_to_samples(s, rate_hz) for s in (params["gap_s"], _EDGE_S))
        pieces, sounds = _levelled(clip, partner, params, seconds_to_samples(self.longest_s, rate_hz) - gap)
        joined, start = _joined(sounds[0], sounds[1], gap, edge)
        moved = shifted(pieces[1].events, samples_to_seconds(start, rate_hz), samples_to_seconds(len(joined), rate_hz))
        said = pairs(sayings(first), sayings(second))
        a, b = said[int(params["saying"] * len(said))]
        template = SEQUENCE[params["connective"]]
        wrong = {
            "reverse": connect(turned(template), a, b),
            "overlay": connect(OVERLAP[params["overlay_connective"]], a, b),
        }
        wrong_sounds = {"reverse": _joined(sounds[1], sounds[0], gap, edge)[0], "overlay": _at_once(sounds)}
        return combined(
            clip,
            joined,
            (*pieces[0].events, *moved),
            (first, second),
            captions=(connect(template, a, b),),
            wrong=tuple(wrong[kind] for kind in self.kinds),
            wrong_sounds=tuple(limited(wrong_sounds[kind]) for kind in self.kinds),
            provenance=(*clip.provenance, f"{first.id}, then {second.id} after {params['gap_s']:.3f} s"),
        )


def _drawn_pair(
    view: Concatenate | OrderContrast, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]
) -> dict[str, Any]:
    """What joins a clip with another; empty for none."""
    if rng.random() >= view.p or (partner := draw_partner(rng, clip, pool)) is None:
        return {}
    return {
        "partner": partner.id,
        "clip_first": bool(rng.integers(2)),
        "gap_s": float(rng.uniform(*view.gap_s)),
        "difference_db": float(rng.uniform(-view.spread_db, view.spread_db)),
        "connective": int(rng.integers(len(SEQUENCE))),
    }


def _levelled(clip: Clip, partner: Clip, params: Params, room: int) -> tuple[list[Piece], list[np.ndarray]]:
    """What is kept of both in `room` samples, in the drawn order, and its sound with the partner at the drawn level."""
    rate_hz = rate_of(clip)
    order = (clip, partner) if params["clip_first"] else (partner, clip)
    pieces = [excerpt(c, part) for c, part in zip(order, _rooms(*order, room), strict=True)]
    own = pieces[0] if params["clip_first"] else pieces[1]
    wanted = level(own.samples, rate_hz) * db_to_gain(params["difference_db"])
    sounds = [p.samples if p is own else at_level(p.samples, rate_hz, wanted) for p in pieces]
    return pieces, sounds


def _at_once(sounds: Sequence[np.ndarray]) -> np.ndarray:
    together = np.zeros(max(map(len, sounds)), np.float32)
    for sound in sounds:
        together[: len(sound)] += sound
    return together


def _rooms(first: Clip, second: Clip, room: int) -> tuple[int, int]:
    """How many samples each may keep of `room`: what one does not need is the other's."""
    lengths = [end - start for start, end in (heard_span(first), heard_span(second))]
    half = room // 2
    if lengths[0] <= half:
        return lengths[0], room - lengths[0]
    if lengths[1] <= half:
        return room - lengths[1], lengths[1]
    return half, half


def _joined(first: np.ndarray, second: np.ndarray, gap: int, edge: int) -> tuple[np.ndarray, int]:
    """Both sounds with `gap` samples between them (below 0: a crossfade), and where the second begins."""
    shorter = min(len(first), len(second))
    fade = min(-gap, shorter // 2) if gap < 0 else 0
    start = len(first) + gap if gap >= 0 else len(first) - fade
    ramp = np.sin(np.linspace(0.0, np.pi / 2, max(fade, min(edge, shorter // 2)), dtype=np.float32))
    joined = np.zeros(start + len(second), np.float32)
    joined[: len(first)] = first
    joined[len(first) - len(ramp) : len(first)] *= ramp[::-1]
    rising = second.copy()
    rising[: len(ramp)] *= ramp
    joined[start:] += rising
    return joined, start


@dataclass(frozen=True)
class Repeat:
    """One event several times in a row, and a caption that counts: "a dog barks three times" (card 061).

    Left alone: a clip in which more than one stretch is heard (it cannot be counted by how often it is played), and one
    too long to stand twice in `longest_s`. The number is drawn from one to `most`, as far as they fit.

    captions    with the number at the end; wrong: the same with another number
    events      one for each time

    Makes captions about length, pace or silence false.
    """

    longest_s: float = 5.0
    gap_s: tuple[float, float] = (0.2, 0.6)
    most: int = 4
    p: float = 0.5

    adds: ClassVar[tuple[str, ...]] = ("text_private", "events")
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        check_longest(self.longest_s)
        check_range("gap_s", self.gap_s)
        if self.gap_s[0] < 0.0:
            raise SpecError(f"gap_s={self.gap_s}: repetitions that overlap cannot be counted, give 0 or more")
        if not 2 <= self.most <= len(TIMES):
            raise SpecError(f"most={self.most}: counts from 2 to {len(TIMES)} have a word")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p or not can_be_told(clip):
            return {}
        heard = spans(samples_of(clip), rate_of(clip))
        if len(heard) != 1:
            return {}
        event_s = samples_to_seconds(heard[0][1] - heard[0][0], rate_of(clip))
        fitting = min(self.most, int((self.longest_s + self.gap_s[1]) / (event_s + self.gap_s[1])))
        if fitting < 2:
            return {}
        count = int(rng.integers(1, fitting + 1))
        other = int(rng.integers(1, self.most))
        return {
            "gaps_s": [float(gap) for gap in rng.uniform(*self.gap_s, count - 1)],
            "wrong_count": other + (other >= count),
            "phrase": int(rng.integers(len(_REPEATED))),
        }

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if not params:
            return clip
        rate_hz = rate_of(clip)
        sound = excerpt(clip, len(samples_of(clip))).samples
        gaps = [seconds_to_samples(gap, rate_hz) for gap in params["gaps_s"]]
        starts = np.cumsum([0, *(len(sound) + gap for gap in gaps)])
        repeated = np.zeros(int(starts[-1]) + len(sound), np.float32)
        for start in starts:
            repeated[start : start + len(sound)] += sound
        times = [
            (samples_to_seconds(int(s), rate_hz), samples_to_seconds(int(s) + len(sound), rate_hz)) for s in starts
        ]
        return combined(
            clip,
            repeated,
            (Event(name_of(clip), onset_s, offset_s) for onset_s, offset_s in times),
            (clip,),
            captions=_counted(sayings(clip), len(starts), params["phrase"]),
            wrong=(
                *_counted(sayings(clip), params["wrong_count"], params["phrase"]),
                *_counted(clip.wrong, len(starts), params["phrase"]),
            ),
            provenance=(*clip.provenance, f"heard {TIMES[len(starts) - 1]}"),
        )


def _counted(texts: Sequence[str], count: int, phrase: int) -> tuple[str, ...]:
    """Each text with a number of times, its full stop at the new end."""
    ends = ((bare(text), "." if text.rstrip().endswith(".") else "") for text in texts)
    return tuple(_REPEATED[phrase].format(body, TIMES[count - 1]) + stop for body, stop in ends)
