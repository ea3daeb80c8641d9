"""How performances become clips: one sound, one after another, or one in front of another, each with its captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clapkit.building.kinds import Kind, Traits
from clapkit.building.performance import Performance, most_strokes, perform, strength
from clapkit.building.wording import (
    Spoken,
    captions,
    combination,
    overlap_captions,
    sequence_captions,
    values_of,
)
from clapkit.data.clip import Event
from clapkit.units import db_to_gain

AXES = ("pitch", "loudness", "tempo", "length", "count")

Draft = dict[str, Any]  # the fields of a Clip that follow from what is heard


@dataclass(frozen=True)
class Composer:
    """Makes drafts of clips; takes all its decisions with `rng`. `may(kind, value)` says whether a trait is allowed."""

    rate_hz: int
    duration_s: float
    sentences: int
    rng: np.random.Generator
    may: Callable[[Kind, str], bool]

    def any_traits(self, kind: Kind) -> Traits:
        """None, one or two attributes that can be heard in this kind and are allowed."""
        traits: dict[str, str | int] = {}
        axes = [axis for axis in AXES if axis == "loudness" or axis in kind.axes]
        for axis in self.rng.permutation(axes)[: self.rng.choice(3, p=(0.25, 0.5, 0.25))]:
            if axis == "count" and "tempo" not in traits:
                traits["count"] = int(self.rng.integers(1, 1 + most_strokes(kind, self.duration_s)))
            elif axis != "tempo" or "count" not in traits:  # a count states the pace of few strokes badly
                self._add_value(traits, kind, str(axis))
        return traits

    def single(self, kind: Kind, traits: Traits) -> Draft:
        """One kind of sound; with one attribute other than the count, `combination` names both."""
        played = self._play(kind, traits, self.duration_s - 0.1)
        audio, events = self._placed([(kind, played, self._start(played, 0.05, self.duration_s))])
        meta: dict[str, Any] = {"kind": kind.name, **traits}
        stated = [str(value) for axis, value in traits.items() if axis != "count"]
        if len(stated) == 1:
            meta["combination"] = combination(kind, stated[0])
        return {
            "audio": audio,
            "events": events,
            "captions": captions(Spoken(kind, traits, self.rng), count=self.sentences, rng=self.rng),
            "label": kind.name,
            "tags": (kind.name,),
            "meta": meta,
        }

    def sequence(self, kinds: Sequence[Kind]) -> Draft:
        """One sound, then another of a different kind."""
        pair = [kinds[i] for i in self.rng.permutation(len(kinds))[:2]]
        border_s = self.duration_s * self.rng.uniform(0.45, 0.55)
        parts, spoken = [], []
        for kind, start_s, end_s in zip(pair, (0.05, border_s), (border_s, self.duration_s), strict=True):
            slot_s = end_s - start_s - 0.05
            traits = self._scene_traits(kind, slot_s)
            played = self._play(kind, traits, slot_s, fill=True)
            parts.append((kind, played, self._start(played, start_s, end_s)))
            spoken.append(Spoken(kind, traits, self.rng))
        return self._scene(parts, sequence_captions(*spoken, count=self.sentences, rng=self.rng), "sequence")

    def overlap(self, kinds: Sequence[Kind]) -> Draft:
        """One sound in front of a continuous one that is weaker and lasts nearly the whole clip."""
        backgrounds = [kind for kind in kinds if kind.continuous]
        far = backgrounds[int(self.rng.integers(len(backgrounds)))]
        others = [kind for kind in kinds if kind != far]
        near = others[int(self.rng.integers(len(others)))]
        traits = self._scene_traits(near, self.duration_s - 1.0)
        front = self._play(near, traits, self.duration_s - 1.0)
        back = self._play(far, {}, self.duration_s - 0.1, fill=True)
        weaker = db_to_gain(self.rng.uniform(-14.0, -7.0)) * strength(front.audio, self.rate_hz)
        back = Performance(back.audio * np.float32(weaker / strength(back.audio, self.rate_hz)), back.spans_s)
        parts = [
            (near, front, self._start(front, 0.5, self.duration_s - 0.4)),
            (far, back, self._start(back, 0.0, self.duration_s)),
        ]
        spoken = Spoken(near, traits, self.rng), Spoken(far, {}, self.rng)
        return self._scene(parts, overlap_captions(*spoken, count=self.sentences, rng=self.rng), "overlap")

    def _scene_traits(self, kind: Kind, slot_s: float) -> Traits:
        """In scenes a count is always stated where there is one, and now and then a pitch."""
        traits: dict[str, str | int] = {}
        if "count" in kind.axes:
            traits["count"] = int(self.rng.integers(1, 1 + min(3, most_strokes(kind, slot_s))))
        if "pitch" in kind.axes and self.rng.random() < 0.3:
            self._add_value(traits, kind, "pitch")
        return traits

    def _add_value(self, traits: dict[str, str | int], kind: Kind, axis: str) -> None:
        values = [value for value in values_of(axis) if self.may(kind, value)]
        if values:
            traits[axis] = str(self.rng.choice(values))

    def _play(self, kind: Kind, traits: Traits, slot_s: float, fill: bool = False) -> Performance:
        return perform(kind, traits, slot_s=slot_s, rate_hz=self.rate_hz, rng=self.rng, fill=fill)

    def _scene(self, parts: list[tuple[Kind, Performance, float]], sentences: tuple[str, ...], order: str) -> Draft:
        audio, events = self._placed(parts)
        tags = tuple(kind.name for kind, _, _ in parts)
        return {"audio": audio, "events": events, "captions": sentences, "tags": tags, "meta": {"order": order}}

    def _start(self, played: Performance, low_s: float, high_s: float) -> float:
        """A random moment at which a performance can begin so as to end before `high_s`, on a whole sample."""
        last_s = max(low_s, high_s - len(played.audio) / self.rate_hz)
        return math.ceil(self.rng.uniform(low_s, last_s) * self.rate_hz) / self.rate_hz

    def _placed(self, parts: list[tuple[Kind, Performance, float]]) -> tuple[np.ndarray, tuple[Event, ...]]:
        """The sum of performances, each at its start in seconds, and their events in order of onset."""
        audio = np.zeros(round(self.duration_s * self.rate_hz), np.float32)
        events = []
        for kind, played, start_s in parts:
            at = round(start_s * self.rate_hz)
            audio[at : at + len(played.audio)] += played.audio[: len(audio) - at]
            for onset_s, offset_s in played.moved(start_s):
                events.append(Event(kind.name, onset_s, min(offset_s, self.duration_s)))
        return audio, tuple(sorted(events, key=lambda event: event.onset_s))
