"""Mel frames in chunks that a transformer encodes one by one, and the patches of each."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from clapkit.errors import SpecError


def check_grid(*, bins: int, patch: tuple[int, int], chunk_frames: int) -> None:
    """Raise SpecError unless the bins are a whole number of patches high and a chunk holds at least one patch."""
    if bins % patch[1]:
        raise SpecError(f"{bins} mel bins cannot be cut into patches {patch[1]} bins high: choose a divisor")
    if chunk_frames < patch[0]:
        raise SpecError(f"chunk_frames={chunk_frames} is shorter than one patch of {patch[0]} frames")


def refuse_keep(keep: Tensor | None, *, tower: str) -> None:
    """Raise SpecError if tokens are to be dropped in a tower whose tokens belong to chunks."""
    if keep is not None:
        raise SpecError(
            f"{tower} encodes a clip chunk by chunk and cannot leave tokens out, but was given keep of shape "
            f"{list(keep.shape)}. Call it without keep, or use a transformer such as PatchTransformer."
        )


def frames_in_chunks(length_B: Tensor, *, chunks: int, chunk_frames: int) -> Tensor:
    """[B, C]: how many of the first `length_B` frames of each row fall into each chunk."""
    starts_C = chunk_frames * length_B.new_ones(chunks).cumsum(0) - chunk_frames
    return (length_B[:, None] - starts_C).clamp(0, chunk_frames)


def patches_of_chunks(values_BTF: Tensor, *, chunk_frames: int, patch: tuple[int, int], steps: int) -> Tensor:
    """[B, C, S, bands, bins * frames of a patch]: the first `steps` time steps of every chunk.

    The frames are cut into chunks of `chunk_frames`, the last one filled up with zeros; frames of a chunk behind its
    `steps` patches are left out. Inside a patch frequency comes first, as in the kernels of published models.
    """
    length, height = patch
    frames = values_BTF.shape[1]
    chunks = (frames + chunk_frames - 1) // chunk_frames
    wanted = steps * length if chunks == 1 else chunks * chunk_frames
    filled = F.pad(values_BTF, (0, 0, 0, wanted - frames)).unflatten(1, (chunks, -1))[:, :, : steps * length]
    grid = filled.unflatten(3, (-1, height)).unflatten(2, (steps, length))  # [B, C, S, length, bands, height]
    return grid.permute(0, 1, 2, 4, 5, 3).flatten(4)
