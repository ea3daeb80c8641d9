"""Ogg that was cut off: it decodes to what is there, and the note says so. Whole files have no such note."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile

from clapkit.audio.codecs.containers import ogg_breaks_off
from clapkit.audio.decode import decode

RATE_HZ = 48000
TELLS = "breaks off"


def written(codec):
    rng = np.random.default_rng(3)
    noise_N = (0.2 * rng.standard_normal(3 * RATE_HZ)).astype(np.float32)
    file = io.BytesIO()
    if codec == "vorbis":
        soundfile.write(file, noise_N, RATE_HZ, format="OGG", subtype="VORBIS")
        return file.getvalue()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise_N[None], format="flt", layout="mono")
        frame.rate = RATE_HZ
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def pages(data):
    """Where each page begins and ends, and whether it is marked as the last: read from the first on."""
    at, found = 0, []
    while at < len(data):
        assert data[at : at + 4] == b"OggS"
        count = data[at + 26]
        end = at + 27 + count + sum(data[at + 27 : at + 27 + count])
        found.append((at, end, bool(data[at + 5] & 4)))
        at = end
    return found


@pytest.mark.parametrize("codec", ["vorbis", "opus"])
def test_a_cut_is_told(codec):
    data = written(codec)
    there = pages(data)
    assert [last for *_, last in there] == [False] * (len(there) - 1) + [True]
    whole = decode(data)
    assert not any(TELLS in note for note in whole.notes)
    for cut in (there[-1][0], len(data) - 1, int(0.6 * len(data)), there[-1][0] + 10):
        assert ogg_breaks_off(io.BytesIO(data[:cut])), cut
    part = decode(data[: int(0.6 * len(data))])
    assert len(part.samples) < 0.8 * len(whole.samples)
    assert any(TELLS in note for note in part.notes)
    assert not any(TELLS in note for note in decode(data[: there[-1][0]], duration_s=0.1).notes), (
        "the end was not asked for"
    )


def test_other_containers_are_not_asked():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800), 8000, format="WAV")
    assert not ogg_breaks_off(file) and not ogg_breaks_off(io.BytesIO(b"")) and not ogg_breaks_off(io.BytesIO(b"Ogg"))
    assert ogg_breaks_off(io.BytesIO(b"OggS"))
