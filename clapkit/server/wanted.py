"""What one search asks for: read, checked against the limits, and made into the query of a store."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clapkit.errors import SpecError, nearest_name
from clapkit.search.where import Filter
from clapkit.server.limits import Limits, checked_count, checked_start, checked_text
from clapkit.server.refusals import Refusal
from clapkit.server.uploads import Form

ID = r"^[A-Za-z0-9_-]{1,128}$"
_SECONDS = r"([0-9]{1,7}(?:\.[0-9]{1,9})?)"
_EXAMPLE = re.compile(rf"([A-Za-z0-9_-]{{1,128}})(?::{_SECONDS}-{_SECONDS})?")
FIELDS = (
    "text",
    "without",
    "k",
    "where",
    "words",
    "like",
    "joined",
    "moments",
    "variety",
    "copies_above",
    "exact",
    "start_s",
    "end_s",
)
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
SEVERAL = ("text", "without", "where", "like")
JOINED = ("mean", "any")


@dataclass(frozen=True)
class Example:
    """What results should be like: the row `id`, or the seconds from `start_s` to `end_s` of its file."""

    id: str
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class Wanted:
    """One search, checked.

    texts, sound, like    what is looked for: words, an uploaded sound (from `start_s` to `end_s`), rows
    without               what it should not sound like
    joined                "mean": like all of them at once; "any": like one of them
    where, words          filters, and words that are looked up in names, tags and metadata
    moments               stretches of files in place of windows
    variety               0 leaves the order of the scores, 1 looks for variety alone
    copies_above          leave out rows within this cosine of a better one
    """

    k: int = 10
    texts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    like: tuple[Example, ...] = ()
    joined: str = "mean"
    where: tuple[Filter, ...] = ()
    words: str | None = None
    moments: bool = False
    variety: float = 0.0
    copies_above: float | None = None
    exact: bool = False
    sound: bytes | None = None
    start_s: float = 0.0
    end_s: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the rows nearest to one direction are the answer."""
        ordered = self.without or self.words or self.moments or self.variety or self.copies_above is not None
        return not (ordered or self.where or self.exact or self.joined != "mean")


def checked_search(
    limits: Limits,
    *,
    text: Sequence[str] = (),
    without: Sequence[str] = (),
    like: Sequence[str] = (),
    where: Sequence[str] = (),
    words: str | None = None,
    k: int = 10,
    variety: float = 0.0,
    copies_above: float | None = None,
    joined: str = "mean",
    start_s: float = 0.0,
    end_s: float | None = None,
    **more: Any,
) -> Wanted:
    """The search that words and numbers ask for; `more` is taken as it is. Refusal (422) for what does not fit."""
    checked_count(k, name="k", most=limits.results)
    parts = len(text) + len(without) + len(like)
    if parts > limits.parts:
        raise Refusal(422, f"text, without and like come {parts} times: expected at most {limits.parts} together")
    if len(where) > limits.filters:
        raise Refusal(422, f"where comes {len(where)} times: expected at most {limits.filters} filters")
    if joined not in JOINED:
        raise Refusal(422, f"joined is '{joined}': expected {' or '.join(JOINED)}")
    _check_range("variety", variety, 0, 1)
    if copies_above is not None:
        _check_range("copies_above", copies_above, -1, 1)
    if more.get("moments") and (variety or copies_above is not None):
        raise Refusal(422, "moments are in the order of their scores: leave out variety and copies_above, or moments")
    checked_start(start_s)
    if end_s is not None and not start_s < end_s < math.inf:
        raise Refusal(422, f"start_s {start_s} and end_s {end_s} are no stretch of a sound: expected 0 <= start < end")
    return Wanted(
        k=k,
        texts=_texts(text, "text", limits),
        without=_texts(without, "without", limits),
        like=_examples(like, limits),
        joined=joined,
        where=tuple(_filter(one, limits) for one in where),
        words=None if words is None else checked_text(words, limits, what="words"),
        variety=variety,
        copies_above=copies_above,
        start_s=start_s,
        end_s=end_s,
        **more,
    )


def searched_by(form: Form, limits: Limits) -> Wanted:
    """The search that a form asks for."""
    given: dict[str, Any] = {name: form.words.get(name, []) for name in SEVERAL}
    for name in ("variety", "copies_above", "start_s", "end_s"):
        if (value := form.one(name)) is not None:
            given[name] = _decimal(name, value)
    if (places := {"start_s", "end_s"} & given.keys()) and form.sound is None:
        raise Refusal(422, f"{max(places)} is a place in an uploaded sound: send the file 'sound' with it")
    return checked_search(
        limits,
        **given,
        k=form.number("k", 10),
        words=form.one("words"),
        joined=form.one("joined") or "mean",
        moments=_flag(form, "moments"),
        exact=_flag(form, "exact"),
        sound=form.sound,
    )


def refuse_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    """Refusal (422) for what would be ignored: a parameter that does not exist, or comes twice and is wanted once."""
    for name in names:
        if name not in known:
            raise Refusal(422, f"there is no parameter '{name}'; {nearest_name(name, list(known))}")
        if name not in SEVERAL and names.count(name) > 1:
            raise Refusal(422, f"the parameter '{name}' comes {names.count(name)} times: expected once")


def _examples(written: Sequence[str], limits: Limits) -> tuple[Example, ...]:
    """ID or ID:FROM-TO each; all stretches together are bounded, since each of them has to be decoded and heard."""
    examples = tuple(_example(one) for one in written)
    heard_s = sum(one.end_s - one.start_s for one in examples if one.end_s is not None)
    if heard_s > limits.sound_s:
        told = f"like asks for {heard_s:g} s of sounds to be heard: expected at most {limits.sound_s:g} s"
        raise Refusal(413, told)
    return examples


def _example(written: str) -> Example:
    found = _EXAMPLE.fullmatch(written)
    if found is None:
        told = "expected the id of a row, as a search gives it, or a stretch of its file as ID:FROM-TO in seconds"
        raise Refusal(422, f"like is '{written}': {told}")
    id, start, end = found.groups()
    if end is None:
        return Example(id)
    if not float(start) < float(end):
        raise Refusal(422, f"like is '{written}': the stretch has to end after it begins")
    return Example(id, float(start), float(end))


def _texts(texts: Sequence[str], what: str, limits: Limits) -> tuple[str, ...]:
    names = [what] if len(texts) == 1 else [f"{what} {number}" for number in range(1, len(texts) + 1)]
    return tuple(checked_text(text, limits, what=name) for text, name in zip(texts, names, strict=True))


def _filter(written: str, limits: Limits) -> Filter:
    checked = checked_text(written, limits, what="where")
    try:
        return Filter.parse(checked)
    except SpecError as error:
        raise Refusal(422, f"where: {error}") from None


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise Refusal(422, f"{name} is {value}: expected {low} to {high}")


def _decimal(name: str, value: str) -> float:
    try:
        return float(value[:1000])
    except ValueError:
        raise Refusal(422, f"{name} is '{value}': expected a number") from None


def _flag(form: Form, name: str) -> bool:
    value = (form.one(name) or "false").lower()
    if value not in (*_TRUE, *_FALSE):
        raise Refusal(422, f"{name} is '{value}': expected true or false")
    return value in _TRUE
