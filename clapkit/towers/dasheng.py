"""The ViT of Dasheng, the audio side of GLAP: patches as high as the spectrogram, 25 tokens a second (card 034)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clapkit.errors import SpecError
from clapkit.nets.chunks import check_grid, frames_in_chunks, patches_of_chunks, refuse_keep
from clapkit.nets.masked import masked_mean, padding_mask
from clapkit.nets.mel_input import MelNorm, check_mel
from clapkit.nets.output import TowerOutput
from clapkit.nets.transformer import Block, initialise, run_blocks
from clapkit.spec import spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features


class Dasheng(nn.Module):
    """Pre-norm ViT over log-mel dB [B, T, bins] -> frames [B, T', width], summary [B, width].

    bins              mel bins of the front-end, a multiple of the height of a patch
    frame_rate_hz_in  frames per second of the front-end
    patch             (frames, bins) of a patch; patches do not overlap
    width             size of a token, a multiple of `heads`
    depth, heads      number of blocks, and of attention heads in each
    hidden            width of the feed-forward layers
    chunk_frames      longest stretch of frames that is encoded at once, a multiple of the patch
    count_fill        a clip longer than a chunk is filled up with zeros behind the batch norm to whole chunks. True:
                      the fill is attended to and counted in the summary, as in GLAP; False: it is neither

    A time step is real if sound fills its patch, so T' = T / patch frames, rounded down (but one step at least). Frames
    are the means of the steps over the bands. The summary is the mean over the tokens of all chunks.
    Each clip is chunked and filled by its own length: padding never influences it.
    Raises SpecError for features that do not fit, and for `keep`.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        patch: tuple[int, int] = (4, 64),
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        chunk_frames: int = 1008,
        count_fill: bool = True,
    ) -> None:
        super().__init__()
        check_grid(bins=bins, patch=patch, chunk_frames=chunk_frames)
        if chunk_frames % patch[0]:
            raise SpecError(f"chunk_frames={chunk_frames} must be a multiple of the {patch[0]} frames of a patch")
        self.bins, self.width, self.patch = bins, width, (patch[0], patch[1])
        self.chunk_frames, self.count_fill = chunk_frames, count_fill
        self.bands, self.steps = bins // patch[1], chunk_frames // patch[0]
        self.frame_rate_hz = frame_rate_hz_in / patch[0]
        self.input_norm = MelNorm(bins)
        self.embed = nn.Linear(patch[0] * patch[1], width)
        self.time_position = nn.Parameter(torch.empty(self.steps, width))
        self.band_position = nn.Parameter(torch.empty(self.bands, width))
        self.blocks = nn.ModuleList(Block(width, heads=heads, hidden=hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for start in (self.time_position, self.band_position):
            nn.init.normal_(start, std=0.02)
        self.apply(initialise)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        check_mel(features, bins=self.bins, tower="Dasheng")
        refuse_keep(keep, tower="Dasheng")
        levelled_BTF = self.input_norm(features.values, padding_mask(features.mask_BT))
        length_B, frames = features.mask_BT.sum(1), features.values.shape[1]
        steps = self.steps if frames > self.chunk_frames else max(1, frames // self.patch[0])
        patches = patches_of_chunks(levelled_BTF, chunk_frames=self.chunk_frames, patch=self.patch, steps=steps)
        counted_BC = self._counted(length_B, chunks=patches.shape[1])
        step_S = torch.arange(steps, device=length_B.device)
        counted_BT = (step_S < counted_BC[..., None]).flatten(1)
        encoded = self._encode(patches.flatten(0, 1), counted_BC.flatten())
        frames_BTD = encoded.unflatten(0, counted_BC.shape).flatten(1, 2)
        summary_BD = masked_mean(frames_BTD, counted_BT)
        kept = max(1, frames // self.patch[0])
        heard_B = (length_B // self.patch[0]).clamp(min=1) * (length_B > 0)
        mask_BT = torch.arange(kept, device=length_B.device) < heard_B[:, None]
        return TowerOutput(frames_BTD[:, :kept].masked_fill(~mask_BT[..., None], 0.0), mask_BT, summary_BD)

    def _counted(self, length_B: Tensor, *, chunks: int) -> Tensor:
        """[B, C]: the steps of each chunk that are attended to and averaged."""
        heard_BC = frames_in_chunks(length_B, chunks=chunks, chunk_frames=self.chunk_frames)
        counted_BC = heard_BC // self.patch[0]
        if self.count_fill:
            long_B1 = length_B[:, None] > self.chunk_frames
            counted_BC = torch.where(long_B1 & (heard_BC > 0), self.steps, counted_BC)
        # A clip shorter than a patch is filled up to one.
        too_short_BC = (heard_BC > 0) & (length_B[:, None] < self.patch[0])
        return counted_BC.masked_fill(too_short_BC, 1)

    def _encode(self, patches: Tensor, counted_N: Tensor) -> Tensor:
        """Chunks [N, S, bands, P], of which the first `counted_N` steps count, -> the mean over bands, [N, S, D]."""
        _, steps, bands, _ = patches.shape
        position = self.time_position[:steps, None] + self.band_position
        tokens_NLD = (self.embed(patches) + position).flatten(1, 2)
        real_NL = torch.arange(steps * bands, device=counted_N.device) < bands * counted_N[:, None]
        tokens_NLD = self.norm(run_blocks(self.blocks, tokens_NLD, real_NL))
        return tokens_NLD.unflatten(1, (steps, bands)).mean(2)


tiny = spec(Dasheng, width=32, depth=2, heads=2, hidden=64, chunk_frames=64)
small = spec(Dasheng, width=192, depth=6, heads=3, hidden=768)
base = spec(Dasheng)
huge_06b = spec(Dasheng, width=1280, depth=32, heads=16, hidden=5120)
huge_12b = spec(Dasheng, width=1536, depth=40, heads=24, hidden=6144)
