"""Kaldi's filter-bank features against a frame-by-frame reference, their limits, and what they must refuse."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from clapkit.audio.kaldi import KaldiFbank, KaldiSettings
from clapkit.errors import AudioError, SpecError
from clapkit.spec import from_json, to_json

BEATS = KaldiSettings()
SMALL = KaldiSettings(
    rate_hz=8000, window_samples=50, hop_samples=20, mel_bins=6, low_hz=100.0, high_hz=3900.0, standardise=(3.0, 2.5)
)
VARIANTS = {
    "plain": SMALL,
    "no pre-emphasis": replace(SMALL, preemphasis=0.0),
    "small scale": replace(SMALL, gain=1.0, standardise=None),
    "gaps": replace(SMALL, hop_samples=70),
}


def slow_fbank(clip: np.ndarray, settings: KaldiSettings) -> np.ndarray:
    """One frame and one filter after the other, in float64, straight from the definitions."""
    clip = settings.gain * clip.astype(np.float64)
    length = settings.window_samples
    clip = np.pad(clip, (0, max(0, length - len(clip))))
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))) ** 0.85
    n_fft = 2
    while n_fft < length:
        n_fft *= 2
    mel = 1127.0 * np.log(1 + np.arange(n_fft // 2 + 1) * settings.rate_hz / n_fft / 700)
    low, high = (1127.0 * np.log(1 + hz / 700) for hz in (settings.low_hz, settings.high_hz))
    step = (high - low) / (settings.mel_bins + 1)
    rows = []
    for start in range(0, len(clip) - length + 1, settings.hop_samples):
        frame = clip[start : start + length]
        frame = frame - frame.mean()
        emphasised = np.array([x - settings.preemphasis * frame[max(0, i - 1)] for i, x in enumerate(frame)])
        power = np.abs(np.fft.rfft(emphasised * window, n=n_fft)) ** 2
        row = []
        for i in range(settings.mel_bins):
            middle = low + (i + 1) * step
            row.append((power * np.maximum(0, 1 - np.abs(mel - middle) / step)).sum())
        rows.append(np.log(np.maximum(row, settings.floor)))
    mean, deviation = settings.standardise or (0.0, 1.0)
    return (np.array(rows) - mean) / deviation


def noise(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("n_samples", [1, 20, 49, 50, 69, 70, 333])
def test_equals_the_slow_reference(rng, name, n_samples):
    frontend, clips = KaldiFbank(VARIANTS[name]).double(), noise(rng, 3, n_samples).double()
    features = frontend(clips)
    expected = np.stack([slow_fbank(clip, VARIANTS[name]) for clip in clips.numpy()])
    assert features.values.shape == (3, frontend.frames(n_samples), 6)
    assert features.mask_BT.all()
    np.testing.assert_allclose(features.values, expected, atol=1e-8)


def test_equals_the_slow_reference_as_beats_uses_it(rng):
    clip = noise(rng, 4000) * 0.3
    np.testing.assert_allclose(KaldiFbank()(clip[None]).values[0], slow_fbank(clip.numpy(), BEATS), atol=1e-4)
    exact = KaldiFbank().double()(clip[None].double()).values[0]
    np.testing.assert_allclose(exact, slow_fbank(clip.numpy(), BEATS), atol=1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_clip_is_the_same_alone_and_beside_longer_clips(rng, name):
    frontend, lengths = KaldiFbank(VARIANTS[name]), [400, 1, 33, 50, 399, 69, 70]
    batch = torch.full((len(lengths), 400), float("nan"))
    clips = [noise(rng, n) for n in lengths]
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    together = frontend(batch, torch.tensor(lengths))
    silence = frontend(torch.zeros(1, 400)).values[0, 0]
    for i, clip in enumerate(clips):
        alone, real = frontend(clip[None]), together.mask_BT[i]
        assert real.sum() == frontend.frames(len(clip)) == alone.values.shape[1]
        assert real[: real.sum()].all()
        # The logarithm of a nearly empty filter shows the last bit of a float32 transform.
        np.testing.assert_allclose(together.values[i, real], alone.values[0], atol=1e-4)
        assert (together.values[i, ~real] == silence).all()


def test_long_batches_are_computed_in_blocks_with_the_same_result(rng, monkeypatch):
    clips = noise(rng, 3, 4000)
    whole = KaldiFbank(SMALL)(clips)
    monkeypatch.setattr("clapkit.audio.kaldi._BLOCK_SAMPLES", 1)
    np.testing.assert_allclose(KaldiFbank(SMALL)(clips).values, whole.values, atol=1e-5)


def test_a_constant_added_to_a_frame_is_not_heard(rng):
    clips = noise(rng, 1, 500)
    np.testing.assert_allclose(KaldiFbank(SMALL)(clips + 0.5).values, KaldiFbank(SMALL)(clips).values, atol=1e-4)


def test_silence_is_the_floor():
    np.testing.assert_allclose(KaldiFbank()(torch.zeros(1, 800)).values, (np.log(2.0**-23) - 15.41663) / 13.11164)


def test_a_published_clip_length_has_the_published_frames():
    assert [BEATS.frames(n) for n in (1, 400, 559, 560, 160000)] == [1, 1, 1, 2, 998]


@pytest.mark.parametrize("name", VARIANTS)
def test_differentiable_down_to_the_waveform(rng, name):
    frontend = KaldiFbank(VARIANTS[name]).double()
    clips, lengths = noise(rng, 2, 150).double().requires_grad_(), torch.tensor([150, 70])
    assert torch.autograd.gradcheck(lambda x: frontend(x, lengths).values, (clips,), atol=1e-4)
    silent = torch.zeros(1, 200, requires_grad=True)
    KaldiFbank(VARIANTS[name])(silent).values.sum().backward()
    assert torch.isfinite(silent.grad).all()


def test_casting_and_autocast_leave_it_exact(rng):
    frontend, clips = KaldiFbank(), noise(rng, 1, 3000)
    expected = frontend(clips).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(frontend(clips).values, expected)
    assert torch.equal(copy.deepcopy(frontend).half()(clips).values, expected)
    assert frontend.state_dict() == {}


def test_what_others_ask_of_a_front_end():
    frontend = KaldiFbank()
    assert (frontend.rate_hz, frontend.hop_samples, frontend.bins, frontend.settings.n_fft) == (16000, 160, 128, 512)
    assert "window_samples=400" in repr(frontend)
    assert from_json(json.loads(json.dumps(to_json(SMALL)))) == SMALL


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("rate_hz", 0, "1 or more"),
        ("hop_samples", 0, "1 or more"),
        ("mel_bins", 0, "1 or more"),
        ("window_samples", 1, "2 or more"),
        ("low_hz", 8000.0, "below high_hz = 8000"),
        ("low_hz", -1.0, "from 0"),
        ("high_hz", 8001.0, "= 8000"),
        ("preemphasis", 1.5, "from 0 to 1"),
        ("gain", 0.0, "above 0"),
        ("floor", 0.0, "above 0"),
        ("standardise", (0.0, -1.0), "deviation above 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(field, value, expected):
    with pytest.raises(SpecError, match=f"KaldiSettings: {field} = .*{expected}") as caught:
        replace(BEATS, **{field: value})
    assert repr(value) in str(caught.value)


def test_samples_and_lengths_that_do_not_fit_are_refused():
    with pytest.raises(AudioError, match=r"\[5\].*expected \[clips, samples\]"):
        KaldiFbank(SMALL)(torch.zeros(5))
    with pytest.raises(AudioError, match=r"clip 1 .* length 101, expected 1 to 100"):
        KaldiFbank(SMALL)(torch.zeros(2, 100), torch.tensor([50, 101]))
