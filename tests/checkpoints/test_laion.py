"""LAION-CLAP files: towers against the oracles, every setting from shapes, and the way back to a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle, close_embeddings
from torch import Tensor

from clapkit.audio.features import Features
from clapkit.audio.fuse import fuse_long
from clapkit.audio.mel import LAION, LAION_FUSED, MelFrontend, mel_filterbank
from clapkit.audio.windows import fit
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.families.laion import IMPORTERS
from clapkit.checkpoints.reading import read
from clapkit.checkpoints.rules import to_ours
from clapkit.errors import CheckpointError
from clapkit.model import Windowing
from clapkit.spec import derive
from clapkit.towers.hf import skip_initialisation

IMPORTER = IMPORTERS[0]
WINDOW_SAMPLES = 480000


def build(foreign: Foreign) -> tuple[Any, Any, Any]:
    """The model of a file without the loader, its plan, and what became of the tensors."""
    plan = IMPORTER.plan(foreign)
    mapped = to_ours(foreign.tensors, plan.rules)
    with skip_initialisation():
        model = plan.model.build().eval()
    counters = {n: x for n, x in model.state_dict().items() if n.endswith("num_batches_tracked")}
    model.load_state_dict(counters | mapped.ours)
    return model, plan, mapped


@pytest.fixture(
    scope="module",
    params=["laion_clap_htsat_tiny", "laion_clap_htsat_tiny_fusion", "laion_clap_htsat_base_music"],
)
def loaded(request, shared_oracles):
    oracle = Oracle(shared_oracles / request.param)
    model, plan, mapped = build(Foreign(oracle.tensors))
    del oracle.__dict__["tensors"]
    return oracle, model, plan, mapped


def windows(oracle: Oracle) -> Tensor:
    return torch.from_numpy(np.stack([fit(wave, WINDOW_SAMPLES, "repeat-pad") for wave, _ in oracle.waves()]))


@torch.inference_mode()
def test_front_end_and_audio_tower(loaded):
    oracle, model, _, _ = loaded
    features = model.frontend(windows(oracle))
    mel = features.values if model.audio.fusion is not None else features.values[:, None]
    oracle.check(mel, "log_mel", atol=0.1)
    out = model.audio(features)
    bound = 1e-4 * float(out.summary_BD.abs().max())
    oracle.check(out.summary_BD, "audio_tower", atol=bound)
    # The reference repeats each of its 32 steps 32 times.
    oracle.check(out.frames_BTD.repeat_interleave(32, dim=1), "audio_fine_grained", atol=2 * bound)
    oracle.check(model.audio_head(out.summary_BD), "audio_projected", atol=bound)


@torch.inference_mode()
def test_without_rounding_to_16_bits(loaded):
    oracle, model, _, _ = loaded
    exact = MelFrontend(replace(model.frontend.settings, quantise_int16=False))
    found = model.encode_features(exact(windows(oracle)))
    close_embeddings(found.numpy(), oracle.expected("audio_embedding_without_int16"))


@torch.inference_mode()
def test_text_tower(loaded):
    oracle, model, _, _ = loaded
    ids = torch.tensor(oracle.inputs["token_ids"])
    out = model.text(ids, torch.tensor(oracle.inputs["attention_mask"]).bool())
    oracle.check(out.frames_BTD[:, 0], "text_last_hidden_first_token", atol=1e-4)
    oracle.check(out.summary_BD, "text_tower", atol=1e-4)


@torch.inference_mode()
def test_long_clips_are_fused_and_short_ones_beside_them_are_not(loaded):
    oracle, model, _, _ = loaded
    if model.audio.fusion is None:
        pytest.skip("a model without fusion")
    mels = [model.frontend(torch.from_numpy(fit(oracle.waves()[1][0], WINDOW_SAMPLES, "repeat-pad"))[None]).values[0]]
    mels += [model.frontend(torch.from_numpy(wave)[None]).values[0] for wave, _ in oracle.waves("long_waves")]
    longer = torch.tensor([len(mel) > 1001 for mel in mels])
    assert longer.tolist() == oracle.expected("mixed_longer_flags").tolist()
    values = torch.stack([fuse_long(mel, 1001) for mel in mels])
    oracle.check(values, "mixed_mel_fusion", atol=0.1)
    features = Features(values, torch.ones(values.shape[::2][:2], dtype=torch.bool).expand(4, 1001), longer)
    oracle.check(model.audio(features).summary_BD, "mixed_audio_tower", atol=4e-4)
    close_embeddings(model.encode_features(features).numpy(), oracle.expected("mixed_audio_embedding"))


def test_the_way_back_gives_the_whole_file(loaded):
    """Names, shapes and formats of everything that the reference has; the bits of everything that was read."""
    oracle, model, plan, mapped = loaded
    assert IMPORTER.writes is not None
    tensors = dict(model.state_dict())
    content = IMPORTER.writes(tensors, plan.model, mapped.aside)
    assert {"epoch", "name", "state_dict"} <= content.keys()
    described = {f"module.{e['name']}": (e["shape"], e["dtype"]) for e in oracle.layout["tensors"]}
    written = {n: (list(x.shape), str(x.dtype).removeprefix("torch.")) for n, x in content["state_dict"].items()}
    assert written == described
    again = to_ours({n.removeprefix("module."): x for n, x in content["state_dict"].items()}, plan.rules)
    assert all(torch.equal(again.ours[name], tensor) for name, tensor in mapped.ours.items())
    assert all(torch.equal(again.aside[name], tensor) for name, tensor in mapped.aside.items())


def small_file(*, fused: bool = False, heads_wide: int = 64) -> dict[str, Tensor]:
    """A file of the layout with small towers, drawn at random."""
    width, depths, heads, window = 16, (1, 2), (2, 4), 8
    inner, text, dimension = 8, heads_wide, 24
    shapes: dict[str, tuple[int, ...]] = {"logit_scale_a": (), "logit_scale_t": ()}
    for part in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"audio_branch.bn0.{part}"] = (64,)

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(name: str, size: int, *, batch: bool = False) -> None:
        for part in ("weight", "bias", *(("running_mean", "running_var") if batch else ())):
            shapes[f"{name}.{part}"] = (size,)

    embed = "audio_branch.patch_embed"
    shapes |= {f"{embed}.proj.weight": (width, 1, 4, 4), f"{embed}.proj.bias": (width,)}
    norm(f"{embed}.norm", width)
    if fused:
        shapes |= {f"{embed}.mel_conv2d.weight": (width, 1, 4, 12), f"{embed}.mel_conv2d.bias": (width,)}
        for gate, first in (("local_att", 0), ("global_att", 1)):
            prefix = f"{embed}.fusion_model.{gate}"
            shapes |= {f"{prefix}.{first}.weight": (inner, width, 1, 1), f"{prefix}.{first}.bias": (inner,)}
            shapes |= {f"{prefix}.{first + 3}.weight": (width, inner, 1, 1), f"{prefix}.{first + 3}.bias": (width,)}
            norm(f"{prefix}.{first + 1}", inner, batch=True)
            norm(f"{prefix}.{first + 4}", width, batch=True)
    for stage, depth in enumerate(depths):
        size = width * 2**stage
        for number in range(depth):
            block = f"audio_branch.layers.{stage}.blocks.{number}"
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads[stage])
            linear(f"{block}.attn.qkv", 3 * size, size)
            linear(f"{block}.attn.proj", size, size)
            linear(f"{block}.mlp.fc1", 2 * size, size)
            linear(f"{block}.mlp.fc2", size, 2 * size)
            norm(f"{block}.norm1", size)
            norm(f"{block}.norm2", size)
    shapes["audio_branch.layers.0.downsample.reduction.weight"] = (2 * width, 4 * width)
    norm("audio_branch.layers.0.downsample.norm", 4 * width)
    norm("audio_branch.norm", 2 * width)
    words = "text_branch.embeddings"
    shapes |= {f"{words}.word_embeddings.weight": (30, text), f"{words}.position_embeddings.weight": (514, text)}
    shapes[f"{words}.token_type_embeddings.weight"] = (1, text)
    norm(f"{words}.LayerNorm", text)
    layer = "text_branch.encoder.layer.0"
    for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
        linear(f"{layer}.{name}", text, text)
    linear(f"{layer}.intermediate.dense", 40, text)
    linear(f"{layer}.output.dense", text, 40)
    norm(f"{layer}.attention.output.LayerNorm", text)
    norm(f"{layer}.output.LayerNorm", text)
    linear("text_branch.pooler.dense", text, text)
    for side, size in (("audio", 2 * width), ("text", text)):
        linear(f"{side}_projection.0", dimension, size)
        linear(f"{side}_projection.2", dimension, dimension)
    generator = torch.Generator().manual_seed(0)
    made = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {n: x.abs() + 1 if n.endswith(("running_var", "norm.weight")) else x for n, x in made.items()}


def written(tensors: dict[str, Tensor], changes: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """A file read and written again; `changes` replace parts of the model's Spec."""
    plan = IMPORTER.plan(Foreign(tensors))
    mapped = to_ours(tensors, plan.rules)
    assert IMPORTER.writes is not None
    content = IMPORTER.writes(mapped.ours, derive(plan.model, **(changes or {})), mapped.aside)
    return {name.removeprefix("module."): tensor for name, tensor in content["state_dict"].items()}


