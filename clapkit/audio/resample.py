"""Change of sample rate, in one piece or block by block, with the same samples either way.

The sound is downmixed before it is resampled: both are linear, so the order changes nothing but the work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
import soxr

from clapkit.errors import SpecError

RESAMPLER = "soxr-hq"
MAX_RATE_HZ = 1_000_000

_QUALITY = "HQ"


def checked_rate(rate_hz: object) -> int:
    """`rate_hz` as an int, or SpecError when it is no whole number from 1 to 1,000,000."""
    try:
        whole = int(rate_hz)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        whole = 0
    if isinstance(rate_hz, (bool, str, bytes)) or whole != rate_hz or not 1 <= whole <= MAX_RATE_HZ:
        raise SpecError(f"{rate_hz!r} is not a sample rate: give a whole number of Hz from 1 to {MAX_RATE_HZ}")
    return whole


def resampled_length(count: int, from_hz: int, to_hz: int) -> int:
    """Samples that `resample` makes of `count`: count * to_hz / from_hz, rounded (halves down), 1 at least."""
    if count == 0:
        return 0
    return max(1, math.ceil(Fraction(count * to_hz, from_hz) - Fraction(1, 2)))


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """`samples` [N] or [N, channels] at `to_hz`, as float32; `resampled_length(N, from_hz, to_hz)` of them.

    Linear-phase and aligned: output sample 0 lies at input sample 0. Equal rates return the samples as they are.
    Raises SpecError for a rate that is none.
    """
    from_hz, to_hz = checked_rate(from_hz), checked_rate(to_hz)
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if from_hz == to_hz or len(samples) == 0:
        return samples
    wanted = resampled_length(len(samples), from_hz, to_hz)
    made = soxr.resample(samples, from_hz, to_hz, quality=_QUALITY)
    if len(made) == 0:  # less than half an output sample of sound: silence behind it brings the one sample out
        silence = np.zeros((2 * math.ceil(from_hz / to_hz), *samples.shape[1:]), np.float32)
        made = soxr.resample(np.concatenate([samples, silence]), from_hz, to_hz, quality=_QUALITY)
    assert len(made) >= wanted
    return made[:wanted]


def resample_blocks(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """The blocks of a mono sound at another rate, in bounded memory.

    Joined, they are bit for bit what `resample` makes of the joined input.
    """
    from_hz, to_hz = checked_rate(from_hz), checked_rate(to_hz)
    if from_hz == to_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=_QUALITY)
    taken = made = 0
    unanswered: list[np.ndarray] = []  # what went in before anything came out
    for block in blocks:
        block = np.ascontiguousarray(block, dtype=np.float32)
        out = stream.resample_chunk(block)
        taken, made = taken + len(block), made + len(out)
        if made == 0:
            unanswered.append(block)
        elif len(out):
            unanswered.clear()
            yield out
    wanted = resampled_length(taken, from_hz, to_hz)
    last = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    if made + len(last) == 0 < wanted:
        last = resample(np.concatenate(unanswered), from_hz, to_hz)
    if made < wanted:
        yield last[: wanted - made]
