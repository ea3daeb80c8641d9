"""The patch transformer: attention by loops, tokens that are dropped, positions of any length."""

from __future__ import annotations

import math

import pytest
import torch

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.towers.vit import Block, PatchTransformer, _attention_mask, tiny


def features(frames: int, *, real: int | None = None, batch: int = 2, bins: int = 64) -> Features:
    values = torch.randn(batch, frames, bins, generator=torch.Generator().manual_seed(frames)) * 20 - 40
    return Features(values, (torch.arange(frames) < (frames if real is None else real)).expand(batch, frames))


@pytest.fixture
def tower() -> PatchTransformer:
    torch.manual_seed(0)
    return tiny.build().eval()


def every_token(tower, frames, batch=2):
    return torch.arange(tower.token_count(frames)).expand(batch, -1)


def normalise(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def reference_block(block, tokens_LD, real_L):
    """One clip through a block: every head and every token by itself."""
    width = tokens_LD.shape[1]
    size = width // block.heads
    joined = normalise(tokens_LD, block.norm1) @ block.query_key_value.weight.T + block.query_key_value.bias
    query, key, value = joined.split(width, dim=1)
    seen = torch.zeros_like(tokens_LD)
    for head in range(block.heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(tokens_LD)):
            scores = [float(query[i, part] @ key[j, part]) / math.sqrt(size) for j in range(len(tokens_LD))]
            weights = [math.exp(s) if real else 0.0 for s, real in zip(scores, real_L, strict=True)]
            seen[i, part] = sum(w / sum(weights) * value[j, part] for j, w in enumerate(weights))
    tokens_LD = tokens_LD + seen @ block.out.weight.T + block.out.bias
    rise = normalise(tokens_LD, block.norm2) @ block.rise.weight.T + block.rise.bias
    rise = rise * 0.5 * (1 + torch.erf(rise / math.sqrt(2)))
    return tokens_LD + rise @ block.fall.weight.T + block.fall.bias


@torch.no_grad()
def test_block_equals_attention_by_loops():
    torch.manual_seed(0)
    block = Block(12, heads=3, expansion=2)
    tokens = torch.randn(1, 6, 12)
    real = torch.tensor([True, True, False, True, False, True])
    expected = reference_block(block, tokens[0], real.tolist())
    torch.testing.assert_close(block(tokens, real[None, None, None, :])[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_patches_are_the_rectangles_of_the_mel(tower):
    mel = features(40)
    patches, steps = tower.patches(mel)
    assert patches.shape == (2, 3 * 4, 256) and steps.all()
    levelled = (mel.values - tower.mean_db) / tower.std_db
    for step, band in [(0, 0), (1, 3), (0, 2)]:
        rectangle = levelled[:, 16 * step : 16 * step + 16, 16 * band : 16 * band + 16]
        assert torch.equal(patches[:, step * 4 + band].unflatten(1, (16, 16)), rectangle)
    assert not patches[:, 8:, 8 * 16 :].any(), "the last patch is filled up with the mean"


@torch.no_grad()
def test_padding_has_no_influence_at_all(tower):
    """Bit for bit: same shapes, other padding."""
    quiet = features(64, real=21)
    loud = quiet.with_values(torch.where(quiet.mask_BT[..., None], quiet.values, 1e6))
    assert torch.equal(tower(quiet).summary_BD, tower(loud).summary_BD)
    assert torch.equal(tower(quiet).frames_BTD, tower(loud).frames_BTD)


def test_no_row_of_the_attention_mask_is_empty():
    """Not every kernel survives a softmax over nothing."""
    mask = _attention_mask(torch.tensor([[True, False], [False, False]]))
    assert mask[:, 0, 0].tolist() == [[True, False], [True, True]]


@torch.no_grad()
def test_keeping_every_token_changes_nothing(tower):
    mel = features(50, real=37)
    without, with_all = tower(mel), tower(mel, keep=every_token(tower, 50))
    torch.testing.assert_close(with_all.summary_BD, without.summary_BD, rtol=0, atol=1e-6)
    over_bands = with_all.frames_BTD.unflatten(1, (-1, tower.bands)).mean(2)
    torch.testing.assert_close(over_bands, without.frames_BTD, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_order_of_kept_tokens_does_not_matter(tower):
    mel = features(64)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])[:, :9]
    forward, backward = tower(mel, keep=order), tower(mel, keep=order.flip(1))
    torch.testing.assert_close(forward.summary_BD, backward.summary_BD, rtol=0, atol=1e-5)
    torch.testing.assert_close(forward.frames_BTD, backward.frames_BTD.flip(1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_dropping_the_end_equals_masking_it(tower):
    mel = features(96)
    masked = Features(mel.values, (torch.arange(96) < 48).expand(2, 96))
    first_half = every_token(tower, 48)
    dropped = tower(mel, keep=first_half).summary_BD
    torch.testing.assert_close(dropped, tower(masked).summary_BD, rtol=0, atol=1e-5)


@torch.no_grad()
def test_kept_padding_is_marked_and_not_counted(tower):
    mel = features(64, real=16)
    output = tower(mel, keep=torch.tensor([[0, 9, 3], [8, 1, 15]]))
    assert output.mask_BT.tolist() == [[True, False, True], [False, True, False]]
    assert not output.frames_BTD[~output.mask_BT].any()
    alone = tower(mel, keep=torch.tensor([[0, 3], [1, 1]]))
    torch.testing.assert_close(output.summary_BD[0], alone.summary_BD[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_time_and_band_are_told_apart(tower):
    """The same patch at another place is another token; without positions it would not be."""
    values = torch.full((1, 64, 64), -50.0)
    output = tower(Features(values, torch.ones(1, 64, dtype=torch.bool)), keep=torch.arange(16)[None])
    distances = torch.cdist(output.frames_BTD, output.frames_BTD)[0] + torch.eye(16)
    assert distances.min() > 1e-2


def test_positions_do_not_depend_on_the_length_of_the_clip(tower):
    like = torch.zeros(1)
    short, long = tower._positions(5, like=like), tower._positions(400, like=like)
    assert torch.equal(short, long[: 5 * tower.bands])
    assert long.isfinite().all() and (long - tower.band_position.repeat(400, 1)).abs().max() <= 1.0 + 1e-6


def test_dropping_tokens_saves_their_work(tower):
    lengths = []
    tower.blocks[0].register_forward_hook(lambda _module, inputs, _output: lengths.append(inputs[0].shape[1]))
    tower(features(320), keep=every_token(tower, 320)[:, ::4])
    assert lengths == [20]


@pytest.mark.parametrize(
    ("keep", "named"),
    [
        (torch.tensor([[0, 16]]), "tokens 0 to 16, but these clips have tokens 0 to 15"),
        (torch.tensor([[-1, 3]]), "tokens -1 to 3"),
        (torch.tensor([[0], [1]]), r"batch of 1, but is torch.int64 \[2, 1\]"),
        (torch.tensor([0, 1]), r"\[2\]"),
        (torch.zeros(1, 0, dtype=torch.int64), r"\[1, 0\]"),
        (torch.tensor([[0.0, 1.0]]), "torch.float32"),
    ],
)
def test_impossible_keep_is_refused(tower, keep, named):
    with pytest.raises(SpecError, match=named):
        tower(features(64, batch=1), keep=keep)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"bins": 60}, "60 mel bins.*16 bins high"),
        ({"width": 100, "heads": 3}, "width=100.*heads=3"),
        ({"width": 15, "heads": 3}, "width=15"),
    ],
)
def test_impossible_shapes_are_refused(arguments, named):
    with pytest.raises(SpecError, match=named):
        PatchTransformer(**arguments)