@pytest.mark.parametrize("fused", [False, True])
def test_sizes_come_from_the_shapes(fused):
    model, plan, _ = build(Foreign(small_file(fused=fused)))
    assert (model.audio.width, model.dimension, model.text.width) == (32, 24, 64)
    assert plan.model.arguments["audio"].arguments["depths"] == (1, 2)
    assert plan.model.arguments["audio"].arguments["fusion_width"] == (8 if fused else None)
    assert model.frontend.settings == (LAION_FUSED if fused else LAION)
    assert model.windowing.longer == ("fuse" if fused else "windows") and model.text.max_tokens == 77


def test_only_the_filter_bank_that_is_used_is_taken_from_the_file():
    stored = {"audio_branch.logmel_extractor.melW": torch.zeros(513, 64)}
    assert IMPORTER.plan(Foreign(small_file() | stored)).filterbank == "audio_branch.logmel_extractor.melW"
    assert IMPORTER.plan(Foreign(small_file(fused=True) | stored)).filterbank is None


def test_a_file_written_by_torch_comes_back_bit_for_bit(tmp_path):
    """Through a file, with the wrapper of the reference and with what a trainer leaves beside it."""
    content = {f"module.{name}": tensor for name, tensor in (small_file() | small_extras()).items()}
    torch.save({"epoch": 3, "name": "x", "state_dict": content, "optimizer": {}}, tmp_path / "a.pt")
    foreign = read(tmp_path / "a.pt")
    assert IMPORTER.recognises(foreign.shapes)
    back = written(foreign.tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in foreign.tensors.items())


