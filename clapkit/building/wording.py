"""How the sound world speaks: attribute words with their synonyms, and the grammar that makes captions.

Traits are a mapping from an axis to a value that is audible and will be mentioned:
{"pitch": "high-pitched", "loudness": "quiet", "tempo": "fast", "duration": "long", "count": 3}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from clapkit.building.kinds import Kind

Traits = Mapping[str, str | int]


@dataclass(frozen=True)
class Word:
    """One value of an attribute: its axis, adjectives (the first is canonical), adverbs, and its opposite."""

    axis: str
    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]
    opposite: str


WORDS: dict[str, Word] = {
    "low-pitched": Word("pitch", ("low-pitched", "deep", "low"), ("in a low pitch", "in a deep tone"), "high-pitched"),
    "high-pitched": Word("pitch", ("high-pitched", "shrill", "high"), ("in a high pitch", "in a shrill tone"), "low-pitched"),
    "quiet": Word("loudness", ("quiet", "faint", "soft"), ("quietly", "faintly", "softly"), "loud"),
    "loud": Word("loudness", ("loud", "strong", "noisy"), ("loudly", "at full volume", "noisily"), "quiet"),
    "slow": Word("tempo", ("slow", "unhurried"), ("slowly", "at a slow pace"), "fast"),
    "fast": Word("tempo", ("fast", "rapid", "quick"), ("fast", "rapidly", "quickly"), "slow"),
    "short": Word("duration", ("short", "brief"), ("briefly", "for a short moment"), "long"),
    "long": Word("duration", ("long", "prolonged"), ("for a long time", "on and on"), "short"),
}  # fmt: skip

_NUMBERS = {1: ("one", "a single"), 2: ("two",), 3: ("three",), 4: ("four",)}
_TIMES = {1: ("once", "one time"), 2: ("twice", "two times"), 3: ("three times",), 4: ("four times",)}


def values_of(axis: str) -> tuple[str, ...]:
    """The named values of an attribute: ("low-pitched", "high-pitched") for "pitch"."""
    return tuple(value for value, word in WORDS.items() if word.axis == axis)


def combination(kind: Kind, value: str) -> str:
    """The canonical phrase for a kind with one attribute, usable as a class name: "high-pitched dog bark"."""
    return f"{WORDS[value].adjectives[0]} {kind.name}"


def captions(kind: Kind, traits: Traits, *, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Up to `count` different sentences about one kind of sound; each mentions every trait."""
    forms: tuple[Callable[[], str], ...] = (
        lambda: _noun(kind, traits, rng),
        lambda: _clause(kind.does, kind, traits, rng),
        lambda: f"the sound of {_noun(kind, traits, rng)}",
        lambda: _clause(kind.doing, kind, traits, rng),
        lambda: f"a recording of {_noun(kind, traits, rng)}",
        lambda: f"{_noun(kind, traits, rng)} can be heard",
        lambda: _list(kind, traits, rng),
        lambda: f"we hear {_noun(kind, traits, rng)}",
        lambda: f"this is {_noun(kind, traits, rng)}",
    )
    return _different(forms, count, rng)


def sequence_captions(
    first: tuple[Kind, Traits], second: tuple[Kind, Traits], *, count: int, rng: np.random.Generator
) -> tuple[str, ...]:
    """Up to `count` different sentences that say which of two sounds comes first."""

    def noun(part: tuple[Kind, Traits]) -> str:
        return _noun(*part, rng)

    def clause(part: tuple[Kind, Traits]) -> str:
        return _clause(part[0].does, *part, rng)

    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{noun(first)} followed by {noun(second)}",
        lambda: f"{noun(second)} after {noun(first)}",
        lambda: f"{noun(first)} before {noun(second)}",
        lambda: f"first {noun(first)}, then {noun(second)}",
        lambda: f"{clause(first)}, and then {clause(second)}",
        lambda: f"{clause(first)} before {clause(second)}",
        lambda: f"after {noun(first)} comes {noun(second)}",
    )
    return _different(forms, count, rng)


def overlap_captions(
    near: tuple[Kind, Traits], far: tuple[Kind, Traits], *, count: int, rng: np.random.Generator
) -> tuple[str, ...]:
    """Up to `count` different sentences about one sound in front of another."""

    def noun(part: tuple[Kind, Traits]) -> str:
        return _noun(*part, rng)

    def clause(part: tuple[Kind, Traits]) -> str:
        return _clause(part[0].does, *part, rng)

    forms: tuple[Callable[[], str], ...] = (
        lambda: f"{noun(near)} with {noun(far)} in the background",
        lambda: f"{clause(near)} while {clause(far)}",
        lambda: f"{noun(near)} over {noun(far)}",
        lambda: f"{clause(near)} with {noun(far)} behind it",
        lambda: f"{noun(near)} and, in the background, {noun(far)}",
        lambda: f"{noun(near)} during {noun(far)}",
        lambda: f"{clause(near)} as {clause(far)}",
    )
    return _different(forms, count, rng)


def _different(forms: tuple[Callable[[], str], ...], count: int, rng: np.random.Generator) -> tuple[str, ...]:
    chosen = rng.permutation(len(forms))[:count]
    return tuple(dict.fromkeys(forms[i]() for i in chosen))


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _adjectives(traits: Traits, rng: np.random.Generator) -> list[str]:
    # The canonical word is the commonest one, as in speech, so that class names built from it are no strangers.
    words = [WORDS[str(value)].adjectives for axis, value in traits.items() if axis != "count"]
    return [options[0] if rng.random() < 0.4 else _pick(options, rng) for options in words]


def _noun(kind: Kind, traits: Traits, rng: np.random.Generator) -> str:
    """"three quiet dog barks", "a loud siren", "rapid footsteps"."""
    adjectives = _adjectives(traits, rng)
    number = traits.get("count")
    if number is not None and int(number) > 1:
        return " ".join((_pick(_NUMBERS[int(number)], rng), *adjectives, kind.plural))
    if number == 1:
        return " ".join((_pick(_NUMBERS[1], rng), *adjectives, kind.name))
    if kind.plural and rng.random() < 0.6:
        return " ".join((*adjectives, kind.plural))
    phrase = " ".join((*adjectives, kind.name))
    return phrase if kind.mass else f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _clause(clause: str, kind: Kind, traits: Traits, rng: np.random.Generator) -> str:
    """"a dog barks twice, loudly", "a dog barking rapidly"."""
    times = [_pick(_TIMES[int(traits["count"])], rng)] if "count" in traits else []
    adverbs = [_pick(WORDS[str(value)].adverbs, rng) for axis, value in traits.items() if axis != "count"]
    if not times and kind.plural and rng.random() < 0.25:
        times = [_pick(("again and again", "repeatedly", "several times"), rng)]
    return " ".join((clause, *times, " and ".join(adverbs))).strip()


def _list(kind: Kind, traits: Traits, rng: np.random.Generator) -> str:
    """Key words as people tag sounds: "dog bark, loud, three times"."""
    times = [_pick(_TIMES[int(traits["count"])], rng)] if "count" in traits else []
    return ", ".join((kind.name, *_adjectives(traits, rng), *times))
