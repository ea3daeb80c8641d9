"""The named mel settings against librosa, transformers, and recorded outputs of the published models."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from scipy.signal import get_window
from transformers import ClapFeatureExtractor

from clapkit.audio.kaldi import KaldiFbank
from clapkit.audio.mel import (
    EFFICIENTAT,
    GLAP,
    LAION,
    LAION_FUSED,
    M2D,
    MSCLAP_2022,
    MSCLAP_2023,
    NAMED,
    WAV2CLIP,
    MelFrontend,
    MelSettings,
    mel_filterbank,
)


def signals(rate_hz: int) -> dict[str, np.ndarray]:
    """Sounds that leave a transform nowhere to hide: pure tones beside silence, steps, clipping."""
    rng = np.random.default_rng(7)
    count = rate_hz * 7 // 10
    t = np.arange(count) / rate_hz
    bursts = rng.standard_normal(count) * np.exp(-(t % 0.2) / 0.02)
    impulse = np.zeros(count)
    impulse[count // 3] = 1.0
    made = {
        "chirp": np.sin(2 * np.pi * (60 * t + 0.4 * rate_hz * t**2 / (2 * t[-1]))),
        "bursts": bursts / np.abs(bursts).max(),
        "silence": np.zeros(count),
        "impulse": impulse,
        "square": np.where(t * 441 % 1 < 0.5, 1.0, -1.0),
        "quiet tone": 1e-3 * np.sin(2 * np.pi * 1000 * t),
        "too loud": 3.0 * np.sin(2 * np.pi * 440 * t),
    }
    return {name: sound.astype(np.float32) for name, sound in made.items()}


def assert_log_mel_close(
    ours, theirs, *, near_db: float = 1e-3, above_db: float = -80.0, floor_db: float = 0.1
) -> None:
    """Within `near_db` where the reference is above `above_db`, within `floor_db` elsewhere."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape
    error, loud = np.abs(ours - theirs), theirs > above_db
    assert error[loud].max(initial=0.0) <= near_db
    assert error[~loud].max(initial=0.0) <= floor_db


def to_int16_and_back(clip: np.ndarray) -> np.ndarray:
    return (np.clip(clip, -1, 1) * np.float32(32767)).astype(np.int16).astype(np.float32) / np.float32(32767)


def librosa_log_mel(clip: np.ndarray, settings: MelSettings) -> np.ndarray:
    if settings.quantise_int16:
        clip = to_int16_and_back(clip)
    if settings.preemphasis is not None:
        clip = clip[1:] - np.float32(settings.preemphasis) * clip[:-1]
    spectrum = librosa.stft(
        clip,
        n_fft=settings.n_fft,
        hop_length=settings.hop_samples,
        win_length=settings.window_samples,
        window=get_window("hann", settings.window_samples, fftbins=settings.window == "hann"),
        pad_mode="reflect",
    )
    power = np.abs(spectrum) ** 2
    if settings.scale in ("linear", "kaldi"):  # librosa has no such filters: test_filterbank judges them
        mel = power.T @ mel_filterbank(settings, dtype=np.float64)
    else:
        mel = librosa.feature.melspectrogram(
            S=power,
            sr=settings.filterbank_rate_hz or settings.rate_hz,
            n_mels=settings.mel_bins,
            fmin=settings.low_hz,
            fmax=settings.high_hz,
            htk=settings.scale == "htk",
            norm=settings.norm,
        ).T
    if settings.log == "db":
        return librosa.power_to_db(mel, ref=1.0, amin=settings.floor, top_db=settings.top_db)
    log = np.log(mel + settings.floor)
    if settings.standardise == "clip":
        return (log - log.mean()) / max(log.std(ddof=1), 1e-3)
    mean, deviation = settings.standardise or (0.0, 1.0)
    return (log - mean) / deviation


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("signal", signals(8000))
def test_equals_librosa(name, signal):
    settings = NAMED[name]
    clip = signals(settings.rate_hz)[signal]
    ours = MelFrontend(settings)(torch.from_numpy(clip)[None]).values[0]
    theirs = librosa_log_mel(clip, settings)
    # Tighter than what a reader of these numbers can notice: the transform here and there is exact.
    assert_log_mel_close(ours, theirs, near_db=1e-4, floor_db=1e-3)


