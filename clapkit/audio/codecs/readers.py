"""Readers of sound: blocks of mono samples from any position of an array or of a file that soundfile reads.

A reader has `decoder`, `container`, `rate_hz`, `channels`, `promised` (samples, or None), `slack` (samples by which an
intact file may miss its promise), `duration_s` (or None), `notes()`, `blocks(start, stop)` and `close()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile

from clapkit.audio.codecs.containers import promised_samples
from clapkit.audio.resample import checked_rate
from clapkit.audio.sources import Opened
from clapkit.errors import SpecError

BLOCK_VALUES = 1 << 18


class Unreadable(Exception):
    """One reader cannot read this sound (another may); the message is the reason."""


class Reader(Protocol):
    """See the top of this file."""

    decoder: str
    container: str
    rate_hz: int
    channels: int
    promised: int | None
    slack: int
    duration_s: float | None

    def notes(self) -> list[str]:
        """What was odd in the blocks read so far."""
        ...

    def blocks(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        """Mono float32 blocks that begin exactly at sample `start` and end at `stop`, or a little behind it."""
        ...

    def close(self) -> None:
        """Give up the decoder; the file stays open."""
        ...


def to_mono(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over the channels `axis`, as float32 with full scale 1 (integers are divided by their full scale)."""
    kind, bits = values.dtype.kind, 8 * values.dtype.itemsize
    if values.shape[axis] == 1:
        values, axis = values.reshape(-1, 1), 1  # a view; taking one of one would be a copy
    if kind in "iu":
        floats: Any = values.astype(np.float32 if bits <= 16 else np.float64)
        floats *= 2.0 ** (1 - bits)
        values = floats - 1.0 if kind == "u" else floats
    elif bits == 16:
        values = values.astype(np.float32)
    mono = values[:, 0] if values.shape[axis] == 1 else values.mean(axis)
    with np.errstate(over="ignore"):  # beyond float32: infinite, and told as such by the caller
        return np.ascontiguousarray(mono, dtype=np.float32)


class ArrayReader:
    """Reads an array that the caller gave."""

    decoder, container, slack = "array", "array", 0

    def __init__(self, opened: Opened) -> None:
        assert opened.array_NC is not None
        self._array_NC = opened.array_NC
        self.rate_hz = opened.rate_hz
        self.promised, self.channels = self._array_NC.shape
        self.duration_s = self.promised / self.rate_hz

    def notes(self) -> list[str]:
        if self._array_NC.dtype.kind in "iu" and self._array_NC.dtype.itemsize == 8:
            return [f"{self._array_NC.dtype} samples divided by 2^63, their full scale"]
        return []

    def blocks(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        stop = len(self._array_NC) if stop is None else min(stop, len(self._array_NC))
        step = max(1, BLOCK_VALUES // self.channels)
        for first in range(start, stop, step):
            yield to_mono(self._array_NC[first : min(first + step, stop)], 1)

    def close(self) -> None:
        pass


class SoundfileReader:
    """Reads by libsndfile, with exact seeking."""

    decoder, slack = "soundfile", 0

    duration_s: float | None

    def __init__(self, file: BinaryIO, container: str) -> None:
        self._file, self.container = file, container
        self.promised = promised_samples(file, container)
        file.seek(0)
        try:
            self._sound = soundfile.SoundFile(file)
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise Unreadable(one_line(error)) from error
        self.rate_hz = readable_rate(self._sound.samplerate)
        self.channels = self._sound.channels
        # The same samples in a third of the time: libsndfile turns 16 bits into floats a few at a time.
        self._dtype = "int16" if self._sound.subtype == "PCM_16" else "float32"
        # libsndfile gives the largest number where it cannot tell.
        self.duration_s = self._sound.frames / self.rate_hz if self._sound.frames < 1 << 62 else None
        if container == "mp3" and self.promised:
            self.slack = mp3_slack(self.rate_hz)

    def notes(self) -> list[str]:
        return []

    def blocks(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        step = max(1, BLOCK_VALUES // self.channels)
        try:
            if start >= self._sound.frames:
                return
            self._sound.seek(start)
            while stop is None or start < stop:
                wanted = step if stop is None else min(step, stop - start)
                block_NC = self._sound.read(wanted, dtype=self._dtype, always_2d=True)
                if len(block_NC) == 0:
                    return
                start += len(block_NC)
                yield to_mono(block_NC, 1)
        except (RuntimeError, OSError, ValueError) as error:
            raise Unreadable(one_line(error)) from error

    def close(self) -> None:
        self._sound.close()


def readable_rate(rate_hz: int) -> int:
    try:
        return checked_rate(rate_hz)
    except SpecError as error:
        raise Unreadable(str(error)) from None


def mp3_slack(rate_hz: int) -> int:
    """The frame count of an mp3 includes the encoder's delay and padding, which decoding removes: a few frames."""
    return round(0.15 * rate_hz)


def one_line(error: Exception) -> str:
    # The full text of either library names the file object by its address.
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:200] or type(error).__name__
