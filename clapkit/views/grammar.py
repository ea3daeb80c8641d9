"""Sentences from a small grammar, filled with what is known about a clip; fields that are left out by chance.

The language of a template (cards 000, 061):

    a {label} outside      a slot: label, tag (one of the tags), tags ("X, Y and Z"), caption, or a named meta column
    [ in {place}]          an optional part: left out by chance, and always when one of its slots has no value
    (loud|noisy|)          alternatives: one of them; those with a slot that has no value are passed over
    \\{ \\[ \\( \\|            the character itself

A template is text and never run: no expression, no attribute, no format code. A slot that does not exist, a bracket
that is left open and the like are refused when the view is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import SpecError, nearest_name
from clapkit.text.prompts import clean_label
from clapkit.views.audio import check_probability
from clapkit.views.base import Domain, Params
from clapkit.views.captions import Into, check_into, check_per_clip, listed, with_texts

SLOTS = ("label", "tag", "tags", "caption")
_CLOSING = {"[": "]", "(": ")"}

# A part of a template: text, a slot ("slot", name), an optional part ("maybe", parts), alternatives ("one of", ...).
_Part: TypeAlias = Any
Say = Callable[[str], str | None]


@dataclass(frozen=True)
class Grammar:
    """Sentences drawn from templates of the language above.

    per_clip    sentences of each clip, from templates drawn at random; equal ones count once
    columns     meta columns that templates may name
    optional    how often an optional part is said
    into        "captions" for sentences that describe this clip alone, "prompts" where they follow from the label, as
                the sentences of other clips of the class do
    """

    templates: tuple[str, ...]
    columns: tuple[str, ...] = ()
    per_clip: int = 4
    optional: float = 0.5
    into: Into = "captions"

    adds: ClassVar[tuple[str, ...]] = ("text",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        check_per_clip(self.per_clip)
        if not 0.0 <= self.optional <= 1.0:
            raise SpecError(f"optional is a share between 0 and 1, not {self.optional}")
        check_into(self.into)
        if not self.templates:
            raise SpecError("templates is empty: give at least one sentence, for example 'the sound of {label}'")
        for template in self.templates:
            parse(template, slots=(*SLOTS, *self.columns))

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        say = _speaker(rng, clip)
        parsed = [parse(t, slots=(*SLOTS, *self.columns)) for t in self.templates]
        made = [
            _rendered(parsed[int(rng.integers(len(parsed)))], say, rng, self.optional) for _ in range(self.per_clip)
        ]
        return {"sentences": list(dict.fromkeys(_tidy(text) for text in made if text and _tidy(text)))}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        return with_texts(clip, self.into, params["sentences"])


@dataclass(frozen=True)
class FieldDropout:
    """Descriptions made of a drawn part of what is known, in drawn order (CLaMP, cards 030 and 113: text dropout).

    fields      slots of the grammar or meta columns; those without a value do not count
    keep        each is kept with this probability, one at least
    separator   what stands between them
    """

    fields: tuple[str, ...] = ("caption", "label", "tags")
    keep: float = 0.5
    separator: str = ". "
    per_clip: int = 4
    into: Into = "captions"

    adds: ClassVar[tuple[str, ...]] = ("text",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        check_per_clip(self.per_clip)
        check_probability(self.keep)
        check_into(self.into)
        if not self.fields:
            raise SpecError("fields is empty: name at least one slot or meta column")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        say = _speaker(rng, clip)
        made = []
        for _ in range(self.per_clip):
            values = [text for name in self.fields if (text := say(name))]
            if values:
                kept = np.flatnonzero(rng.random(len(values)) < self.keep)
                chosen = rng.permutation(kept if len(kept) else rng.integers(len(values), size=1))
                made.append(self.separator.join(values[int(i)] for i in chosen))
        return {"sentences": list(dict.fromkeys(made))}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        return with_texts(clip, self.into, params["sentences"])


def _speaker(rng: np.random.Generator, clip: Clip) -> Say:
    """What a slot says of the clip; None where it has no value."""
    tags = [name for tag in clip.tags if (name := clean_label(tag))]

    def say(slot: str) -> str | None:
        if slot == "label":
            return clean_label(clip.label) if clip.label else None
        if slot == "tag":
            return tags[int(rng.integers(len(tags)))] if tags else None
        if slot == "tags":
            return listed([tags[int(i)] for i in rng.permutation(len(tags))]) if tags else None
        if slot == "caption":
            return clip.captions[int(rng.integers(len(clip.captions)))] if clip.captions else None
        return _words(clip.meta.get(slot))

    return say


def _words(value: Any) -> str | None:
    """A meta value as words: lists as "X, Y and Z", numbers without a needless .0; None where there is nothing."""
    if isinstance(value, (list, tuple)):
        return listed([text for v in value if (text := _words(v))]) or None
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return f"{value:g}" if isinstance(value, float) else str(value).strip() or None


def parse(template: str, *, slots: Sequence[str]) -> tuple[_Part, ...]:
    """The parts of a template. SpecError with the place of what is wrong; slots not in `slots` are refused."""
    parts, end = _sequence(template, 0, "", slots)
    assert end == len(template)
    if not any(not isinstance(part, str) or part.strip() for part in parts):
        raise SpecError(f"the template {template!r} says nothing")
    return parts


def _sequence(template: str, at: int, closing: str, slots: Sequence[str]) -> tuple[tuple[_Part, ...], int]:
    """Parts from `at` up to the end of a group (or of an alternative), and where that is."""
    parts: list[_Part] = []
    text = ""
    while at < len(template):
        mark = template[at]
        if closing and (mark == closing or (mark == "|" and closing == ")")):
            break
        if mark == "\\":
            if at + 1 == len(template):
                raise _wrong(template, at, "'\\' stands before nothing; write \\\\ for the character")
            text, at = text + template[at + 1], at + 2
        elif mark in "{[(":
            part, at = _group(template, at, slots)
            parts, text = [*parts, text, part], ""
        elif mark in "}])|":
            raise _wrong(template, at, f"'{mark}' closes or parts nothing; write \\{mark} for the character")
        else:
            text, at = text + mark, at + 1
    else:
        if closing:
            raise _wrong(template, at, f"'{closing}' is missing")
    return tuple(part for part in (*parts, text) if part != ""), at


def _group(template: str, at: int, slots: Sequence[str]) -> tuple[_Part, int]:
    opening = template[at]
    if opening == "{":
        end = template.find("}", at)
        name = template[at + 1 : end]
        if end < 0:
            raise _wrong(template, at, "'}' is missing")
        if name not in slots:
            raise _wrong(template, at, f"there is no slot '{name}'; {nearest_name(name, list(slots))}")
        return ("slot", name), end + 1
    if opening == "[":
        parts, end = _sequence(template, at + 1, _CLOSING[opening], slots)
        return ("maybe", parts), end + 1
    options = []
    while True:
        parts, at = _sequence(template, at + 1, _CLOSING[opening], slots)
        options.append(parts)
        if template[at] == ")":
            return ("one of", tuple(options)), at + 1


def _wrong(template: str, at: int, what: str) -> SpecError:
    return SpecError(f"the template {template!r}, character {at + 1}: {what}")


def _rendered(parts: Sequence[_Part], say: Say, rng: np.random.Generator, optional: float) -> str | None:
    """The words of some parts; None where one of them cannot be said of this clip."""
    words: list[str] = []
    for part in parts:
        text: str | None
        if isinstance(part, str):
            text = part
        elif part[0] == "slot":
            text = say(part[1])
        elif part[0] == "maybe":
            said = rng.random() < optional
            text = (_rendered(part[1], say, rng, optional) if said else None) or ""
        else:
            text = _one_of(part[1], say, rng, optional)
        if text is None:
            return None
        words.append(text)
    return "".join(words)


def _one_of(options: Sequence[Sequence[_Part]], say: Say, rng: np.random.Generator, optional: float) -> str | None:
    for i in rng.permutation(len(options)):
        if (text := _rendered(options[int(i)], say, rng, optional)) is not None:
            return text
    return None


def _tidy(text: str) -> str:
    """Without the blanks that parts left out have left behind."""
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))
