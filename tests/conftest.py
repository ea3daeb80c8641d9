"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sound that may lie beside the repository; tests that need it are skipped without it."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository: real-sound tests are skipped")
    return folder


@pytest.fixture(scope="session")
def shared_oracles() -> Path:
    """The folder of reference outputs that may lie beside the repository."""
    folder = SHARED / "oracles"
    if not folder.is_dir():
        pytest.skip("no ../shared/oracles beside the repository: these parity tests are skipped")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's caches."""
    monkeypatch.setenv("CLAPKIT_CACHE", str(tmp_path_factory.getbasetemp() / "clapkit-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _own_threads():
    """No test leaves its number of threads to the next: the last bits of a training depend on it."""
    try:
        import torch
    except ImportError:
        yield
        return
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)


@pytest.fixture(scope="session")
def tiny_text_folder(tmp_path_factory) -> Path:
    """A text model of 20 kB with random weights, such as a folder of transformers holds one."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertModel

    from clapkit.text.tokenizers import write_byte_tokenizer
    from clapkit.towers.hf import tiny

    folder = tmp_path_factory.mktemp("tiny_text")
    config = {k: v for k, v in tiny.arguments["config"].items() if k != "model_type"}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = BertModel(BertConfig(**config))
        model.embeddings.word_embeddings.weight.data *= 50  # or all texts would look alike: position speaks loudest
        model.save_pretrained(folder)
    write_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tiny_text_folder):
    """A recipe with all views that trains in seconds: 8 kHz, clips of half a second, 16 dimensions."""
    from clapkit.audio.mel import MelSettings
    from clapkit.data.batches import BatchSize
    from clapkit.data.texts import TextChoice
    from clapkit.heads.projection import Linear
    from clapkit.model import DualEncoder, Windowing
    from clapkit.objectives.contrast import InfoNCE
    from clapkit.recipe import Recipe
    from clapkit.spec import spec
    from clapkit.towers.pretrained import pretrained_text
    from clapkit.towers.resnet import ResNetTower
    from clapkit.train_settings import TrainSettings
    from clapkit.views.audio import Gain, TimeShift
    from clapkit.views.captions import LabelPrompts
    from clapkit.views.mixtures import MixClips
    from clapkit.views.spectrogram import SpecAugment

    mel = {"n_fft": 256, "window_samples": 256, "hop_samples": 128, "mel_bins": 32, "low_hz": 50.0, "high_hz": 4000.0}
    return Recipe(
        model=spec(
            DualEncoder,
            frontend=MelSettings(rate_hz=8000, **mel),
            audio=spec(ResNetTower, width=4, depths=(1, 1)),
            text=spec(pretrained_text, name=str(tiny_text_folder)),
            audio_head=spec(Linear),
            text_head=spec(Linear),
            dimension=16,
            windowing=Windowing(window_s=0.5, hop_s=0.25),
        ),
        objective=InfoNCE(),
        views=(
            LabelPrompts(templates=("{}", "{} heard", "hear {}"), per_clip=2),
            TimeShift(),
            Gain(),
            MixClips(p=0.3),
            SpecAugment(),
        ),
        batch=BatchSize(clips=8, clip_s=0.5),
        texts=TextChoice(bank=4),
        train=TrainSettings(steps=60, lr=1e-2, warmup_steps=5, precision="fp32", log_every=5, checkpoint_s=600.0),
    )


@pytest.fixture(scope="session")
def toy_clips():
    """24 clips of 0.6 s in 6 classes that differ in pitch; half of them have a caption too."""
    from clapkit.data.clip import Clip

    rng = np.random.default_rng(3)
    seconds = np.arange(4800, dtype=np.float32) / 8000
    pitches_hz = {"bell": 250, "dog bark": 500, "rain": 900, "siren": 1500, "whistle": 2400, "cricket": 3500}
    clips = []
    for number in range(24):
        label, pitch_hz = list(pitches_hz.items())[number % 6]
        tone = 0.3 * np.sin(2 * np.pi * pitch_hz * rng.uniform(0.95, 1.05) * seconds)
        sound = (tone + 0.02 * rng.standard_normal(len(seconds))).astype(np.float32)
        captions = (f"{label} outside",) if number % 2 else ()
        clips.append(Clip(f"clip{number:02d}", sound, label=label, captions=captions))
    return tuple(clips)


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe, toy_clips, tmp_path_factory):
    """A finished training run of `tiny_recipe` on `toy_clips`."""
    from clapkit.training.loop import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAPKIT_CACHE", str(tmp_path_factory.getbasetemp() / "clapkit-cache"))
        return train(tiny_recipe, toy_clips, out=tmp_path_factory.mktemp("runs") / "tiny", device="cpu")
