"""The BEATs tower against a token-by-token reference, and what is particular to it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.spec import derive
from clapkit.towers import beats
from clapkit.towers.beats import BEATs, DistanceBias, PositionConvolution


def mel(*lengths: int, bins: int = 64) -> Features:
    values = 20 * torch.randn(len(lengths), max(lengths), bins, generator=torch.Generator().manual_seed(0)) - 40
    return Features(values, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None])


def lively(**more) -> BEATs:
    torch.manual_seed(1)
    tower = derive(beats.tiny, **more).build().eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return tower


def slow_bucket(offset: int, buckets: int, max_distance: int) -> int:
    """The bucket of one distance, by its definition."""
    half = buckets // 2
    exact, distance = half // 2, abs(offset)
    if distance >= exact:
        share = math.log(distance / exact) / math.log(max_distance / exact)
        distance = min(half - 1, exact + int(share * (half - exact)))
    return distance + (half if offset > 0 else 0)


def slow_tokens(tower: BEATs, values_TF: torch.Tensor) -> torch.Tensor:
    """Patch by patch, head by head, token by token, for a clip without padding."""
    values_TF = (values_TF - tower.levels[0]) / tower.levels[1]
    patch, kernel = tower.patch, tower.embed.weight[:, 0]
    rows = []
    for t in range(len(values_TF) // patch):
        for f in range(tower.bands):
            square = values_TF[t * patch : (t + 1) * patch, f * patch : (f + 1) * patch]
            rows.append((kernel * square).sum((1, 2)))
    x = tower.embed_map(tower.embed_norm(torch.stack(rows)))
    x = tower.norm(x + tower.position(x[None])[0])
    count, heads, size = len(x), tower.blocks[0].heads, tower.width // tower.blocks[0].heads
    table, buckets, farthest = tower.distances.weight, tower.distances.buckets, tower.distances.max_distance
    for block in tower.blocks:
        query, key, value = block.query_key_value(x).chunk(3, dim=1)
        seen = torch.zeros_like(x)
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            for i in range(count):
                eight = block.gate(query[i, part])
                opens, turns = torch.sigmoid(eight[:4].sum()), torch.sigmoid(eight[4:].sum())
                gate = opens * (turns * block.gate_scale[0, h, 0, 0] - 1) + 2
                scores = []
                for j in range(count):
                    bias = table[slow_bucket(j - i, buckets, farthest), h]
                    scores.append(query[i, part] @ key[j, part] / size**0.5 + gate * bias)
                seen[i, part] = torch.softmax(torch.stack(scores), 0) @ value[:, part]
        alpha = (2 * len(tower.blocks)) ** 0.25
        x = block.norm1(alpha * x + block.out(seen))
        x = block.norm2(alpha * x + block.fall(F.gelu(block.rise(x))))
    return x


@torch.no_grad()
@pytest.mark.parametrize("frames", [16, 47, 80])
def test_equals_the_slow_reference(frames):
    tower = lively().double()
    features = mel(frames)
    features = features.with_values(features.values.double())
    tokens, real = tower.tokens(features)
    expected = slow_tokens(tower, features.values[0])
    assert real.all()
    torch.testing.assert_close(tokens[0], expected, rtol=0, atol=1e-9)
    output = tower(features)
    torch.testing.assert_close(output.summary_BD[0], expected.mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(output.frames_BTD[0], expected.unflatten(0, (-1, 4)).mean(1), rtol=0, atol=1e-9)


def test_distances_share_buckets_as_defined():
    bias = DistanceBias(1, buckets=16, max_distance=32)
    with torch.no_grad():
        bias.weight[:, 0] = torch.arange(16.0)
        found = bias(90)[0]
    expected = [[slow_bucket(j - i, 16, 32) for j in range(90)] for i in range(90)]
    assert found.long().tolist() == expected
    assert {0, 7, 15} <= {int(x) for x in found.unique()}, "near, farthest before and farthest behind"


@torch.no_grad()
@pytest.mark.parametrize("kernel", [5, 8])
def test_positions_equal_a_weight_normalised_convolution(kernel):
    torch.manual_seed(0)
    ours = PositionConvolution(8, kernel=kernel, groups=2)
    theirs = torch.nn.Conv1d(8, 8, kernel, padding=kernel // 2, groups=2)
    theirs.weight.copy_(ours.direction)
    torch.nn.init.normal_(theirs.bias)
    ours.bias.copy_(theirs.bias)
    theirs = torch.nn.utils.parametrizations.weight_norm(theirs, dim=2)
    theirs.parametrizations.weight.original0.mul_(1.5)
    ours.length.copy_(theirs.parametrizations.weight.original0)
    tokens = torch.randn(2, 11, 8)
    expected = F.gelu(theirs(tokens.mT)[..., :11]).mT
    torch.testing.assert_close(ours(tokens), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_rows_are_attended_to_in_parts_with_the_same_result(monkeypatch):
    tower, features = lively(), mel(80, 33, 64)
    whole = tower(features).summary_BD
    monkeypatch.setattr("clapkit.towers.beats._ATTENTION_VALUES", 1)
    torch.testing.assert_close(tower(features).summary_BD, whole, rtol=0, atol=1e-6)


@torch.no_grad()
def test_frames_that_fill_no_patch_are_not_heard_and_a_short_clip_is_filled_up():
    tower, features = lively(), mel(47)
    whole = tower(Features(features.values[:, :32], features.mask_BT[:, :32])).summary_BD
    torch.testing.assert_close(tower(features).summary_BD, whole, rtol=0, atol=0)
    short = Features(features.values[:, :5], features.mask_BT[:, :5])
    filled = torch.full((1, 16, 64), tower.levels[0])
    filled[:, :5] = short.values
    expected = tower(Features(filled, torch.ones(1, 16, dtype=torch.bool))).summary_BD
    torch.testing.assert_close(tower(short).summary_BD, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_tagging_layer_reads_the_summary():
    tower, features = lively(classes=5), mel(64, 20)
    frames_BTD, mask = tower.tokens(features)
    by_token = tower.predictor(frames_BTD)  # the reference averages what it says of every token
    expected = (by_token * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(tower.logits(features), expected, rtol=0, atol=1e-5)
    assert "predictor.weight" not in lively().state_dict()
    with pytest.raises(SpecError, match="no tagging layer: build it with classes"):
        lively().logits(features)


def test_published_sizes():
    with torch.device("meta"):
        base, large = beats.base.build(bins=128), beats.large.build(bins=128)
    assert 90e6 < sum(p.numel() for p in base.parameters()) < 91e6
    assert 300e6 < sum(p.numel() for p in large.parameters()) < 320e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 100}, "100 mel bins .* 16 bins high"),
        ({"heads": 5}, "width=24 .* heads=5"),
        ({"groups": 5}, "groups=5"),
        ({"buckets": 15}, "buckets=15"),
        ({"buckets": 2}, "buckets=2"),
        ({"max_distance": 4}, "max_distance=4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(SpecError, match=message):
        derive(beats.tiny, **arguments).build()
