"""The mel front-end against a frame-by-frame reference, its limits, and what it must refuse."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from clapkit.audio.mel import ECONOMICAL, LAION, M2D, NAMED, MelFrontend, MelSettings, mel_filterbank, single_transforms
from clapkit.errors import AudioError, ClapkitError, SpecError

SMALL = MelSettings(
    rate_hz=8000, n_fft=64, window_samples=64, hop_samples=20, mel_bins=6, low_hz=100.0, high_hz=3900.0, floor=1e-8
)
VARIANTS = {
    "plain": SMALL,
    "zeros": replace(SMALL, pad="zeros"),
    "from the start": replace(SMALL, centred=False),
    "short window": replace(SMALL, window_samples=50),
    "magnitude": replace(SMALL, power=1),
    "natural": replace(SMALL, log="ln", floor=1e-5, standardise=(-3.0, 2.5)),
    "kaldi": replace(SMALL, scale="kaldi", norm=None),
    "16 bits": replace(SMALL, quantise_int16=True),
    "other filters": replace(SMALL, rate_hz=11000, filterbank_rate_hz=8000),
    "hop beyond window": replace(SMALL, hop_samples=90),
    "symmetric window": replace(SMALL, window="hann_symmetric", window_samples=50),
    "pre-emphasis": replace(SMALL, preemphasis=0.9),
    "pre-emphasis, zeros": replace(SMALL, preemphasis=0.97, pad="zeros", quantise_int16=True),
    "range of the clip": replace(SMALL, top_db=12.0),
    "spectrum": replace(SMALL, scale="linear", norm=None, mel_bins=33, low_hz=0.0, high_hz=4000.0),
    "convolution": replace(SMALL, transform="convolution"),
    "level of the clip": replace(SMALL, log="ln", floor=1e-6, standardise="clip"),
}


def slow_log_mel(clip: np.ndarray, settings: MelSettings) -> np.ndarray:
    """One frame after the other, in float64, straight from the definitions."""
    clip, half = clip.astype(np.float64), settings.n_fft // 2
    if settings.quantise_int16:
        clip = np.trunc(np.clip(clip, -1, 1) * 32767) / 32767
    n_frames = settings.frames(len(clip))
    if settings.preemphasis is not None:
        clip = clip[1:] - settings.preemphasis * clip[:-1]
    count = len(clip)
    if settings.centred and settings.pad == "reflect":
        clip = np.pad(np.pad(clip, (0, max(0, half + 1 - count))), half, mode="reflect")
    elif settings.centred:
        clip = np.pad(clip, half)
    else:
        clip = np.pad(clip, (0, max(0, settings.n_fft - count)))
    offset = (settings.n_fft - settings.window_samples) // 2
    period = settings.window_samples - (settings.window == "hann_symmetric")
    angles = 2 * np.pi * np.arange(settings.window_samples) / period
    filters = mel_filterbank(settings, dtype=np.float64)
    frames = []
    for t in range(n_frames):
        start = t * settings.hop_samples + offset
        windowed = clip[start : start + settings.window_samples] * (1 - np.cos(angles)) / 2
        spectrum = np.abs(np.fft.rfft(windowed, n=settings.n_fft)) ** settings.power
        bands = spectrum if settings.scale == "linear" else spectrum @ filters
        log = (
            10 * np.log10(np.maximum(bands, settings.floor)) if settings.log == "db" else np.log(bands + settings.floor)
        )
        frames.append(log)
    values = np.array(frames)
    if settings.top_db is not None:
        values = np.maximum(values, values.max() - settings.top_db)
    if settings.standardise == "clip":
        return (values - values.mean()) / max(values.std(ddof=1), 1e-3)
    return values if settings.standardise is None else (values - settings.standardise[0]) / settings.standardise[1]


def noise(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(-1.2, 1.2, shape).astype(np.float32))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("n_samples", [1, 20, 32, 33, 64, 399, 400])
def test_equals_the_slow_reference(rng, name, n_samples):
    frontend = MelFrontend(VARIANTS[name]).double()
    clips = noise(rng, 3, n_samples).double()
    features = frontend(clips)
    expected = np.stack([slow_log_mel(clip, VARIANTS[name]) for clip in clips.numpy()])
    assert features.values.shape == (3, frontend.frames(n_samples), frontend.bins)
    assert features.mask_BT.all()
    np.testing.assert_allclose(features.values, expected, atol=1e-9)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_clip_is_the_same_alone_and_beside_longer_clips(rng, name):
    frontend = MelFrontend(VARIANTS[name])
    lengths = [400, 1, 33, 20, 399, 64, 128]
    batch = torch.full((len(lengths), 400), float("nan"))  # what lies beyond a clip must not be looked at
    clips = [noise(rng, n) for n in lengths]
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    together = frontend(batch, torch.tensor(lengths))
    silence = frontend(torch.zeros(1, 400)).values[0, 0]
    for i, clip in enumerate(clips):
        alone = frontend(clip[None])
        real = together.mask_BT[i]
        assert real.sum() == frontend.frames(len(clip)) == alone.values.shape[1]
        assert real[: real.sum()].all()
        np.testing.assert_allclose(together.values[i, real], alone.values[0], atol=1e-5)
        assert (together.values[i, ~real] == silence).all()


def test_a_convolution_rounds_as_float32_does(rng):
    """Beside a loud tone, quiet bands are off by what float32 loses, and by the same whatever shares the batch."""
    settings = replace(SMALL, transform="convolution", n_fft=512, window_samples=512)
    steps = torch.arange(4000)
    clips = (torch.sin(0.1 * steps) + 1e-5 * noise(rng, 4000))[None]
    rough, exact = MelFrontend(settings), MelFrontend(replace(settings, transform="exact"))
    found, expected = rough(clips).values, exact(clips).values
    assert 1e-5 < (found - expected).abs().max() < 0.5
    loud = expected > expected.max() - 40
    torch.testing.assert_close(found[loud], expected[loud], rtol=0, atol=1e-4)
    assert torch.equal(rough(torch.cat([clips, noise(rng, 2, 4000)])).values[:1], found)
    assert torch.equal(rough.double()(clips.double()).values, exact.double()(clips.double()).values)


def test_full_lengths_change_nothing(rng):
    frontend, clips = MelFrontend(SMALL), noise(rng, 2, 300)
    without, given = frontend(clips), frontend(clips, torch.tensor([300, 300], dtype=torch.int32))
    assert torch.equal(without.values, given.values)
    assert torch.equal(without.mask_BT, given.mask_BT)


def test_long_batches_are_computed_in_blocks_with_the_same_result(rng, monkeypatch):
    clips = noise(rng, 3, 4000)
    whole = MelFrontend(SMALL)(clips)
    monkeypatch.setattr("clapkit.audio.mel._BLOCK_CPU_SAMPLES", 1)
    np.testing.assert_allclose(MelFrontend(SMALL)(clips).values, whole.values, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_clips_in_groups_are_what_they_are_together(rng, monkeypatch, name):
    frontend, clips = MelFrontend(VARIANTS[name]), noise(rng, 5, 700)
    for lengths_B in (None, torch.tensor([700, 33, 400, 650, 2])):
        together = frontend(clips, lengths_B)
        monkeypatch.setattr("clapkit.audio.mel._CLIPS_CPU_SAMPLES", 1400)
        grouped = frontend(clips, lengths_B)
        monkeypatch.undo()
        torch.testing.assert_close(grouped.values, together.values, rtol=0, atol=2e-5)
        assert torch.equal(grouped.mask_BT, together.mask_BT)


def test_transforms_in_single_precision_are_near_and_end_with_their_block(rng):
    quiet = 1e-4 * noise(rng, 2, 8000)
    tone = torch.sin(torch.arange(8000) * 2 * torch.pi * 1000 / 8000)  # on a bin of the transform
    frontend = MelFrontend(SMALL)
    exact = frontend(quiet + tone).values
    with single_transforms():
        found = frontend(quiet + tone).values
        wide = frontend.double()((quiet + tone).double()).values
    assert not torch.equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=0.1)
    assert torch.equal(wide, frontend((quiet + tone).double()).values), "values in float64 are never coarse"
    frontend.float()
    with single_transforms(wanted=False):
        assert torch.equal(frontend(quiet + tone).values, exact)
    with pytest.raises(AudioError), single_transforms():
        frontend(quiet[0])
    assert torch.equal(frontend(quiet + tone).values, exact)


@pytest.mark.parametrize("name", NAMED)
def test_silence_is_the_floor_and_nothing_is_random(rng, name):
    frontend = MelFrontend(NAMED[name])
    floor = NAMED[name].floor
    level = 10 * np.log10(floor) if NAMED[name].log == "db" else np.log(floor)
    of_clip = NAMED[name].standardise == "clip"
    mean, deviation = (level, 1.0) if of_clip else NAMED[name].standardise or (0.0, 1.0)
    silence = frontend(torch.zeros(1, 2000)).values
    np.testing.assert_allclose(silence, (level - mean) / deviation, rtol=1e-6, atol=1e-3 if of_clip else 0)
    clips = noise(rng, 2, 5000)
    assert torch.equal(frontend(clips).values, frontend(clips).values)


def test_ten_times_the_amplitude_is_twenty_decibels_more(rng):
    clips = noise(rng, 1, 3000) * 0.1
    frontend = MelFrontend(ECONOMICAL)
    np.testing.assert_allclose(frontend(clips * 10).values - frontend(clips).values, 20.0, atol=1e-4)


def test_one_hop_later_is_one_frame_later(rng):
    clips, hop = noise(rng, 1, 6000), SMALL.hop_samples
    frontend = MelFrontend(SMALL)
    now, later = frontend(clips).values, frontend(clips[:, hop:]).values
    np.testing.assert_allclose(now[:, 5:-5], later[:, 4:-5], atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_differentiable_down_to_the_waveform(rng, name):
    settings = replace(VARIANTS[name], quantise_int16=False)
    frontend = MelFrontend(settings).double()
    clips = noise(rng, 2, 70).double().requires_grad_()
    lengths = torch.tensor([70, 45])
    assert torch.autograd.gradcheck(lambda x: frontend(x, lengths).values, (clips,), atol=1e-5)


def test_16_bits_pass_the_gradient_of_clipping(rng):
    clips = noise(rng, 1, 500).double()
    rounded, plain = MelFrontend(replace(SMALL, quantise_int16=True)).double(), MelFrontend(SMALL).double()
    steps = torch.trunc(clips.clamp(-1, 1) * 32767) / 32767  # where the rounded front-end stands
    clips.requires_grad_()
    steps.requires_grad_()
    rounded(clips).values.sum().backward()
    plain(steps).values.sum().backward()
    inside = clips.abs() <= 1
    assert 0 < inside.sum() < 500
    np.testing.assert_allclose(clips.grad, steps.grad * inside, rtol=1e-9)


def test_16_bits_are_the_same_with_and_without_gradient(rng):
    frontend, clips = MelFrontend(replace(SMALL, quantise_int16=True)), noise(rng, 2, 500)
    assert torch.equal(frontend(clips).values, frontend(clips.clone().requires_grad_()).values)


@pytest.mark.parametrize("name", VARIANTS)
def test_silence_has_a_finite_gradient(name):
    clips = torch.zeros(2, 200, requires_grad=True)
    MelFrontend(VARIANTS[name])(clips, torch.tensor([200, 90])).values.sum().backward()
    assert torch.isfinite(clips.grad).all()


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float"])
def test_casting_a_model_leaves_the_front_end_exact(rng, cast):
    frontend, clips = MelFrontend(M2D), noise(rng, 1, 2000)
    expected = frontend(clips).values
    model = torch.nn.Sequential(copy.deepcopy(frontend), torch.nn.Linear(2, 2))
    getattr(model, cast)()
    assert torch.equal(model[0](clips).values, expected)
    assert model[0](clips.to(model[1].weight.dtype)).values.dtype == torch.float32


def test_autocast_changes_nothing(rng):
    frontend, clips = MelFrontend(ECONOMICAL), noise(rng, 1, 4000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = frontend(clips).values
    assert torch.equal(inside, frontend(clips).values)


def test_float64_keeps_the_precision_of_the_filters(rng):
    clips = noise(rng, 1, 400).double()
    there_and_back = MelFrontend(SMALL).double().float().double()
    np.testing.assert_allclose(there_and_back(clips).values[0], slow_log_mel(clips[0].numpy(), SMALL), atol=1e-9)
    assert MelFrontend(SMALL)(clips).values.dtype == torch.float32


def test_a_front_end_made_without_memory_is_filled_when_it_gets_some(rng):
    clips = noise(rng, 1, 400)
    with torch.device("meta"):
        frontend = MelFrontend(SMALL)
    assert torch.equal(frontend.to_empty(device="cpu")(clips).values, MelFrontend(SMALL)(clips).values)


def test_a_checkpoint_neither_holds_nor_needs_the_constants():
    frontend = MelFrontend(ECONOMICAL)
    assert frontend.state_dict() == {}
    frontend.load_state_dict({}, strict=True)


def test_a_given_filter_bank_is_used(rng):
    clips = noise(rng, 1, 400)
    filters = mel_filterbank(replace(SMALL, scale="htk"))
    expected = MelFrontend(replace(SMALL, scale="htk"))(clips).values
    for given in (filters, torch.from_numpy(filters)):
        np.testing.assert_allclose(MelFrontend(SMALL, filterbank=given)(clips).values, expected, atol=1e-5)
    quiet = np.zeros_like(filters)
    quiet[32, 0] = 1.0  # only the highest frequency
    assert (MelFrontend(SMALL, filterbank=quiet)(clips).values[..., 1:] == -80.0).all()


def test_what_others_ask_of_a_front_end():
    frontend = MelFrontend(LAION)
    assert (frontend.rate_hz, frontend.hop_samples, frontend.bins, frontend.frames(480000)) == (48000, 480, 64, 1001)
    assert "quantise_int16=True" in repr(frontend)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(2, 0), r"\[2, 0\].*no sample"),
        (torch.zeros(0, 5), r"\[0, 5\].*no sample"),
        (torch.zeros(5), r"\[5\].*expected \[clips, samples\]"),
        (torch.zeros(1, 1, 5), r"\[1, 1, 5\].*expected \[clips, samples\]"),
        (torch.zeros(1, 5, dtype=torch.int16), r"torch.int16.*expected floats"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(samples, message):
    with pytest.raises(AudioError, match=message) as caught:
        MelFrontend(SMALL)(samples)
    assert isinstance(caught.value, ClapkitError)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([50, 101]), "clip 1 .* length 101, expected 1 to 100"),
        (torch.tensor([0, 100]), "clip 0 .* length 0, expected 1 to 100"),
        (torch.tensor([100]), r"\[1\] of torch.int64.*each of the 2 clips"),
        (torch.tensor([1.0, 2.0]), r"\[2\] of torch.float32.*one integer"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, message):
    with pytest.raises(AudioError, match=message):
        MelFrontend(SMALL)(torch.zeros(2, 100), lengths)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (np.ones((6, 33)), r"shape \(6, 33\), expected \(33, 6\)"),
        (np.zeros((33, 6)), "only zeros"),
        (np.full((33, 6), np.nan), "NaN"),
    ],
)
def test_a_filter_bank_that_cannot_be_used_is_refused(filters, message):
    with pytest.raises(SpecError, match=message):
        MelFrontend(SMALL, filterbank=filters)


def test_padding_does_not_enter_the_level_or_range_of_a_clip():
    """Beside a loud clip and behind its own end, a quiet clip keeps its numbers, and its padding is what silence is."""
    for settings in (VARIANTS["range of the clip"], VARIANTS["level of the clip"]):
        frontend, quiet = MelFrontend(settings), 1e-3 * torch.randn(300, generator=torch.Generator().manual_seed(0))
        batch = torch.zeros(2, 900)
        batch[0, :300], batch[1] = quiet, 0.5
        together = frontend(batch, torch.tensor([300, 900])).values[0, : frontend.frames(300)]
        np.testing.assert_allclose(together, frontend(quiet[None]).values[0], atol=1e-4)


def test_a_stored_filter_bank_is_saved_and_follows_what_is_loaded(rng):
    clips, htk = noise(rng, 1, 400), replace(SMALL, scale="htk")
    ours, theirs = MelFrontend(SMALL, stored_filterbank=True), MelFrontend(htk, stored_filterbank=True)
    saved = theirs.state_dict()
    assert list(saved) == ["stored_filterbank"] and saved["stored_filterbank"].shape == (33, 6)
    assert torch.equal(saved["stored_filterbank"], torch.from_numpy(mel_filterbank(htk)))
    for assign in (False, True):
        ours.load_state_dict({"stored_filterbank": saved["stored_filterbank"].double()}, assign=assign)
        assert ours.state_dict()["stored_filterbank"].dtype == torch.float32
        assert torch.equal(ours(clips).values, theirs(clips).values)
    half_and_back = copy.deepcopy(ours).half().float()
    assert torch.equal(half_and_back.state_dict()["stored_filterbank"], saved["stored_filterbank"])
    assert torch.equal(half_and_back.double()(clips).values, theirs.double()(clips).values)


def test_a_loaded_filter_bank_may_see_other_frequencies_than_the_computed_one(rng):
    clips = noise(rng, 1, 400)
    low = MelFrontend(replace(SMALL, high_hz=1000.0, mel_bins=6), stored_filterbank=True)
    low.load_state_dict(MelFrontend(SMALL, stored_filterbank=True).state_dict())
    np.testing.assert_allclose(low(clips).values, MelFrontend(SMALL)(clips).values, atol=1e-4)


def test_a_stored_filter_bank_that_cannot_be_used_is_refused():
    frontend = MelFrontend(SMALL, stored_filterbank=True)
    with pytest.raises(SpecError, match="NaN"):
        frontend.load_state_dict({"stored_filterbank": torch.full((33, 6), torch.nan)})
    with pytest.raises(RuntimeError, match="size mismatch for stored_filterbank"):
        MelFrontend(SMALL, stored_filterbank=True).load_state_dict({"stored_filterbank": torch.ones(32, 6)})
    with pytest.raises(SpecError, match="scale='linear'"):
        MelFrontend(VARIANTS["spectrum"], stored_filterbank=True)
    with pytest.raises(SpecError, match="scale='linear'"):
        MelFrontend(VARIANTS["spectrum"], filterbank=np.eye(33))
