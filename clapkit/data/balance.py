"""Samplers that decide how often a group of clips is heard, however many clips it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clapkit.data.clip import Clip
from clapkit.data.sampling import GROUPS, ORDER, EmbedText, Order, check_count, grouped, stream
from clapkit.errors import DataError, SpecError, nearest_name

_LONGEST_ROUND = 1000


@dataclass(frozen=True)
class ClassBalanced:
    """Each class equally often: one clip of each in every round, in a new order each round.

    Within a class the clips take turns, each once before any comes again. Batches run on across the ends of rounds.

    column     what makes a class: the label, or a column of the manifest
    least      a class with fewer clips is refused: it would be the same sound again and again
    distinct   no class stands twice in a batch, for objectives that hold two clips of a class against each other. Each
               round then leaves out, in turn by chance, the classes that fill no whole batch
    """

    column: str = "label"
    least: int = 2
    distinct: bool = False

    embeds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.least < 1:
            raise SpecError(f"least is a number of clips, 1 or more, not {self.least}")

    def prepare(self, clips: Sequence[Clip], *, embed_text: EmbedText | None = None) -> Order:
        """DataError for clips without a class, for less than two classes, and for classes below `least`."""
        groups = grouped(clips, self.column)
        if len(groups) < 2:
            raise DataError(f"all {len(clips)} clips have {self.column}={next(iter(groups))}: nothing can be balanced")
        small = [f"{name}: {len(rows)}" for name, rows in groups.items() if len(rows) < self.least]
        if small:
            raise DataError(
                f"{len(small)} of {len(groups)} classes ({self.column}) have fewer than least={self.least} clips: "
                "leave them out, or set sampler.least lower and hear the same clip in every round",
                small,
            )
        return Rounds(tuple(groups.values()), np.arange(len(groups)), distinct=self.distinct)


@dataclass(frozen=True)
class BalancedStreams:
    """Streams of clips in given shares, whatever their sizes (card 034: sounds, speech, music, one part each).

    Every batch holds the streams in their shares, as nearly as its size allows; a small stream is heard over and over
    while a large one goes through its first epoch. Within a stream the clips take turns.

    column   a column of the manifest that names the stream of each clip, or "source": the manifest it was read from
    shares   (name, share) of each stream; empty: all alike. A share of 0 leaves a stream out
    """

    column: str = "source"
    shares: tuple[tuple[str, float], ...] = ()

    embeds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple((name, share) for name, share in self.shares))
        names = [name for name, _ in self.shares]
        if len(set(names)) < len(names):
            raise SpecError(f"shares: a stream is named twice among {names}")
        if self.shares and not (all(s >= 0 for _, s in self.shares) and sum(s for _, s in self.shares) > 0):
            raise SpecError(f"shares are 0 or more and not all 0, not {self.shares}")

    def prepare(self, clips: Sequence[Clip], *, embed_text: EmbedText | None = None) -> Order:
        """DataError for a stream without clips or without a share, and for less than two streams."""
        groups = grouped(clips, self.column)
        shares = dict(self.shares) or dict.fromkeys(groups, 1.0)
        for name in shares:
            if name not in groups:
                raise DataError(f"no clip has {self.column}={name}; {nearest_name(name, list(groups))}")
        left = [f"{name}: {len(rows)}" for name, rows in groups.items() if name not in shares]
        if left:
            raise DataError(
                f"{len(left)} of {len(groups)} streams ({self.column}) have no share: give each one, 0 leaves it out",
                left,
            )
        heard = [name for name in groups if shares[name] > 0]
        if len(heard) < 2:
            raise DataError(f"there is one stream only, {self.column}={heard[0]}: nothing can be balanced")
        turns = np.repeat(np.arange(len(heard)), apportioned([shares[name] for name in heard]))
        return Rounds(tuple(groups[name] for name in heard), turns, clips=len(clips))


def apportioned(shares: Sequence[float]) -> np.ndarray:
    """Whole numbers in the proportion of `shares` (all above 0), int64: exact with as small a sum as can be; where that
    is over 1000, a sum of about 1000, every number at least 1."""
    part = np.asarray(shares, np.float64) / np.sum(shares)
    for length in range(len(part), _LONGEST_ROUND + 1):
        counts = np.round(part * length)
        if (counts > 0).all() and np.abs(part * length - counts).max() < 1e-6:
            return counts.astype(np.int64)
    return np.maximum(1, np.round(part * _LONGEST_ROUND)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Rounds:
    """Groups of clips that take turns.

    groups    positions of the clips of each group
    turns     int64 [R], the group of each turn of a round; every round has all of them, shuffled anew
    clips     clips of the data set, those in no group among them; None: those of the groups
    distinct  a batch is never of two rounds; turns that fill no batch are left out
    """

    groups: tuple[np.ndarray, ...]
    turns: np.ndarray
    distinct: bool = False
    clips: int | None = None

    def rows(self, count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        """Positions of the clips of batch `step`. DataError for `distinct` batches of more clips than groups."""
        check_count(count, sum(map(len, self.groups)) if self.clips is None else self.clips)
        length = len(self.turns)
        if self.distinct:
            if batch_size > length:
                raise DataError(
                    f"a batch of {batch_size} clips cannot be of different classes, there are {length}: "
                    "make the batch smaller, or set sampler.distinct=false"
                )
            length -= length % batch_size
        first, end = step * batch_size, (step + 1) * batch_size
        orders: dict[tuple[int, int], np.ndarray] = {}
        rows = []
        for number in range(first // length, (end - 1) // length + 1):
            group_R, turn_R = self._round(number, seed)
            begin = number * length
            for place in range(max(first - begin, 0), min(end - begin, length)):
                group = int(group_R[place])
                epoch, offset = divmod(int(turn_R[place]), len(self.groups[group]))
                if (group, epoch) not in orders:
                    orders[group, epoch] = stream(seed, GROUPS, group, epoch).permutation(self.groups[group])
                rows.append(orders[group, epoch][offset])
        return np.array(rows, np.int64)

    def _round(self, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each place of a round: its group, and how many turns that group has had since the beginning, both [R]."""
        group_R = stream(seed, ORDER, number).permutation(self.turns)
        each = np.bincount(self.turns, minlength=len(self.groups))
        by_group = np.argsort(group_R, kind="stable")
        turn_R = np.empty(len(group_R), np.int64)
        turn_R[by_group] = np.arange(len(group_R)) - (np.cumsum(each) - each)[group_R[by_group]]
        return group_R, turn_R + number * each[group_R]
