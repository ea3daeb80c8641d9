"""Depth read from parameter names, and blending, against their definitions."""

from __future__ import annotations

import pytest
import torch

from clapkit.training.tuning import blend, rate_shares

# Names as towers in use list them: what stands before the blocks, the blocks, what stands after.
LISTS = {
    "a transformer": (
        ["audio.position", "audio.patch.weight"],
        [[f"audio.blocks.{i}.attention.qkv.weight", f"audio.blocks.{i}.mlp.0.weight"] for i in range(12)],
        ["audio.norm.weight"],
    ),
    "windows in stages": (
        ["audio.input_norm.weight", "audio.patch.0.weight"],
        [[f"audio.layers.{i}.blocks.{j}.norm1.weight" for j in range(6)] for i in range(4)],
        ["audio.norm.weight"],
    ),
    "numbers without a dot": (
        ["audio.bn0.weight"],
        [[f"audio.conv_block{i}.conv1.weight", f"audio.conv_block{i}.bn2.bias"] for i in range(1, 7)],
        ["audio.fc1.weight"],
    ),
    "stages of residual blocks": (
        ["audio.conv1.weight", "audio.bn1.weight"],
        [[f"audio.layer{i}.{j}.conv1.weight" for j in range(2)] for i in range(1, 5)],
        ["audio.out.weight"],
    ),
    "a sentence encoder": (
        ["text.encoder.embeddings.word_embeddings.weight"],
        [[f"text.encoder.encoder.layer.{i}.output.dense.weight"] for i in range(12)],
        ["text.encoder.pooler.dense.weight"],
    ),
}


@pytest.mark.parametrize("kind", LISTS)
def test_depth_counts_from_the_last_block_down(kind):
    before, blocks, after = LISTS[kind]
    names = [*before, *(name for block in blocks for name in block), *after]
    shares = rate_shares([*names, "audio_head.linear1.weight", "logit_scale"], decay=0.5)
    for name in (*after, "audio_head.linear1.weight", "logit_scale"):
        assert shares[name] == 1.0
    for depth, block in enumerate(reversed(blocks), start=1):
        assert {shares[name] for name in block} == {0.5**depth}
    assert {shares[name] for name in before} == {0.5 ** (len(blocks) + 1)}


def test_towers_have_depths_of_their_own_and_without_blocks_none():
    names = ["audio.0.weight", "audio.out.weight", "text.layer.0.w", "text.layer.1.w", "text_head.w"]
    assert rate_shares(names, decay=0.5) == dict(zip(names, (1.0, 1.0, 0.25, 0.5, 1.0), strict=True))
    assert set(rate_shares(names, decay=1.0).values()) == {1.0}


def test_towers_learn_at_a_rate_of_their_own():
    names = [
        "audio.0.weight",
        "audio_head.w",
        "text.layer.0.w",
        "text.layer.1.w",
        "text.norm.w",
        "text_head.w",
        "logit_scale",
    ]
    shares = rate_shares(names, decay=0.5, tower=0.1)
    assert shares == pytest.approx(dict(zip(names, (0.1, 1.0, 0.025, 0.05, 0.1, 1.0, 1.0), strict=True)))


def test_blocks_stand_in_the_order_of_their_numbers():
    names = [f"audio.blocks.{i}.w" for i in (10, 9, 11)]
    assert rate_shares(names, decay=0.5) == dict(zip(names, (0.25, 0.125, 0.5), strict=True))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blend_is_the_weighted_mean_and_leaves_counters_alone(share):
    given = {"w": torch.tensor([1.0, 0.1, -3.0]), "count": torch.tensor(5)}
    state = {"w": torch.tensor([2.0, 0.1, 5.0]), "count": torch.tensor(9)}
    trained = state["w"].clone()
    blend(state, given, share=share)
    assert torch.allclose(state["w"], (1 - share) * given["w"] + share * trained)
    assert state["w"][1] == given["w"][1] and state["count"] == 9
    if share in (0.0, 1.0):
        assert torch.equal(state["w"], trained if share else given["w"])
