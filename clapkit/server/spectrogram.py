"""A stretch of sound as a picture: time to the right, mel frequency upwards, level as colour."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from clapkit.errors import SpecError
from clapkit.units import hz_to_mel_slaney, mel_to_hz_slaney

_WINDOW_S = 0.04
_RANGE_DB = 80.0  # below the loudest: black
# Dark to bright, evenly in lightness, so that it reads without colours too: (level, red, green, blue).
_COLOURS = np.array(
    [
        (0.00, 4, 4, 18),
        (0.25, 52, 20, 104),
        (0.50, 146, 40, 122),
        (0.75, 236, 100, 82),
        (0.90, 250, 176, 92),
        (1.00, 252, 250, 200),
    ]
)

_SHADES = np.stack([np.interp(np.linspace(0, 1, 256), _COLOURS[:, 0], _COLOURS[:, n]) for n in (1, 2, 3)], axis=-1)
_SHADES = _SHADES.round().astype(np.uint8)


def spectrogram_png(samples_N: np.ndarray, *, rate_hz: int, width: int, height: int) -> bytes:
    """A PNG of `width` by `height` pixels of mono sound.

    A column is the power spectrum of 40 ms (Hann) around its time, the largest power of each band; rows are bands of
    equal width on the mel scale (Slaney) from 0 Hz to half the rate. Levels are relative to the loudest point, 80 dB.
    SpecError for sizes below 1 or beyond 4096.
    """
    if not (1 <= width <= 4096 and 1 <= height <= 4096):
        raise SpecError(f"the picture is {width} x {height} pixels: expected 1 to 4096 each way")
    level_db_HW = _levels_db(samples_N, rate_hz=rate_hz, width=width, height=height)
    shade_HW = np.clip(1 + (level_db_HW - level_db_HW.max()) / _RANGE_DB, 0, 1)
    if level_db_HW.max() <= -199:
        shade_HW[:] = 0  # silence is dark, not all as loud as its loudest
    return _png(_SHADES[(shade_HW[::-1] * (len(_SHADES) - 1)).round().astype(np.uint8)])


def _levels_db(samples_N: np.ndarray, *, rate_hz: int, width: int, height: int) -> np.ndarray:
    """Level of each band at each column [height, width], the lowest band first."""
    length = max(16, round(_WINDOW_S * rate_hz))
    padded = np.pad(samples_N.astype(np.float32), (length // 2, length))
    starts = ((np.arange(width) + 0.5) * len(samples_N) / width).astype(int)
    frames_WL = np.lib.stride_tricks.sliding_window_view(padded, length)[starts] * np.hanning(length).astype(np.float32)
    power_WK = (np.abs(np.fft.rfft(frames_WL, axis=1)) ** 2 / length**2).astype(np.float32)
    top_mel = hz_to_mel_slaney(rate_hz / 2)
    edges_hz = np.array([mel_to_hz_slaney(top_mel * n / height) for n in range(height + 1)])
    edges = edges_hz / (rate_hz / 2) * (power_WK.shape[1] - 1)
    first = np.minimum(np.floor(edges[:-1]).astype(int), power_WK.shape[1] - 1)
    # A band holds at least the bin that it lies in; `reduceat` takes the largest from each first to the next.
    bands_WH = np.maximum.reduceat(power_WK, first, axis=1)
    return 10 * np.log10(np.maximum(bands_WH.T, 1e-20))


def _png(pixels_HW3: np.ndarray) -> bytes:
    import av

    context = av.CodecContext.create("png", "w")
    height, width, _ = pixels_HW3.shape
    context.width, context.height, context.pix_fmt, context.time_base = width, height, "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HW3), format="rgb24")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
