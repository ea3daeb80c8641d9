"""The filter bank and window against librosa, transformers, torch and a triangle drawn by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from clapkit.audio.filterbank import analysis_window, mel_filterbank
from clapkit.audio.mel_settings import ECONOMICAL, LAION, M2D, NAMED, MelSettings


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def variants() -> list[MelSettings]:
    return [
        replace(s, scale=scale, norm=norm)
        for s in NAMED.values()
        for scale in ("slaney", "htk")
        for norm in ("slaney", None)
    ]


@pytest.mark.parametrize("settings", variants(), ids=str)
def test_equals_librosa(settings):
    theirs = librosa.filters.mel(
        sr=settings.filterbank_rate_hz or settings.rate_hz,
        n_fft=settings.n_fft,
        n_mels=settings.mel_bins,
        fmin=settings.low_hz,
        fmax=settings.high_hz,
        htk=settings.scale == "htk",
        norm=settings.norm,
        dtype=np.float64,
    ).T
    assert relative_error(mel_filterbank(settings, dtype=np.float64), theirs) < 1e-12
    assert relative_error(mel_filterbank(settings), theirs) < 1e-7
    assert mel_filterbank(settings).dtype == np.float32


@pytest.mark.parametrize(
    ("scale", "norm"), [("slaney", "slaney"), ("slaney", None), ("htk", "slaney"), ("htk", None), ("kaldi", None)]
)
@pytest.mark.parametrize("settings", [LAION, M2D], ids=["laion", "m2d"])
def test_equals_transformers(settings, scale, norm):
    theirs = mel_filter_bank(
        num_frequency_bins=settings.spectrum_bins,
        num_mel_filters=settings.mel_bins,
        min_frequency=settings.low_hz,
        max_frequency=settings.high_hz,
        sampling_rate=settings.rate_hz,
        norm=norm,
        mel_scale=scale,
        triangularize_in_mel_space=scale == "kaldi",
    )
    ours = mel_filterbank(replace(settings, scale=scale, norm=norm), dtype=np.float64)
    assert relative_error(ours, theirs) < 1e-9


def test_a_triangle_by_hand():
    # Below 1 kHz the Slaney scale is linear: corners at 0, 250, 500, 750 Hz, frequencies every 125 Hz.
    settings = MelSettings(
        rate_hz=2000, n_fft=16, window_samples=16, hop_samples=8, mel_bins=2, low_hz=0.0, high_hz=750.0, norm=None
    )
    expected = [[0, 0], [0.5, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 0.5], [0, 0], [0, 0], [0, 0]]
    np.testing.assert_allclose(mel_filterbank(settings), expected, atol=1e-7)
    halves = mel_filterbank(replace(settings, norm="slaney"))
    np.testing.assert_allclose(halves, np.array(expected) * 2 / 500, atol=1e-9)


def test_unnormalised_filters_share_out_every_frequency_between_their_middles():
    settings = replace(LAION, scale="htk", norm=None)
    bins_hz = np.linspace(0, settings.rate_hz / 2, settings.spectrum_bins)
    total = mel_filterbank(settings, dtype=np.float64).sum(axis=1)
    np.testing.assert_allclose(total[(bins_hz > 100) & (bins_hz < 13000)], 1.0, atol=1e-12)
    assert not total[(bins_hz < 50) | (bins_hz > 14000)].any()


@pytest.mark.parametrize("name", NAMED)
def test_no_named_filter_is_empty(name):
    assert mel_filterbank(NAMED[name]).any(axis=0).all()


@pytest.mark.parametrize("window_samples", [2, 799, 800, 1024])
def test_the_window_is_a_periodic_hann_in_the_middle(window_samples):
    ours = analysis_window(replace(ECONOMICAL, window_samples=window_samples), dtype=np.float64)
    hann = torch.hann_window(window_samples, dtype=torch.float64).numpy()
    np.testing.assert_allclose(ours, librosa.util.pad_center(hann, size=1024), atol=1e-15)


def test_neither_settings_nor_filters_import_torch():
    script = "import sys, clapkit.audio.filterbank; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
