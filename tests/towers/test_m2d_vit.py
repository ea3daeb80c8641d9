"""The ViT of M2D against a clip-by-clip, chunk-by-chunk reference with a real convolution."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.spec import derive
from clapkit.towers.m2d import M2DViT, tiny

# Four steps of 16 frames and two frames too many, as 1001 frames have nine.
SETTINGS = {"width": 12, "depth": 2, "heads": 3, "hidden": 20, "chunk_frames": 66, "bins": 48}


def tower(**changes) -> M2DViT:
    torch.manual_seed(0)
    built = M2DViT(**{**SETTINGS, **changes}).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return built


def batch(lengths: list[int], *, frames: int | None = None, padding: float = 7.0) -> Features:
    values = torch.randn(len(lengths), frames or max(lengths), 48, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]
    return Features(torch.where(mask[..., None], values, padding), mask)


def reference(vit: M2DViT, mel_TF: torch.Tensor) -> torch.Tensor:
    """All patches [bands, steps, D] of one clip, as published: an image with frequency down and time across."""
    grids = []
    for chunk_TF in mel_TF.split(vit.chunk_frames):
        image = F.pad(chunk_TF.T[None, None], (0, -len(chunk_TF) % 16))[..., : vit.chunk_frames]
        kernel = vit.embed.weight.unflatten(1, (16, 16))[:, None]
        grid = F.conv2d(image, kernel, vit.embed.bias, stride=16)[0].permute(1, 2, 0)  # [bands, steps, D]
        bands, steps, _ = grid.shape
        grid = grid + vit.position[1:].view(bands, -1, vit.width)[:, :steps]
        tokens = torch.cat([(vit.class_token + vit.position[0])[None], grid.reshape(-1, vit.width)])[None]
        for block in vit.blocks:
            tokens = block(tokens)
        grids.append(vit.norm(tokens)[0, 1:].view(bands, steps, -1))
    return torch.cat(grids, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[1, 15, 16, 17], [64, 65, 66, 50], [67, 82, 83, 131], [132, 133, 150, 40]])
def test_equals_the_reference_clip_by_clip(lengths):
    vit = tower(frames="patches")
    features = batch(lengths, frames=160)
    out, steps_out = vit(features), tower()(features)
    for row, length in enumerate(lengths):
        grid = reference(vit, features.values[row, :length])
        time_first = grid.transpose(0, 1)
        assert int(out.mask_BT[row].sum()) == time_first.shape[0] * 3
        found = out.frames_BTD[row][out.mask_BT[row]]
        torch.testing.assert_close(found, time_first.flatten(0, 1), rtol=0, atol=2e-5)
        torch.testing.assert_close(out.summary_BD[row], grid.mean((0, 1)), rtol=0, atol=2e-5)
        steps = steps_out.frames_BTD[row][steps_out.mask_BT[row]]
        torch.testing.assert_close(steps, time_first.mean(1), rtol=0, atol=2e-5)
    torch.testing.assert_close(out.summary_BD, steps_out.summary_BD)


@torch.no_grad()
def test_a_chunk_does_not_hear_the_others():
    vit = tower()
    features = batch([132])
    changed = features.values.clone()
    changed[:, 66:] += 3.0
    before, after = vit(features).frames_BTD, vit(features.with_values(changed)).frames_BTD
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=0.1)


@torch.no_grad()
def test_frames_that_do_not_fill_a_patch_of_a_full_chunk_are_left_out():
    vit = tower()
    features = batch([80])
    changed = features.values.clone()
    changed[:, 64:66] = 50.0
    assert torch.equal(vit(features).summary_BD, vit(features.with_values(changed)).summary_BD)


@torch.no_grad()
def test_level_is_taken_from_the_input_first():
    features = batch([70, 20])
    levelled = tower(level=(-40.0, 5.0))(features.with_values(5.0 * features.values - 40.0))
    torch.testing.assert_close(levelled.summary_BD, tower()(features).summary_BD, rtol=0, atol=1e-4)


def test_rates_of_steps_and_patches():
    assert tower(frame_rate_hz_in=100.0).frame_rate_hz == 6.25
    assert tower(frame_rate_hz_in=100.0, frames="patches").frame_rate_hz == 18.75


def test_what_does_not_fit_is_refused():
    with pytest.raises(SpecError, match=r"frames='patch'.*'patches'"):
        derive(tiny, frames="patch").build()
    with pytest.raises(SpecError, match="50 mel bins"):
        tiny.build(bins=50)
