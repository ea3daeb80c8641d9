"""The text half of a CLIP folder of transformers, and beside it the sounds of a Wav2CLIP file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

import clapkit
from clapkit.checkpoints.families.clip import is_clip, read_clip_text
from clapkit.errors import CheckpointError

END = 98


@pytest.fixture(params=["quick_gelu", "gelu"])
def clip(request, tmp_path):
    """A small CLIP with random weights, and its folder."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes["hidden_act"] = request.param
    text = {**sizes, "vocab_size": 99, "max_position_embeddings": 16, "eos_token_id": END, "bos_token_id": 97}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "clip")
    return model, tmp_path / "clip"


def ids() -> torch.Tensor:
    ids_BL = torch.randint(1, 97, (3, 16), generator=torch.Generator().manual_seed(0))
    for row, length in enumerate((16, 5, 9)):
        ids_BL[row, length - 1 :] = END
    return ids_BL


@torch.no_grad()
def test_the_numbers_of_transformers(clip):
    model, folder = clip
    assert is_clip(folder)
    tower, tower_spec, head, _ = read_clip_text(folder)
    wanted = model.text_projection(model.text_model(ids()).pooler_output)
    torch.testing.assert_close(head(tower(ids()).summary_BD), wanted, rtol=1e-5, atol=1e-5)
    assert tower_spec.build().state_dict().keys() == tower.state_dict().keys()


def test_a_damaged_folder_is_refused(clip):
    _, folder = clip
    tensors = load_file(folder / "model.safetensors")
    save_file({"text_model.new.weight": torch.zeros(2), **tensors}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no place for: text_model\.new\.weight \[2\]"):
        read_clip_text(folder)
    save_file(
        {n: x for n, x in tensors.items() if n != "text_model.final_layer_norm.bias"}, folder / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"does not fit(.|\n)*norm\.bias"):
        read_clip_text(folder)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="32 wide, which cannot be divided among 5"):
        read_clip_text(folder)


def test_other_folders_are_not_clip(tmp_path):
    assert not is_clip(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert not is_clip(tmp_path)


def test_wav2clip_speaks_with_the_text_half(clip, tmp_path):
    from test_wav2clip import shrunk

    model, folder = clip
    file = tmp_path / "Wav2CLIP.pt"
    torch.save(shrunk(dimension=24), file)
    clap = clapkit.load(file, text=folder)
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(model.text_projection(model.text_model(ids()).pooler_output), dim=-1)
    np.testing.assert_allclose(clap.embed_tokens(ids().numpy()), wanted.numpy(), atol=1e-5)
    sound = [(np.random.default_rng(0).standard_normal(16000).astype(np.float32) / 9, 16000)]
    assert np.array_equal(clap.embed_audio(sound), clapkit.load(file).embed_audio(sound))
    clap.save(tmp_path / "saved")
    again = clapkit.load(tmp_path / "saved")
    assert np.array_equal(again.embed_tokens(ids().numpy()), clap.embed_tokens(ids().numpy()))
    assert again.space_id == clap.space_id
