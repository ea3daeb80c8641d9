"""Wav2CLIP files: the numbers of the reference, all keys accounted for, sizes read from the file."""

from __future__ import annotations

import math

import pytest
import torch
from oracle import Oracle, close_embeddings

from clapkit.audio.mel_settings import WAV2CLIP
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.families.wav2clip import IMPORTERS
from clapkit.checkpoints.rules import to_ours, to_theirs
from clapkit.errors import CheckpointError, TextTowerError

WAV2CLIP_IMPORTER = IMPORTERS[0]
FRAME_SAMPLES = 16000


def build(foreign: Foreign):
    """The model of a file, without the loader."""
    plan = WAV2CLIP_IMPORTER.plan(foreign)
    model = plan.model.build().eval()
    ours = to_ours(foreign.tensors, plan.rules).ours
    ours |= {name: torch.tensor(value) for name, value in plan.constants.items()}
    ours |= {n: x for n, x in model.state_dict().items() if n.endswith("num_batches_tracked")}
    model.load_state_dict(ours)
    return model, plan


@pytest.fixture(scope="module")
def oracle(shared_oracles) -> Oracle:
    return Oracle(shared_oracles / "wav2clip")


@pytest.fixture(scope="module")
def loaded(oracle):
    return build(Foreign(oracle.tensors))


@torch.no_grad()
def test_the_numbers_of_the_reference(oracle, loaded):
    model, _ = loaded
    for i, (samples, _) in enumerate(oracle.waves()):
        features = model.frontend(torch.from_numpy(samples)[None])
        oracle.check(features.values.mT[:, None], f"normalized_{i}", atol=5e-4)
        summary = model.audio(features).summary_BD
        oracle.check(summary, f"audio_tower_{i}", atol=1e-4 * float(summary.abs().max()))
        embedding = model.audio_head(summary)
        oracle.check(embedding, f"audio_embedding_{i}", atol=1e-4 * float(embedding.abs().max()))
        close_embeddings(embedding.numpy(), oracle.expected(f"audio_embedding_{i}"))
        close_embeddings(model.encode_features(features).numpy(), oracle.expected(f"audio_embedding_{i}"))


@torch.no_grad()
def test_clips_of_a_batch_are_as_they_are_alone(oracle, loaded):
    model, _ = loaded
    waves = [torch.from_numpy(samples) for samples, _ in oracle.waves()[:3]]
    lengths = torch.tensor([len(samples) for samples in waves])
    together = model.encode_audio(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    for i in range(3):
        close_embeddings(together[i : i + 1].numpy(), oracle.expected(f"audio_embedding_{i}"))


@torch.no_grad()
def test_the_quirks_of_the_reference_can_be_had_through_the_parts(oracle, loaded):
    """One mean and deviation for a whole batch: of several clips, and of the frames of a second of one clip."""
    model, _ = loaded

    def embedded(samples_BN):
        features = model.frontend(samples_BN)
        window = torch.hann_window(512)
        power = torch.stft(samples_BN, 512, 353, 512, window, return_complex=True).abs().square()
        values = (power + WAV2CLIP.floor).log().mT
        return model.audio_head(model.audio(features.with_values((values - values.mean()) / values.std())).summary_BD)

    waves = [torch.from_numpy(samples) for samples, _ in oracle.waves()]
    batch = torch.stack([samples[: len(waves[0])] for samples in waves])
    close_embeddings(embedded(batch).numpy(), oracle.expected("batch_audio_embedding"))
    framed = embedded(waves[1].unfold(0, FRAME_SAMPLES, FRAME_SAMPLES))
    close_embeddings(framed.numpy(), oracle.expected("frame_embeddings_1")[0].T)


def test_every_key_is_accounted_for(oracle, loaded):
    _, plan = loaded
    computed = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in oracle.computed().items()}
    mapped = to_ours(oracle.tensors | computed, plan.rules)
    assert set(mapped.reasons) == {
        "audio_encoder.spectrogram.window",
        *(f"image_transform.sequential.{layer}.{part}" for layer in (0, 3) for part in ("weight", "bias")),
    }
    assert "audio.stages.3.1.norm2.num_batches_tracked" in mapped.ours
    again = to_theirs(mapped.ours, plan.rules) | mapped.aside
    assert again.keys() == (oracle.tensors | computed).keys() - {"audio_encoder.spectrogram.window"}
    assert all(torch.equal(again[name], oracle.tensors[name]) for name in oracle.tensors)
    with pytest.raises(CheckpointError, match=r"audio_encoder\.fc\.weight \[3\]"):
        to_ours({"audio_encoder.fc.weight": torch.zeros(3)}, plan.rules)


def test_recognised_by_names_alone(oracle):
    shapes = Foreign(oracle.tensors).shapes
    assert WAV2CLIP_IMPORTER.recognises(shapes)
    assert not WAV2CLIP_IMPORTER.recognises({k: v for k, v in shapes.items() if not k.startswith("audio_transform")})


def test_there_is_no_text_side(loaded):
    model, plan = loaded
    assert plan.tokenizer is None and "text=" in plan.no_text
    assert float(model.scale) == pytest.approx(100.0)
    with pytest.raises(TextTowerError):
        model.encode_text(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool))


def shrunk(width: int = 8, blocks: int = 1, channels: int = 1, dimension: int = 16) -> dict[str, torch.Tensor]:
    """A file of the same names and other sizes."""
    tensors = {"audio_encoder.conv1.weight": torch.randn(width, channels, 5, 5)}
    before = width

    def norm(name, size):
        parts = ("weight", "bias", "running_mean", "running_var")
        tensors.update({f"{name}.{part}": torch.rand(size) for part in parts})

    norm("audio_encoder.bn1", width)
    for stage in range(4):
        after = width * 2**stage
        for block in range(blocks):
            name = f"audio_encoder.layer{stage + 1}.{block}"
            tensors[f"{name}.conv1.weight"] = torch.randn(after, before, 3, 3)
            tensors[f"{name}.conv2.weight"] = torch.randn(after, after, 3, 3)
            norm(f"{name}.bn1", after)
            norm(f"{name}.bn2", after)
            if stage and not block:
                tensors[f"{name}.downsample.0.weight"] = torch.randn(after, before, 1, 1)
                norm(f"{name}.downsample.1", after)
            before = after
    for number, shape in ((0, (24, before)), (3, (dimension, 24))):
        tensors[f"audio_transform.sequential.{number}.weight"] = torch.randn(shape)
        tensors[f"audio_transform.sequential.{number}.bias"] = torch.randn(shape[0])
    return tensors


@torch.no_grad()
def test_sizes_come_from_the_file():
    model, _ = build(Foreign(shrunk() | {"audio_encoder.spectrogram.window": torch.hann_window(256)}))
    assert model.audio.width == 64 and model.dimension == 16
    assert model.frontend.settings.mel_bins == 129
    assert model.encode_audio(torch.randn(2, 8000)).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert float(model.logit_scale) == pytest.approx(math.log(100.0))


def test_another_residual_network_is_refused():
    with pytest.raises(CheckpointError, match=r"3 channel\(s\)"):
        WAV2CLIP_IMPORTER.plan(Foreign(shrunk(channels=3)))
    tensors = {name: x for name, x in shrunk().items() if ".layer3." not in name}
    with pytest.raises(CheckpointError, match=r"\(1, 1, 0, 1\)"):
        WAV2CLIP_IMPORTER.plan(Foreign(tensors))
