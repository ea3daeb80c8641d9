"""Batches of clips that are about equally long, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from clapkit.data.clip import Clip
from clapkit.data.sampling import GROUPS, ORDER, EmbedText, Order, check_count, stream
from clapkit.errors import DataError, SpecError, nearest_name

Even = Literal["clips", "seconds"]


@dataclass(frozen=True)
class ByLength:
    """Batches of like lengths, in a new order and of other company each epoch.

    The clips are sorted by length into at most `buckets` buckets of equally many; a batch is of one bucket. It saves
    time where a batch ends with its longest clip (`batch.trim`). An epoch has every clip once; where those of a bucket
    fill no whole number of batches, its last one is filled up with clips from the beginning of its epoch.

    even   "clips": every batch has as many clips as the recipe says. "seconds": that is their number on average; short
           clips stand in larger batches than long ones, so that all batches need about the same memory and time
           (clips x seconds of the longest of the bucket stay below one limit, the smallest that makes no more batches
           an epoch than equal numbers would)
    """

    buckets: int = 8
    even: Even = "seconds"

    embeds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.buckets < 1:
            raise SpecError(f"buckets is a number of lengths, 1 or more, not {self.buckets}")
        if self.even not in get_args(Even):
            raise SpecError(f"even cannot be {self.even!r}; {nearest_name(str(self.even), get_args(Even))}")

    def prepare(self, clips: Sequence[Clip], *, embed_text: EmbedText | None = None) -> Order:
        """DataError for clips whose length nobody knows."""
        unknown = [clip.id for clip in clips if clip.duration_s is None]
        if unknown:
            raise DataError(f"{len(unknown)} of {len(clips)} clips have no duration_s to be sorted by", unknown)
        length_s_N = np.array([clip.duration_s for clip in clips], np.float64)
        return _Sorted(length_s_N, np.argsort(length_s_N, kind="stable"), self)


@dataclass(frozen=True, eq=False)
class _Sorted:
    """length_s_N: of each clip;  order_N: positions of the clips, shortest first."""

    length_s_N: np.ndarray
    order_N: np.ndarray
    settings: ByLength

    def rows(self, count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        check_count(count, len(self.length_s_N))
        if batch_size > count:
            raise DataError(f"a batch of {batch_size} clips in which none stands twice cannot be made of {count} clips")
        buckets = np.array_split(self.order_N, max(1, min(self.settings.buckets, count // batch_size)))
        sizes, parts = self._sizes(buckets, batch_size)
        epoch, place = divmod(step, sum(parts))
        of_part = np.repeat(np.arange(len(buckets)), parts)
        part = int(stream(seed, ORDER, epoch).permutation(len(of_part))[place])
        bucket = int(of_part[part])
        nth = part - sum(parts[:bucket])
        order = stream(seed, GROUPS, bucket, epoch).permutation(buckets[bucket])
        return np.take(order, np.arange(nth * sizes[bucket], (nth + 1) * sizes[bucket]), mode="wrap")

    def _sizes(self, buckets: Sequence[np.ndarray], batch_size: int) -> tuple[list[int], list[int]]:
        """For each bucket the clips of its batches and the number of them."""
        counts = [len(bucket) for bucket in buckets]
        if self.settings.even == "clips":
            return [batch_size] * len(buckets), [-(-count // batch_size) for count in counts]
        longest_s = [float(self.length_s_N[bucket[-1]]) for bucket in buckets]
        wanted = -(-sum(counts) // batch_size)

        def batches(limit_s: float) -> list[int]:
            # Two at least: a batch of one clip has nothing to tell apart.
            sizes = [min(n, max(2, int(limit_s / max(s, 1e-9)))) for n, s in zip(counts, longest_s, strict=True)]
            return [-(-n // size) for n, size in zip(counts, sizes, strict=True)]

        low_s, high_s = 0.0, max(n * s for n, s in zip(counts, longest_s, strict=True))
        while high_s - low_s > 1e-6 * high_s:
            middle_s = (low_s + high_s) / 2
            low_s, high_s = (low_s, middle_s) if sum(batches(middle_s)) <= wanted else (middle_s, high_s)
        parts = batches(high_s)
        return [-(-n // number) for n, number in zip(counts, parts, strict=True)], parts
