"""Which container a file is, and how many samples its header promises, from its bytes and never from its name."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

# A writer that cannot seek back leaves one of these as the size: it promises nothing.
_PLACEHOLDER_FROM = 0x7FFFF000
_MAX_CHUNKS = 1000
_MPEG_SEARCH_BYTES = 65536
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # at most
_MPEG_FRAMES = 3

_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_MAGICS = (
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"caff", "caf"),
    (b".snd", "au"),
    (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", "w64"),
)
_PCM_TAGS = (1, 3, 0xFFFE)


def sniff(file: BinaryIO) -> str | None:
    """The container: wav, w64, aiff, flac, caf, au, ogg, mp3, adts, mp4, matroska; None when it is none of them.

    MPEG audio (mp3, adts) has no magic word: it counts as sound when three frame headers in a row agree, within the
    first 64 KiB behind the tags.
    """
    start = _after_id3(file)
    file.seek(start)
    head = file.read(_MPEG_SEARCH_BYTES)
    return _by_magic(head) or _by_mpeg_frames(head)


def is_vorbis(file: BinaryIO) -> bool:
    """Whether an Ogg file holds Vorbis (FFmpeg misjudges where the last block of it ends)."""
    file.seek(0)
    return b"\x01vorbis" in file.read(4096)


def ogg_breaks_off(file: BinaryIO) -> bool:
    """Whether this is an Ogg file whose last page is cut, or not marked as the last of its stream (RFC 3533).

    Ogg says nowhere how long it is: this is all that tells one that was cut off from one that is whole.
    """
    file.seek(0)
    if file.read(4) != b"OggS":
        return False
    file.seek(max(0, file.seek(0, 2) - _OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & 4:
        return True
    lengths = page[27 : 27 + page[26]]
    return len(lengths) < page[26] or len(page) < 27 + len(lengths) + sum(lengths)


def _by_magic(head: bytes) -> str | None:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    return next((name for magic, name in _MAGICS if head.startswith(magic)), None)


def _after_id3(file: BinaryIO) -> int:
    """Where the sound starts: behind any ID3v2 tags."""
    start = 0
    for _ in range(8):
        file.seek(start)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 127:
            return start
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        start += 10 + size + (10 if head[5] & 0x10 else 0)
    return start


@dataclass(frozen=True)
class _MpegFrame:
    """One frame header: `stream` is what stays the same in all frames of a stream."""

    container: str
    stream: tuple[int, ...]
    bytes: int
    samples: int
    side_bytes: int


_RATES_HZ = (44100, 48000, 32000)
_KBITS = {  # by (MPEG 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _mpeg_frame(head: bytes, at: int) -> _MpegFrame | None:
    """The MPEG audio frame header at byte `at`, or None."""
    if at + 7 > len(head) or head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer_bits = head[at + 1] >> 3 & 3, head[at + 1] >> 1 & 3
    if layer_bits == 0:
        return _adts_frame(head, at)
    bitrate, rate, padding = head[at + 2] >> 4, head[at + 2] >> 2 & 3, head[at + 2] >> 1 & 1
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    layer, first = 4 - layer_bits, version == 3
    rate_hz = _RATES_HZ[rate] >> (0 if first else 1 if version == 2 else 2)
    bits = _KBITS[first, layer][bitrate - 1] * 1000
    samples = 384 if layer == 1 else 576 if layer == 3 and not first else 1152
    size = (12 * bits // rate_hz + padding) * 4 if layer == 1 else samples // 8 * bits // rate_hz + padding
    mono = head[at + 3] >> 6 == 3
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return _MpegFrame("mp3", (version, layer, rate), size, samples, side)


def _adts_frame(head: bytes, at: int) -> _MpegFrame | None:
    rate = head[at + 2] >> 2 & 15
    size = (head[at + 3] & 3) << 11 | head[at + 4] << 3 | head[at + 5] >> 5
    if head[at + 1] & 0xF0 != 0xF0 or rate > 12 or size < 7:
        return None
    return _MpegFrame("adts", (head[at + 1], head[at + 2] >> 6, rate), size, 1024, 0)


def _first_mpeg(head: bytes) -> tuple[int, _MpegFrame] | None:
    """The first place where three frame headers in a row belong to one stream."""
    at = head.find(b"\xff")
    while at >= 0:
        first = frame = _mpeg_frame(head, at)
        position, agreeing = at, 0
        while frame and first and frame.stream == first.stream and agreeing < _MPEG_FRAMES:
            agreeing, position = agreeing + 1, position + frame.bytes
            frame = _mpeg_frame(head, position)
        if first and agreeing == _MPEG_FRAMES:
            return at, first
        at = head.find(b"\xff", at + 1)
    return None


def _by_mpeg_frames(head: bytes) -> str | None:
    found = _first_mpeg(head)
    return found[1].container if found else None


def promised_samples(file: BinaryIO, container: str) -> int | None:
    """Samples a channel that the header of a wav, aiff, flac or mp3 promises; None when it promises none.

    A size of 0, or from 2 GiB less 4 KiB upwards, is what a streaming writer leaves: a placeholder and not a promise
    (RF64 keeps its true size elsewhere, which is read).
    """
    readers = {"wav": _promised_wav, "aiff": _promised_aiff, "flac": _promised_flac, "mp3": _promised_mp3}
    try:
        return readers[container](file) if container in readers else None
    except struct.error:  # the header itself ends early: the decoder will say so
        return None


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(id, size, position of the body) of each chunk of a RIFF or IFF file."""
    position = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        size = struct.unpack(order + "I", head[4:])[0]
        yield head[:4], size, position + 8
        position += 8 + size + size % 2


