"""transformers' ClapModel folders, against transformers itself in this process, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import close_embeddings, wave

import clapkit
from clapkit.checkpoints.families.hf import IMPORTERS
from clapkit.checkpoints.reading import read
from clapkit.checkpoints.rules import to_ours
from clapkit.errors import CheckpointError
from clapkit.heads.projection import Linear
from clapkit.model import Windowing
from clapkit.spec import Spec, derive, spec
from clapkit.towers import resnet

IMPORTER = IMPORTERS[0]
RATE_HZ = 48000
TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
AUDIO = {
    "patch_embeds_hidden_size": 16,
    "depths": [2, 2, 2, 1],
    "num_attention_heads": [1, 2, 4, 8],
    "hidden_size": 128,
    "mlp_ratio": 2.0,
}
SIZES = {"small": AUDIO, "uneven": AUDIO | {"depths": [1, 2, 3, 2], "mlp_ratio": 4.0, "aff_block_r": 2}}


def foreign_model(audio: dict, *, fused: bool, **options: Any) -> Any:
    """A ClapModel whose weights and statistics are all alive, so that nothing could be left out unseen."""
    from transformers import ClapConfig, ClapModel

    fusion = {"enable_fusion": fused}  # published folders leave fusion_type out
    config = ClapConfig(text_config=TEXT, audio_config=audio | fusion, projection_dim=24, **options)
    model = ClapModel(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(400 + 20 * noise.abs() if "batch_norm" in name else 1 + 0.1 * noise.abs())
            elif name.endswith("batch_norm.running_mean"):
                value.copy_(3 * noise - 30)
            elif value.ndim > 1:
                value.copy_(noise if "bias_table" in name else noise / value[0].numel() ** 0.5)
            else:
                value.add_(0.1 * noise)
    return model


def saved(model: Any, folder: Path, *, fused: bool) -> Any:
    """Its folder as transformers writes it; returns the feature extractor."""
    from transformers import ClapFeatureExtractor

    extractor = ClapFeatureExtractor(
        frequency_min=50, frequency_max=14000, truncation="fusion" if fused else "rand_trunc"
    )
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return extractor


@pytest.fixture
def fixed_crops(monkeypatch):
    """The chunks that the feature extractor draws at random, each in the middle of its range."""
    monkeypatch.setattr(np.random, "choice", lambda places: places[len(places) // 2])


def embed_with_transformers(model: Any, extractor: Any, waves: list[np.ndarray]) -> np.ndarray:
    inputs = extractor(waves, sampling_rate=RATE_HZ, return_tensors="pt")
    # Of a batch without long sound it takes one at random for long: here the lengths decide.
    longer = torch.tensor([[len(w) > 10 * RATE_HZ + 479] for w in waves])
    with torch.inference_mode():
        found = model.get_audio_features(input_features=inputs["input_features"], is_longer=longer)
    return getattr(found, "pooler_output", found).numpy()


def embed_text_with_transformers(model: Any, ids: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        found = model.get_text_features(input_ids=ids, attention_mask=(ids != 1).long())
    return getattr(found, "pooler_output", found).numpy()


def texts() -> torch.Tensor:
    ids = torch.randint(3, 50, (4, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 0
    for row, length in enumerate((12, 7, 3, 1)):
        ids[row, length:] = 1
    return ids


def clips(*seconds: float) -> list[np.ndarray]:
    return [wave(i, RATE_HZ, round(s * RATE_HZ), 305) for i, s in enumerate(seconds)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
def test_embeddings_are_those_of_transformers(fused, size, tmp_path, fixed_crops):
    model = foreign_model(SIZES[size], fused=fused)
    extractor = saved(model, tmp_path, fused=fused)
    clap = clapkit.load(tmp_path)
    seconds = (0.3, 1.0, 5.0, 10.0) if size == "small" else (1.0, 7.0)
    waves = clips(*seconds, *((37.0, 10.005, 10.02) if fused else ()))
    wanted = embed_with_transformers(model, extractor, waves)
    assert np.linalg.norm(wanted[0] - wanted[1]) > 1e-2, "clips are told apart"
    close_embeddings(clap.embed_audio([(w, RATE_HZ) for w in waves]), wanted)
    close_embeddings(clap.embed_tokens(texts()), embed_text_with_transformers(model, texts()))
    assert clap.model.scale.item() == pytest.approx(model.logit_scale_a.exp().item())


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
def test_the_way_back_gives_every_tensor_and_the_same_model(fused, tmp_path, fixed_crops):
    from transformers import ClapFeatureExtractor, ClapModel

    original = foreign_model(SIZES["uneven"], fused=fused, projection_hidden_act="gelu")
    saved(original, tmp_path / "original", fused=fused)
    content = rewritten(tmp_path / "original")
    before = original.state_dict()
    assert content["tensors"].keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in content["tensors"].items())
    write(content, tmp_path / "ours")
    again, notes = ClapModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not notes["missing_keys"] and not notes["unexpected_keys"] and not notes["mismatched_keys"]
    extractor = ClapFeatureExtractor.from_pretrained(tmp_path / "ours")
    waves = clips(1.0, 10.0, *((23.0,) if fused else ()))
    wanted = clapkit.load(tmp_path / "original").embed_audio([(w, RATE_HZ) for w in waves])
    close_embeddings(embed_with_transformers(again.eval(), extractor, waves), wanted)
    wanted = clapkit.load(tmp_path / "original").embed_tokens(texts())
    close_embeddings(embed_text_with_transformers(again, texts()), wanted)


def rewritten(folder: Path, **changes: Any) -> dict[str, Any]:
    """The folder, read and made into the content of a folder again; `changes` replace parts of the model's Spec."""
    foreign = read(folder)
    plan = IMPORTER.plan(foreign)
    mapped = to_ours(foreign.tensors, plan.rules)
    assert IMPORTER.writes is not None
    return IMPORTER.writes(mapped.ours, derive(plan.model, **changes), mapped.aside)


