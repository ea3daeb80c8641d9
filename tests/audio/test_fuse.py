"""Long clips as four mels of one window each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clapkit.audio.fuse import crop_long, fuse_long
from clapkit.errors import AudioError


def mel(frames: int) -> torch.Tensor:
    """Every value says where it stands."""
    return torch.arange(frames, dtype=torch.float32)[:, None] + torch.arange(3) * 1e4


@pytest.mark.parametrize("total", [11, 12, 13, 17, 40, 101, 977])
def test_chunks_start_in_the_middle_of_each_third(total):
    thirds = np.array_split(range(total - 10 + 1), 3)
    starts = [third[len(third) // 2] if len(third) else 0 for third in thirds]
    fused = fuse_long(mel(total), 10)
    assert fused.shape == (4, 10, 3)
    assert fused[1:, 0, 0].tolist() == starts
    for chunk, start in zip(fused[1:], starts, strict=True):
        assert torch.equal(chunk, mel(total)[start : start + 10])


@pytest.mark.parametrize("total", [11, 25, 100])
def test_the_whole_is_resized_between_nearest_frames(total):
    """Frame i of ten stands at (i + 1/2) * total / 10 - 1/2 of the whole, between its two neighbours."""
    places = (np.arange(10) + 0.5) * total / 10 - 0.5
    wanted = np.interp(places, np.arange(total), np.arange(total))
    np.testing.assert_allclose(fuse_long(mel(total), 10)[0, :, 0], wanted, atol=1e-4)
    noise = torch.rand(total, 3)
    wanted = np.interp(places, np.arange(total), noise[:, 1].numpy())
    np.testing.assert_allclose(fuse_long(noise, 10)[0, :, 1], wanted, atol=1e-5)


def test_a_mel_of_just_one_window_is_that_four_times():
    assert torch.equal(fuse_long(mel(10), 10), mel(10).expand(4, 10, 3))
    assert torch.equal(crop_long(mel(10), 10), mel(10).expand(4, 10, 3))


def test_crops_are_middle_front_middle_back():
    assert crop_long(mel(37), 10)[:, 0, 0].tolist() == [13, 0, 13, 27]


@pytest.mark.parametrize("fuse", [fuse_long, crop_long])
def test_a_mel_that_cannot_be_fused_is_refused(fuse):
    with pytest.raises(AudioError, match=r"\[9, 3\].*at least 10 frames"):
        fuse(mel(9), 10)
    with pytest.raises(AudioError, match=r"\[1, 12, 3\]"):
        fuse(mel(12)[None], 10)
