"""Views that put two clips together; their captions, events and shares travel along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.units import db_to_gain
from clapkit.views.audio import check_probability, rms, samples_of
from clapkit.views.base import Domain, Params


@dataclass(frozen=True)
class MixClips:
    """Add a second clip to the first at drawn shares.

    With share w of the first clip, both brought to equal rms, the sound is (w x1 + (1-w) x2) / sqrt(w^2 + (1-w)^2):
    the loudness stays that of the first. What is said about it:

    text="both"    the clip keeps its captions and its partner's, in the shares w and 1-w (`sources`), for objectives
                   with soft targets (between-class learning, Tokozume 2018; mixup, Zhang 2018)
    text="joined"  sentences "A and B", the louder first; w is then drawn between 0.3 and 0.7 so that both are heard

    The partner is any other clip of the pool.
    """

    p: float = 0.5
    text: Literal["both", "joined"] = "both"

    adds: ClassVar[tuple[str, ...]] = ("soft_target",)
    domain: ClassVar[Domain] = "audio"

    def __post_init__(self) -> None:
        check_probability(self.p)
        if self.text not in ("both", "joined"):
            raise SpecError(f"text is 'both' or 'joined', not {self.text!r}")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        if rng.random() >= self.p or len(pool) < 2:
            return {}
        partner = pool[int(rng.integers(len(pool)))]
        if partner.id == clip.id:
            return {}
        low, high = (0.0, 1.0) if self.text == "both" else (0.3, 0.7)
        return {"partner": partner.id, "share": float(rng.uniform(low, high))}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        if not params:
            return clip
        partner, share = pool[params["partner"]], params["share"]
        mixed = clip.with_(
            audio=mix(samples_of(clip), samples_of(partner), share),
            events=(*clip.events, *partner.events),
            tags=(*clip.tags, *partner.tags),
            provenance=(*clip.provenance, f"mixed with {partner.id} at {share:.3f}"),
        )
        if self.text == "both":
            return mixed.with_(sources=(*_shares(clip, share), *_shares(partner, 1.0 - share)))
        first, second = (clip, partner) if share >= 0.5 else (partner, clip)
        captions = tuple(join_captions(a, b) for a in first.captions for b in second.captions)
        # Where one has no caption, both are known by what else is said about them: a sentence about one half of the
        # sound only would be wrong.
        prompts = () if captions else _pairs(first.captions or first.prompts, second.captions or second.prompts)
        # What is false of one half is false of both.
        wrong = (*_pairs(first.wrong, second.captions), *_pairs(first.captions, second.wrong))
        return mixed.with_(captions=captions, prompts=prompts, wrong=wrong, label=None, values=())


def _shares(clip: Clip, share: float) -> tuple[tuple[str, float], ...]:
    """What a clip is made of, in all `share`: a mixture stays a mixture of its sources when it is mixed again."""
    return tuple((name, share * part) for name, part in clip.sources or ((clip.id, 1.0),))


def _pairs(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """As many joined sentences as the longer list has, the shorter one repeated."""
    count = max(len(first), len(second)) if first and second else 0
    return tuple(join_captions(first[i % len(first)], second[i % len(second)]) for i in range(count))


def mix(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Two sounds at equal rms in the shares `share` and 1 - `share`, as loud as the first.

    The shorter one ends earlier. A sound that is all but silent is added as it is, and never amplified by over 40 dB.
    """
    level, other = rms(first), rms(second)
    if other < 1e-5 or level < 1e-5:
        # One of them is silence: equal loudness would amplify its noise floor without bound.
        second_gain = 1.0
    else:
        second_gain = min(level / other, db_to_gain(40.0))
    norm = float(np.hypot(share, 1.0 - share))
    longest = max(len(first), len(second))
    mixed = np.zeros(longest, np.float32)
    mixed[: len(first)] = first * np.float32(share / norm)
    mixed[: len(second)] += second * np.float32(second_gain * (1.0 - share) / norm)
    return mixed


def join_captions(first: str, second: str) -> str:
    """One sentence for two sounds heard together; the same caption twice stays one."""
    first = first.rstrip(" .!")
    if first.casefold() == second.rstrip(" .!").casefold():
        return first
    # A capital goes where it only began the sentence: "A dog", "Rain", but not "I" or "TV".
    if second.startswith("A ") or second[1:2].islower():
        second = second[0].lower() + second[1:]
    return f"{first} and {second}"
