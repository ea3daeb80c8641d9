"""Samplers that decide who stands in a batch together: clips of one source, clips hard to tell apart, clips twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np

from clapkit.data.clip import Clip
from clapkit.data.sampling import GROUPS, ORDER, EmbedText, Order, Sampler, Shuffled, check_count, grouped, stream
from clapkit.errors import DataError, SpecError, nearest_name
from clapkit.nearest import nearest, unit_rows

Small = Literal["refuse", "leave out"]


@dataclass(frozen=True)
class SameSource:
    """Batches of clips that have something in common which therefore cannot help to tell them apart (card 021).

    All clips of a batch come from one source (a recording, a place, a speaker, a word), or `per_source` from each of
    several. An epoch has every clip once; where the clips of a source fill no whole number of parts, its last part is
    filled up with clips from the beginning of its epoch.

    column      what names the source: a column of the manifest, "label", or "source"
    per_source  clips of one source that stand together; None: the whole batch
    small       what becomes of a source with fewer clips than that: "refuse" or "leave out"
    """

    column: str = "source"
    per_source: int | None = None
    small: Small = "refuse"

    embeds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.per_source is not None and self.per_source < 2:
            raise SpecError(f"per_source is a number of clips, 2 or more, not {self.per_source}")
        if self.small not in get_args(Small):
            raise SpecError(f"small cannot be {self.small!r}; {nearest_name(str(self.small), get_args(Small))}")

    def prepare(self, clips: Sequence[Clip], *, embed_text: EmbedText | None = None) -> Order:
        """DataError for clips without a source. Which sources are too small is known with the first batch."""
        return _Together(grouped(clips, self.column), len(clips), self)


@dataclass(frozen=True, eq=False)
class _Together:
    groups: dict[str, np.ndarray]
    clips: int
    settings: SameSource

    def rows(self, count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        check_count(count, self.clips)
        size = self.settings.per_source or batch_size
        if batch_size % size:
            raise DataError(
                f"a batch of {batch_size} clips cannot be made of {size} of each source: choose a multiple of {size}"
            )
        kept = self._large(size)
        parts = [-(-len(rows) // size) for rows in kept]
        of_part = np.repeat(np.arange(len(kept)), parts)
        nth = np.concatenate([np.arange(n) for n in parts])
        chosen = []
        orders: dict[int, np.ndarray] = {}
        for number in range(step * batch_size // size, (step + 1) * batch_size // size):
            epoch, place = divmod(number, len(of_part))
            if epoch not in orders:
                orders[epoch] = stream(seed, ORDER, epoch).permutation(len(of_part))
            part = orders[epoch][place]
            group = int(of_part[part])
            order = stream(seed, GROUPS, group, epoch).permutation(kept[group])
            chosen.append(np.take(order, np.arange(nth[part] * size, (nth[part] + 1) * size), mode="wrap"))
        return np.concatenate(chosen).astype(np.int64)

    def _large(self, size: int) -> list[np.ndarray]:
        """The clips of each source that has enough. DataError where some have not and are not to be left out."""
        small = [f"{name}: {len(rows)}" for name, rows in self.groups.items() if len(rows) < size]
        if len(small) == len(self.groups) or (small and self.settings.small == "refuse"):
            raise DataError(
                f"{len(small)} of {len(self.groups)} sources ({self.settings.column}) have fewer than the {size} clips "
                "that are to stand together: set sampler.per_source or the batch lower"
                + ("" if len(small) == len(self.groups) else ", or sampler.small='leave out'"),
                small,
            )
        return [rows for rows in self.groups.values() if len(rows) >= size]


@dataclass(frozen=True)
class HardGroups:
    """Batches of groups that are hard to tell apart: a clip, and clips whose descriptions lie nearest to its own.

    Every clip begins one group an epoch, in a new order each epoch. The others of its group are drawn one from each of
    the nearest descriptions, none of which shares a text with it: what says the same is no negative. No clip stands
    twice in a batch; where a clip has too few neighbours left, others of the data take their place.

    size        clips of a group
    neighbours  of how many nearest descriptions a group may be made; the nearest that are free come first

    Neighbours are found once, exactly, in the vectors of captions (without them, of prompts) that `embed_text` gives; a
    clip with several has their mean.
    """

    size: int = 4
    neighbours: int = 32

    embeds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size < 2:
            raise SpecError(f"size is a number of clips that stand together, 2 or more, not {self.size}")
        if self.neighbours < self.size - 1:
            raise SpecError(f"neighbours={self.neighbours} are too few for groups of size={self.size}")

    def prepare(self, clips: Sequence[Clip], *, embed_text: EmbedText | None = None) -> Order:
        """SpecError without `embed_text`; DataError for clips without a text, and for too few descriptions."""
        if embed_text is None:
            raise SpecError("HardGroups goes by vectors of texts and was given no embed_text")
        silent = [clip.id for clip in clips if not (clip.captions or clip.prompts)]
        if silent:
            raise DataError(f"{len(silent)} of {len(clips)} clips have no text to be compared by", silent)
        members: dict[frozenset[str], list[int]] = {}
        for position, clip in enumerate(clips):
            members.setdefault(_said(clip), []).append(position)
        if len(members) < self.size:
            raise DataError(
                f"groups of {self.size} clips need as many different descriptions, and there are {len(members)}"
            )
        near = _neighbours([clips[rows[0]] for rows in members.values()], embed_text, self.neighbours)
        description_N = np.empty(len(clips), np.int64)
        for number, rows in enumerate(members.values()):
            description_N[rows] = number
        return _Hard(tuple(map(np.array, members.values())), description_N, near, self.size)


def _said(clip: Clip) -> frozenset[str]:
    """What a clip is compared by, case aside."""
    return frozenset(text.casefold() for text in clip.captions or clip.prompts)


def _neighbours(clips: Sequence[Clip], embed_text: EmbedText, count: int) -> tuple[np.ndarray, ...]:
    """For each of some clips the `count` nearest others that share no text with it, nearest first."""
    described = [clip.captions or clip.prompts for clip in clips]
    texts = list(dict.fromkeys(text for each in described for text in each))
    place = {text: number for number, text in enumerate(texts)}
    vectors_UD = unit_rows(np.asarray(embed_text(texts)), what="vectors of texts")
    if len(vectors_UD) != len(texts):
        raise DataError(f"embed_text gave {len(vectors_UD)} vectors for {len(texts)} texts")
    mean_ND = unit_rows(np.stack([vectors_UD[[place[text] for text in each]].mean(0) for each in described]))
    # Twice as many as wanted, because some will share a text.
    _, found_NK = nearest(mean_ND, mean_ND, 2 * count + 1)
    said = [_said(clip) for clip in clips]
    return tuple(
        np.array([other for other in found_K if said[other].isdisjoint(said[own])][:count], np.int64)
        for own, found_K in enumerate(found_NK.tolist())
    )


@dataclass(frozen=True, eq=False)
class _Hard:
    """members: clips of each description;  description_N: that of each clip;  near: its neighbours, nearest first."""

    members: tuple[np.ndarray, ...]
    description_N: np.ndarray
    near: tuple[np.ndarray, ...]
    size: int

    def rows(self, count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        check_count(count, len(self.description_N))
        if batch_size % self.size:
            raise DataError(f"a batch of {batch_size} clips cannot be made of groups of {self.size}")
        if batch_size > count:
            raise DataError(
                f"a batch of {batch_size} clips in which none stands twice cannot be made of {count} clips: "
                "make the batch smaller"
            )
        rng = stream(seed, GROUPS, step)
        # Seeds come from the end of one epoch and the beginning of the next: one may stand there twice.
        seeds = list(dict.fromkeys(Shuffled().rows(count, batch_size // self.size, step, seed).tolist()))
        taken = set(seeds)
        groups = [[first, *self._company(int(self.description_N[first]), taken, rng)] for first in seeds]
        rows = [row for group in groups for row in group]
        spare = (row for row in rng.permutation(count).tolist() if row not in taken)
        return np.array([*rows, *(next(spare) for _ in range(batch_size - len(rows)))], np.int64)

    def _company(self, own: int, taken: set[int], rng: np.random.Generator) -> list[int]:
        """At most size - 1 clips near a description, one of each neighbour; they join `taken`."""
        company: list[int] = []
        for other in self.near[own]:
            if len(company) == self.size - 1:
                break
            members = self.members[other]
            begin = int(rng.integers(len(members)))
            free = next((int(m) for m in (*members[begin:], *members[:begin]) if int(m) not in taken), None)
            if free is not None:
                company.append(free)
                taken.add(free)
        return company


@dataclass(frozen=True)
class WithReplica:
    """Every clip of a batch twice, with crop and views drawn anew for each: a clip is its own positive (card 068).

    The second half of the batch is the first once more. `of` says which clips stand in the first half.
    """

    of: Sampler = field(default_factory=Shuffled)

    @property
    def embeds(self) -> bool:
        return self.of.embeds

    def prepare(self, clips: Sequence[Clip], *, embed_text: EmbedText | None = None) -> Order:
        return _Twice(self.of.prepare(clips, embed_text=embed_text))


@dataclass(frozen=True, eq=False)
class _Twice:
    of: Order

    def rows(self, count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        if batch_size % 2:
            raise DataError(f"a batch in which every clip stands twice has an even number of clips, not {batch_size}")
        return np.tile(self.of.rows(count, batch_size // 2, step, seed), 2)