@pytest.mark.parametrize(("settings", "truncation"), [(LAION, "rand_trunc"), (LAION_FUSED, "fusion")])
@pytest.mark.parametrize("signal", ["chirp", "bursts", "square"])
def test_equals_the_feature_extractor_of_transformers(settings, truncation, signal):
    extractor = ClapFeatureExtractor(truncation=truncation, frequency_min=50, max_length_s=1)
    clip = np.resize(signals(48000)[signal], 48000)
    theirs = extractor(clip, sampling_rate=48000, return_tensors="np").input_features[0, 0]
    settings = replace(settings, quantise_int16=False)  # the extractor leaves that out
    assert_log_mel_close(MelFrontend(settings)(torch.from_numpy(clip)[None]).values[0], theirs, near_db=1e-4)


def oracle_wave(entry: dict, seed: int) -> np.ndarray:
    """A recorded input, made again: a chirp with decaying bursts of noise, the draws in the order of its rule."""
    index, rate_hz, count = entry["index"], entry["sample_rate"], entry["samples"]
    draws = np.random.RandomState((zlib.crc32(f"wave/{rate_hz}/{count}/{index}".encode()) + seed) % 2**32)
    t, duration_s = np.arange(count) / rate_hz, count / rate_hz
    low_hz, high_hz = draws.uniform(80, 400), draws.uniform(0.2, 0.45) * rate_hz
    wave = 0.3 * np.sin(2 * np.pi * (low_hz * t + (high_hz - low_hz) * t**2 / (2 * duration_s)))
    for _ in range(max(2, int(2 * duration_s))):
        start, decay_s, peak = draws.randint(0, count), draws.uniform(0.02, 0.2), draws.uniform(0.1, 0.6)
        rest = np.arange(count - start)
        wave[start:] += peak * draws.standard_normal(count - start) * np.exp(-rest / rate_hz / decay_s)
    wave = (0.9 * wave / np.abs(wave).max()).astype(np.float32)
    assert zlib.crc32(np.round(wave.astype(np.float64) * 32767).astype("<i2").tobytes()) == entry["crc32_int16"]
    return wave