def _promised_wav(file: BinaryIO) -> int | None:
    file.seek(0)
    head = file.read(8)
    order = ">" if head[:4] == b"RIFX" else "<"
    riff_bytes = struct.unpack(order + "I", head[4:])[0]
    frame_bytes = long_size = 0
    for name, size, body in _chunks(file, order):
        file.seek(body)
        if name == b"ds64":
            long_size = struct.unpack(order + "8xQ", file.read(16))[0]
        elif name == b"fmt ":
            tag, channels, bits = struct.unpack(order + "HH8x2xH", file.read(16))
            frame_bytes = channels * ((bits + 7) // 8) if tag in _PCM_TAGS else 0
        elif name == b"data":
            size = long_size if long_size and size == 0xFFFFFFFF else size
            if size == 0 and riff_bytes + 8 == file.seek(0, io.SEEK_END):
                return 0  # finished by a writer that had nothing to write
            placeholder = size == 0 or (size >= _PLACEHOLDER_FROM and not long_size)
            return None if placeholder or not frame_bytes else size // frame_bytes
    return None


def _promised_aiff(file: BinaryIO) -> int | None:
    for name, _, body in _chunks(file, ">"):
        if name == b"COMM":
            file.seek(body)
            frames = struct.unpack(">2xI", file.read(6))[0]
            return frames if 0 < frames < _PLACEHOLDER_FROM else None
    return None


def _promised_flac(file: BinaryIO) -> int | None:
    file.seek(_after_id3(file))
    packed = struct.unpack(">18xQ", file.read(26))[0]
    return packed & (1 << 36) - 1 or None


def _promised_mp3(file: BinaryIO) -> int | None:
    """From the frame count that encoders write into the first frame (Xing, Info)."""
    file.seek(_after_id3(file))
    head = file.read(_MPEG_SEARCH_BYTES)
    found = _first_mpeg(head)
    if not found:
        return None
    at, frame = found
    tag = at + 4 + frame.side_bytes
    if head[tag : tag + 4] not in (b"Xing", b"Info"):
        return None
    flags, frames = struct.unpack(">II", head[tag + 4 : tag + 12])
    return frames * frame.samples if flags & 1 else None