def small_extras() -> dict[str, Tensor]:
    """What a file holds behind the embeddings, and the filters of another library."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"audio_branch.head.weight": (5, 5), "audio_transform.sequential.0.weight": (24, 24)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_layers_that_a_model_lacks_are_written_as_zeros():
    back = written(small_file())
    assert back["audio_branch.tscam_conv.weight"].shape == (527, 32, 8, 3)
    silent = [n for n in back if "_transform" in n or "tscam" in n or "branch.head" in n]
    assert len(silent) == 12 and not any(back[name].any() for name in silent)
    assert torch.equal(back["logit_scale_t"], small_file()["logit_scale_t"])


def test_computed_tensors_are_those_of_the_reference():
    """The transform gives the spectrum of the front-end, indices and masks are those that transformers computes."""
    from transformers import ClapAudioConfig
    from transformers.models.clap.modeling_clap import ClapAudioLayer

    back = written(small_file(fused=True))
    frames = torch.randn(5, 1024, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(frames * torch.hann_window(1024, dtype=torch.float64))
    for part, wanted in (("real", spectrum.real), ("imag", spectrum.imag)):
        kernel = back[f"audio_branch.spectrogram_extractor.stft.conv_{part}.weight"]
        torch.testing.assert_close(frames @ kernel[:, 0].T.double(), wanted, rtol=0, atol=1e-5)
    mel = back["audio_branch.logmel_extractor.melW"]
    np.testing.assert_array_equal(mel.numpy(), mel_filterbank(LAION))
    layer = ClapAudioLayer(ClapAudioConfig(), 32, (32, 32), 4, shift_size=4)
    block = "audio_branch.layers.1.blocks.1"
    assert torch.equal(back[f"{block}.attn_mask"], layer.get_attn_mask(32, 32, torch.float32, "cpu"))
    index = layer.attention.self.relative_position_index
    assert torch.equal(back[f"{block}.attn.relative_position_index"], index)
    assert "audio_branch.layers.1.blocks.0.attn_mask" not in back
    assert torch.equal(back["text_branch.embeddings.position_ids"], torch.arange(514)[None])


def test_a_filter_bank_of_the_file_is_written_back():
    tensors = small_file()
    plan = IMPORTER.plan(Foreign(tensors))
    own = torch.rand(513, 64)
    ours = to_ours(tensors, plan.rules).ours | {"frontend.stored_filterbank": own}
    assert IMPORTER.writes is not None
    content = IMPORTER.writes(ours, plan.model, {})
    assert torch.equal(content["state_dict"]["module.audio_branch.logmel_extractor.melW"], own)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"frontend": replace(LAION, hop_samples=320)}, "hop_samples=320"),
        ({"frontend": LAION_FUSED}, "scale='slaney'.*but this model has.*scale='htk'"),
        ({"windowing": Windowing(7.0, 7.0)}, "windows of 7.0 s"),
        ({"head": "gelu"}, "ReLU.*'gelu'"),
        ({"heads": 4}, "64 wide with 4 heads"),
    ],
)
def test_what_the_file_would_not_say_is_not_written(changes, named):
    tensors = small_file()
    parts = IMPORTER.plan(Foreign(tensors)).model.arguments
    if "head" in changes:
        heads = ("audio_head", "text_head")
        changes = {name: derive(parts[name], activation=changes["head"]) for name in heads}
    elif "heads" in changes:
        config = parts["text"].arguments["config"] | {"num_attention_heads": changes["heads"]}
        changes = {"text": derive(parts["text"], config=config)}
    with pytest.raises(CheckpointError, match=named):
        written(tensors, changes)


@pytest.mark.parametrize(
    ("name", "shape", "named"),
    [
        ("audio_branch.patch_embed.proj.weight", (16, 4, 4, 4), "channel_map"),
        ("audio_branch.layers.0.blocks.0.attn.relative_position_bias_table", (200, 2), "200 rows.*odd"),
        ("text_branch.embeddings.position_embeddings.weight", (2, 64), "2 positions"),
        ("audio_branch.bn0.weight", (64, 1), r"bn0.weight' is \[64, 1\]"),
    ],
)
def test_sizes_that_cannot_be_are_refused(name, shape, named):
    with pytest.raises(CheckpointError, match=named):
        IMPORTER.plan(Foreign(small_file() | {name: torch.zeros(shape)}))
