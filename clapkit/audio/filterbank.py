"""The constants of a mel spectrogram, in numpy: triangular filters and the analysis window.

Computed in float64, so that every user of one setting (torch, numpy, an exported graph) starts from the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clapkit.audio.mel_settings import MelSettings
from clapkit.units import hz_to_mel_htk, hz_to_mel_slaney, mel_to_hz_htk, mel_to_hz_slaney


def mel_filterbank(settings: MelSettings, *, dtype: Any = np.float32) -> np.ndarray:
    """Weights [n_fft // 2 + 1, mel_bins] that turn a spectrum into mel bands: `spectrum @ mel_filterbank(settings)`.

    Filter i rises from corner i to corner i + 1 and falls to corner i + 2; the corners are equally far apart in mel.
    A filter that is narrower than the distance of two frequencies can be all zero. The scale "linear" keeps the
    spectrum: the identity.
    """
    if settings.scale == "linear":
        return np.eye(settings.spectrum_bins, dtype=dtype)
    slaney = settings.scale == "slaney"
    to_mel, to_hz = (hz_to_mel_slaney, mel_to_hz_slaney) if slaney else (hz_to_mel_htk, mel_to_hz_htk)
    corners_mel = np.linspace(to_mel(settings.low_hz), to_mel(settings.high_hz), settings.mel_bins + 2)
    corners_hz = np.array([to_hz(mel) for mel in corners_mel])
    bins_hz = np.linspace(0.0, (settings.filterbank_rate_hz or settings.rate_hz) / 2, settings.spectrum_bins)
    if settings.scale == "kaldi":
        weights = _triangles(np.array([to_mel(hz) for hz in bins_hz]), corners_mel)
    else:
        weights = _triangles(bins_hz, corners_hz)
    if settings.norm == "slaney":
        weights *= 2.0 / (corners_hz[2:] - corners_hz[:-2])
    return weights.astype(dtype)


def _triangles(positions: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Height [positions, corners - 2] of each triangle, 1 at its middle corner, at each position."""
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (positions[:, None] - left) / (middle - left)
    falling = (right - positions[:, None]) / (right - middle)
    return np.maximum(0.0, np.minimum(rising, falling))


def analysis_window(settings: MelSettings, *, dtype: Any = np.float32) -> np.ndarray:
    """The Hann window of `window_samples` in the middle of `n_fft` samples, zero elsewhere."""
    length = settings.window_samples
    period = length - 1 if settings.window == "hann_symmetric" else length
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / period)
    before = (settings.n_fft - length) // 2
    return np.pad(hann, (before, settings.n_fft - length - before)).astype(dtype)


def fourier_kernels(window: np.ndarray, *, bins: range) -> np.ndarray:
    """[2 * len(bins), n_fft] the windowed cosines of the bins, then their (negative) sines: rows of the transform."""
    # The phase is reduced in whole numbers: cosines of large angles would lose digits.
    turns = np.outer(np.arange(bins.start, bins.stop), np.arange(len(window))) % len(window)
    angles = turns * (2.0 * np.pi / len(window))
    return np.concatenate([np.cos(angles), -np.sin(angles)]) * window