def write(content: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(content["tensors"], folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("config", "preprocessor_config"):
        (folder / f"{name}.json").write_text(json.dumps(content[name]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clap")
    saved(foreign_model(AUDIO, fused=False), folder, fused=False)
    return folder


def edited(folder: Path, copy: Path, file: str, **changes: Any) -> Path:
    """A copy of the folder with entries of one of its configurations replaced; "a.b" names an inner one."""
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / file).read_text())
    for name, value in changes.items():
        outer, _, inner = name.rpartition("__")
        (config[outer] if outer else config)[inner] = value
    (copy / file).write_text(json.dumps(config))
    return copy


def test_settings_come_from_the_files_beside_it(folder, tmp_path):
    changed = edited(
        *(folder, tmp_path / "copy", "preprocessor_config.json"),
        max_length_s=5,
        frequency_min=100,
        hop_length=240,
        padding="pad",
    )
    clap = clapkit.load(changed)
    settings, windowing = clap.model.frontend.settings, clap.model.windowing
    assert (settings.low_hz, settings.hop_samples, settings.quantise_int16) == (100.0, 240, False)
    assert (windowing.window_s, windowing.fill, clap.model.audio.frames_in) == (5.0, "zeros", 1001)


def test_a_truncation_that_the_model_cannot_have_is_noted(folder, tmp_path):
    changed = edited(folder, tmp_path / "copy", "preprocessor_config.json", truncation="fusion")
    plan = IMPORTER.plan(read(changed))
    assert any("truncation 'fusion'" in note and "'rand_trunc'" in note for note in plan.notes)
    assert plan.model.arguments["frontend"] == IMPORTER.plan(read(folder)).model.arguments["frontend"]


def test_weights_alone_are_read_as_the_published_models(folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    plan = IMPORTER.plan(read(tmp_path))
    assert plan.model.arguments["frontend"].low_hz == 50.0
    assert plan.model.arguments["text"].arguments["config"]["layer_norm_eps"] == 1e-12
    assert sum("no config.json" in note or "no preprocessor_config" in note for note in plan.notes) == 2


def test_every_tensor_is_accounted_for(folder):
    clap = clapkit.load(folder)
    report = clap.report
    assert clap.family == "transformers"
    assert list(report.dropped) == ["logit_scale_t"]
    computed = {name.rpartition(".")[2] for name in report.computed}
    assert computed == {"relative_position_index", "position_ids", "token_type_ids"}


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("config.json", {"audio_config__hidden_act": "relu"}, r"hidden_act = 'relu', expected 'gelu'"),
        ("config.json", {"audio_config__patch_stride": [2, 2]}, r"patch_stride = \[2, 2\], expected \[4, 4\]"),
        ("config.json", {"audio_config__enable_fusion": True}, "enable_fusion = True, expected False"),
        ("config.json", {"audio_config": [1]}, "a list as audio_config"),
        ("config.json", {"text_config__num_attention_heads": 5}, "32 wide.*among 5 heads"),
        ("preprocessor_config.json", {"padding": "mirror"}, "padding 'mirror'"),
        ("preprocessor_config.json", {"top_db": 80}, "top_db 80"),
        ("preprocessor_config.json", {"feature_size": 80}, "feature_size 80"),
    ],
)
def test_a_configuration_that_means_another_model_is_refused(folder, tmp_path, file, changes, named):
    with pytest.raises(CheckpointError, match=named):
        clapkit.load(edited(folder, tmp_path / "copy", file, **changes))


def other_text(folder: Path, **changes: Any) -> Spec:
    return derive(IMPORTER.plan(read(folder)).model.arguments["text"], **changes)


def test_a_model_without_a_place_in_the_layout_is_not_written(folder):
    plan = IMPORTER.plan(read(folder))
    audio, settings = plan.model.arguments["audio"], plan.model.arguments["frontend"]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"audio": resnet.tiny}, "hold an HTSAT.*ResNetTower"),
        ({"audio": derive(audio, frames_in=900)}, "stretches 900"),
        ({"audio": derive(audio, window=16)}, "window of 16 to a last grid of 8"),
        ({"text": other_text(folder, pooling="cls")}, "pooler.*cls"),
        ({"text": other_text(folder, config={"model_type": "bert"})}, "not 'bert'"),
        ({"text": None}, "as text tower, not None"),
        ({"audio_head": spec(Linear)}, "two MLP heads alike.*Linear"),
        ({"frontend": derive_settings(settings, power=1)}, "power=1"),
        ({"windowing": Windowing(2.5, 2.5)}, "whole seconds.*2.5 s"),
    ]
    for change, named in changes:
        with pytest.raises(CheckpointError, match=named):
            rewritten(folder, **change)


def derive_settings(settings: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(settings, **changes)


def test_a_filter_bank_of_its_own_is_not_lost_on_the_way_back(folder):
    foreign = read(folder)
    plan = IMPORTER.plan(foreign)
    ours = to_ours(foreign.tensors, plan.rules).ours
    assert IMPORTER.writes is not None
    with pytest.raises(CheckpointError, match="its own mel filter bank"):
        IMPORTER.writes({**ours, "frontend.stored_filterbank": torch.zeros(513, 64)}, plan.model, {})
