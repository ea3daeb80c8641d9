"""One piece of sound with what is known about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Event:
    """Something that happens inside a clip, in seconds from the start of the clip."""

    label: str
    onset_s: float
    offset_s: float


@dataclass(frozen=True)
class Clip:
    """A frozen record; operations return copies (`with_`).

    audio       where the sound is: a path (str), the bytes of an encoded file, or a mono float32 array [N] when it
                has been decoded
    rate_hz     samples a second of `audio` when it is an array; None: nobody said, and what needs seconds refuses it
    start_s     where the clip starts inside the file, in seconds
    duration_s  how long it is; None: to the end of the file
    captions    sentences that somebody wrote, each a full description; `label` one class name; `tags` several
    prompts     sentences made from the label or the tags
    wrong       captions that are false for this clip (events swapped, an attribute turned round, negated): a batch
                holds them against this clip alone, for other clips of the batch they may be true
    wrong_sounds  samples at `rate_hz` that are false for the captions (events in reverse, ...), one a kind of falsehood
    values      quantities of this clip that an objective orders clips by (`views.measured.Values`)
    sources     what the clip was mixed from: ((clip id, weight), ...), weights summing to 1; empty: itself
    meta        every other column of the manifest, unread but not lost
    provenance  which of several manifests it comes from, and what was done to it, in order
    """

    id: str
    audio: str | bytes | np.ndarray
    start_s: float = 0.0
    duration_s: float | None = None
    captions: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    label: str | None = None
    tags: tuple[str, ...] = ()
    split: str | None = None
    events: tuple[Event, ...] = ()
    sources: tuple[tuple[str, float], ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    provenance: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    rate_hz: int | None = None
    wrong_sounds: tuple[np.ndarray, ...] = ()
    values: tuple[float, ...] = ()

    def with_(self, **changes: Any) -> Clip:
        """A copy with some fields replaced."""
        return dataclasses.replace(self, **changes)
