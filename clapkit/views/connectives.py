"""The small words between two events: how they are put together, taken apart and turned round.

A connective is a template with the places {A} and {B}. What a table says of A and B is true of every template in it, so
a sentence with A and B exchanged is the wrong caption of the same length and form (cards 006, 026, 028). Each table
names A and B in both orders, or a model could learn that what is named first sounds first.
"""

from __future__ import annotations

import re

# A sounds before B.
SEQUENCE = (
    "{A}, then {B}",
    "{A} followed by {B}",
    "{A} and then {B}",
    "{A} before {B}",
    "{B} after {A}",
    "first {A}, then {B}",
    "after {A}, {B}",
    "before {B}, {A}",
)
# A and B sound at once.
OVERLAP = ("{A} while {B}", "{A} and {B} at the same time", "{A} together with {B}", "at once {A} and {B}")
# A lies clearly above B, which goes on all the time.
BACKGROUND = (
    "{A} with {B} in the background",
    "in front {A}, behind it {B}",
    "in the background {B}, in front {A}",
    "{B} far behind {A}",
)
# A is the stronger of the two.
LOUDER = ("{A} louder than {B}", "{B} quieter than {A}", "loudly {A}, quietly {B}", "quietly {B}, loudly {A}")

_ENDING = re.compile(r"[\s.!]*$")
_THEN = re.compile(r"[,;.]?\s+(?:(?:and|or)\s+)?then,?\s+|,?\s+followed\s+by\s+", re.IGNORECASE)
_BEFORE_OR_AFTER = re.compile(r"\b(?:before|after)\b", re.IGNORECASE)
_FIRST = re.compile(r"(?:at\s+first|first),?\s+", re.IGNORECASE)
# "after a while", "one after another", "shortly before": they relate to no event that the sentence names.
_NO_EVENT = re.compile(
    r"\s*(?:$|[.,;!]|(?:a while|a moment|that|which|this|it|long|another|the other|time|all|each)\b)"
)


def connect(template: str, first: str, second: str) -> str:
    """Two captions in one sentence; `first` goes to {A}. Written large, and with a full stop, if one of them was."""
    large = any(text[:1].isupper() and _lowered(text) != text for text in (first, second))
    stop = any(text.rstrip().endswith(".") for text in (first, second))
    words = {"{A}": _inside(first), "{B}": _inside(second)}
    made = re.sub(r"\{A\}|\{B\}", lambda place: words[place.group()], template)
    return (made[:1].upper() + made[1:] if large else made) + ("." if stop else "")


def _inside(text: str) -> str:
    """A caption as a part of another sentence; one written all in capitals would stand out in it."""
    text = bare(text)
    return text.lower() if text.isupper() and " " in text else _lowered(text)


def bare(text: str) -> str:
    """A caption without the full stop or exclamation mark at its end."""
    return _ENDING.sub("", text)


def _lowered(text: str) -> str:
    """A caption as it stands inside a sentence. "TV" and "I" keep their capital."""
    if text.startswith("A ") or text[1:2].islower():
        return text[0].lower() + text[1:]
    return text


def swap_order(text: str) -> str | None:
    """The sentence with its events in the opposite order, or None where it tells no order that a rule can turn round.

    "A, then B, then C" becomes "C, then B, then A"; "A before B" becomes "A after B", wherever the word stands. Swapped
    twice it is the sentence again, but for a capital that a name such as "TV" hid. None: no such word, words of both
    kinds, several of the second kind ("A before B after C" may stay true), or events of one name.
    """
    body = bare(text)
    ending = text[len(body) :]
    words = [found for found in _BEFORE_OR_AFTER.finditer(body) if not _NO_EVENT.match(body[found.end() :].lower())]
    separators = _THEN.findall(body)
    if separators and not words:
        return _reversed(body, separators, ending)
    if len(words) == 1 and not separators:
        return body[: words[0].start()] + _opposite(words[0].group()) + body[words[0].end() :] + ending
    return None


def _reversed(body: str, separators: list[str], ending: str) -> str | None:
    opening = _FIRST.match(body)
    head = opening.group() if opening else ""
    parts = _THEN.split(body[len(head) :])
    if len(parts) != len(separators) + 1:  # "first" and "then" side by side
        return None
    large = not head and _lowered(parts[0]) != parts[0]
    # After a full stop a part is written large, in either order.
    parts = [_lowered(part) for part in parts]
    turned = parts[::-1]
    if not all(parts) or [p.casefold() for p in parts] == [p.casefold() for p in turned]:
        return None
    joined = turned[0] + "".join(s + part for s, part in zip(separators, turned[1:], strict=True))
    return head + (joined[:1].upper() + joined[1:] if large else joined) + ending


def _opposite(word: str) -> str:
    other = "after" if word.lower() == "before" else "before"
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
