"""Deterministic lengths: one sound made to fit one window, or laid out as overlapping windows with weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from clapkit.errors import SpecError, nearest_name

Policy = Literal["pad", "repeat", "repeat-pad", "crop"]
Crop = Literal["start", "centre"]


def fit(samples: np.ndarray, length_samples: int, policy: Policy, *, crop: Crop = "start") -> np.ndarray:
    """`samples` [N] as exactly `length_samples` samples, without any randomness.

    A longer sound is cropped, from its start or around its centre. A shorter one is filled:
    pad         zeros at the end
    repeat      repeated, the last repeat cut
    repeat-pad  repeated a whole number of times, then zeros (what LAION CLAP was trained with)
    crop        refused: the policy for callers who know that their sound is long enough
    Raises SpecError for an unknown policy or crop, a length below 1, no samples, or "crop" of a shorter sound.
    """
    if policy not in get_args(Policy):
        raise SpecError(f"unknown length policy {policy!r}; {nearest_name(str(policy), get_args(Policy))}")
    if crop not in get_args(Crop):
        raise SpecError(f"unknown crop {crop!r}; {nearest_name(str(crop), get_args(Crop))}")
    if length_samples < 1:
        raise SpecError(f"cannot fit sound into {length_samples} samples: the length is at least 1")
    if samples.ndim != 1 or len(samples) == 0:
        raise SpecError(f"expected mono samples [N] with N >= 1, found an array of shape {samples.shape}")
    if len(samples) >= length_samples:
        first = (len(samples) - length_samples) // 2 if crop == "centre" else 0
        return samples[first : first + length_samples]
    if policy == "crop":
        raise SpecError(
            f"{len(samples)} samples cannot be cropped to {length_samples}: "
            "use the policy 'pad', 'repeat' or 'repeat-pad'"
        )
    if policy == "repeat":
        return np.resize(samples, length_samples)
    times = length_samples // len(samples) if policy == "repeat-pad" else 1
    filled = np.zeros(length_samples, samples.dtype)
    filled[: times * len(samples)] = np.tile(samples, times)
    return filled


@dataclass(frozen=True)
class Window:
    """`length` samples from `start`; `weight` is the share of the sound that this window answers for."""

    start: int
    length: int
    weight: float


def plan_windows(total_samples: int, window_samples: int, hop_samples: int) -> list[Window]:
    """Windows that cover a sound of `total_samples` completely.

    They start at every multiple of `hop_samples`; the last one is moved back so that it ends with the sound and is as
    long as the others. A sound shorter than one window is one window of its own length (fill it with `fit`).

    Each sample belongs to one window: an overlap is halved between neighbours (the odd sample goes to the earlier one).
    The weight of a window is its share of all samples. The weights sum to 1, and a weighted mean over windows is not
    pulled towards the end, where the last window overlaps most.
    Raises SpecError for a length below 1 or a hop longer than the window, which would leave sound out.
    """
    starts = window_starts(total_samples, window_samples, hop_samples)
    length = min(window_samples, total_samples)
    borders = [0, *((b + a + length + 1) // 2 for a, b in pairwise(starts)), total_samples]
    return [Window(s, length, (borders[i + 1] - borders[i]) / total_samples) for i, s in enumerate(starts)]


def window_starts(total_samples: int, window_samples: int, hop_samples: int) -> list[int]:
    """Where the windows of `plan_windows` start."""
    if total_samples < 1:
        raise SpecError(f"cannot lay windows over {total_samples} samples: there must be at least 1")
    check_hop(window_samples, hop_samples)
    last = max(0, total_samples - window_samples)
    return [*range(0, last, hop_samples), last]


def check_hop(window_samples: int, hop_samples: int) -> None:
    """SpecError unless 1 <= hop <= window."""
    if not 1 <= hop_samples <= window_samples:
        raise SpecError(
            f"windows of {window_samples} samples every {hop_samples} samples leave sound out: "
            "the hop is at least 1 and at most the window"
        )
