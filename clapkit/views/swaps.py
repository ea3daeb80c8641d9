"""Captions that are false for their clip: events in another order, an attribute turned round, a sound denied.

They become the clip's `wrong`: hard negatives of this clip alone (cards 006, 026, 028). None of these views changes the
sound, so no caption of the clip becomes false. Put `Paraphrase` after them: it rewrites wrong captions as it does true
ones, so that the wording gives nothing away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.text.prompts import clean_label, fill
from clapkit.views.audio import check_probability
from clapkit.views.base import Domain, Params
from clapkit.views.captions import check_per_clip, with_texts
from clapkit.views.connectives import bare, swap_order

OPPOSITES: tuple[tuple[str, str], ...] = (
    ("loud", "quiet"),
    ("loudly", "quietly"),
    ("loudest", "quietest"),
    ("louder", "quieter"),
    ("high", "low"),
    ("high-pitched", "low-pitched"),
    ("higher", "lower"),
    ("fast", "slow"),
    ("faster", "slower"),
    ("quickly", "slowly"),
    ("near", "far"),
    ("nearby", "far away"),
    ("slight", "heavy"),
    ("rising pitch", "falling pitch"),
    ("bright", "dull"),
)
NEGATIONS = ("no {} can be heard", "there is no {} in this recording", "a recording without {}")
_ABSENT = ("{}, without {}", "{}, but no {}")
# An article at the beginning of a caption: "A dog barks" is denied by "No dog barks".
_ARTICLE = re.compile(r"(?:a|an|one|some|the)\s+(?!few|lot|number|couple|series|same|by|of\b)(?=\w)", re.IGNORECASE)


@dataclass(frozen=True)
class SwapOrder:
    """The caption with its events in the other order: "A, then B" -> "B, then A", "A before B" -> "A after B".

    Each caption gives its swapped form with probability `p`; one that tells no order gives none (card 006).
    """

    p: float = 1.0

    adds: ClassVar[tuple[str, ...]] = ("text_private",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        check_probability(self.p)

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        chances = rng.random(len(clip.captions))
        made = (swap_order(text) for text, chance in zip(clip.captions, chances, strict=True) if chance < self.p)
        return {"wrong": [text for text in made if text]}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        return with_wrong(clip, params["wrong"])


@dataclass(frozen=True)
class SwapAttribute:
    """The caption with one attribute turned round, "a loud dog" -> "a quiet dog", or with two exchanged (card 028).

    Exchanged where a caption has both of a pair: "a loud dog and a quiet cat" -> "a quiet dog and a loud cat".
    `per_clip` of all that can be made are drawn. Words are found whole, in any case.
    """

    pairs: tuple[tuple[str, str], ...] = OPPOSITES
    per_clip: int = 4

    adds: ClassVar[tuple[str, ...]] = ("text_private",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        check_per_clip(self.per_clip)
        check_pairs("pairs", self.pairs)

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        made = list(
            dict.fromkeys(text for caption in clip.captions for text in attributes_swapped(caption, self.pairs))
        )
        chosen = rng.permutation(len(made))[: self.per_clip]
        return {"wrong": [made[int(i)] for i in chosen]}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        return with_wrong(clip, params["wrong"])


@dataclass(frozen=True)
class Negate:
    """Sentences that deny a sound: false for what is heard, true for what is not (kin of the swaps of card 028).

    wrong       a caption whose article becomes "no" ("no dog barks"), and the label or a tag put into a negation
    captions    where `absent` names sounds that may be missing (the labels of the data): a caption with ", without X"
                for an X that no word of the clip speaks of. Without them every sentence with a "no" would be wrong, and
                a model need not listen to know it

    `per_clip` of each are drawn.
    """

    absent: tuple[str, ...] = ()
    templates: tuple[str, ...] = NEGATIONS
    per_clip: int = 2

    adds: ClassVar[tuple[str, ...]] = ("text_private",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        check_per_clip(self.per_clip)
        for template in self.templates:
            fill(template, "sound")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        names = [name for name in (clip.label, *clip.tags) if name and clean_label(name)]
        denied = [text for caption in clip.captions if (text := denial(caption))]
        denied += [fill(template, name) for name in dict.fromkeys(names) for template in self.templates]
        chosen = rng.permutation(len(denied))[: self.per_clip]
        return {"wrong": [denied[int(i)] for i in chosen], "captions": self._true(rng, clip)}

    def _true(self, rng: np.random.Generator, clip: Clip) -> list[str]:
        """Captions with a sound that is not there, denied."""
        words = _words_of(
            (*clip.captions, *clip.prompts, *clip.tags, clip.label or "", *(e.label for e in clip.events))
        )
        missing = [name for raw in self.absent if not _words_of([name := clean_label(raw)]) & words]
        if not missing or not clip.captions:
            return []
        made = []
        for _ in range(self.per_clip):
            caption = clip.captions[int(rng.integers(len(clip.captions)))]
            name = missing[int(rng.integers(len(missing)))]
            stop = "." if caption.rstrip().endswith(".") else ""
            made.append(_ABSENT[int(rng.integers(len(_ABSENT)))].format(bare(caption), name) + stop)
        return list(dict.fromkeys(made))

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        return with_wrong(with_texts(clip, "captions", params["captions"]), params["wrong"])


def with_wrong(clip: Clip, texts: Iterable[str]) -> Clip:
    """The clip with further wrong captions, each once, and none that is one of its true texts."""
    true = {text.casefold() for text in (*clip.captions, *clip.prompts)}
    return clip.with_(wrong=tuple(t for t in dict.fromkeys((*clip.wrong, *texts)) if t.casefold() not in true))


def check_pairs(name: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse a table whose rows are not two different words, or in which a word has two opposites."""
    seen: set[str] = set()
    for pair in pairs:
        if len(pair) != 2 or not all(pair) or pair[0].casefold() == pair[1].casefold():
            raise SpecError(f"{name}: a row holds two different words, not {pair!r}")
        if twice := [word for word in pair if word.casefold() in seen]:
            raise SpecError(f"{name}: '{twice[0]}' stands in two rows: which is its opposite?")
        seen.update(word.casefold() for word in pair)


