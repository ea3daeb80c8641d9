"""Sound files of every kind, made here by the encoders that soundfile and PyAV bring along."""

from __future__ import annotations

import io
from collections.abc import Callable

import av
import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="session")
def chirp() -> Callable[[int, float], np.ndarray]:
    """A tone that rises from 200 Hz to 2 kHz, mono float32: no two moments of it are alike."""

    def make(rate_hz: int, duration_s: float) -> np.ndarray:
        t = np.arange(round(rate_hz * duration_s)) / rate_hz
        return (0.4 * np.sin(2 * np.pi * (200 + 900 * t / duration_s) * t)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(samples, rate_hz, container, codec)`: by soundfile if the codec is a subtype of its, else by PyAV."""

    def make(samples: np.ndarray, rate_hz: int, container: str, codec: str) -> bytes:
        file = io.BytesIO()
        if codec.isupper():
            channels = 1 if samples.ndim == 1 else samples.shape[1]
            with soundfile.SoundFile(file, "w", rate_hz, channels, format=container, subtype=codec) as sound:
                for first in range(0, len(samples), 4096):  # libsndfile's Vorbis encoder overflows on long blocks
                    sound.write(samples[first : first + 4096])
        else:
            with av.open(file, "w", format=container) as out:
                stream = out.add_stream(codec, rate=rate_hz, layout="mono")
                frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = rate_hz, 0
                cut = av.AudioResampler(stream.format.name, "mono", rate_hz, stream.codec_context.frame_size or 1024)
                for piece in [*cut.resample(frame), *cut.resample(None), None]:
                    out.mux(stream.encode(piece))
        return file.getvalue()

    return make
