"""sgl-project/sglang#24185: valid WAV files with a chunk behind the samples (XMP, LIST) crashed the reader."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from clapkit.audio.decode import decode


@pytest.mark.parametrize("chunk", [b"LIST", b"_PMX", b"id3 "])
@pytest.mark.parametrize("size", [1, 2, 4001])
def test_what_stands_behind_the_samples_is_not_heard(chunk, size):
    buffer = io.BytesIO()
    samples = np.linspace(-0.5, 0.5, 3000, dtype=np.float32)
    soundfile.write(buffer, samples, 22050, format="WAV", subtype="PCM_16")
    content = b"<x:xmpmeta>" * 400
    tail = chunk + struct.pack("<I", size) + content[:size] + b"\0" * (size % 2)
    body = buffer.getvalue() + tail
    whole = body[:4] + struct.pack("<I", len(body) - 8) + body[8:]
    sound = decode(whole)
    assert len(sound.samples) == 3000
    assert np.allclose(sound.samples, samples, atol=1 / 32768)
