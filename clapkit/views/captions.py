"""Views that make sentences of labels, tags and keywords.

Whatever a text view makes is added to what the clip has: the training draws one of its texts for each batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.text.prompts import TRAINING, clean_label, fill
from clapkit.views.base import Domain, Params

Into = Literal["captions", "prompts"]


@dataclass(frozen=True)
class LabelPrompts:
    """Turn the class label (or each tag) into sentences, so that a labelled folder trains a language model of sound.

    `draw` takes `per_clip` of the templates (None: all of them); the filled templates become the clip's `prompts`.
    """

    templates: tuple[str, ...] = TRAINING["sound"]
    per_clip: int | None = None

    adds: ClassVar[tuple[str, ...]] = ("text",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        if not self.templates:
            raise SpecError("templates is empty: give at least one sentence with {} in it")
        for template in self.templates:
            fill(template, "label")  # a template without a place for the label is refused now, not while training
        if self.per_clip is not None and not 1 <= self.per_clip <= len(self.templates):
            raise SpecError(f"per_clip={self.per_clip}: there are {len(self.templates)} templates to draw from")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        count = len(self.templates)
        if self.per_clip is None:
            return {"templates": list(range(count))}
        return {"templates": sorted(int(i) for i in rng.choice(count, self.per_clip, replace=False))}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        names = (clip.label,) if clip.label else clip.tags
        made = (fill(self.templates[i], name) for name in names for i in params["templates"])
        return clip.with_(prompts=tuple(dict.fromkeys((*clip.prompts, *made))))


# What is heard when a keyword is: clauses of our own for common sounds; `KeywordsToCaption` says others by name.
CLAUSES: tuple[tuple[str, str], ...] = (
    ("dog", "a dog barks"),
    ("cat", "a cat meows"),
    ("rooster", "a rooster crows"),
    ("cow", "a cow moos"),
    ("frog", "a frog croaks"),
    ("hen", "a hen clucks"),
    ("sheep", "a sheep bleats"),
    ("crow", "a crow caws"),
    ("insects", "insects buzz"),
    ("crickets", "crickets chirp"),
    ("chirping birds", "birds chirp"),
    ("rain", "rain falls"),
    ("wind", "the wind blows"),
    ("thunderstorm", "thunder rolls"),
    ("sea waves", "waves roll in"),
    ("water drops", "water drips"),
    ("crackling fire", "a fire crackles"),
    ("crying baby", "a baby cries"),
    ("sneezing", "a person sneezes"),
    ("clapping", "people clap"),
    ("coughing", "a person coughs"),
    ("footsteps", "a person walks"),
    ("laughing", "a person laughs"),
    ("laughter", "people laugh"),
    ("snoring", "a person snores"),
    ("speech", "a person talks"),
    ("singing", "a person sings"),
    ("applause", "an audience claps"),
    ("door wood knock", "somebody knocks at a door"),
    ("mouse click", "a mouse clicks"),
    ("keyboard typing", "somebody types"),
    ("vacuum cleaner", "a vacuum cleaner hums"),
    ("clock alarm", "an alarm clock rings"),
    ("clock tick", "a clock ticks"),
    ("glass breaking", "glass breaks"),
    ("helicopter", "a helicopter flies by"),
    ("chainsaw", "a chainsaw whines"),
    ("siren", "a siren wails"),
    ("car horn", "a car honks"),
    ("engine", "an engine runs"),
    ("train", "a train passes"),
    ("church bells", "church bells ring"),
    ("airplane", "an airplane flies over"),
    ("fireworks", "fireworks go off"),
    ("hand saw", "somebody saws"),
)
# A tag that guesses who somebody is becomes one that says what is heard (card 000 does so with generated captions).
NEUTRAL: tuple[tuple[str, str], ...] = (
    ("man", "person"),
    ("woman", "person"),
    ("men", "people"),
    ("women", "people"),
    ("male", "human"),
    ("female", "human"),
    ("boy", "child"),
    ("girl", "child"),
)


@dataclass(frozen=True)
class TagsToSentence:
    """The tags of a clip in one sentence, "the sounds of X, Y and Z" (card 000), in drawn order.

    `most` tags at most are named, drawn anew for each of `per_clip` sentences: what is left out makes none false.
    """

    templates: tuple[str, ...] = ("the sounds of {}", "a recording of {}", "{}")
    most: int = 5
    per_clip: int = 4
    into: Into = "captions"

    adds: ClassVar[tuple[str, ...]] = ("text",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        check_per_clip(self.per_clip)
        check_most(self.most)
        check_into(self.into)
        if not self.templates:
            raise SpecError("templates is empty: give at least one sentence with {} in it")
        for template in self.templates:
            fill(template, "tags")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        tags = keywords(clip.tags)
        made = [
            fill(self.templates[int(rng.integers(len(self.templates)))], listed(_some(rng, tags, self.most)))
            for _ in range(self.per_clip if tags else 0)
        ]
        return {"sentences": list(dict.fromkeys(made))}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        return with_texts(clip, self.into, params["sentences"])


@dataclass(frozen=True)
class KeywordsToCaption:
    """A caption from keywords, by rule: "dog", "rain" -> "a dog barks and rain falls" (card 000, there with T5).

    Keywords are the label and the tags, without repeats. Each becomes its clause of the table, or "... is heard" where
    the table has none; at most `most` of them, drawn and in drawn order, are joined. `neutral` words are exchanged
    first, whole words only.
    """

    clauses: tuple[tuple[str, str], ...] = CLAUSES
    neutral: tuple[tuple[str, str], ...] = NEUTRAL
    most: int = 3
    per_clip: int = 4

    adds: ClassVar[tuple[str, ...]] = ("text",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        check_per_clip(self.per_clip)
        check_most(self.most)

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        exchanged, clauses = dict(self.neutral), dict(self.clauses)
        words = keywords((*((clip.label,) if clip.label else ()), *clip.tags))
        neutral = dict.fromkeys(" ".join(exchanged.get(w.lower(), w) for w in name.split()) for name in words)
        said = list(dict.fromkeys(clauses.get(name.lower(), f"{name} is heard") for name in neutral))
        made = [listed(_some(rng, said, self.most)) for _ in range(self.per_clip if said else 0)]
        return {"sentences": list(dict.fromkeys(made))}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        return with_texts(clip, "captions", params["sentences"])


def check_per_clip(per_clip: int) -> None:
    """Refuse a number of sentences below 1."""
    if per_clip < 1:
        raise SpecError(f"per_clip is a number of sentences, at least 1, not {per_clip}")


def check_into(into: str) -> None:
    """Refuse a kind of text that a clip does not have."""
    if into not in ("captions", "prompts"):
        raise SpecError(f"into is 'captions' or 'prompts', not {into!r}")


def check_most(most: int) -> None:
    """Refuse a number of names below 1."""
    if most < 1:
        raise SpecError(f"most is a number of names in a sentence, at least 1, not {most}")


def listed(names: Sequence[str]) -> str:
    """ "X", "X and Y", "X, Y and Z"."""
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)


def keywords(names: Sequence[str]) -> list[str]:
    """Names as words, without empty ones, each once whatever its case."""
    found: dict[str, str] = {}
    for raw in names:
        found.setdefault(clean_label(raw).casefold(), clean_label(raw))
    return [name for name in found.values() if name]


def with_texts(clip: Clip, into: Into, texts: Sequence[str]) -> Clip:
    """The clip with further texts, each once."""
    if into == "prompts":
        return clip.with_(prompts=tuple(dict.fromkeys((*clip.prompts, *texts))))
    return clip.with_(captions=tuple(dict.fromkeys((*clip.captions, *texts))))


def _some(rng: np.random.Generator, names: Sequence[str], most: int) -> list[str]:
    """A drawn number of the names, from one to `most`, in drawn order."""
    count = int(rng.integers(1, min(most, len(names)) + 1))
    return [names[int(i)] for i in rng.permutation(len(names))[:count]]
