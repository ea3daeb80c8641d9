"""M2D-CLAP files: the numbers of the reference, and small files of every published kind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from oracle import Oracle, close_embeddings

from clapkit import native
from clapkit.checkpoints.base import Foreign, Plan
from clapkit.checkpoints.families.m2d import IMPORTERS
from clapkit.checkpoints.load import read_model
from clapkit.checkpoints.rules import to_ours, to_theirs
from clapkit.errors import CheckpointError, TextTowerError
from clapkit.heads.projection import MLP, Keep, Linear
from clapkit.heads.semantic import SemanticToken
from clapkit.model import DualEncoder
from clapkit.towers.hf import skip_initialisation

(IMPORTER,) = IMPORTERS
NAME_2024, NAME_2025 = "m2d_clap_vit_base-80x608p16x16-240128", "m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025"


def built(foreign: Foreign) -> tuple[Plan, DualEncoder]:
    """The model of a file, filled by the rules alone."""
    assert IMPORTER.recognises(foreign.shapes)
    plan = IMPORTER.plan(foreign)
    mapped = to_ours(foreign.tensors, plan.rules)
    with skip_initialisation():
        model = plan.model.build()
    constants = {name: torch.tensor(value) for name, value in plan.constants.items()}
    assert not constants.keys() & mapped.ours.keys()
    native.fill(model, mapped.ours | constants, foreign.path)
    return plan, model.eval()


@pytest.fixture(scope="module", params=["m2d_clap_2024_gte", "m2d_clap_2025_bert"])
def reference(request, shared_oracles) -> Iterator[tuple[Oracle, Plan, DualEncoder]]:
    oracle = Oracle(shared_oracles / request.param)
    path = Path(oracle.config["folder_name"]) / "checkpoint-300.pth"
    yield oracle, *built(Foreign(oracle.tensors, path=path))
    gc.collect()


@torch.no_grad()
def test_sound_gives_the_numbers_of_the_reference(reference):
    oracle, _, model = reference
    was, model.audio.frames = model.audio.frames, "patches"
    mean, deviation = model.frontend.settings.standardise
    summaries = []
    for number, (samples, _) in enumerate(oracle.waves()):
        features = model.frontend(torch.from_numpy(samples)[None])
        mel = features.values.transpose(1, 2)[:, None]
        oracle.check(mel, f"normalized_{number}", atol=5e-4)
        oracle.check(mel * deviation + mean, f"log_mel_{number}", atol=5e-4 * deviation)
        out = model.audio(features)
        grid = out.frames_BTD.unflatten(1, (-1, 5))  # [1, T', bands, D]
        oracle.check(grid.flatten(2), f"frame_features_{number}", atol=1e-4 * 4)
        chunks = [chunk.transpose(1, 2).flatten(1, 2) for chunk in grid.split(model.audio.steps, dim=1)]
        oracle.check(torch.cat(chunks, dim=1), f"flat_patch_features_{number}", atol=1e-4 * 4)
        summaries.append(out.summary_BD)
    oracle.check(torch.cat(summaries), "patch_mean", atol=1e-4)
    model.audio.frames = was


@torch.no_grad()
def test_embeddings_of_a_padded_batch_are_those_of_the_reference(reference):
    oracle, _, model = reference
    waves = [torch.from_numpy(samples) for samples, _ in oracle.waves()]
    lengths = torch.tensor([len(samples) for samples in waves])
    audio = model.encode_audio(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    close_embeddings(audio.numpy(), oracle.expected("audio_embedding"))
    ids, mask = (torch.tensor(oracle.inputs[key]) for key in ("token_ids", "attention_mask"))
    features = model.text_features(ids, mask.bool())
    oracle.check(features, "text_tower", atol=4e-4)
    text = model.project_text(features)
    close_embeddings(text.numpy(), oracle.expected("text_embedding"))
    oracle.check(model.similarity(audio, text), "cosine_audio_by_text", atol=1e-5)


def test_settings_of_the_reference(reference):
    oracle, plan, model = reference
    settings, config = model.frontend.settings, oracle.config
    assert (settings.rate_hz, settings.hop_samples, settings.mel_bins) == (16000, config["hop"], config["n_mels"])
    assert settings.standardise == pytest.approx(config["norm_stats"])
    assert model.audio.chunk_frames == config["input_size"][1]
    assert any(config["folder_name"] in note for note in plan.notes)
    # Two minutes stay one window.
    assert model.windowing.window_s > 120 and model.windowing.fill == "mask"


def block(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    sizes: dict[str, tuple[int, ...]] = {}
    for name, shape in {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}.items():
        sizes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, shape in {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}.items():
        sizes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return sizes | {f"norm{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}


def encoder(*, steps: int = 38, patch_frames: int = 16, width: int = 64) -> dict[str, tuple[int, ...]]:
    sizes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + 5 * steps, width), "norm_stats": (2,)}
    sizes |= {"patch_embed.proj.weight": (width, 1, 16, patch_frames), "patch_embed.proj.bias": (width,)}
    for number in range(2):
        sizes |= {f"blocks.{number}.{name}": shape for name, shape in block(width, 96).items()}
    return sizes | {"norm.weight": (width,), "norm.bias": (width,)}


def bert(width: int = 64) -> dict[str, tuple[int, ...]]:
    sizes = {f"embeddings.{n}_embeddings.weight": (c, width) for n, c in (("word", 30), ("position", 20))}
    sizes |= {"embeddings.token_type_embeddings.weight": (2, width)}
    square = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    shapes = dict.fromkeys(square, (width, width)) | {"intermediate.dense": (96, width), "output.dense": (width, 96)}
    for name, shape in shapes.items():
        sizes |= {f"encoder.layer.0.{name}.weight": shape, f"encoder.layer.0.{name}.bias": shape[:1]}
    for norm in ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"):
        sizes |= {f"{norm}.LayerNorm.{part}": (width,) for part in ("weight", "bias")}
    return sizes | {"pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)}


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def semantic(depth: int, hidden: int, width: int = 64) -> dict[str, tuple[int, ...]]:
    sizes = {
        "audio_proj.sem_token": (1, 1, width),
        "audio_proj.norm.weight": (width,),
        "audio_proj.norm.bias": (width,),
    }
    for number in range(depth):
        sizes |= {f"audio_proj.sem_blocks.{number}.{name}": shape for name, shape in block(width, hidden).items()}
    return sizes


def under(prefix: str, sizes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {prefix + name: shape for name, shape in sizes.items()}


def foreign(sizes: dict[str, tuple[int, ...]], name: str = NAME_2024, variant: str | None = None) -> Foreign:
    generator = torch.Generator().manual_seed(0)
    tensors = {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in sizes.items()}
    for key in tensors:
        if key.endswith("norm_stats"):
            tensors[key] = torch.tensor([-6.5, 4.0])
    return Foreign(tensors, path=Path(name) / "checkpoint-30.pth", variant=variant)


CLAP_2024 = encoder() | linear("audio_proj.0", 64, 64) | linear("audio_proj.2", 64, 64)
BACKBONE_2025 = encoder(steps=62) | semantic(2, 64) | linear("text_proj", 64, 64)
CLAP_2025 = under("backbone.", BACKBONE_2025) | under("text_encoder.text_encoder.", bert())


@pytest.mark.parametrize(
    ("sizes", "name", "heads", "pooling"),
    [
        (CLAP_2024, NAME_2024, (MLP, None), None),
        (CLAP_2024 | bert(), NAME_2024, (MLP, Keep), "mean"),
        (CLAP_2025, NAME_2025, (SemanticToken, Linear), "cls"),
        (
            under("backbone.", encoder(steps=62) | semantic(3, 128) | linear("text_proj.0", 80, 64))
            | under("backbone.", linear("text_proj.2", 64, 80))
            | under("text_encoder.text_encoder.", bert()),
            NAME_2025,
            (SemanticToken, MLP),
            "cls",
        ),
        (encoder(steps=50, patch_frames=4), "m2d_vit_base-80x200p16x4p32k-230529", (Keep, None), None),
    ],
    ids=["2024", "2024-with-text", "2025", "2025-three-blocks", "plain"],
)
def test_every_kind_of_file_is_whole_and_goes_back(sizes, name, heads, pooling):
    file = foreign(sizes, name)
    plan, model = built(file)
    audio_head, text_head = heads
    assert type(model.audio_head) is audio_head
    assert model.text_head is None if text_head is None else type(model.text_head) is text_head
    assert getattr(model.text, "pooling", None) == pooling
    assert (plan.no_text is None) == (plan.tokenizer is not None) == (model.text is not None)
    assert model.frontend.settings.standardise == pytest.approx((-6.5, 4.0))
    assert model.frontend.rate_hz == (32000 if "p32k" in name else 16000)
    assert model.encode_audio(torch.randn(1, 20000)).isfinite().all()
    ours = {key: tensor for key, tensor in model.state_dict().items() if key not in plan.constants}
    back = to_theirs(ours, plan.rules)
    gone = {key for key in file.tensors if key.endswith("norm_stats") or ".pooler." in f".{key}"}
    assert back.keys() == file.tensors.keys() - gone
    assert all(torch.equal(back[key], file.tensors[key]) for key in back)


def test_extras_are_dropped_with_a_reason_and_the_stored_scale_is_used():
    extras = {"decoder_embed.weight": (8, 64), "mask_token": (1, 1, 8), "target_blocks.0.norm1.weight": (64,)}
    extras |= {"logit_scale": (1,), "head.mlp.mlp.0.weight": (5, 64), "to_spec.mel_basis": (80, 201)}
    file = foreign(CLAP_2024 | extras)
    plan, model = built(file)
    assert model.logit_scale == file.tensors["logit_scale"][0] and not plan.constants
    reasons = to_ours(file.tensors, plan.rules).reasons
    assert extras.keys() - {"logit_scale"} <= reasons.keys() and "pre-training" in reasons["mask_token"]


def test_an_evaluation_checkpoint_is_recognised_by_its_prefix():
    sizes = under("ar.runtime.backbone.", encoder()) | {
        "head.norm.running_mean": (64,),
        "ar.runtime.to_spec.window": (4,),
    }
    _, model = built(foreign(sizes))
    assert len(model.audio.blocks) == 2 and model.text is None


@pytest.mark.parametrize(
    ("name", "variant", "frames", "pooling"),
    [
        (NAME_2025, None, 1001, "cls"),
        ("downloads", NAME_2025, 1001, "cls"),
        ("downloads", "80x992p16x16p16kpApTI", 992, "mean"),
        ("downloads", None, 1001, "cls"),
    ],
)
def test_what_the_file_lacks_comes_from_the_folder_then_the_variant_then_the_shapes(name, variant, frames, pooling):
    plan, model = built(foreign(CLAP_2025, name, variant))
    assert (model.audio.chunk_frames, getattr(model.text, "pooling", None)) == (frames, pooling)
    told = NAME_2025 if name == NAME_2025 else variant or "no folder name says"
    assert any(told in note for note in plan.notes)


def test_a_variant_beside_a_telling_folder_is_not_used_and_says_so():
    plan, _ = built(foreign(CLAP_2025, NAME_2025, "80x992p16x16"))
    assert any("variant='80x992p16x16' is not used" in note for note in plan.notes)


def test_the_oldest_files_take_the_statistics_of_their_time():
    sizes = encoder(steps=13)
    del sizes["norm_stats"]
    plan, model = built(foreign(sizes, "downloads"))
    assert model.frontend.settings.standardise == (-7.1, 4.2) and model.audio.chunk_frames == 208
    assert any("norm_stats" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("sizes", "name", "variant", "message"),
    [
        (CLAP_2024, "m2d-80x1001p16x16", None, r"80x1001p16x16 makes 310 patches.*190 positions"),
        (CLAP_2024, "m2d-80x608p16x4", None, r"makes 760 patches.*patches of 16x16"),
        (CLAP_2024, "m2d-80x608p16x16p44k", None, r"rate '44k'"),
        (CLAP_2024, "m2d-80x608p16x16p16kpQ", None, r"text 'Q'"),
        (CLAP_2024, "downloads", "large", r"variant='large' names no sizes.*80x608p16x16"),
        (encoder(width=40), NAME_2024, None, r"40 wide, expected a multiple of 64"),
    ],
)
def test_contradictions_are_named(sizes, name, variant, message):
    with pytest.raises(CheckpointError, match=message):
        IMPORTER.plan(foreign(sizes, name, variant))


def test_statistics_that_cannot_be_are_refused():
    file = foreign(CLAP_2024)
    file.tensors["norm_stats"] = torch.tensor([-7.0, 0.0])
    with pytest.raises(CheckpointError, match=r"norm_stats is \[-7.0, 0.0\]"):
        IMPORTER.plan(file)


def test_an_incomplete_file_is_named():
    file = foreign(CLAP_2024)
    del file.tensors["blocks.0.mlp.fc1.weight"]
    with pytest.raises(CheckpointError, match=r"no tensor 'blocks.0.mlp.fc1.weight'"):
        IMPORTER.plan(file)


def test_other_vits_are_not_taken_for_m2d():
    colour = encoder() | {"patch_embed.proj.weight": (64, 3, 16, 16)}
    audiomae = encoder() | {"pos_embed": (1, 513, 64)}
    del audiomae["norm_stats"]
    for sizes in (colour, audiomae, {"norm.weight": (64,)}):
        assert not IMPORTER.recognises(sizes)


def test_a_file_without_text_loads_and_says_what_to_give(tmp_path):
    folder = tmp_path / NAME_2024
    folder.mkdir()
    torch.save({"model": foreign(CLAP_2024).tensors, "epoch": 300}, folder / "checkpoint-300.pth")
    loaded = read_model(folder / "checkpoint-300.pth")
    assert loaded.report.family == "m2d"
    with pytest.raises(TextTowerError, match="text='thenlper/gte-base'"):
        loaded.model.text_features(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool))
    assert "without language" in str(IMPORTER.plan(foreign(encoder())).no_text)
    half = under("backbone.", BACKBONE_2025)
    assert "pTI" in str(IMPORTER.plan(foreign(half, NAME_2025)).no_text)
