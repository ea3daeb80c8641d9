"""HTS-AT against a slow reading of the paper, its fusion, its windows and chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.nets.swin import apart_scores, distance_index, in_grid_order, in_window_order, window_order
from clapkit.spec import derive
from clapkit.towers import htsat
from clapkit.towers.htsat import HTSAT

SIZES: dict[str, Any] = {
    "width": 8,
    "depths": (2, 1, 2),
    "heads": (2, 4, 4),
    "bins": 32,
    "image": 64,
    "window": 4,
    "patch": 4,
}


def lively(seed: int = 0, **changes) -> HTSAT:
    """A tower with weights away from their start and with the statistics of a log-mel."""
    torch.manual_seed(seed)
    tower: Any = HTSAT(**(SIZES | changes)).eval()
    with torch.no_grad():
        for name, value in tower.state_dict().items():
            if value.is_floating_point():
                value += 0.3 * torch.randn_like(value) / max(1, value.ndim)
                if name.endswith("running_var"):
                    value.abs_().add_(0.5)
        tower.input_norm.norm.running_mean.fill_(-40.0)
        tower.input_norm.norm.running_var.fill_(400.0)
    return tower


def mel(batch: int, frames: int, bins: int = 32, seed: int = 0) -> Tensor:
    return 20 * torch.randn(batch, frames, bins, generator=torch.Generator().manual_seed(seed)) - 40


def whole(values: Tensor, is_longer_B: Tensor | None = None) -> Features:
    return Features(values, torch.ones(len(values), values.shape[-2], dtype=torch.bool), is_longer_B)


# The slow reading: one clip, one window, one head at a time, rows and columns as the papers count them.


def slow_attention(attention: Any, tokens_ND: Tensor, allowed_NN: Tensor, window: int) -> Tensor:
    count, width = tokens_ND.shape
    size = width // attention.heads
    query, key, value = attention.qkv(tokens_ND).split(width, dim=1)
    out = torch.zeros(count, width)
    for head in range(attention.heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / size**0.5
        for i in range(count):
            for j in range(count):
                rows, columns = i // window - j // window, i % window - j % window
                row = (rows + window - 1) * (2 * window - 1) + columns + window - 1
                scores[i, j] += attention.bias_table[row, head] + (0 if allowed_NN[i, j] else -100)
        out[:, part] = scores.softmax(1) @ value[:, part]
    return attention.out(out)


def slow_block(block: Any, grid: Tensor, window: int, shift: int) -> Tensor:
    side = len(grid)
    normed = block.norm1(grid)
    seen = torch.zeros_like(grid)
    for top in range(0, side, window):
        for left in range(0, side, window):
            places = [
                ((top + r + shift) % side, (left + c + shift) % side) for r in range(window) for c in range(window)
            ]
            # Two places belong together if none of them has come around the edge, or both have in the same way.
            around = [(top + r + shift >= side, left + c + shift >= side) for r in range(window) for c in range(window)]
            allowed = torch.tensor([[a == b for b in around] for a in around])
            rows, columns = zip(*places, strict=True)
            tokens = slow_attention(block.attention, normed[rows, columns], allowed, window)
            seen[rows, columns] = tokens
    grid = grid + seen
    return grid + block.fall(F.gelu(block.rise(block.norm2(grid))))


def slow_merge(merge: Any, grid: Tensor) -> Tensor:
    pairs = [grid[0::2, 0::2], grid[1::2, 0::2], grid[0::2, 1::2], grid[1::2, 1::2]]
    return merge.reduce(merge.norm(torch.cat(pairs, dim=-1)))


def slow_stages(tower: Any, image: Tensor, window: int, mixed: Tensor | None = None) -> Tensor:
    """The last grid [rows, columns, D] of one image [rows, columns]."""
    side = len(image) // tower.patch
    kernel = tower.embed.weight.view(-1, 1, tower.patch, tower.patch)
    tokens = F.conv2d(image[None, None], kernel, tower.embed.bias, stride=tower.patch)[0].permute(1, 2, 0)
    grid = tower.embed_norm(tokens if mixed is None else mixed)
    for stage in tower.stages:
        fits = min(window, side)
        for number, block in enumerate(stage.blocks):
            grid = slow_block(block, grid, fits, fits // 2 if number % 2 and side > fits else 0)
        if stage.merge is not None:
            grid = slow_merge(stage.merge, grid)
        side = len(grid)
    return tower.norm(grid)


def slow_image(tower: HTSAT, mel_TF: Tensor) -> Tensor:
    """Level, stretch, and lay the pieces of time one below the other, each with its bins as rows."""
    levelled = tower.input_norm(mel_TF[None], None)
    pieces = tower.image // tower.bins
    stretched = F.interpolate(levelled[None], (tower.image * pieces, tower.bins), mode="bicubic", align_corners=True)
    return torch.cat([piece.T for piece in stretched[0, 0].chunk(pieces)])


@pytest.mark.parametrize("frames_in", [128, 100])
def test_equals_a_slow_reading_of_the_paper(frames_in):
    tower = lively(frames_in=frames_in)
    values = mel(1, frames_in)
    with torch.no_grad():
        last = slow_stages(tower, slow_image(tower, values[0]), SIZES["window"])
        found = tower(whole(values))
    pieces = 2
    steps = torch.cat([piece.mean(0) for piece in last.chunk(pieces)])
    torch.testing.assert_close(found.frames_BTD[0], steps, rtol=0, atol=2e-5)
    torch.testing.assert_close(found.summary_BD[0], last.flatten(0, 1).mean(0), rtol=0, atol=2e-5)


def slow_gate(gate: Any, tokens: Tensor) -> Tensor:
    return gate.norm2(gate.up(gate.norm1(gate.down(tokens)).relu()))


def test_fusion_equals_a_slow_reading_of_the_paper():
    tower = lively(frames_in=100, fusion=True)
    assert tower.fusion is not None
    values = mel(2, 400).view(2, 4, 100, 32)
    longer = torch.tensor([False, True])
    with torch.no_grad():
        found = tower(whole(values, longer))
        images = [slow_image(tower, values[1, i]) for i in range(4)]
        side, patch = 16, 4
        kernel = tower.embed.weight.view(-1, 1, patch, patch)
        first = F.conv2d(images[0][None, None], kernel, tower.embed.bias, stride=patch)[0].permute(1, 2, 0)
        long_kernel = tower.fusion.embed.weight.view(-1, 1, patch, 3 * patch)
        parts = [
            F.conv2d(image[None, None], long_kernel, tower.fusion.embed.bias, stride=(patch, 3 * patch))[0]
            for image in images[1:]
        ]
        local = torch.cat(parts, dim=2).permute(1, 2, 0)
        local = torch.cat([local, torch.zeros(side, side - local.shape[1], 8)], dim=1)
        both = (first + local).reshape(-1, 8)
        gate = slow_gate(tower.fusion.local_gate, both) + slow_gate(tower.fusion.whole_gate, both.mean(0, keepdim=True))
        gate = gate.sigmoid().view(side, side, 8)
        mixed = 2 * first * gate + 2 * local * (1 - gate)
        last = slow_stages(tower, images[0], SIZES["window"], mixed)
        alone = tower(whole(values[:1, 0]))
    torch.testing.assert_close(found.summary_BD[1], last.flatten(0, 1).mean(0), rtol=0, atol=2e-5)
    assert torch.equal(found.summary_BD[0], alone.summary_BD[0]), "a short clip does not hear its other channels"


def test_fusion_of_short_clips_alone_runs_no_local_branch():
    tower = lively(frames_in=100, fusion=True)
    values = mel(2, 400).view(2, 4, 100, 32)
    values[:, 1:] = float("nan")
    found = tower(whole(values, torch.tensor([False, False])))
    assert found.summary_BD.isfinite().all()
    torch.testing.assert_close(found.summary_BD, tower(whole(values[:, 0])).summary_BD)


def test_fusion_trains_even_on_a_single_long_clip():
    tower = lively(frames_in=100, fusion=True).train()
    values = mel(2, 400).view(2, 4, 100, 32)
    output = tower(whole(values, torch.tensor([False, True])))
    (output.summary_BD * torch.randn(2, tower.width, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # Alone in its batch, a clip is its own mean: the gate over the whole clip is the bias of its last norm.
        beyond_a_norm_of_one = "whole_gate" in name and not name.endswith("norm2.bias")
        assert parameter.grad.abs().max() > 1e-9 or beyond_a_norm_of_one, name


def test_fusion_exports_with_long_clips_as_data():
    tower = lively(frames_in=100, fusion=True)
    values = mel(2, 400).view(2, 4, 100, 32)
    mask = torch.ones(2, 100, dtype=torch.bool)

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower

        def forward(self, values, mask, longer):
            return self.tower(Features(values, mask, longer)).summary_BD

    graph = torch.export.export(Flat().eval(), (values, mask, torch.tensor([True, True]))).module()
    for longer in ([False, False], [False, True]):
        flags = torch.tensor(longer)
        wanted = tower(Features(values, mask, flags)).summary_BD
        torch.testing.assert_close(graph(values, mask, flags), wanted, rtol=0, atol=1e-5)


def test_a_long_input_is_its_chunks_side_by_side():
    tower = lively(frames_in=100)
    values = mel(2, 250)
    with torch.no_grad():
        found = tower(whole(values))
        chunks = [tower(whole(values[:, start : start + 100])) for start in (0, 100, 200)]
    assert tower.steps == 8
    assert found.frames_BTD.shape[1] == 8 + 8 + 4
    torch.testing.assert_close(found.frames_BTD, torch.cat([c.frames_BTD for c in chunks], dim=1))
    torch.testing.assert_close(found.summary_BD, found.frames_BTD.mean(1))


def test_silence_behind_a_clip_is_heard_only_if_the_mask_says_so():
    tower = lively(frames_in=100)
    values = mel(1, 100)
    values[:, 40:] = -100.0
    short = Features(values, (torch.arange(100) < 40)[None])
    with torch.no_grad():
        heard, masked = tower(whole(values)), tower(short)
    assert masked.mask_BT.sum() == 4 and heard.mask_BT.all()
    assert (heard.summary_BD - masked.summary_BD).abs().max() > 1e-2


def test_a_gap_inside_a_clip_has_no_frames():
    tower = lively(frames_in=128)
    mask = torch.ones(1, 128, dtype=torch.bool)
    mask[:, 30:65] = False
    found = tower(Features(mel(1, 128), mask))
    assert found.mask_BT[0].tolist() == [True] * 2 + [False] * 2 + [True] * 4  # 16 input frames a step


def test_published_sizes():
    with torch.device("meta"):
        towers = [part.build() for part in (htsat.htsat_tiny, htsat.htsat_base, htsat.htsat_large)]
    millions = [sum(p.numel() for p in tower.parameters()) / 1e6 for tower in towers]
    assert millions == pytest.approx([27.5, 67.5, 270.9], abs=0.6)
    assert [tower.width for tower in towers] == [768, 1024, 2048]
    assert all((tower.steps, tower.pieces, tower.frames_in) == (32, 4, 1024) for tower in towers)
    fast = derive(htsat.htsat_tiny, frames_in=1001, frame_rate_hz_in=100.0)
    with torch.device("meta"):
        assert fast.build().frame_rate_hz == pytest.approx(100 * 32 / 1001)


def test_window_order_there_and_back():
    grid = torch.arange(2 * 8 * 8 * 3).view(2, 8, 8, 3)
    tokens = in_window_order(grid, window=4)
    assert torch.equal(tokens, grid.flatten(1, 2)[:, window_order(8, 4)])
    assert torch.equal(in_grid_order(tokens, side=8, window=4), grid)
    assert tokens[0, :5, 0].tolist() == [0, 3, 6, 9, 24]  # four tokens of a row, then the row below


def test_tables_of_distances_and_edges():
    index = distance_index(3).view(9, 9)
    assert index[4, 4] == 12 and index[0, 8] == 0 and index[8, 0] == 24 and len(index.unique()) == 25
    apart = apart_scores(8, window=4)
    assert apart.shape == (4, 16, 16) and not apart[0].any()
    assert set(apart.unique().tolist()) == {-100.0, 0.0}
    assert apart[1, 0, 3] == -100 and apart[1, 0, 4] == 0, "the columns that came around the edge stand apart"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"heads": (2, 4)}, r"depths=\(2, 1, 2\), heads=\(2, 4\)"),
        ({"image": 80}, "32 mel bins into an image of 80"),
        ({"bins": 4, "image": 64}, "bins must divide the image and be a multiple of 16"),
        ({"window": 5}, "grid of 16 tokens of stage 0.*windows of 5"),
        ({"heads": (2, 3, 4)}, "width=8 gives stage 1 16 channels, no multiple of its 3 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(SpecError, match=named):
        HTSAT(**(SIZES | changes))


def test_four_mels_that_do_not_fit_are_refused():
    tower, values = lively(frames_in=100, fusion=True), mel(2, 400).view(2, 4, 100, 32)
    longer = torch.tensor([False, True])
    with pytest.raises(SpecError, match=r"\[B, 4, 100, 32\].*\[2, 3, 100, 32\]"):
        tower(whole(values[:, :3], longer))
    with pytest.raises(SpecError, match=r"mask \[2, 99\]"):
        tower(Features(values, torch.ones(2, 99, dtype=torch.bool), longer))
    with pytest.raises(SpecError, match=r"is_longer_B, bool \[2\].*not None"):
        tower(whole(values))
    with pytest.raises(SpecError, match=r"not torch.int64 \[2\]"):
        tower(whole(values, longer.long()))
    with pytest.raises(SpecError, match=r"shape \[2, 4, 100, 32\]"):
        lively(frames_in=100)(whole(values, longer))