class Oracle:
    """Recorded outputs of one published model: its waveforms, and how to compare an array with what was kept of it."""

    def __init__(self, folder: Path) -> None:
        self.layout = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
        self.kept = dict(np.load(folder / "expected.npz"))
        inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
        self.waves = [oracle_wave(entry, self.layout["seed"]) for entry in inputs["waves"]]

    def pair(self, key: str, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The elements of `ours` that were kept, and their recorded values."""
        about = self.layout["expected"][key]
        if key in self.kept:
            assert ours.size == self.kept[key].size
            return ours.ravel(), self.kept[key].ravel()
        assert ours.size == np.prod(about["full_shape"])
        return ours.ravel()[:: about["subset_stride"]], self.kept[f"{key}.subset"]


def repeat_then_pad(wave: np.ndarray, length: int) -> np.ndarray:
    repeated = np.tile(wave, length // len(wave))
    return np.pad(repeated, (0, length - len(repeated)))


@pytest.mark.parametrize(
    ("folder", "settings", "fit", "length"),
    [
        ("laion_clap_htsat_tiny", LAION, repeat_then_pad, 480000),
        ("laion_clap_htsat_tiny_fusion", LAION_FUSED, repeat_then_pad, 480000),
        ("msclap_2022_cnn14_bert", MSCLAP_2022, np.resize, 220500),
        ("msclap_2023_htsat_gpt2", MSCLAP_2023, np.resize, 308700),
    ],
)
def test_equals_the_published_models_in_db(shared_oracles, folder, settings, fit: Callable, length):
    # Those models transform in float32, which is itself off by up to 5e-3 dB (2e-2 dB with feature fusion) at -80 dB
    # beside a tone at +30 dB, as an exact transform shows: 1e-3 dB holds for what is less than 70 dB below the peak.
    oracle = Oracle(shared_oracles / folder)
    clips = torch.from_numpy(np.stack([fit(wave, length) for wave in oracle.waves]))
    ours, theirs = oracle.pair("log_mel", MelFrontend(settings)(clips).values.numpy())
    assert_log_mel_close(ours, theirs, above_db=theirs.max() - 70)
    assert_log_mel_close(ours, theirs, near_db=2.5e-2)


@pytest.mark.parametrize("folder", ["m2d_clap_2024_gte", "m2d_clap_2025_bert"])
def test_equals_the_published_models_in_natural_logarithms(shared_oracles, folder):
    oracle = Oracle(shared_oracles / folder)
    plain = replace(M2D, standardise=None)
    standardised = replace(M2D, standardise=tuple(oracle.layout["config"]["norm_stats"]))
    for i, wave in enumerate(oracle.waves):
        clip = torch.from_numpy(wave)[None]
        for key, settings in ((f"normalized_{i}", standardised), (f"log_mel_{i}", plain)):
            ours, theirs = oracle.pair(key, MelFrontend(settings)(clip).values.numpy().transpose(0, 2, 1))
            assert np.abs(ours - theirs).max() <= 5e-4


@pytest.mark.parametrize("folder", ["efficientat_mn10", "efficientat_mn04"])
def test_equals_efficientat(shared_oracles, folder):
    oracle = Oracle(shared_oracles / folder)
    for i, wave in enumerate(oracle.waves):
        values = MelFrontend(EFFICIENTAT)(torch.from_numpy(wave)[None]).values
        ours, theirs = oracle.pair(f"log_mel_{i}", values.mT.numpy())
        assert np.abs(ours - theirs).max() <= 2e-4


def test_equals_wav2clip(shared_oracles):
    oracle, plain = Oracle(shared_oracles / "wav2clip"), replace(WAV2CLIP, standardise=None)
    for i, wave in enumerate(oracle.waves):
        for key, settings in ((f"normalized_{i}", WAV2CLIP), (f"log_spectrogram_{i}", plain)):
            ours, theirs = oracle.pair(key, MelFrontend(settings)(torch.from_numpy(wave)[None]).values.mT.numpy())
            assert np.abs(ours - theirs).max() <= 5e-4 if settings is WAV2CLIP else 2e-3


def test_equals_glap(shared_oracles):
    """Each clip alone, where the reference's range over the batch is that of the clip. It transforms in float32."""
    oracle = Oracle(shared_oracles / "glap_dasheng_sonar")
    for i, wave in enumerate(oracle.waves):
        rounded = MelFrontend(replace(GLAP, transform="float32"))(torch.from_numpy(wave)[None]).values
        ours, theirs = oracle.pair(f"log_mel_{i}", rounded.mT.numpy())
        assert np.abs(ours - theirs).max() <= 0.03 and np.median(np.abs(ours - theirs)) <= 1e-5
        values = MelFrontend(GLAP)(torch.from_numpy(wave)[None]).values
        ours, theirs = oracle.pair(f"log_mel_{i}", values.mT.numpy())
        error, below_peak_db = np.abs(ours - theirs), theirs.max() - theirs
        assert error[below_peak_db < 60].max() <= 1.5e-3
        assert error[below_peak_db < 90].max() <= 2.5e-2
        assert error.max() <= 0.2


@pytest.mark.parametrize("folder", ["beats_iter3", "beats_iter3_finetuned_as2m"])
def test_equals_beats(shared_oracles, folder):
    """Step by step in float32 as the reference: what is left are single values beside the loudest sound."""
    oracle = Oracle(shared_oracles / folder)
    frontend = KaldiFbank()
    for i, wave in enumerate(oracle.waves):
        ours, theirs = oracle.pair(f"fbank_{i}", frontend(torch.from_numpy(wave)[None]).values.numpy())
        error = np.abs(ours - theirs)
        assert error.max() <= 1e-2 and np.quantile(error, 0.999) <= 1e-4
