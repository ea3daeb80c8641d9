"""Cached mels: the bits that a step would compute, crops and gains among them, and refusals where they would not be."""

from __future__ import annotations

import errno
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch

from clapkit.audio.frontends import build_frontend
from clapkit.audio.kaldi import KaldiSettings
from clapkit.audio.mel import MelSettings
from clapkit.data.batches import BatchSize
from clapkit.data.cache import cache_audio
from clapkit.data.clip import Clip
from clapkit.data.lengths import ByLength
from clapkit.data.sampling import Shuffled
from clapkit.data.texts import TextChoice
from clapkit.errors import DataError, RecipeError
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.redundancy import VICReg
from clapkit.recipe import Recipe
from clapkit.spec import derive
from clapkit.training.loader import Loader
from clapkit.training.loop import train
from clapkit.training.sound import mels as mels_module
from clapkit.training.sound.mels import CachedMels, Cut
from clapkit.training.step import How, batch_features, take_step
from clapkit.views.audio import Gain, NoiseAtSNR, TimeShift
from clapkit.views.captions import LabelPrompts
from clapkit.views.channels import Polarity
from clapkit.views.mixtures import MixClips
from clapkit.views.spectrogram import SpecAugment, Stretch

PLAIN = MelSettings(
    rate_hz=8000, n_fft=256, window_samples=256, hop_samples=100, mel_bins=32, low_hz=50.0, high_hz=4000.0
)
FRONTENDS = {
    "plain": PLAIN,
    "wide windows": replace(PLAIN, n_fft=512, window_samples=400, hop_samples=64),
    "quantised": replace(PLAIN, quantise_int16=True),
    "emphasis": replace(PLAIN, preemphasis=0.97, window="hann_symmetric", standardise=(-4.5, 5.0)),
    "limited": replace(PLAIN, top_db=40.0),
    "standardised": replace(PLAIN, standardise="clip", log="ln"),
    "silence around": replace(PLAIN, pad="zeros", power=1),
    "not centred": replace(PLAIN, centred=False, preemphasis=0.9),
    "float32": replace(PLAIN, transform="float32"),
    "convolution": replace(PLAIN, transform="convolution"),
    "kaldi": KaldiSettings(rate_hz=8000, window_samples=200, hop_samples=80, mel_bins=32, high_hz=4000.0),
}
LENGTHS = (60, 1500, 4000, 4030, 6007, 9999, 12345)  # of clips, in samples: tiny, short, as the batch, longer
VIEWS = (LabelPrompts(templates=("{}", "hear {}")), Polarity(), Gain(-20.0, 12.0), SpecAugment(), Stretch(p=0.5))
Room = namedtuple("Room", "total used free")


def clips(count: int, *, lengths: tuple[int, ...] = LENGTHS) -> list[Clip]:
    """Loud and quiet sounds of every length, some with silence and clipping in them."""
    rng = np.random.default_rng(8)
    made = []
    for n in range(count):
        length = lengths[n % len(lengths)]
        sound = rng.standard_normal(length) * 10 ** rng.uniform(-4, 0) * np.sin(np.arange(length) / (20 + n))
        sound[length // 3 : length // 2] = 0.0
        name = ("bell", "rain", "dog")[n % 3]
        made.append(Clip(f"clip{n}", np.clip(sound, -1, 1).astype(np.float32), label=name, captions=(f"{name} {n}",)))
    return made


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    return cache_audio(clips(21), rate_hz=8000, workers=0, folder=tmp_path_factory.mktemp("sound"))


def opened(audio, settings=PLAIN, *, fill="mask", clip_samples=4000, folder=None) -> CachedMels:
    mels = CachedMels(audio, build_frontend(settings), fill=fill, clip_samples=clip_samples, folder=folder)
    mels.prepare()
    return mels


def loader(
    audio, mels, *, hop: int = 100, views=VIEWS, seconds: float = 0.5, sampler=None, trim=False, **more
) -> Loader:
    size = BatchSize(6, seconds, trim=trim)
    settings = {"texts": TextChoice(bank=2), "sampler": sampler or Shuffled(), "seed": 5, **more}
    return Loader(audio, views=VIEWS, size=size, mels=mels, cut_at_samples=PLAIN.hop_samples, **settings)


@pytest.mark.parametrize("clip_samples", [4000, 3777, 130])
@pytest.mark.parametrize("name", FRONTENDS)
def test_a_stretch_is_the_mel_of_its_samples_alone(audio, tmp_path, name, clip_samples):
    """Stretches at every kind of place against the front-end on the same samples, edges and masks included."""
    settings = FRONTENDS[name]
    frontend, mels = build_frontend(settings), opened(audio, settings, clip_samples=clip_samples, folder=tmp_path)
    rng, cuts = np.random.default_rng(1), []
    for row in range(len(audio)):
        room = max(0, audio.length_samples(row) - clip_samples) // mels.hop_samples
        for first in {0, room, int(rng.integers(room + 1))}:
            length = min(clip_samples, audio.length_samples(row))
            cuts.append(Cut(row, first * mels.hop_samples, length))
    samples_BN = torch.zeros(len(cuts), clip_samples)
    for b, cut in enumerate(cuts):
        samples_BN[b, : cut.length] = torch.from_numpy(audio.samples(cut.row, first=cut.first, count=cut.length))
    expected = frontend(samples_BN, torch.tensor([cut.length for cut in cuts]))
    mel_BTF, lengths_B = mels.batch(cuts, [1.0] * len(cuts), samples=clip_samples)
    found = frontend.from_energies(torch.from_numpy(mel_BTF), torch.from_numpy(lengths_B))
    assert len(cuts) > 30 and torch.equal(found.mask_BT, expected.mask_BT)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("fill", ["zeros", "repeat", "repeat-pad"])
def test_clips_that_are_filled_up_are_kept_so(audio, tmp_path, tiny_recipe, fill):
    model = encoder(tiny_recipe)
    with_mels = loader(audio, opened(audio, fill=fill, folder=tmp_path), fill=fill).make(1)
    plain = loader(audio, None, fill=fill).make(1)
    assert with_mels.lengths_B.tolist() == plain.lengths_B.tolist() == [4000] * 6
    views = [v for v in VIEWS if v.domain == "mel"]
    found, expected = (batch_features(model, batch, views) for batch in (with_mels, plain))
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=2e-5)


