"""HTS-AT: a Swin transformer that reads a log-mel spectrogram folded into a square image (arXiv:2202.00874)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.nets.fusion import CHUNKS, ChunkFusion
from clapkit.nets.masked import masked_mean, padding_mask
from clapkit.nets.mel_input import MelNorm, check_mel
from clapkit.nets.output import TowerOutput
from clapkit.nets.swin import SwinStage, in_grid_order, initialise
from clapkit.spec import spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features

# More frames than this to one of the image: whoever asks for it would shrink sound to nothing.
_MOST_SHRUNK = 64


class HTSAT(nn.Module):
    """Log-mel dB [B, T, bins] -> frames [B, T', D] and summary [B, D], D = width * 2 ** (stages - 1).

    bins              mel bins of the front-end; they divide `image`
    frame_rate_hz_in  frames per second of the front-end
    frames_in         frames of one full chunk, e.g. 1001 for 10 s at 48 kHz with hop 480; they are stretched (bicubic)
                      to `image * image / bins` frames. None: just as many, so that nothing is stretched
    width             size of a token in the first stage; each stage doubles it
    depths, heads     blocks, and attention heads of each, for every stage
    window            side of an attention window, in tokens (a smaller grid is one window)
    image             side of the image: `image / bins` pieces of time lie one below the other
    patch             side of a patch
    expansion         how many times wider the feed-forward layer is
    fusion            whether longer clips may come as four mels at once (below)
    fusion_width      width inside the gates of the fusion; None: width / 4

    The input is levelled per mel bin by batch normalisation; whatever is missing to a full chunk, as well as padding,
    is filled with the mean (zeros behind that norm). A longer input is cut into chunks, each encoded on its own, and
    their frames are joined. A frame is the mean over frequency of one time step of the last grid (32 steps of a chunk
    for the published sizes); it is real if any of its input frames is. The summary is the mean over real frames,
    which for full chunks is the mean over all tokens, as published.

    With `fusion`, values may be [B, 4, frames_in, bins] (`audio.fuse.fuse_long`): the whole clip resized to one chunk,
    and its front, middle and back chunk. Rows where `is_longer_B` is False use the first mel alone, as if it came
    without the others.
    Raises SpecError for sizes that do not divide each other, and for features that do not fit.
    """

    stretch_TT: Tensor | None
    step_start: Tensor
    step_end: Tensor

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        frames_in: int | None = None,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (4, 8, 16, 32),
        window: int = 8,
        image: int = 256,
        patch: int = 4,
        expansion: float = 4.0,
        fusion: bool = False,
        fusion_width: int | None = None,
    ) -> None:
        super().__init__()
        sides = _check_sizes(bins, width, tuple(depths), tuple(heads), window, image, patch)
        windows = [min(window, side) for side in sides]
        self.bins, self.image, self.patch = bins, image, patch
        self.pieces = image // bins  # of time, one below the other in the image
        self.frames_in = image * self.pieces if frames_in is None else frames_in
        if not 0 < self.frames_in <= _MOST_SHRUNK * image * self.pieces:
            raise SpecError(
                f"HTSAT: frames_in={frames_in}, expected 1 to {_MOST_SHRUNK} times the {image * self.pieces} frames "
                "of its image"
            )
        self.first_window, self.last_window, self.last_side = windows[0], windows[-1], sides[-1]
        self.steps = sides[-1] * self.pieces
        self.width = width * 2 ** (len(depths) - 1)
        self.frame_rate_hz = frame_rate_hz_in * self.steps / self.frames_in
        self.input_norm = MelNorm(bins)
        self.embed = nn.Linear(patch * patch, width)
        self.embed_norm = nn.LayerNorm(width)
        self.fusion = None
        if fusion:
            inner = fusion_width or width // 4
            self.fusion = ChunkFusion(width, patch=patch, side=sides[0], window=windows[0], inner=inner)
        self.stages = nn.ModuleList(
            SwinStage(
                width * 2**i,
                depth=depths[i],
                heads=heads[i],
                side=sides[i],
                window=windows[i],
                expansion=expansion,
                next_window=windows[i + 1] if i + 1 < len(sides) else None,
            )
            for i in range(len(sides))
        )
        self.norm = nn.LayerNorm(self.width)
        stretched = image * self.pieces
        stretch_TT = None if self.frames_in == stretched else stretch_matrix(self.frames_in, stretched)
        self.register_buffer("stretch_TT", stretch_TT, persistent=False)
        edges = torch.arange(self.steps + 1) * self.frames_in
        self.register_buffer("step_start", edges[:-1] // self.steps, persistent=False)
        self.register_buffer("step_end", -(-edges[1:] // self.steps), persistent=False)
        self.apply(initialise)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        if keep is not None:
            raise SpecError(
                f"HTSAT works on whole windows and cannot leave tokens out, but was given keep of shape "
                f"{list(keep.shape)}. Call it without keep, or use a transformer such as PatchTransformer."
            )
        if features.values.ndim == 4 and self.fusion is not None:
            tokens_KLD = self._fused(features, self.fusion)
        else:
            check_mel(features, bins=self.bins, tower="HTSAT")
            levelled_BTF = self.input_norm(features.values, padding_mask(features.mask_BT))
            missing = -levelled_BTF.shape[1] % self.frames_in
            chunks_KTF = F.pad(levelled_BTF, (0, 0, 0, missing)).view(-1, self.frames_in, self.bins)
            tokens_KLD = self.embed(self._patches(self._folded(chunks_KTF)))
        frames_KTD = self._frames(self.embed_norm(tokens_KLD.to(features.values.dtype)))
        return self._unchunked(frames_KTD, features.mask_BT)

    def _unchunked(self, frames_KTD: Tensor, mask_BT: Tensor) -> TowerOutput:
        """The frames of all chunks, joined clip by clip, up to the last frame of the input."""
        batch, length = mask_BT.shape
        padded_KT = F.pad(mask_BT, (0, -length % self.frames_in)).view(-1, self.frames_in)
        steps = (length * self.steps + self.frames_in - 1) // self.frames_in  # exported divisions round toward zero
        frames_BTD = frames_KTD.reshape(batch, -1, self.width)[:, :steps]
        real_BT = self._real_steps(padded_KT).view(batch, -1)[:, :steps]
        if padding_mask(real_BT) is not None:
            frames_BTD = frames_BTD.masked_fill(~real_BT[..., None], 0.0)
        return TowerOutput(frames_BTD, real_BT, masked_mean(frames_BTD, real_BT))

    def _fused(self, features: Features, fusion: ChunkFusion) -> Tensor:
        """Embedded patches [B, L, width] of clips that come as four mels."""
        values, longer_B = _checked_fusion(features, frames=self.frames_in, bins=self.bins)
        batch = len(values)
        # A traced graph must not depend on which rows are long: there the fusion runs for all of them.
        every = torch.compiler.is_compiling()
        rows_R = torch.arange(batch, device=values.device) if every else longer_B.nonzero()[:, 0]
        mels_KTF = torch.cat([values[:, 0], values[rows_R, 1:].flatten(0, 1)])
        mask_BT = padding_mask(features.mask_BT)
        if mask_BT is not None:
            mask_BT = torch.cat([mask_BT, mask_BT[rows_R].repeat_interleave(CHUNKS, 0)])
        folded = self._folded(self.input_norm(mels_KTF, mask_BT))
        tokens_BLD = self.embed(self._patches(folded[:batch]))
        if len(rows_R) == 0:
            return tokens_BLD
        whole_RLD = tokens_BLD[rows_R]
        mixed_RLD = fusion(whole_RLD, folded[batch:].unflatten(0, (-1, CHUNKS)))
        mixed_RLD = torch.where(longer_B[rows_R, None, None], mixed_RLD.to(whole_RLD.dtype), whole_RLD)
        return tokens_BLD.index_copy(0, rows_R, mixed_RLD)

    def _folded(self, chunks_KTF: Tensor) -> Tensor:
        """The image of each chunk [K, pieces, time in a piece, bins], which is read as rows of (piece, bin)."""
        if self.stretch_TT is not None:
            chunks_KTF = self.stretch_TT @ chunks_KTF
        return chunks_KTF.view(-1, self.pieces, self.image, self.bins)

    def _patches(self, folded_KPTF: Tensor) -> Tensor:
        """The pixels of each patch of the folded chunks, patches in window order: [K, L, patch * patch]."""
        patch, window = self.patch, self.first_window
        cut = folded_KPTF.unflatten(3, (-1, patch)).unflatten(2, (-1, window, patch))
        # [K, pieces, window columns, columns, time, rows, bins]: a window may reach over several pieces.
        rows = cut.permute(0, 1, 5, 2, 3, 6, 4).flatten(1, 2).unflatten(1, (-1, window))
        return rows.transpose(2, 3).reshape(rows.shape[0], -1, patch * patch)

    def _frames(self, tokens_KLD: Tensor) -> Tensor:
        """[K, steps, D] mean over frequency behind the last norm."""
        for stage in self.stages:
            tokens_KLD = stage(tokens_KLD)
        grid = in_grid_order(self.norm(tokens_KLD), side=self.last_side, window=self.last_window)
        return grid.unflatten(1, (self.pieces, -1)).mean(2).flatten(1, 2)

    def _real_steps(self, mask_KT: Tensor) -> Tensor:
        """[K, steps]: True where any input frame that the step overlaps is real."""
        counted_KT = F.pad(mask_KT.long().cumsum(1), (1, 0))
        return counted_KT[:, self.step_end] > counted_KT[:, self.step_start]


def stretch_matrix(frames: int, stretched: int) -> Tensor:
    """[stretched, frames]: bicubic interpolation that keeps the corners, as the product it is. Runtimes differ in how
    they interpolate, by up to 2e-4 of the values; a product is the same everywhere, and quicker."""
    apart_TT = torch.eye(frames)[None, None]
    return F.interpolate(apart_TT, (stretched, frames), mode="bicubic", align_corners=True)[0, 0]


def _checked_fusion(features: Features, *, frames: int, bins: int) -> tuple[Tensor, Tensor]:
    """The four mels and which rows are long. Raises SpecError for other shapes."""
    values, longer_B = features.values, features.is_longer_B
    found, expected = tuple(values.shape), (len(values), CHUNKS + 1, frames, bins)
    if found != expected or tuple(features.mask_BT.shape) != (len(values), frames):
        raise SpecError(
            f"HTSAT with fusion reads four mels [B, {CHUNKS + 1}, {frames}, {bins}] with a mask [B, {frames}], but was "
            f"given {list(found)} with a mask {list(features.mask_BT.shape)}: make them with audio.fuse.fuse_long"
        )
    if longer_B is None or tuple(longer_B.shape) != (len(values),) or longer_B.dtype != torch.bool:
        told = "None" if longer_B is None else f"{longer_B.dtype} {list(longer_B.shape)}"
        raise SpecError(f"four mels need is_longer_B, bool [{len(values)}], to say which clips are long, not {told}")
    return values, longer_B


def _check_sizes(
    bins: int, width: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int, image: int, patch: int
) -> list[int]:
    """The sides of the grids of all stages. Raises SpecError for sizes that cannot be cut."""
    stages = len(depths)
    if len(heads) != stages or not stages:
        raise SpecError(f"HTSAT needs one number of heads for each stage: depths={depths}, heads={heads}")
    if min(bins, width, window, image, patch, *depths, *heads) < 1:
        raise SpecError(f"HTSAT: all sizes are at least 1, but {bins=}, {width=}, {window=}, {image=}, {patch=}")
    if image % bins or bins % (patch * 2 ** (stages - 1)):
        raise SpecError(
            f"HTSAT cannot fold {bins} mel bins into an image of {image} with patches of {patch} and {stages} stages: "
            f"bins must divide the image and be a multiple of {patch * 2 ** (stages - 1)}"
        )
    sides = [image // patch // 2**i for i in range(stages)]
    for i, side in enumerate(sides):
        if side % min(window, side):
            raise SpecError(f"a grid of {side} tokens of stage {i} cannot be cut into windows of {window}")
        if (width * 2**i) % heads[i]:
            raise SpecError(
                f"width={width} gives stage {i} {width * 2**i} channels, no multiple of its {heads[i]} heads"
            )
    return sides


tiny = spec(HTSAT, width=12, depths=(2, 2), heads=(2, 4), image=128, expansion=2.0)
small = spec(HTSAT, width=32, depths=(2, 2, 2, 2), heads=(2, 4, 8, 16), image=128, frames_in=321)
htsat_tiny = spec(HTSAT)
htsat_base = spec(HTSAT, width=128, depths=(2, 2, 12, 2))
htsat_large = spec(HTSAT, width=256, depths=(2, 2, 12, 2))
