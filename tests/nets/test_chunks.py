"""Chunks and their patches against slices written out."""

from __future__ import annotations

import pytest
import torch

from clapkit.errors import SpecError
from clapkit.nets.chunks import check_grid, frames_in_chunks, patches_of_chunks, refuse_keep


def test_frames_in_chunks():
    found = frames_in_chunks(torch.tensor([0, 1, 10, 11, 25, 30]), chunks=3, chunk_frames=10)
    assert found.tolist() == [[0, 0, 0], [1, 0, 0], [10, 0, 0], [10, 1, 0], [10, 10, 5], [10, 10, 10]]


@pytest.mark.parametrize(("frames", "steps"), [(3, 1), (7, 2), (9, 2), (10, 2), (11, 2), (29, 2)])
def test_patches_are_slices_with_frequency_first(frames, steps):
    """Chunks of 10 frames hold two patches of 4 frames; two frames of each full chunk are left out."""
    values = torch.randn(2, frames, 6, generator=torch.Generator().manual_seed(frames))
    found = patches_of_chunks(values, chunk_frames=10, patch=(4, 3), steps=steps)
    chunks = -(-frames // 10)
    assert found.shape == (2, chunks, steps, 2, 12)
    filled = torch.cat([values, torch.zeros(2, 40, 6)], dim=1)
    for chunk in range(chunks):
        for step in range(steps):
            start = 10 * chunk + 4 * step
            end = min(start + 4, 10 * (chunk + 1))
            for band in range(2):
                patch_TF = filled[0, start:end, 3 * band : 3 * band + 3]
                torch.testing.assert_close(found[0, chunk, step, band], patch_TF.T.flatten())


def test_what_does_not_fit_is_refused():
    with pytest.raises(SpecError, match=r"80 mel bins .* 64 bins high"):
        check_grid(bins=80, patch=(4, 64), chunk_frames=100)
    with pytest.raises(SpecError, match="chunk_frames=15 is shorter than one patch of 16 frames"):
        check_grid(bins=80, patch=(16, 16), chunk_frames=15)
    with pytest.raises(SpecError, match=r"Dasheng .* cannot leave tokens out, but was given keep of shape \[2, 3\]"):
        refuse_keep(torch.zeros(2, 3, dtype=torch.int64), tower="Dasheng")
    refuse_keep(None, tower="Dasheng")
