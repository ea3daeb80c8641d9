"""Views that lay one clip over another at a known level, and say how they lie: at once, behind, or louder.

The level of a sound is its rms from where it is first heard to where it is last heard; an SNR is the difference of two
such levels in dB. Cards 006 (overlap), 049 (mixtures with exact times), 061 (loudness).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clapkit.data.clip import Clip, Event
from clapkit.errors import SpecError
from clapkit.units import db_to_gain, samples_to_seconds, seconds_to_samples
from clapkit.views.audio import check_probability
from clapkit.views.base import Domain, Params
from clapkit.views.connectives import BACKGROUND, LOUDER, OVERLAP, SEQUENCE
from clapkit.views.partners import (
    at_level,
    check_longest,
    check_range,
    combined,
    draw_partner,
    drawn_partner,
    excerpt,
    level,
    name_of,
    rate_of,
    shifted,
    told,
    turned,
)


@dataclass(frozen=True)
class Overlap:
    """A second clip heard while the first one sounds, at a drawn SNR (cards 006, 026, 049).

    The partner, cut to what is heard and at most to the length of the clip, begins at a drawn moment within it. The
    clip stays as loud as it was, its partner lies `snr_db` below (above, where the SNR is negative).

    captions    "A while B" and its like; wrong: one of the two came first. Use it beside `Concatenate`, or a text that
                tells an order is always wrong and nobody needs to listen
    events      both, each where it sounds

    Makes captions about silence, length or "alone" false; the whole is cut to `longest_s`.
    """

    snr_db: tuple[float, float] = (-6.0, 6.0)
    longest_s: float = 5.0
    p: float = 0.5

    adds: ClassVar[tuple[str, ...]] = ("text_private", "events")
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        check_longest(self.longest_s)
        check_range("snr_db", self.snr_db)

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p or (partner := draw_partner(rng, clip, pool)) is None:
            return {}
        return {
            "partner": partner.id,
            "snr_db": float(rng.uniform(*self.snr_db)),
            "onset": float(rng.random()),
            "connective": int(rng.integers(len(OVERLAP))),
            "wrong_connective": int(rng.integers(len(SEQUENCE))),
            "wrong_clip_first": bool(rng.integers(2)),
        }

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if not params:
            return clip
        order = SEQUENCE[params["wrong_connective"]]
        false = (order if params["wrong_clip_first"] else turned(order),)
        return _overlaid(clip, params, pool, self.longest_s, template=OVERLAP[params["connective"]], false=false)


@dataclass(frozen=True)
class LoudnessOrder:
    """Two clips at once, one clearly louder, and captions that say which (card 061).

    Built as `Overlap`; the difference is drawn from `difference_db`, which of the two is the louder by a coin.

    captions    "A louder than B" and its like; wrong: the two exchanged
    Makes captions about the level of one of them ("a quiet dog") doubtful.
    """

    difference_db: tuple[float, float] = (8.0, 16.0)
    longest_s: float = 5.0
    p: float = 0.5

    adds: ClassVar[tuple[str, ...]] = ("text_private", "events")
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        check_longest(self.longest_s)
        check_range("difference_db", self.difference_db)
        if self.difference_db[0] <= 0.0:
            raise SpecError(f"difference_db={self.difference_db}: the louder one has to be louder, give more than 0")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p or (partner := draw_partner(rng, clip, pool)) is None:
            return {}
        sign = 1.0 if rng.integers(2) else -1.0
        return {
            "partner": partner.id,
            "snr_db": sign * float(rng.uniform(*self.difference_db)),
            "onset": float(rng.random()),
            "connective": int(rng.integers(len(LOUDER))),
        }

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if not params:
            return clip
        template = LOUDER[params["connective"]]
        if params["snr_db"] < 0:
            template = turned(template)
        return _overlaid(clip, params, pool, self.longest_s, template=template, false=(turned(template),))


@dataclass(frozen=True)
class Background:
    """Another clip as a bed under the whole of this one, at a drawn SNR (cards 049, 061).

    The bed is what is heard of the partner, repeated or cut to the length of the clip, which is left as it is but for
    the cut to `longest_s`.

    captions    "A with B in the background" and its like; wrong: the two exchanged
    events      those of the clip, and one for the bed from beginning to end

    Makes captions about silence, a clean or an indoor recording false.
    """

    snr_db: tuple[float, float] = (6.0, 20.0)
    longest_s: float = 5.0
    p: float = 0.5

    adds: ClassVar[tuple[str, ...]] = ("text_private", "events")
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        check_longest(self.longest_s)
        check_range("snr_db", self.snr_db)
        if self.snr_db[0] <= 0.0:
            raise SpecError(f"snr_db={self.snr_db}: a bed lies under the clip, give more than 0")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p or (partner := draw_partner(rng, clip, pool)) is None:
            return {}
        return {
            "partner": partner.id,
            "snr_db": float(rng.uniform(*self.snr_db)),
            "connective": int(rng.integers(len(BACKGROUND))),
        }

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if not params:
            return clip
        partner, rate_hz = drawn_partner(clip, params, pool), rate_of(clip)
        piece = excerpt(clip, seconds_to_samples(self.longest_s, rate_hz), trim=False)
        bed = np.resize(excerpt(partner, len(piece.samples)).samples, len(piece.samples))
        wanted = level(piece.samples, rate_hz) / db_to_gain(params["snr_db"])
        mixed = piece.samples + at_level(bed, rate_hz, wanted)
        under = Event(name_of(partner), 0.0, samples_to_seconds(len(bed), rate_hz))
        template = BACKGROUND[params["connective"]]
        captions, wrong = told(clip, partner, template=template, false=(turned(template),))
        return combined(
            clip,
            mixed,
            (*piece.events, under),
            (clip, partner),
            captions=captions,
            wrong=wrong,
            provenance=(*clip.provenance, f"{partner.id} under it at {params['snr_db']:.2f} dB"),
        )


def _overlaid(
    clip: Clip, params: Params, pool: Mapping[str, Clip], longest_s: float, *, template: str, false: Sequence[str]
) -> Clip:
    """`clip` with its partner over it, as `params` have drawn."""
    partner, rate_hz = drawn_partner(clip, params, pool), rate_of(clip)
    piece = excerpt(clip, seconds_to_samples(longest_s, rate_hz))
    over = excerpt(partner, len(piece.samples))
    start = round(params["onset"] * (len(piece.samples) - len(over.samples)))
    wanted = level(piece.samples, rate_hz) / db_to_gain(params["snr_db"])
    mixed = piece.samples.copy()
    mixed[start : start + len(over.samples)] += at_level(over.samples, rate_hz, wanted)
    length_s = samples_to_seconds(len(mixed), rate_hz)
    captions, wrong = told(clip, partner, template=template, false=false)
    return combined(
        clip,
        mixed,
        (*piece.events, *shifted(over.events, samples_to_seconds(start, rate_hz), length_s)),
        (clip, partner),
        captions=captions,
        wrong=wrong,
        provenance=(*clip.provenance, f"{partner.id} over it at {params['snr_db']:.2f} dB"),
    )
