"""A range of a sound in source samples and in output samples, and what a reader gave for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clapkit.audio.codecs.readers import Reader, Unreadable
from clapkit.audio.resample import resample
from clapkit.errors import AudioError

ABSURD = 1e10  # +200 dB above full scale: broken bits and not sound
MAX_SAMPLES = 1 << 28

_EDGE_SAMPLES = 1024  # of the slower rate: more than the resampler's filter reaches


class Span:
    """The output samples [out_start, out_stop) of a sound, and the source samples that make them without edges."""

    def __init__(self, from_hz: int, to_hz: int, start_s: float, duration_s: float | None) -> None:
        self.from_hz, self.to_hz = from_hz, to_hz
        self.out_start = round(start_s * to_hz)
        self.out_stop = None if duration_s is None else self.out_start + max(1, round(duration_s * to_hz))
        self.start = self.out_start * from_hz // to_hz
        self.stop = None if self.out_stop is None else -(-self.out_stop * from_hz // to_hz)
        # At least one sample behind the span is read in any case: it tells whether the sound goes on.
        edge = 1 if from_hz == to_hz else _EDGE_SAMPLES * max(1, -(-from_hz // to_hz))
        # Reading starts where both rates have a sample at the same instant.
        unit = from_hz // math.gcd(from_hz, to_hz)
        self.read_start = max(0, self.start - edge) // unit * unit
        self.read_stop = None if self.stop is None else self.stop + edge

    def inside(self, end: int) -> int:
        """How many samples before the source position `end` lie in the span."""
        return max(0, (end if self.stop is None else min(end, self.stop)) - self.start)

    def cut(self, samples: np.ndarray) -> np.ndarray:
        """The span at the output rate, from the source samples that were read from `read_start`."""
        made = resample(samples, self.from_hz, self.to_hz)
        offset = self.read_start * self.to_hz // self.from_hz
        return made[self.out_start - offset : None if self.out_stop is None else self.out_stop - offset]


@dataclass(frozen=True)
class Take:
    """What one reader gave for a span: cleaned source samples from `span.read_start`, and how it ended."""

    span: Span
    samples: np.ndarray
    broken: int
    got: int
    expected: int | None
    slack: int
    failure: str | None
    decoder: str
    notes: tuple[str, ...]
    promised_s: float | None

    @property
    def ends(self) -> bool:
        """No sound was found behind the span."""
        return self.span.stop is None or self.span.read_start + len(self.samples) <= self.span.stop

    @property
    def complete(self) -> bool:
        """Nothing failed and nothing is missing, as far as the header tells."""
        enough = self.got > 0 if self.expected is None else self.got + self.slack >= self.expected
        return self.failure is None and enough


def read_span(reader: Reader, span: Span, *, max_duration_s: float | None, name: str) -> Take:
    """Read a span, in blocks. AudioError when it is longer than the limit, Unreadable when nothing could be read."""
    limit = MAX_SAMPLES * min(1.0, span.from_hz / span.to_hz)
    if max_duration_s is not None:
        limit = max_duration_s * span.from_hz
    expected = None if reader.promised is None else span.inside(reader.promised)
    if expected is not None and reader.duration_s is not None:  # spares reading up to the limit in vain
        _refuse_longer(min(expected, span.inside(round(reader.duration_s * span.from_hz))), limit, span, name)
    parts: list[np.ndarray] = []
    count = broken = 0
    failure = None
    try:
        for block in reader.blocks(span.read_start, span.read_stop):
            if span.read_stop is not None:
                block = block[: span.read_stop - span.read_start - count]
            block, bad = cleaned(block)
            parts.append(block)
            count, broken = count + len(block), broken + bad
            _refuse_longer(span.inside(span.read_start + count), limit, span, name)
    except Unreadable as error:
        if count == 0:
            raise
        failure = str(error)
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    got, notes = span.inside(span.read_start + count), tuple(reader.notes())
    promised_s = None if reader.promised is None else reader.promised / span.from_hz
    return Take(span, samples, broken, got, expected, reader.slack, failure, reader.decoder, notes, promised_s)


def _refuse_longer(count: int, limit: float, span: Span, name: str) -> None:
    if count > limit:
        raise AudioError(
            name, f"longer than {limit / span.from_hz:.0f} s, the most that is decoded at once: read ranges or windows"
        )


def cleaned(block: np.ndarray) -> tuple[np.ndarray, int]:
    """The block with NaN, infinite and absurd samples set to 0, and how many they were."""
    if len(block) and block.min() >= -ABSURD and block.max() <= ABSURD:  # neither holds of NaN
        return block, 0
    good = np.abs(block) <= ABSURD
    bad = len(block) - int(np.count_nonzero(good))
    return (np.where(good, block, np.float32(0)), bad) if bad else (block, 0)


def judge(take: Take, name: str) -> list[str]:
    """The rule of half: AudioError for a sound that is too short for its header, notes for one that misses a little."""
    span, got, expected = take.span, take.got, take.expected
    if expected is not None and got * 2 < expected:
        share = f"{100 * got / expected:.0f} %"
        raise AudioError(name, f"truncated: {got} of {expected} samples that its header promises ({share})")
    if got == 0:
        late = f"no sound at {span.start / span.from_hz:g} s: it ends before"
        raise AudioError(name, take.failure or (late if span.start else "no samples (zero length)"))
    if take.broken and take.broken == len(take.samples):
        raise AudioError(name, "every sample is NaN or infinite")
    notes = [f"stopped after {got / span.from_hz:.2f} s: {take.failure}"] if take.failure else []
    if expected is not None and got + take.slack < expected:
        notes.append(f"truncated: {100 * got / expected:.0f} % of the promised samples")
    if take.broken:
        notes.append(f"{take.broken} NaN/inf samples set to 0")
    return [*notes, *take.notes]
