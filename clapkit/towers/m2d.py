"""The ViT of M2D and M2D-CLAP: mel patches, encoded in chunks of the length it was trained with (card 022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from clapkit.errors import SpecError, nearest_name
from clapkit.nets.chunks import check_grid, frames_in_chunks, patches_of_chunks, refuse_keep
from clapkit.nets.masked import masked_mean
from clapkit.nets.mel_input import check_mel
from clapkit.nets.output import TowerOutput
from clapkit.nets.transformer import Block, initialise, run_blocks
from clapkit.spec import spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features

Frames = Literal["steps", "patches"]


class M2DViT(nn.Module):
    """Pre-norm ViT over standardised mel frames [B, T, bins] -> frames [B, T', width], summary [B, width].

    bins              mel bins of the front-end, a multiple of the height of a patch
    frame_rate_hz_in  frames per second of the front-end
    patch             (frames, bins) of a patch; patches do not overlap
    width             size of a token, a multiple of `heads`
    depth, heads      number of blocks, and of attention heads in each
    hidden            width of the feed-forward layers
    chunk_frames      longest stretch of frames that is encoded at once; there are positions for its whole patches
    level             (mean, deviation) to be taken from the input first, for a front-end that does not standardise
    frames            what `frames_BTD` holds: "steps", one frame for each time step, the mean of its patches over
                      frequency; "patches", every patch, ordered in time first (from low to high inside a step)

    A longer clip is cut into chunks, each encoded on its own with a class token of its own, which is thrown away. The
    last chunk is filled up with zeros (the mean level) to a whole patch; in the others, frames that do not fill a patch
    are left out (9 of 1001). The summary is the mean over all patches behind the last norm. Each clip is chunked by its
    own length: padding never influences it.
    Raises SpecError for features that do not fit, and for `keep`.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        patch: tuple[int, int] = (16, 16),
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        chunk_frames: int = 608,
        level: tuple[float, float] = (0.0, 1.0),
        frames: Frames = "steps",
    ) -> None:
        super().__init__()
        check_grid(bins=bins, patch=patch, chunk_frames=chunk_frames)
        if frames not in get_args(Frames):
            raise SpecError(f"M2DViT: frames={frames!r}; {nearest_name(frames, get_args(Frames))}")
        self.bins, self.width, self.patch = bins, width, (patch[0], patch[1])
        self.chunk_frames, self.level, self.frames = chunk_frames, (level[0], level[1]), frames
        self.bands, self.steps = bins // patch[1], chunk_frames // patch[0]
        self.frame_rate_hz = frame_rate_hz_in / patch[0] * (self.bands if frames == "patches" else 1)
        self.embed = nn.Linear(patch[0] * patch[1], width)
        self.class_token = nn.Parameter(torch.empty(width))
        # The class token has the first position, then come all steps of the lowest band, then those of the next.
        self.position = nn.Parameter(torch.empty(1 + self.bands * self.steps, width))
        self.blocks = nn.ModuleList(Block(width, heads=heads, hidden=hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for start in (self.class_token, self.position):
            nn.init.normal_(start, std=0.02)
        self.apply(initialise)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        check_mel(features, bins=self.bins, tower="M2DViT")
        refuse_keep(keep, tower="M2DViT")
        mean, deviation = self.level
        levelled_BTF = ((features.values - mean) / deviation).masked_fill(~features.mask_BT[..., None], 0.0)
        frames = levelled_BTF.shape[1]
        steps = min(self.steps, _whole(frames, self.patch[0]))
        patches = patches_of_chunks(levelled_BTF, chunk_frames=self.chunk_frames, patch=self.patch, steps=steps)
        heard_BC = frames_in_chunks(features.mask_BT.sum(1), chunks=patches.shape[1], chunk_frames=self.chunk_frames)
        steps_BC = _whole(heard_BC, self.patch[0]).clamp(max=self.steps)
        real_BCS = torch.arange(steps, device=steps_BC.device) < steps_BC[..., None]
        encoded = self._encode(patches.flatten(0, 1), steps_BC.flatten()).unflatten(0, steps_BC.shape)
        # [B, C, S, bands, D] -> the steps of all chunks one behind the other, those that no clip could fill left out
        last = frames - (patches.shape[1] - 1) * self.chunk_frames
        kept = (patches.shape[1] - 1) * steps + min(self.steps, _whole(last, self.patch[0]))
        real_BT = real_BCS.flatten(1)[:, :kept]
        grid = encoded.flatten(1, 2)[:, :kept].masked_fill(~real_BT[..., None, None], 0.0)
        frames_BTD = grid.mean(2)
        summary_BD = masked_mean(frames_BTD, real_BT)
        if self.frames == "patches":
            return TowerOutput(grid.flatten(1, 2), real_BT.repeat_interleave(self.bands, dim=1), summary_BD)
        return TowerOutput(frames_BTD, real_BT, summary_BD)

    def _encode(self, patches: Tensor, steps_N: Tensor) -> Tensor:
        """Chunks [N, S, bands, P], of which the first `steps_N` steps are real, -> [N, S, bands, D]."""
        chunks, steps, bands, _ = patches.shape
        position = self.position[1:].unflatten(0, (self.bands, self.steps)).transpose(0, 1)[:steps]
        tokens_NLD = (self.embed(patches) + position).flatten(1, 2)
        class_token = (self.class_token + self.position[0]).expand(chunks, 1, -1)
        real_N = (1 + bands * steps_N) * (steps_N > 0)
        real_NL = torch.arange(1 + steps * bands, device=real_N.device) < real_N[:, None]
        tokens_NLD = run_blocks(self.blocks, torch.cat([class_token, tokens_NLD], dim=1), real_NL)
        return self.norm(tokens_NLD)[:, 1:].unflatten(1, (steps, bands))


def _whole(frames, length: int):
    """Patches that hold `frames` frames, the last one filled up."""
    return (frames + length - 1) // length


tiny = spec(M2DViT, width=32, depth=2, heads=2, hidden=64, chunk_frames=64, level=(-40.0, 20.0))
small = spec(M2DViT, width=192, depth=6, heads=3, hidden=768, chunk_frames=608, level=(-40.0, 20.0))
base_608 = spec(M2DViT)
base_1001 = spec(M2DViT, chunk_frames=1001)
