"""How the sound world speaks: attribute words with their synonyms, and the grammar that makes captions.

Traits are a mapping from an axis to a value that is audible and will be mentioned:
{"pitch": "high-pitched", "loudness": "quiet", "tempo": "fast", "length": "long", "count": 3}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clapkit.building.kinds import Kind, Traits


@dataclass(frozen=True)
class Word:
    """One value of an attribute: its axis, adjectives (the first is canonical), adverbs, and its opposite."""

    axis: str
    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]
    opposite: str


WORDS: dict[str, Word] = {
    "low-pitched": Word("pitch", ("low-pitched", "deep", "low"), ("in a low pitch", "in a deep tone"), "high-pitched"),
    "high-pitched": Word(
        "pitch", ("high-pitched", "shrill", "high"), ("in a high pitch", "in a shrill tone"), "low-pitched"
    ),
    "quiet": Word("loudness", ("quiet", "faint", "soft"), ("quietly", "faintly", "softly"), "loud"),
    "loud": Word("loudness", ("loud", "strong", "noisy"), ("loudly", "at full volume", "noisily"), "quiet"),
    "slow": Word("tempo", ("slow", "unhurried"), ("slowly", "at a slow pace"), "fast"),
    "fast": Word("tempo", ("fast", "rapid", "quick"), ("fast", "rapidly", "quickly"), "slow"),
    "short": Word("length", ("short", "brief"), ("briefly", "for a short moment"), "long"),
    "long": Word("length", ("long", "prolonged"), ("for a long time", "on and on"), "short"),
}

_NUMBERS = {1: ("one", "a single"), 2: ("two",), 3: ("three",), 4: ("four",)}
_TIMES = {1: ("once", "one time"), 2: ("twice", "two times"), 3: ("three times",), 4: ("four times",)}


def values_of(axis: str) -> tuple[str, ...]:
    """The named values of an attribute: ("low-pitched", "high-pitched") for "pitch"."""
    return tuple(value for value, word in WORDS.items() if word.axis == axis)


def combination(kind: Kind, value: str) -> str:
    """The canonical phrase for a kind with one attribute, usable as a class name: "high-pitched dog bark"."""
    return f"{WORDS[value].adjectives[0]} {kind.name}"


@dataclass(frozen=True)
class Spoken:
    """One sound with its traits, as the grammar sees it; each call chooses its words anew."""

    kind: Kind
    traits: Traits
    rng: np.random.Generator

    def noun(self) -> str:
        """ "three quiet dog barks", "a loud siren", "rapid footsteps"."""
        adjectives, number = self.adjectives(), self.traits.get("count")
        if number is not None and int(number) > 1:
            return " ".join((self._pick(_NUMBERS[int(number)]), *adjectives, self.kind.plural))
        if number == 1 and self.rng.random() < 0.6:
            return " ".join((self._pick(_NUMBERS[1]), *adjectives, self.kind.name))
        if number is None and self.kind.plural:
            return " ".join((*adjectives, self.kind.plural))
        phrase = " ".join((*adjectives, self.kind.name))
        return phrase if self.kind.mass else f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"

    def clause(self) -> str:
        """ "a dog barks twice loudly"."""
        return self._with_adverbs(self.kind.does)

    def participle(self) -> str:
        """ "a dog barking rapidly"."""
        return self._with_adverbs(self.kind.doing)

    def keywords(self) -> str:
        """As people tag sounds: "dog bark, loud, three times"."""
        return ", ".join((self.kind.name, *self.adjectives(), *self._times()))

    def adjectives(self) -> list[str]:
        """One adjective for each trait but the count."""
        words = [WORDS[str(value)].adjectives for axis, value in self.traits.items() if axis != "count"]
        # The canonical word is the commonest, so that class names built from it are no strangers to a model.
        return [options[0] if self.rng.random() < 0.4 else self._pick(options) for options in words]

    def _with_adverbs(self, clause: str) -> str:
        adverbs = [self._pick(WORDS[str(value)].adverbs) for axis, value in self.traits.items() if axis != "count"]
        times = self._times()
        if not times and self.kind.plural and self.rng.random() < 0.25:
            times = [self._pick(("again and again", "repeatedly", "several times"))]
        return " ".join((clause, *times, " and ".join(adverbs))).strip()

    def _times(self) -> list[str]:
        return [self._pick(_TIMES[int(self.traits["count"])])] if "count" in self.traits else []

    def _pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]


def captions(sound: Spoken, *, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Up to `count` different sentences about one sound; each mentions every trait."""
    forms: tuple[Callable[[], str], ...] = (
        sound.noun,
        sound.clause,
        sound.participle,
        sound.keywords,
        lambda: f"the sound of {sound.noun()}",
        lambda: f"a recording of {sound.noun()}",
        lambda: f"{sound.noun()} can be heard",
        lambda: f"we hear {sound.noun()}",
        lambda: f"it sounds like {sound.noun()}",
    )
    return _different(forms, count, rng)


def sequence_captions(first: Spoken, second: Spoken, *, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Up to `count` different sentences that say which of two sounds comes first."""
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{first.noun()} followed by {second.noun()}",
        lambda: f"{second.noun()} after {first.noun()}",
        lambda: f"{first.noun()} before {second.noun()}",
        lambda: f"first {first.noun()}, then {second.noun()}",
        lambda: f"{first.clause()}, and then {second.clause()}",
        lambda: f"{first.clause()} before {second.clause()}",
        lambda: f"after {first.noun()} comes {second.noun()}",
    )
    return _different(forms, count, rng)


def overlap_captions(near: Spoken, far: Spoken, *, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Up to `count` different sentences about one sound in front of another."""
    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{near.noun()} with {far.noun()} in the background",
        lambda: f"{near.clause()} while {far.clause()}",
        lambda: f"{near.noun()} over {far.noun()}",
        lambda: f"{near.clause()} with {far.noun()} behind it",
        lambda: f"{near.noun()} and, in the background, {far.noun()}",
        lambda: f"{near.noun()} during {far.noun()}",
        lambda: f"{near.clause()} as {far.clause()}",
    )
    return _different(forms, count, rng)


def _different(forms: tuple[Callable[[], str], ...], count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """What the first forms in a random order say, without repetitions."""
    said: dict[str, None] = {}
    for number in rng.permutation(len(forms)):
        if len(said) < count:
            said[forms[number]()] = None
    return tuple(said)