def attributes_swapped(caption: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The caption with each attribute turned round alone, and with both of a pair exchanged where it has both.

    Where a caption has both words of a pair, turning round one of them is left out: "a quiet dog and a quiet cat" might
    be how somebody else hears it.
    """
    opposite = {a.casefold(): b for pair in pairs for a, b in (pair, pair[::-1])}
    # Longer ones first: "far away" before "far". A hyphen is part of a word here.
    ordered = sorted(opposite, key=len, reverse=True)
    if not ordered:
        return []
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, ordered))})(?![\w-])", re.IGNORECASE)
    found = list(pattern.finditer(caption))
    present = {match.group().casefold() for match in found}
    made = []
    for word in dict.fromkeys(match.group().casefold() for match in found):
        both = opposite[word].casefold() in present
        turned = {word, opposite[word].casefold()} if both else {word}
        made.append(_with(caption, found, [_turned(m.group(), opposite, turned) for m in found]))
    return list(dict.fromkeys(made))


def _with(text: str, found: Sequence[re.Match[str]], words: Sequence[str]) -> str:
    """The text with other words in the places that were found."""
    for match, word in reversed(list(zip(found, words, strict=True))):
        text = text[: match.start()] + word + text[match.end() :]
    return text


def _turned(word: str, opposite: Mapping[str, str], turned: set[str]) -> str:
    if word.casefold() not in turned:
        return word
    other = opposite[word.casefold()]
    if word.isupper():
        return other.upper()
    return other[0].upper() + other[1:] if word[0].isupper() else other


def denial(caption: str) -> str | None:
    """ "A dog barks" -> "No dog barks"; None where no article begins the caption."""
    article = _ARTICLE.match(caption)
    if article is None:
        return None
    return ("No " if caption[0].isupper() else "no ") + caption[article.end() :]


def _words_of(texts: Iterable[str]) -> set[str]:
    """The words of some texts without "s" and "ing" at their ends: "dogs" speak of a dog, "raining" of rain."""
    words = (word.casefold() for text in texts for word in re.findall(r"\w+", text.replace("_", " ")))
    return {word.removesuffix("s").removesuffix("ing") for word in words}
