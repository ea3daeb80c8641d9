"""The ViT of Dasheng against a clip-by-clip reference, with the fill of long clips counted and not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.spec import derive
from clapkit.towers.dasheng import Dasheng, tiny

SETTINGS = {"width": 12, "depth": 2, "heads": 3, "hidden": 20, "chunk_frames": 40, "bins": 16}


def tower(*, patch: tuple[int, int] = (4, 16), **changes) -> Dasheng:
    torch.manual_seed(0)
    built = Dasheng(patch=patch, **{**SETTINGS, **changes}).eval()
    with torch.no_grad():
        for value in built.state_dict().values():
            if value.is_floating_point():
                value += 0.3 * torch.rand_like(value)
        built.input_norm.norm.running_mean.fill_(-40.0)
        built.input_norm.norm.running_var.fill_(400.0)
    return built


def batch(lengths: list[int], *, frames: int | None = None, padding: float = -100.0) -> Features:
    values = torch.randn(len(lengths), frames or max(lengths), 16, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]
    return Features(torch.where(mask[..., None], 20 * values - 40, padding), mask)


def reference(vit: Dasheng, mel_TF: torch.Tensor, *, count_fill: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of all chunks [L, D] (mean over bands) and the mean of the chunk means, of one clip."""
    image = vit.input_norm.norm(mel_TF).T[None, None]  # [1, 1, bins, T]
    real = len(mel_TF)
    if real > 40 and count_fill:
        image = F.pad(image, (0, -real % 40))
    if real < 4:
        image = F.pad(image, (0, 4 - real))
    length, height = vit.patch
    kernel = vit.embed.weight.unflatten(1, (height, length))[:, None]
    chunks = []
    for piece in image.split(40, dim=3):
        if piece.shape[3] < length:
            continue  # less than a patch at the end
        grid = F.conv2d(piece, kernel, vit.embed.bias, stride=(height, length))[0]  # [D, bands, steps]
        grid = grid + vit.time_position.T[:, None, : grid.shape[2]] + vit.band_position.T[:, :, None]
        tokens = grid.flatten(1).T[None]
        for block in vit.blocks:
            tokens = block(tokens)
        chunks.append(vit.norm(tokens)[0].view(grid.shape[1], grid.shape[2], -1).mean(0))
    return torch.cat(chunks), torch.stack([chunk.mean(0) for chunk in chunks]).mean(0)


@torch.no_grad()
@pytest.mark.parametrize("patch", [(4, 16), (4, 8)])
@pytest.mark.parametrize("lengths", [[1, 3, 4, 7], [39, 40, 41, 43], [44, 79, 80, 81], [121, 5, 200, 40]])
def test_equals_the_reference_clip_by_clip(patch, lengths):
    vit = tower(patch=patch)
    features = batch(lengths, frames=210)
    out = vit(features)
    for row, length in enumerate(lengths):
        tokens, mean = reference(vit, features.values[row, :length], count_fill=True)
        heard = max(1, length // 4)
        assert out.mask_BT[row].sum() == heard
        torch.testing.assert_close(out.frames_BTD[row, :heard], tokens[:heard], rtol=0, atol=2e-5)
        torch.testing.assert_close(out.summary_BD[row], mean, rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("length", [3, 22, 40, 42, 60, 83])
def test_without_the_fill_nothing_but_sound_counts(length):
    vit = tower(count_fill=False)
    features = batch([length])
    out = vit(features)
    tokens, _ = reference(vit, features.values[0], count_fill=False)
    torch.testing.assert_close(out.frames_BTD[0], tokens, rtol=0, atol=2e-5)
    torch.testing.assert_close(out.summary_BD[0], tokens.mean(0), rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_fill_changes_long_clips_only():
    counted, uncounted = tower(), tower(count_fill=False)
    short, whole, long = batch([39]), batch([80]), batch([50])
    for features in (short, whole):
        assert torch.equal(counted(features).summary_BD, uncounted(features).summary_BD)
    assert not torch.allclose(counted(long).summary_BD, uncounted(long).summary_BD, atol=1e-3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(SpecError, match="chunk_frames=42 must be a multiple of the 4 frames"):
        derive(tiny, chunk_frames=42).build()
    with pytest.raises(SpecError, match="80 mel bins"):
        tiny.build(bins=80)
