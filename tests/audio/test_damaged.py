from __future__ import annotations

import numpy as np
import pytest

from clapkit.audio.decode import decode
from clapkit.errors import AudioError

RATE_HZ = 44100


@pytest.fixture(scope="module")
def tone(chirp):
    return chirp(RATE_HZ, 4.0)


def test_flipped_bytes_never_crash_and_never_give_bad_numbers(encode, tone, rng):
    """Half of the bytes of a small stretch are replaced; each outcome is a finite sound or an AudioError."""
    outcomes = set()
    formats = [
        ("FLAC", "PCM_16"),
        ("mp3", "libmp3lame"),
        ("OGG", "VORBIS"),
        ("ogg", "libopus"),
        ("mp4", "aac"),
        ("WAV", "PCM_16"),
    ]
    for container, codec in formats:
        rate_hz = 48000 if codec == "libopus" else RATE_HZ
        clean = encode(tone, rate_hz, container, codec)
        for _ in range(12):
            data = bytearray(clean)
            at = int(rng.integers(0, len(data) - 200))
            for place in rng.integers(at, at + 200, 100):
                data[place] = rng.integers(0, 256)
            try:
                sound = decode(bytes(data), rate_hz=16000)
                assert np.isfinite(sound.samples).all() and len(sound.samples) <= 5 * 16000
                outcomes.add("sound")
            except AudioError:
                outcomes.add("error")
    assert "sound" in outcomes


def test_an_mp3_with_a_hole_is_decoded_around_it(encode, tone):
    data = bytearray(encode(tone, RATE_HZ, "mp3", "libmp3lame"))
    data[8000:9000] = bytes(1000)
    sound = decode(bytes(data))
    assert len(sound.samples) > 0.8 * len(tone)


def test_an_mp3_behind_a_tag_with_a_picture(encode, tone):
    size = 100_000
    tag = b"ID3\x04\0\0" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + bytes(size)
    data = encode(tone, RATE_HZ, "mp3", "libmp3lame")
    assert np.array_equal(decode(tag + data).samples, decode(data).samples)
