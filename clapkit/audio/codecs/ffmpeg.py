"""Reading by FFmpeg (PyAV): what soundfile does not know, and what it fails on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import chain, islice
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer

from clapkit.audio.codecs.containers import promised_samples
from clapkit.audio.codecs.readers import (
    BLOCK_VALUES,
    SoundfileReader,
    Unreadable,
    mp3_slack,
    one_line,
    readable_rate,
    to_mono,
)
from clapkit.audio.sources import MAX_CHANNELS

_VORBIS_BLOCK = 8192
_PREROLL_S = 1.0  # decoded and thrown away before a position, so that the state of a lossy decoder has settled

# The demuxer that FFmpeg is told to use for each container: an allow-list, no playlist or network format is in it.
_DEMUXERS = {
    "wav": "wav",
    "w64": "w64",
    "aiff": "aiff",
    "flac": "flac",
    "caf": "caf",
    "au": "au",
    "ogg": "ogg",
    "mp3": "mp3",
    "adts": "aac",
    "mp4": "mp4",
    "matroska": "matroska",
}
_CODECS = (
    *("aac", "alac", "flac", "opus", "vorbis", "mp3", "mp3float", "mp2", "mp2float", "mp1", "mp1float", "ac3", "eac3"),
    *("pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le"),
    *("pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_alaw", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt"),
)
_OPTIONS = {"codec_whitelist": ",".join(_CODECS), "protocol_whitelist": "none"}


class AvReader:
    """Reads by FFmpeg: one demuxer, a short list of decoders, no protocol, the first sound track.

    Positions are exact. Where the time stamps of a container are coarser than a sample (matroska), frames of constant
    length tell which sample is meant; where they do not, the sound is decoded from its start and thrown away.
    """

    decoder = "pyav"

    def __init__(self, file: BinaryIO, container: str) -> None:
        self._file, self.container = file, container
        self._damaged = self._good = 0
        self._rate_change: str | None = None
        self.promised = promised_samples(file, container)
        self._open()
        self.rate_hz = readable_rate(self._first.sample_rate)
        self.channels = self._first.layout.nb_channels
        if self.channels > MAX_CHANNELS:
            raise Unreadable(f"{self.channels} channels: at most {MAX_CHANNELS} are read")
        self.duration_s = self._header_duration_s()
        self.slack = mp3_slack(self.rate_hz) if container == "mp3" else 0
        if self.promised is None and container in ("mp4", "matroska") and self.duration_s:
            self.promised, self.slack = round(self.duration_s * self.rate_hz), round(0.1 * self.rate_hz)

    def _open(self) -> None:
        self._file.seek(0)
        try:
            opened = av.open(self._file, format=_DEMUXERS[self.container], options=_OPTIONS, metadata_errors="replace")
            assert isinstance(opened, InputContainer)
            self._av = opened
            if not self._av.streams.audio:
                raise Unreadable("it has no sound track")
            self._stream = self._av.streams.audio[0]
            codec = self._stream.codec_context
            if codec is None or codec.name not in _CODECS:
                coding = codec.name if codec else "something unknown"
                raise Unreadable(f"its sound is coded as {coding}, which is not read")
            codec.thread_count = 1
            self._codec = _reference_opus(codec) if codec.name == "opus" else codec
        except (av.FFmpegError, OSError, ValueError) as error:
            raise Unreadable(one_line(error)) from error
        self._frames = self._decoded()
        first = next(self._frames, None)
        if first is None:
            self.close()
            raise Unreadable("no samples (zero length)" if not self._damaged else "every packet of it is damaged")
        self._first = first

    def _decoded(self) -> Generator[av.AudioFrame, None, None]:
        """Frames with samples, in order; packets that do not decode are counted and left out."""
        self._damaged = self._good = 0
        try:
            for packet in self._av.demux(self._stream):
                try:
                    frames = self._codec.decode(packet if packet.size else None)
                except av.error.InvalidDataError:
                    self._damaged += 1
                    if self._damaged > 50 + self._good:
                        raise Unreadable("most of its packets are damaged") from None
                    continue
                except av.error.EOFError:
                    return
                for frame in frames:
                    if frame.samples:
                        self._good += 1
                        yield frame
        except (av.FFmpegError, OSError, ValueError) as error:
            raise Unreadable(one_line(error)) from error

    def _header_duration_s(self) -> float | None:
        stream = self._stream
        if stream.duration is not None and stream.time_base:
            ticks = stream.duration
            if stream.codec_context.name == "opus" and len(head := stream.codec_context.extradata or b"") >= 12:
                ticks -= round(int.from_bytes(head[10:12], "little") / 48000 / stream.time_base)  # pre-skip
            return max(0.0, float(ticks * stream.time_base))
        tag = stream.metadata.get("DURATION", "").split(":")
        try:
            hours, minutes, seconds = map(float, tag)
            return hours * 3600 + minutes * 60 + seconds
        except ValueError:
            pass
        # The length of the whole: a promise about the sound only where there is nothing else in the file.
        whole = self._av.duration if len(self._av.streams) == 1 else None
        return whole / av.time_base if whole else None

    def close(self) -> None:
        """Give up the decoder; the file stays open."""
        self._frames.close()
        self._av.close()

    def notes(self) -> list[str]:
        found = [f"{self._damaged} damaged packet(s) left out"] if self._damaged else []
        return found + ([self._rate_change] if self._rate_change else [])

    def blocks(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        position, frames = self._frames_before(start)
        waiting: list[np.ndarray] = []
        count = 0
        for frame in frames:
            if frame.sample_rate != self.rate_hz:
                at = position / self.rate_hz
                self._rate_change = f"the rate changes to {frame.sample_rate} Hz after {at:.2f} s: read up to there"
                break
            mono = self._mono(frame)[max(0, start - position) :]
            position += frame.samples
            waiting.append(mono)
            count += len(mono)
            if count >= BLOCK_VALUES or (stop is not None and position >= stop):
                yield np.concatenate(waiting)
                waiting, count = [], 0
                if stop is not None and position >= stop:
                    return
        if count:
            yield np.concatenate(waiting)

    def _frames_before(self, start: int) -> tuple[int, Iterator[av.AudioFrame]]:
        """Frames from `start` or earlier, with the position of the first one."""
        origin, tick = self._first.pts, self._stream.time_base
        preroll = round(_PREROLL_S * self.rate_hz)
        if start > 2 * preroll and origin is not None and tick:
            grid = self._frame_grid() if tick * self.rate_hz > 1 else (1, 0)
            try:
                self._av.seek(origin + int((start - preroll) / self.rate_hz / tick), stream=self._stream)
                self._codec.flush_buffers()
                frames = self._decoded()
                landed = next(frames, None)
            except (Unreadable, av.FFmpegError, OSError, ValueError):
                landed = None
            if grid and landed is not None and landed.pts is not None:
                # By its end: libopus skips the beginning of the first frame after a seek.
                estimate = (landed.pts - origin) * tick * self.rate_hz + landed.samples
                end = _on_grid(estimate, grid, tick * self.rate_hz)
                if end is not None and 0 <= end - landed.samples <= start:
                    return end - landed.samples, chain([landed], frames)
        self.close()
        self._open()
        return 0, chain([self._first], self._frames)

    def _frame_grid(self) -> tuple[int, int] | None:
        """(frame length, where a frame begins), when the frames behind the first two are all of one length."""
        lengths = [f.samples for f in chain([self._first], islice(self._frames, 8))]
        return (lengths[2], sum(lengths[:2])) if len(lengths) == 9 and len(set(lengths[2:])) == 1 else None

    def _mono(self, frame: av.AudioFrame) -> np.ndarray:
        values = frame.to_ndarray()
        if not frame.format.is_planar:
            values = values.reshape(-1, frame.layout.nb_channels).T
        return to_mono(values, 0)


class VorbisReader(SoundfileReader):
    """Ogg Vorbis: libsndfile decodes it to the exact length but may seek some samples beside the mark, FFmpeg seeks to
    the mark but ends up to a block early or late. So ranges inside are FFmpeg's, all else is decoded from the start.
    """

    def blocks(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        if start and stop is not None and stop + _VORBIS_BLOCK <= self._sound.frames:
            self._sound.close()  # both would move the position in the file
            with closing(AvReader(self._file, self.container)) as reader:
                yield from reader.blocks(start, stop)
            return
        position = 0
        for block in super().blocks(0, stop):
            position += len(block)
            if position > start:
                yield block[max(0, start - (position - len(block))) :]


def _reference_opus(found: av.AudioCodecContext) -> av.AudioCodecContext:
    """libopus in place of FFmpeg's own Opus decoder, whose SILK part (speech, low rates) comes out up to 2 samples late
    and differs by several dB in places; where the build lacks libopus, the one that was found.
    """
    try:
        codec = av.CodecContext.create("libopus", "r")
    except (av.codec.codec.UnknownCodecError, ValueError):
        return found
    assert isinstance(codec, av.AudioCodecContext)
    codec.extradata = found.extradata
    codec.options = {"request_sample_fmt": "flt"}  # 16 bit would clip
    return codec


def _on_grid(estimate: Fraction, grid: tuple[int, int], tolerance: Fraction) -> int | None:
    """The sample position that an estimate from a time stamp stands for, or None when none is near enough."""
    length, offset = grid
    position = offset + round((estimate - offset) / length) * length
    clear = length == 1 or 4 * tolerance < length
    return position if clear and abs(position - estimate) <= max(Fraction(1), tolerance) else None
