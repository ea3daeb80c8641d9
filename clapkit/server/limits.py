"""How much the server takes on, and what it takes for a query."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass, fields

from clapkit.errors import SpecError
from clapkit.server.refusals import Refusal

_SPACES = "\t\n\r"
_LONGEST_S = 1e8  # three years: beyond, decoders count samples wrongly


@dataclass(frozen=True)
class Limits:
    """Bounds of the server; every one of them is answered with a status and a message when it is reached.

    Of one request:
    body_bytes            longest body (413)
    sound_s               longest sound that is uploaded (413)
    text_chars            longest text (422);  texts, labels: most of them in one request (422)
    results               most results of a search (422);  candidates: rows that are looked at for them, where an order
                          of its own is asked for: beyond, fewer of them come for each result
    parts                 texts, texts of `without`, and rows of one search (422);  filters: of one search (422)
    points                most points of a map (422)
    head_s, body_s        by when the head has to have come (the connection is closed), and the body (408)
    decode_s              what decoding one sound may take (422)
    answer_s              what the whole answer may take until it begins (503)
    send_s                how long a client may take none of its answer (the connection is closed)
    spectrogram_s         longest stretch that one spectrogram shows; what lies behind it is left out

    Of all requests together:
    requests_per_client   under way at once from one address (429)
    requests              under way at once (429)
    connections           open at once (429)
    bodies_bytes          of bodies held at once (429)
    decoders              processes that decode; decoders + sounds_waiting sounds are taken at once (429)
    texts_waiting         texts that wait for the encoder (429)
    texts_at_once         texts of one call of the encoder;  window_s: how long the first of them waits for others
    refresh_s             how often a store is asked for a newer version
    """

    body_bytes: int = 25 << 20
    sound_s: float = 120.0
    text_chars: int = 2000
    texts: int = 256
    labels: int = 1000
    results: int = 500
    candidates: int = 5000
    parts: int = 32
    filters: int = 16
    points: int = 5000
    head_s: float = 10.0
    body_s: float = 30.0
    decode_s: float = 15.0
    answer_s: float = 60.0
    send_s: float = 30.0
    spectrogram_s: float = 120.0
    requests_per_client: int = 64
    requests: int = 256
    connections: int = 1024
    bodies_bytes: int = 256 << 20
    decoders: int = 2
    sounds_waiting: int = 16
    texts_waiting: int = 1024
    texts_at_once: int = 32
    window_s: float = 0.003
    refresh_s: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("sounds_waiting", "window_s") else 1 if isinstance(field.default, int) else None
            if not math.isfinite(value) or (value <= 0 if least is None else value < least):
                wanted = "above 0" if least is None else f"at least {least}"
                raise SpecError(f"the limit {field.name} is {value}: expected a finite number, {wanted}")


def checked_text(text: str, limits: Limits, *, what: str = "text") -> str:
    """The text without spaces around it. Refusal (422) if it is empty, too long, or holds control characters."""
    if len(text) > limits.text_chars:
        words = len(text.split())
        raise Refusal(
            422, f"{what} has {len(text)} characters ({words} words): expected at most {limits.text_chars} characters"
        )
    for position, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs") and character not in _SPACES:
            raise Refusal(
                422, f"{what} holds the control character U+{ord(character):04X} at position {position}: leave it out"
            )
    if "\ufffd" in text:  # what decoding puts in the place of bytes that are none
        raise Refusal(422, f"{what} is not valid UTF-8 at position {text.index(chr(0xFFFD))}: send it in that encoding")
    if not any(unicodedata.category(character)[0] not in "CZ" for character in text):
        raise Refusal(422, f"{what} is empty: expected words")
    return text.strip()


def checked_texts(texts: list[str], limits: Limits, *, what: str = "text", most: int) -> list[str]:
    """The texts of a list, each checked. Refusal (422) for none, or more than `most`."""
    if not 1 <= len(texts) <= most:
        raise Refusal(422, f"there are {len(texts)} {what}s: expected 1 to {most}")
    return [checked_text(text, limits, what=f"{what} {number}") for number, text in enumerate(texts, 1)]


def checked_start(start_s: float) -> float:
    """Where in a sound to begin, if it is a place in one; else a Refusal (422)."""
    if not 0 <= start_s <= _LONGEST_S:
        raise Refusal(422, f"start_s is {start_s}: expected seconds from 0 to {_LONGEST_S:g}")
    return start_s


def checked_count(k: int, *, name: str, most: int) -> int:
    """`k`, if it lies in 1 to `most`; else a Refusal (422)."""
    if not 1 <= k <= most:
        raise Refusal(422, f"{name} is {k}: expected 1 to {most}")
    return k