def encoder(recipe: Recipe, **changes):
    torch.manual_seed(2)
    return derive(recipe.model, frontend=PLAIN, **changes).build().train()


@pytest.mark.parametrize("objective", [InfoNCE(), VICReg()], ids=["InfoNCE", "VICReg, two draws"])
def test_losses_are_those_without_the_cache(audio, tmp_path, tiny_recipe, objective):
    """Steps of two equal models, short clips masked and long ones cut at the same frames, batches trimmed."""
    losses, lengths = [], set()
    for mels in (opened(audio, folder=tmp_path), None):
        model = encoder(tiny_recipe)
        words = torch.nn.Embedding(64, 16)
        made = loader(audio, mels, trim=True, sampler=ByLength(buckets=2), second="audio_other" in objective.needs)
        how = How(lambda texts, w=words: torch.nn.functional.normalize(w(numbers(texts)), dim=-1), made.mel_views)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        seen = []
        for step in range(6):
            batch = made.make(step)
            assert (batch.mel_BTF is None) == (mels is None)
            lengths.update(batch.lengths_B.tolist())
            optimizer.zero_grad()
            seen.append(float(sum(take_step(model, objective, batch, how).values())))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # or rounding grows with every step
            optimizer.step()
        losses.append(seen)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert len(set(losses[0])) == 6 and {60, 1500, 4000} <= lengths


def numbers(texts) -> torch.Tensor:
    return torch.tensor([sum(text.encode()) % 64 for text in texts])


def test_what_is_drawn_is_drawn_with_the_cache_too(audio, tmp_path):
    with_mels, plain = loader(audio, opened(audio, folder=tmp_path)).make(4), loader(audio, None).make(4)
    for name in ("ids", "texts", "params", "mel_params"):
        assert getattr(with_mels, name) == getattr(plain, name)
    assert with_mels.samples_BN.shape == (6, 0) and with_mels.mel_BTF.shape == (6, 41, 32)
    assert with_mels.second_draw() is None


