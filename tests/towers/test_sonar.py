"""The SONAR text encoder against the encoder of M2M-100 in transformers, which has the same arithmetic."""

from __future__ import annotations

import pytest
import torch

from clapkit.errors import TextTowerError
from clapkit.spec import from_json, to_json
from clapkit.towers.sonar import SonarText, tiny

PAD = 1  # with this padding id the library counts positions from 2, as SONAR always does


def sonar() -> SonarText:
    torch.manual_seed(0)
    built = SonarText(vocabulary=50, width=16, depth=2, heads=2, hidden=24, max_tokens=30).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return built


def m2m100(ours: SonarText) -> torch.nn.Module:
    from transformers import M2M100Config
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    config = M2M100Config(
        vocab_size=50,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        max_position_embeddings=30,
        pad_token_id=PAD,
        scale_embedding=True,
        activation_function="relu",
    )
    theirs = M2M100Encoder(config).eval()
    named = {"embed_tokens.weight": ours.embedding.weight}
    named |= {f"layer_norm.{key}": value for key, value in ours.norm.state_dict().items()}
    for number, block in enumerate(ours.blocks):
        parts = {"self_attn.out_proj": block.out, "fc1": block.rise, "fc2": block.fall}
        parts |= {"self_attn_layer_norm": block.norm1, "final_layer_norm": block.norm2}
        for name, part in parts.items():
            named |= {f"layers.{number}.{name}.{key}": value for key, value in part.state_dict().items()}
        for key, joined in block.query_key_value.state_dict().items():
            for name, piece in zip("qkv", joined.chunk(3), strict=True):
                named[f"layers.{number}.self_attn.{name}_proj.{key}"] = piece
    theirs.load_state_dict(named)
    return theirs


@torch.no_grad()
def test_equals_the_encoder_of_m2m100():
    ours = sonar()
    ids = torch.randint(2, 50, (3, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    ids[~mask] = PAD
    out = ours(ids, mask)
    expected = m2m100(ours)(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(out.frames_BTD[mask], expected[mask], rtol=0, atol=2e-5)
    for row in range(3):
        torch.testing.assert_close(out.summary_BD[row], expected[row][mask[row]].mean(0), rtol=0, atol=2e-5)
    assert not out.frames_BTD[~mask].any()


@torch.no_grad()
def test_padding_changes_nothing():
    ours = sonar()
    ids = torch.randint(2, 50, (2, 7), generator=torch.Generator().manual_seed(4))
    alone = ours(ids[:1, :3], torch.ones(1, 3, dtype=torch.bool))
    mask = torch.arange(7) < torch.tensor([[3], [7]])
    torch.testing.assert_close(ours(ids, mask).summary_BD[:1], alone.summary_BD, rtol=0, atol=1e-5)


def test_gradients_reach_every_parameter_and_a_text_without_tokens_is_zero():
    ours = sonar()
    mask = torch.arange(5) < torch.tensor([[5], [2], [0]])
    out = ours(torch.randint(2, 50, (3, 5)), mask)
    assert not out.summary_BD[2].any()
    (out.summary_BD * torch.randn(3, 16)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in ours.parameters())


def test_a_text_too_long_is_refused():
    with pytest.raises(TextTowerError, match="31 tokens long, at most 30"):
        sonar()(torch.zeros(1, 31, dtype=torch.int64), torch.ones(1, 31, dtype=torch.bool))


def test_spec_survives_json():
    assert from_json(to_json(tiny)) == tiny and tiny.build().width == 32
