"""PANNs taggers, in the layout of their published files: sizes, front-ends and every key."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import clapkit
from clapkit.audio.filterbank import mel_filterbank
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.families.panns import IMPORTERS
from clapkit.checkpoints.rules import to_ours, to_theirs
from clapkit.errors import CheckpointError, TextTowerError
from clapkit.spec import spec
from clapkit.towers.cnn14 import CNN14, cnn6, cnn10, cnn14

IMPORTER = IMPORTERS[0]
FRONTENDS = {"32k": (1024, 320, 14000.0, 32000), "16k": (512, 160, 8000.0, 16000), "8k": (256, 80, 4000.0, 8000)}


def published(*, channels, layers=2, kernel=3, width, classes=527, n_fft=None, meta=False) -> dict[str, torch.Tensor]:
    """A state dict with the names of the published classes, and with the constants of a front-end of `n_fft`."""

    def norm(name, size):
        near_one = 1 + 0.1 * torch.rand(size)
        return {
            f"{name}.weight": near_one,
            f"{name}.bias": 0.1 * torch.randn(size),
            f"{name}.running_mean": torch.randn(size),
            f"{name}.running_var": near_one.flip(0),
            f"{name}.num_batches_tracked": torch.tensor(7),
        }

    torch.manual_seed(4)
    with torch.device("meta" if meta else "cpu"):
        tensors = norm("bn0", 64)
        before = 1
        for block, after in enumerate(channels, start=1):
            for layer in range(1, layers + 1):
                tensors[f"conv_block{block}.conv{layer}.weight"] = torch.randn(after, before, kernel, kernel) / 9
                tensors |= norm(f"conv_block{block}.bn{layer}", after)
                before = after
        tensors |= {"fc1.weight": torch.randn(width, before) / before**0.5, "fc1.bias": torch.randn(width)}
        tensors |= {"fc_audioset.weight": torch.randn(classes, width), "fc_audioset.bias": torch.randn(classes)}
    if not meta:
        tensors["bn0.running_mean"] -= 30
        tensors["bn0.running_var"] *= 400
    if n_fft is not None:
        kernels = torch.zeros(n_fft // 2 + 1, 1, n_fft)
        tensors |= {f"spectrogram_extractor.stft.conv_{part}.weight": kernels for part in ("real", "imag")}
        _, hop, high_hz, rate_hz = next(f for f in FRONTENDS.values() if f[0] == n_fft)
        assert hop == rate_hz // 100
        settings = IMPORTER.plan(Foreign(dict(tensors), variant=f"{rate_hz // 1000}k")).model.arguments["frontend"]
        assert settings.high_hz == high_hz
        tensors["logmel_extractor.melW"] = torch.from_numpy(mel_filterbank(settings))
    return tensors


SMALL = {"channels": (8, 8, 16, 16), "width": 24}


@pytest.fixture
def save(tmp_path):
    def write(tensors):
        torch.save({"model": tensors, "iteration": 600000}, tmp_path / "Cnn.pth")
        return tmp_path / "Cnn.pth"

    return write


def noise(seconds: float, rate_hz: int = 32000):
    return (np.random.default_rng(0).standard_normal(round(seconds * rate_hz)).astype(np.float32) / 10, rate_hz)


@pytest.mark.parametrize(
    ("layout", "tower"),
    [
        ({"channels": (64, 128, 256, 512, 1024, 2048), "width": 2048}, cnn14),
        ({"channels": (64, 128, 256, 512), "width": 512}, cnn10),
        ({"channels": (64, 128, 256, 512), "width": 512, "layers": 1, "kernel": 5}, cnn6),
        (
            {"channels": (64, 128, 256, 512, 1024, 2048), "width": 32},
            spec(CNN14, width=32),
        ),
    ],
)
def test_published_sizes_are_read_from_the_shapes(layout, tower):
    tensors = published(**layout, meta=True)
    plan = IMPORTER.plan(Foreign(tensors))
    with torch.device("meta"):
        found = {k: tuple(v.shape) for k, v in plan.model.build().audio.state_dict().items()}
        assert found == {k: tuple(v.shape) for k, v in tower.build().state_dict().items()}
        assert plan.model.arguments["audio"].build().poolings == tower.build().poolings
    mapped = to_ours(tensors, plan.rules)
    assert {k.removeprefix("audio."): tuple(v.shape) for k, v in mapped.ours.items()} == found
    assert set(mapped.reasons) == {"fc_audioset.weight", "fc_audioset.bias"}
    assert "AudioSet" in mapped.reasons["fc_audioset.bias"]


@pytest.mark.parametrize("rate", FRONTENDS)
def test_the_front_end_follows_the_stored_filter_bank_or_the_variant(rate):
    n_fft, hop, high_hz, rate_hz = FRONTENDS[rate]
    stored = IMPORTER.plan(Foreign(published(**SMALL, n_fft=n_fft)))
    told = IMPORTER.plan(Foreign(published(**SMALL), variant=rate))
    settings = stored.model.arguments["frontend"]
    assert settings == told.model.arguments["frontend"]
    assert (settings.n_fft, settings.hop_samples, settings.high_hz, settings.rate_hz) == (n_fft, hop, high_hz, rate_hz)
    assert (settings.low_hz, settings.mel_bins, settings.floor) == (50.0, 64, 1e-10)
    assert stored.filterbank == "logmel_extractor.melW" and told.filterbank is None


def test_a_file_that_does_not_say_its_rate_is_taken_for_the_common_one():
    plan = IMPORTER.plan(Foreign(published(**SMALL)))
    assert plan.model.arguments["frontend"].rate_hz == 32000
    assert any("32000 Hz is taken" in note and "variant=" in note for note in plan.notes)
    with pytest.raises(CheckpointError, match=r"variant='44k'.*'32k', '16k', '8k'"):
        IMPORTER.plan(Foreign(published(**SMALL), variant="44k"))


def test_a_file_is_used_like_any_model(save):
    clap = clapkit.load(save(published(**SMALL, n_fft=1024)))
    assert clap.family == "panns" and clap.dimension == 24
    assert not any("filter bank of the file" in note for note in clap.report.notes)
    vectors = clap.embed_audio([noise(0.2), noise(3.0)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(clap.embed_audio([noise(0.2)]), vectors[:1], atol=1e-5)
    with pytest.raises(TextTowerError, match=r"never trained with text.*text="):
        clap.embed_text(["a dog"])


def test_a_filter_bank_of_its_own_is_used(save):
    tensors = published(**SMALL, n_fft=1024)
    plain = clapkit.load(save(tensors)).embed_audio([noise(1.0)])
    tensors["logmel_extractor.melW"] = tensors["logmel_extractor.melW"] * torch.linspace(0.5, 2, 64)
    clap = clapkit.load(save(tensors))
    assert any("filter bank of the file is used" in note for note in clap.report.notes)
    assert np.abs(clap.embed_audio([noise(1.0)]) - plain).max() > 1e-5


@torch.no_grad()
def test_the_network_is_that_of_the_paper():
    """One clip through the published operations, by the published names."""
    tensors = published(**SMALL)
    plan = IMPORTER.plan(Foreign(tensors))
    model = plan.model.build().eval()
    model.load_state_dict(to_ours(tensors, plan.rules).ours | {"logit_scale": model.logit_scale})

    def norm(x, name):
        values = [tensors[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
        return torch.nn.functional.batch_norm(x, *values)

    features = model.frontend(torch.from_numpy(noise(1.5)[0])[None])
    x = norm(features.values.mT, "bn0").mT[:, None]
    for block in range(1, 5):
        for layer in (1, 2):
            x = torch.nn.functional.conv2d(x, tensors[f"conv_block{block}.conv{layer}.weight"], padding=1)
            x = norm(x, f"conv_block{block}.bn{layer}").relu()
        x = torch.nn.functional.avg_pool2d(x, 2)
    x = x.mean(3)
    wanted = torch.nn.functional.linear(x.amax(2) + x.mean(2), tensors["fc1.weight"], tensors["fc1.bias"]).relu()
    torch.testing.assert_close(model.audio(features).summary_BD, wanted, rtol=1e-4, atol=1e-5)


def test_there_and_back_is_bit_identical():
    tensors = published(**SMALL, layers=1, kernel=5)
    mapped = to_ours(tensors, (plan := IMPORTER.plan(Foreign(tensors))).rules)
    back = to_theirs(mapped.ours, plan.rules) | mapped.aside
    assert back.keys() == tensors.keys() and all(torch.equal(back[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"conv_block2.bn1.weight": None}, "audio.blocks.1.norms.0.weight"),
        ({"conv_block2.conv1.weight": None}, "no tensor 'conv_block2.conv1.weight'"),
        ({"fc1.weight": torch.zeros(24)}, r"'fc1.weight' is \[24\], expected 2 axes"),
        ({"pre_conv0.weight": torch.zeros(64, 1, 11)}, r"no place for: pre_conv0.weight \[64, 1, 11\]"),
        ({"logmel_extractor.melW": torch.zeros(513, 40)}, r"melW' is \[513, 40\], expected .* 64\]"),
    ],
)
def test_files_that_do_not_fit_are_refused(save, change, named):
    tensors = {k: v for k, v in {**published(**SMALL), **change}.items() if v is not None}
    with pytest.raises(CheckpointError, match=named):
        clapkit.load(save(tensors))
