"""The text transformer of CLIP against that of transformers, and its padding."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from clapkit.errors import SpecError, TextTowerError
from clapkit.spec import derive
from clapkit.towers.clip_text import ClipText, base, tiny

END = 258


def same_weights(tower: ClipText, activation: str) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        hidden_act=activation,
        bos_token_id=257,
        eos_token_id=END,
    )
    reference = CLIPTextModel(config).eval()
    parts = {"layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "rise", "mlp.fc2": "fall"}
    parts["self_attn.out_proj"] = "out"
    ours = tower.state_dict()
    names = {"embeddings.token_embedding.weight": ours["embedding.weight"]}
    names["embeddings.position_embedding.weight"] = ours["position"]
    for kind in ("weight", "bias"):
        names[f"final_layer_norm.{kind}"] = ours[f"norm.{kind}"]
        for i in range(2):
            for theirs, mine in parts.items():
                names[f"encoder.layers.{i}.{theirs}.{kind}"] = ours[f"blocks.{i}.{mine}.{kind}"]
            three = ours[f"blocks.{i}.query_key_value.{kind}"].chunk(3)
            for part, x in zip("qkv", three, strict=True):
                names[f"encoder.layers.{i}.self_attn.{part}_proj.{kind}"] = x
    reference.load_state_dict({name.removeprefix("text_model."): x for name, x in names.items()})
    return reference


def lively(**changes) -> ClipText:
    torch.manual_seed(3)
    tower = derive(tiny, **changes).build().eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return tower


def texts(*lengths: int, width: int = 32, padding: int = 0) -> torch.Tensor:
    ids = torch.randint(1, END - 1, (len(lengths), width), generator=torch.Generator().manual_seed(1))
    for row, length in enumerate(lengths):
        ids[row, length - 1] = END
        ids[row, length:] = padding
    return ids


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@torch.no_grad()
def test_against_transformers(activation):
    tower = lively(activation=activation)
    ids = texts(32, 9, 1, 20)
    output, wanted = tower(ids, ids != 0), same_weights(tower, activation)(ids)
    torch.testing.assert_close(output.summary_BD, wanted.pooler_output, rtol=1e-5, atol=1e-5)
    real = output.mask_BT
    assert real.sum(1).tolist() == [32, 9, 1, 20]
    torch.testing.assert_close(output.frames_BTD[real], wanted.last_hidden_state[real], rtol=1e-5, atol=1e-5)
    assert not output.frames_BTD[~real].any()


@pytest.mark.parametrize("padding", [0, 7, END])
@torch.no_grad()
def test_padding_changes_nothing(padding):
    tower = lively()
    together = tower(texts(5, 17, padding=padding)).summary_BD
    for row, length in enumerate((5, 17)):
        alone = tower(texts(5, 17, padding=padding)[row : row + 1, :length]).summary_BD[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_id_that_pads_elsewhere_counts_inside_a_text():
    tower = lively()
    ids = texts(8, width=8)
    ids[0, 3] = 0
    other = ids.clone()
    other[0, 3] = 5
    assert not torch.allclose(tower(ids, ids != 0).summary_BD, tower(other, other != 0).summary_BD)
    torch.testing.assert_close(tower(ids, ids != 0).summary_BD, tower(ids, torch.ones_like(ids).bool()).summary_BD)


def test_gradients_reach_every_parameter():
    tower = lively().train()
    output = tower(texts(32, 9))
    (output.summary_BD.square().sum() + output.frames_BTD[:, 3].sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in tower.parameters())


def test_what_cannot_be_is_refused():
    with pytest.raises(TextTowerError, match="33 tokens long, at most 32"):
        tiny.build()(torch.ones(1, 33, dtype=torch.int64))
    with pytest.raises(SpecError, match="'gleu'"):
        derive(tiny, activation="gleu").build()


def test_the_published_size():
    with torch.device("meta"):
        tower = base.build()
    assert (tower.width, tower.max_tokens, len(tower.blocks)) == (512, 77, 12)
