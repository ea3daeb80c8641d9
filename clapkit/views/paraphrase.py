"""Other words for the same thing (card 010): rules that keep the meaning, so that no caption becomes false.

Operators can be split between training and a test of robustness: name those to train with. A model is better judged by
operators it never saw.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import SpecError, nearest_name
from clapkit.views.base import Domain, Params
from clapkit.views.captions import check_per_clip, with_texts
from clapkit.views.connectives import bare
from clapkit.views.swaps import with_wrong

Operator = Literal["synonym", "frame", "filler", "order", "case", "punctuation"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)

# Words of a row stand for each other wherever they are found.
SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("high-pitched", "shrill"),
    ("quietly", "softly", "faintly"),
    ("loudly", "noisily"),
    ("quickly", "rapidly", "at a fast pace"),
    ("slowly", "at a slow pace"),
    ("far away", "far off", "at a great distance"),
    ("someone", "somebody", "a person"),
    ("talks", "speaks"),
    ("talking", "speaking"),
    ("car", "automobile"),
    ("repeatedly", "again and again", "over and over"),
    ("continuously", "without a break"),
    ("continuous", "unbroken"),
    ("several", "a number of"),
    ("begins", "starts"),
    ("slightly", "a little"),
    ("at the same time", "at once"),
    ("together with", "along with"),
)
# They say the same of what stands at {}; the more special ones come first.
FRAMES: tuple[str, ...] = (
    "there is the sound of {}",
    "this is a recording of {}",
    "one can hear {}",
    "the sound of {}",
    "a recording of {}",
    "{} can be heard",
    "{} is heard",
    "{} is audible",
)
# In front of or behind any caption, clause or noun. None of them is a template of the evaluation.
FILLERS: tuple[str, ...] = (
    "in this clip, {}",
    "a clip in which {}",
    "sound: {}",
    "what was recorded: {}",
    "{}, as recorded",
    "{}, on a recording",
    "here, {}",
)
_ORDERED = re.compile(r"\b(?:then|before|after|first|next|later|followed|finally|while|both|between|than)\b|,", re.I)
_BOUND = re.compile(r"\b(?:of|from|with|by|in|on|at|to|for|like)\b", re.I)
# What a frame may not hold: an order, a comma, or the end of another frame.
_UNFIT = re.compile(_ORDERED.pattern + r"|\b(?:be heard|is heard|is audible)\b", re.I)
_DETERMINED = re.compile(r"(?:a|an|the|some|one|two|three|several|another|people|somebody|someone)\b", re.I)


@dataclass(frozen=True)
class Paraphrase:
    """Rewritten forms of what is said about a clip, true and wrong alike, added to it (card 010).

    per_clip    so many forms of each kind of text: captions, prompts and wrong captions
    operators   which rules may be used; each form uses one or more that apply, drawn
      synonym       a word of the table for another of its row
      frame         "a bell can be heard" -> "the sound of a bell"
      filler        "in this clip, a dog barks"
      order         "a dog barks and a cat meows" -> "a cat meows and a dog barks", where neither depends on the other
      case          all small, all large, or a capital at the beginning
      punctuation   with or without a full stop
    """

    per_clip: int = 2
    operators: tuple[Operator, ...] = OPERATORS
    synonyms: tuple[tuple[str, ...], ...] = SYNONYMS

    adds: ClassVar[tuple[str, ...]] = ("text",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        check_per_clip(self.per_clip)
        if not self.operators:
            raise SpecError(f"operators is empty: give at least one of {', '.join(OPERATORS)}")
        for operator in self.operators:
            if operator not in OPERATORS:
                raise SpecError(f"there is no operator '{operator}'; {nearest_name(str(operator), list(OPERATORS))}")
        for row in self.synonyms:
            if isinstance(row, str) or len(row) < 2 or not all(row):
                raise SpecError(f"synonyms: a row holds two words or more, not {row!r}")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        return {kind: self._forms(rng, getattr(clip, kind)) for kind in ("captions", "prompts", "wrong")}

    def _forms(self, rng: np.random.Generator, texts: Sequence[str]) -> list[str]:
        made: list[str] = []
        for _ in range(self.per_clip if texts else 0):
            text = self.rewrite(rng, texts[int(rng.integers(len(texts)))])
            if text not in texts and text not in made:
                made.append(text)
        return made

    def rewrite(self, rng: np.random.Generator, text: str) -> str:
        """The text after some of the operators; as it was where none applies."""
        # In the order of the list: fillers go round a sentence that is otherwise finished, case comes last.
        usable = [name for name in OPERATORS if name in self.operators and self._apply(name, rng, text) != text]
        if not usable:
            return text
        taken = {usable[int(rng.integers(len(usable)))], *(name for name in usable if rng.random() < 0.3)}
        for name in OPERATORS:
            if name in taken:
                text = self._apply(name, rng, text)
        return text

    def _apply(self, operator: Operator, rng: np.random.Generator, text: str) -> str:
        if operator == "synonym":
            return synonym(rng, text, self.synonyms)
        if operator == "frame":
            return reframed(rng, text)
        if operator == "filler":
            return filled(rng, text)
        if operator == "order":
            return reordered(text)
        return recased(rng, text) if operator == "case" else repunctuated(text)

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        true = with_texts(with_texts(clip, "captions", params["captions"]), "prompts", params["prompts"])
        return with_wrong(true, params["wrong"])


def synonym(rng: np.random.Generator, text: str, rows: Sequence[Sequence[str]]) -> str:
    """One word or phrase of the text for another of its row; the text itself where none is found."""
    found = []
    for row in rows:
        for word in sorted(row, key=len, reverse=True):
            if match := re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text, re.IGNORECASE):
                found.append((match, [other for other in row if other != word]))
                break  # "audio recording" holds "recording"
    if not found:
        return text
    match, others = found[int(rng.integers(len(found)))]
    other = others[int(rng.integers(len(others)))]
    return _with_article(text[: match.start()], other) + _cased(other, match.group()) + text[match.end() :]


def _with_article(before: str, word: str) -> str:
    """What stands before a word, "a" or "an" as the word asks for it."""
    article = re.search(r"\b(a)n?(\s+)$", before, re.IGNORECASE)
    if article is None:
        return before
    return before[: article.start()] + article[1] + ("n" if word[0].lower() in "aeiou" else "") + article[2]


def reframed(rng: np.random.Generator, text: str) -> str:
    """A sentence of one frame in another; the text itself where it stands in none, or where an "and" blurs its ends."""
    body = bare(text)
    for frame in FRAMES:
        before, after = frame.split("{}")
        low = body.casefold()
        inside = body[len(before) : len(body) - len(after)].strip()
        if inside and low.startswith(before) and low.endswith(after) and not _UNFIT.search(inside):
            if not before and " and " in inside:
                return text  # "a dog barks and a bell can be heard" is no frame round the whole
            other = [f for f in FRAMES if f != frame][int(rng.integers(len(FRAMES) - 1))]
            made = other.format(inside if before else _small(inside))
            return _cased(made, body) + text[len(body) :]
    return text


def filled(rng: np.random.Generator, text: str) -> str:
    """The text in a phrase that adds nothing."""
    body = bare(text)
    before, after = FILLERS[int(rng.integers(len(FILLERS)))].split("{}")
    return _cased(before + (_small(body) if before else body) + after, body) + text[len(body) :]


def reordered(text: str) -> str:
    """ "X and Y" as "Y and X", where both are things that are heard and no word tells an order.

    Both begin with an article, a number or a person; no preposition binds the first to what follows; and both are a
    clause or both a noun, told by their length: "a dog and a cat fight" stays.
    """
    body = bare(text)
    halves = body.split(" and ")
    if len(halves) != 2 or _ORDERED.search(body) or _BOUND.search(halves[0]):
        return text
    first, second = halves
    short = [len(half.split()) < 3 for half in halves]
    if short[0] != short[1] or not all(_DETERMINED.match(half) for half in halves):
        return text
    return _cased(f"{second} and {_small(first)}", body) + text[len(body) :]


def recased(rng: np.random.Generator, text: str) -> str:
    """The text all small, all large, or with a capital at its beginning: one of those that it is not yet."""
    forms = [form for form in (text.lower(), text.upper(), text[:1].upper() + text[1:]) if form != text]
    return forms[int(rng.integers(len(forms)))] if forms else text


def repunctuated(text: str) -> str:
    """With a full stop where there was none, without where there was one."""
    body = bare(text)
    return f"{body}." if body == text.rstrip() else body


def _small(text: str) -> str:
    """A caption as it stands inside a sentence."""
    return text[0].lower() + text[1:] if text[1:2].islower() or text.startswith("A ") else text


def _cased(text: str, model: str) -> str:
    """The text with a capital at its beginning if `model` has one there."""
    return text[:1].upper() + text[1:] if model[:1].isupper() else text
