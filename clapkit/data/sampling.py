"""In what order clips are seen: a pure function of the seed, so that a stopped run goes on exactly where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import DataError, nearest_name

# Streams of random numbers: one purpose each, so that a new purpose does not move the others.
ORDER, VIEWS, TEXTS, TOKENS, HELD_OUT, GROUPS = 1, 2, 3, 4, 5, 6


def stream(seed: int, purpose: int, *position: int) -> np.random.Generator:
    """The generator for one purpose at one position (epoch, step, row...): independent of all others."""
    return np.random.default_rng((seed, purpose, *position))


# texts -> vectors [U, D]: the same at every start of a run, so of a model that training does not change
EmbedText = Callable[[Sequence[str]], np.ndarray]


class Order(Protocol):
    """Which clips stand in which batch: a pure function of (seed, step), so that nothing has to be remembered."""

    def rows(self, count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        """Positions of the clips of batch `step` (0-based) among `count` clips, int64 [batch_size].

        Where batches are even in another way (`lengths.ByLength`), they have `batch_size` clips on average.
        """
        ...


@runtime_checkable
class Sampler(Protocol):
    """A frozen dataclass that orders any data set, once it has seen what the clips say of themselves.

    embeds  whether it goes by vectors of texts, and has to be given `embed_text`
    """

    @property
    def embeds(self) -> bool: ...

    def prepare(self, clips: Sequence[Clip], *, embed_text: EmbedText | None = None) -> Order:
        """The order for these clips. DataError where they lack what it goes by, before anything is trained."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Every clip once an epoch, in a new order each epoch; batches run on across the end of an epoch."""

    embeds: ClassVar[bool] = False

    def prepare(self, clips: Sequence[Clip], *, embed_text: EmbedText | None = None) -> Order:
        return self

    def rows(self, count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        """Positions of the clips of batch `step` (0-based) among `count` clips, int64 [batch_size]."""
        if count < 1:
            raise DataError("there is no clip to draw from")
        first = step * batch_size
        rows = np.empty(batch_size, np.int64)
        filled = 0
        while filled < batch_size:
            epoch, offset = divmod(first + filled, count)
            order = stream(seed, ORDER, epoch).permutation(count)
            part = order[offset : offset + batch_size - filled]
            rows[filled : filled + len(part)] = part
            filled += len(part)
        return rows


def grouped(clips: Sequence[Clip], column: str) -> dict[str, np.ndarray]:
    """Value -> positions of the clips that have it, values in their order; every clip has one.

    column   "label", "split", or a column of the manifest that stands in `Clip.meta`. "source", where the manifest has
             no such column, is the manifest that a clip was read from (`Clip.provenance`)
    Raises DataError for a column that nobody has, with the nearest name, and for clips without a value.
    """
    values = [_value(clip, column) for clip in clips]
    empty = [clip.id for clip, value in zip(clips, values, strict=True) if value is None]
    if len(empty) == len(clips):
        known = dict.fromkeys(("label", "split", "source", *(name for clip in clips for name in clip.meta)))
        raise DataError(
            f"none of the {len(clips)} clips has a '{column}' to go by; {nearest_name(column, list(known))}"
        )
    if empty:
        raise DataError(
            f"{len(empty)} of {len(clips)} clips have no '{column}': give them one, or leave them out", empty
        )
    found: dict[str, list[int]] = {}
    for position, value in enumerate(values):
        found.setdefault(value or "", []).append(position)
    return {name: np.array(found[name]) for name in sorted(found)}


def _value(clip: Clip, column: str) -> str | None:
    value = {"label": clip.label, "split": clip.split}.get(column) or clip.meta.get(column)
    if value is None and column == "source" and clip.provenance:
        value = clip.provenance[0]
    text = "" if value is None else str(value).strip()
    return text or None


def check_count(count: int, clips: int) -> None:
    """DataError where an order is asked about another number of clips than it was prepared for."""
    if count != clips:
        raise DataError(f"the sampler was prepared for {clips} clips and is asked about {count}: prepare it anew")
