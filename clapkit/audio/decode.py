"""Any sound to mono float32 at a wanted rate: whole, a range, or window after window.

The rules:
  * Channels are averaged first, then the sound is resampled. Same input, same bits.
  * Positions are exact: a range is the slice of the whole (read with its neighbourhood, so that resampling shows no
    edge), to rounding for lossless sound; a lossy decoder is given one second before the range to settle in
    (the noise that AAC substitutes is drawn anew after a seek: same place and loudness, other noise).
  * Samples that are NaN, infinite or beyond 1e10 are set to 0 and noted; if nothing else is there, it is an error.
  * Fewer than half of the samples that a header promises (in the range): an error. Fewer than all: a note.
  * Ogg, which promises nothing, is noted where its last page is missing or cut.
  * Memory follows what was read, never what a header says. A whole decode stops at 1 GiB of float32 (`MAX_SAMPLES`: 93
    minutes at 48 kHz, 4.6 hours at 16 kHz) or at `max_duration_s`; ranges and `iter_windows` read longer sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np

from clapkit.audio.codecs.containers import is_vorbis, ogg_breaks_off, sniff
from clapkit.audio.codecs.ffmpeg import AvReader, VorbisReader
from clapkit.audio.codecs.readers import ArrayReader, Reader, SoundfileReader, Unreadable
from clapkit.audio.resample import checked_rate, resample_blocks
from clapkit.audio.sources import Opened, Source, open_source
from clapkit.audio.spans import Span, Take, cleaned, judge, read_span
from clapkit.audio.windows import check_hop
from clapkit.errors import AudioError, SpecError

DECODER_VERSION = 1  # raise it whenever the same file gives other samples

_T = TypeVar("_T")
_SOUNDFILE_FIRST = ("wav", "w64", "aiff", "flac", "caf", "au")
_SOUNDFILE_LAST = ("ogg", "mp3")


@dataclass(frozen=True)
class Sound:
    """Decoded sound: `samples` float32 mono [N] at `rate_hz`.

    source_rate_hz  the rate it was stored at
    notes           what was odd but could be handled, one line each
    decoder         which reader decoded it: "soundfile", "pyav" or "array"
    ends            whether the sound ends here; False when it goes on behind the range that was asked for
    promised_s      how long the header says that the whole sound is; None when it does not say
    """

    samples: np.ndarray
    rate_hz: int
    source_rate_hz: int
    notes: tuple[str, ...] = ()
    decoder: str = ""
    ends: bool = True
    promised_s: float | None = None

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate_hz


@dataclass(frozen=True)
class SoundInfo:
    """What the header says: `duration_s` is None where it says nothing, and an estimate for an mp3 without a count.

    `promised_s` is the length it commits itself to (None: to none); of a file that was cut, more than there is.
    """

    duration_s: float | None
    rate_hz: int
    channels: int
    container: str
    decoder: str
    promised_s: float | None = None


def decoder_id() -> str:
    """Names the decoding algorithm (not library versions), for pipeline ids."""
    return f"clapkit-decode-{DECODER_VERSION}"


def probe(source: Source) -> SoundInfo:
    """Length, rate and kind of a sound from its header and first samples. Raises AudioError."""
    with open_source(source) as opened:
        reader, _ = _first_that(opened, lambda _: None)
        with closing(reader):
            promised_s = None if reader.promised is None else reader.promised / reader.rate_hz
            return SoundInfo(
                reader.duration_s, reader.rate_hz, reader.channels, reader.container, reader.decoder, promised_s
            )


def decode(
    source: Source,
    *,
    rate_hz: int | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    max_duration_s: float | None = None,
) -> Sound:
    """Decode `source` (path, bytes, binary file, or (array, rate)) to mono at `rate_hz` (None: its own rate).

    start_s, duration_s  the range; the result is shorter than asked where the sound ends earlier
    max_duration_s       refuse more than this; None: 2^28 samples at the higher of the two rates
    Raises AudioError for a sound that cannot be used, SpecError for arguments that cannot.
    """
    check_range(start_s, duration_s)
    if max_duration_s is not None and not max_duration_s > 0:
        raise SpecError(f"max_duration_s is {max_duration_s}: expected a number of seconds above 0, or None")
    to_hz = None if rate_hz is None else checked_rate(rate_hz)
    with open_source(source) as opened:
        try:
            take = _best_take(opened, to_hz, start_s, duration_s, max_duration_s)
            notes = judge(take, opened.name)
            if take.ends and opened.file is not None and ogg_breaks_off(opened.file):
                notes.append("its Ogg stream breaks off: the end may be missing")
            samples = take.span.cut(take.samples)
        except MemoryError:
            raise AudioError(opened.name, "it needs more memory than there is: read ranges or windows") from None
        return Sound(
            samples, take.span.to_hz, take.span.from_hz, tuple(notes), take.decoder, take.ends, take.promised_s
        )


def iter_windows(source: Source, *, rate_hz: int, window_s: float, hop_s: float) -> Iterator[tuple[float, np.ndarray]]:
    """(start_s, samples) of the windows of a sound of any length, in the memory of a few windows.

    The windows are those of `plan_windows` over the whole decoded sound, bit for bit: the last one is moved back to end
    with the sound; a sound shorter than `window_s` is one shorter window. A file that turns out to be truncated, broken
    or all NaN raises AudioError behind the windows that it gave.
    """
    to_hz = checked_rate(rate_hz)
    window, hop = (round(seconds * to_hz) if math.isfinite(seconds) else 0 for seconds in (window_s, hop_s))
    check_hop(window, hop)
    return _windows(source, to_hz, window, hop)


def check_range(start_s: float, duration_s: float | None) -> None:
    """SpecError unless start_s >= 0 and duration_s > 0 (or None), both finite."""
    if not (math.isfinite(start_s) and start_s >= 0):
        raise SpecError(f"start_s is {start_s}: expected a finite number of seconds, 0 or more")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise SpecError(f"duration_s is {duration_s}: expected a finite number of seconds above 0, or None")


def _candidates(opened: Opened) -> list[Callable[[], Reader]]:
    """Ways to read a source, the best first. Raises AudioError when it is no sound that is known."""
    if opened.file is None:
        return [lambda: ArrayReader(opened)]
    file = opened.file
    container = sniff(file)
    if container is None:
        file.seek(0)
        raise AudioError(
            opened.name,
            f"not a known sound (it starts with {file.read(12)!r}): expected wav, flac, aiff, ogg, opus, mp3, m4a, "
            "aac, or the sound of mp4, mkv, webm",
        )
    by_av: list[Callable[[], Reader]] = [lambda: AvReader(file, container)]
    by_soundfile: list[Callable[[], Reader]] = [lambda: SoundfileReader(file, container)]
    if container == "ogg" and is_vorbis(file):
        return [lambda: VorbisReader(file, container), *by_av]
    if container in _SOUNDFILE_FIRST:
        return by_soundfile + by_av
    return by_av + (by_soundfile if container in _SOUNDFILE_LAST else [])


def _best_take(
    opened: Opened, to_hz: int | None, start_s: float, duration_s: float | None, max_duration_s: float | None
) -> Take:
    """The first complete reading, or else the longest one."""
    best: Take | None = None
    reasons: list[str] = []
    for open_reader in _candidates(opened):
        try:
            with closing(open_reader()) as reader:
                span = Span(reader.rate_hz, to_hz or reader.rate_hz, start_s, duration_s)
                take = read_span(reader, span, max_duration_s=max_duration_s, name=opened.name)
        except Unreadable as error:
            reasons.append(str(error))
            continue
        if best is None or take.got > best.got:
            best = take
        if take.complete:
            return take
    if best is None:
        raise AudioError(opened.name, "; ".join(dict.fromkeys(reasons)))
    return best


def _first_that(opened: Opened, does: Callable[[Reader], _T]) -> tuple[Reader, _T]:
    """The first reader for which `does(reader)` succeeds, open, with its answer."""
    reasons = []
    for open_reader in _candidates(opened):
        try:
            reader = open_reader()
        except Unreadable as error:
            reasons.append(str(error))
            continue
        try:
            return reader, does(reader)
        except Unreadable as error:
            reader.close()
            reasons.append(str(error))
    raise AudioError(opened.name, "; ".join(dict.fromkeys(reasons)))


def _windows(source: Source, to_hz: int, window: int, hop: int) -> Iterator[tuple[float, np.ndarray]]:
    with open_source(source) as opened:
        reader, blocks = _first_that(opened, _started)
        with closing(reader):
            held = np.zeros(0, np.float32)
            held_start = next_start = given_end = 0
            for block in resample_blocks(_judged(reader, blocks, opened.name), reader.rate_hz, to_hz):
                held = np.concatenate([held, block])
                while next_start + window <= held_start + len(held):
                    offset = next_start - held_start
                    yield next_start / to_hz, held[offset : offset + window].copy()
                    given_end, next_start = next_start + window, next_start + hop
                # What the next window needs, and what a last window moved back from the end would need.
                keep = max(0, min(next_start, held_start + len(held) - window) - held_start)
                held, held_start = held[keep:], held_start + keep
            end = held_start + len(held)
            if end > given_end:
                start = max(0, end - window)
                yield start / to_hz, held[start - held_start :].copy()


def _started(reader: Reader) -> Iterator[np.ndarray]:
    """The blocks of a reader, the first of them already decoded."""
    blocks = reader.blocks(0, None)
    first = next(blocks, None)
    if first is None and reader.promised is None:
        raise Unreadable("no samples (zero length)")  # perhaps another reader knows better
    return iter(()) if first is None else chain([first], blocks)


def _judged(reader: Reader, blocks: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    """Blocks, cleaned; at their end the same judgement as over a whole decode."""
    count = broken = 0
    failure = None
    try:
        for block in blocks:
            block, bad = cleaned(block)
            count, broken = count + len(block), broken + bad
            yield block
    except Unreadable as error:
        failure = str(error)
    span = Span(reader.rate_hz, reader.rate_hz, 0.0, None)
    # Of the samples themselves only their number matters now: no memory is touched for them.
    shape = np.broadcast_to(np.float32(0), (count,))
    judge(Take(span, shape, broken, count, reader.promised, reader.slack, failure, reader.decoder, (), None), name)