def test_a_second_run_finds_them(audio, tmp_path, monkeypatch):
    first = CachedMels(audio, build_frontend(PLAIN), fill="mask", clip_samples=4000, folder=tmp_path)
    frames = sum(PLAIN.frames(audio.length_samples(row)) for row in range(len(audio)))
    assert first.missing_bytes == frames * 32 * 4
    seen = []
    first.prepare(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (21, 21) and first.missing_bytes == 0
    monkeypatch.setattr(CachedMels, "_energies", None)  # nothing is computed again, whatever the batch holds
    assert opened(audio, clip_samples=2000, folder=tmp_path).missing_bytes == 0
    for other in (replace(PLAIN, low_hz=60.0), replace(PLAIN, floor=1e-8)):
        assert CachedMels(audio, build_frontend(other), fill="mask", clip_samples=4000, folder=tmp_path).missing_bytes
    assert CachedMels(audio, build_frontend(PLAIN), fill="zeros", clip_samples=4000, folder=tmp_path).missing_bytes
    filters = np.roll(build_frontend(PLAIN).filterbank.numpy(), 1, axis=1)
    changed = build_frontend(PLAIN, filterbank=filters)
    assert CachedMels(audio, changed, fill="mask", clip_samples=4000, folder=tmp_path).missing_bytes


def test_shards_are_whole_or_made_again(audio, tmp_path, monkeypatch):
    """Several shards; one that was cut off is computed again, and the others are left alone."""
    monkeypatch.setattr(mels_module, "_SHARD_CLIPS", 8)
    monkeypatch.setattr(mels_module, "_SAMPLES_AT_ONCE", 20000)
    mels = opened(audio, folder=tmp_path)
    kept = [mels.batch([Cut(row, 0, 60)], [1.0], samples=60)[0] for row in (0, 7, 14)]
    shards = sorted(mels.folder.glob("*.npy"))
    assert len(shards) == 3
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    before = [path.stat().st_mtime_ns for path in shards]
    again = opened(audio, folder=tmp_path)
    assert [path.stat().st_mtime_ns != old for path, old in zip(shards, before, strict=True)] == [False, True, False]
    for row, expected in zip((0, 7, 14), kept, strict=True):
        np.testing.assert_array_equal(again.batch([Cut(row, 0, 60)], [1.0], samples=60)[0], expected)


def test_a_disk_without_room_is_told_before_anything_is_written(audio, tmp_path, monkeypatch):
    monkeypatch.setattr(mels_module.shutil, "disk_usage", lambda path: Room(10, 9, 1000))
    with pytest.raises(DataError, match=r"0\.00 GB are free.*CLAPKIT_CACHE"):
        opened(audio, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_becomes_full_leaves_nothing_half_written(audio, tmp_path, monkeypatch):
    monkeypatch.setattr(mels_module, "_SHARD_CLIPS", 8)
    computed, calls = CachedMels._energies, []

    def full_at_the_second(self, sounds):
        calls.append(len(sounds))
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return computed(self, sounds)

    monkeypatch.setattr(CachedMels, "_energies", full_at_the_second)
    with pytest.raises(DataError, match=f"{tmp_path.name}.*the disk is full"):
        opened(audio, folder=tmp_path)
    assert [path.suffix for path in (tmp_path / "mel").iterdir()] == [".npy"]
    assert opened(audio, folder=tmp_path).missing_bytes == 0


@pytest.mark.parametrize("view", [TimeShift(), MixClips(), NoiseAtSNR()], ids=lambda view: type(view).__name__)
def test_views_that_no_mel_can_follow_are_refused_by_name(tiny_recipe, view):
    recipe = tiny_recipe.but(views=(LabelPrompts(), view, Gain(), SpecAugment()))
    with pytest.raises(RecipeError, match=f"cache_mel: {type(view).__name__} changes samples"):
        recipe.with_set("train.cache_mel", True)


@pytest.mark.parametrize("name", ["quantised", "float32", "convolution", "kaldi"])
def test_gains_are_refused_where_the_front_end_rounds(tiny_recipe, name, tmp_path):
    frontend = FRONTENDS[name]
    recipe = tiny_recipe.but(model=derive(tiny_recipe.model, frontend=frontend), views=VIEWS[:3])
    with pytest.raises(RecipeError, match="with this front-end Gain cannot be carried over"):
        train(recipe.with_set("train.cache_mel", True), clips(12), out=tmp_path / "run", device="cpu")
    mels_module.check_exact((Polarity(), SpecAugment()), build_frontend(frontend))


def test_a_run_is_the_run_without_the_cache(tiny_recipe, tmp_path, monkeypatch):
    """Clips no longer than the batch are not cut: the whole log is that of a run without."""
    recipe = tiny_recipe.but(views=VIEWS).with_set("train.steps", 12).with_set("train.log_every", 1)
    sounds = clips(12, lengths=(60, 1500, 3000, 4000))
    plain = train(recipe, sounds, out=tmp_path / "plain", device="cpu").log()
    monkeypatch.setattr("clapkit.audio.mel.MelFrontend.forward", None)  # steps have no samples to transform
    cached = train(recipe.with_set("train.cache_mel", True), sounds, out=tmp_path / "cached", device="cpu", workers=2)
    np.testing.assert_allclose([r["loss"] for r in cached.log()], [r["loss"] for r in plain], rtol=1e-5)
    assert cached.log()[-1]["loss"] < cached.log()[0]["loss"]


def test_the_setting_is_left_out_where_it_is_not_set(tiny_recipe):
    assert "cache_mel" not in str(tiny_recipe.to_json())
    kept = tiny_recipe.but(views=VIEWS).with_set("train.cache_mel", "true")
    assert Recipe.from_json(kept.to_json()).train.cache_mel is True
