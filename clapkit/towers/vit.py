"""A patch transformer over log-mel frames that computes only the patches it is told to see."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.nets.masked import masked_mean, padding_mask
from clapkit.nets.mel_input import check_mel
from clapkit.nets.output import TowerOutput
from clapkit.spec import spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features


class PatchTransformer(nn.Module):
    """Pre-norm transformer over mel patches: log-mel dB [B, T, bins] -> frames [B, T', width], summary [B, width].

    bins              mel bins of the front-end, a multiple of the height of a patch
    frame_rate_hz_in  frames per second of the front-end
    patch             (frames, bins) of a patch; patches do not overlap and the last one is filled up with `mean_db`
    width             size of a token, a multiple of `heads`, even
    depth, heads      number of blocks, and of attention heads in each
    expansion         how many times wider the feed-forward layer is
    mean_db, std_db   fixed levelling of the input: no batch statistics, so every clip is computed on its own

    Tokens are ordered in time first: token = time step * (bins / patch bins) + band. Without `keep`, a frame is the
    mean of its time step over the bands, T' = T / patch frames rounded up, and a step is real if any of its frames is.
    With `keep` [B, K] (indices of tokens), only those are computed, `frames_BTD` holds these K tokens in the order of
    `keep` and `mask_BT` [B, K] says which are real. The summary is the mean over real tokens behind the last norm.
    Padding never influences real tokens.
    Raises SpecError for features or `keep` that do not fit.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        patch: tuple[int, int] = (16, 16),
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        expansion: int = 4,
        mean_db: float = -30.0,
        std_db: float = 25.0,
    ) -> None:
        super().__init__()
        if bins % patch[1]:
            raise SpecError(f"{bins} mel bins cannot be cut into patches {patch[1]} bins high: choose a divisor")
        if width % heads or width % 2:
            raise SpecError(f"width={width} must be even and a multiple of heads={heads}")
        self.bins, self.width, self.patch = bins, width, tuple(patch)
        self.mean_db, self.std_db = mean_db, std_db
        self.bands = bins // patch[1]
        self.frame_rate_hz = frame_rate_hz_in / patch[0]
        self.embed = nn.Linear(patch[0] * patch[1], width)
        self.band_position = nn.Parameter(torch.empty(self.bands, width))
        self.blocks = nn.ModuleList(Block(width, heads=heads, expansion=expansion) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.band_position, std=0.5)  # as strong as the sinusoids of time
        self.apply(_initialise)

    def token_count(self, frames: int) -> int:
        """Number of tokens of a clip of `frames` input frames: what the indices of `keep` stay below."""
        return math.ceil(frames / self.patch[0]) * self.bands

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        check_mel(features, bins=self.bins, tower="PatchTransformer")
        patches_BLP, steps_BT = self.patches(features)
        position_LD = self._positions(steps_BT.shape[1], like=patches_BLP)
        real_BL = steps_BT.repeat_interleave(self.bands, dim=1)
        if keep is None:
            tokens_BLD = self.embed(patches_BLP) + position_LD
        else:
            self._check_keep(keep, batch=real_BL.shape[0], tokens=real_BL.shape[1])
            visible_BKP = patches_BLP.gather(1, keep[..., None].expand(-1, -1, patches_BLP.shape[2]))
            tokens_BLD = self.embed(visible_BKP) + position_LD[keep]
            real_BL = real_BL.gather(1, keep)
        attend = _attention_mask(real_BL)
        for block in self.blocks:
            tokens_BLD = block(tokens_BLD, attend)
        frames_BTD, mask_BT = self.norm(tokens_BLD), real_BL
        if keep is None:
            frames_BTD, mask_BT = frames_BTD.unflatten(1, (-1, self.bands)).mean(2), steps_BT
        frames_BTD = frames_BTD.masked_fill(~mask_BT[..., None], 0.0)
        return TowerOutput(frames_BTD, mask_BT, masked_mean(frames_BTD, mask_BT))

    def patches(self, features: Features) -> tuple[Tensor, Tensor]:
        """Levelled patches [B, L, frames * bins of one] and the steps [B, T'] that hold at least one real frame."""
        length, height = self.patch
        levelled_BTF = (features.values - self.mean_db) / self.std_db
        levelled_BTF = levelled_BTF.masked_fill(~features.mask_BT[..., None], 0.0)
        missing = -levelled_BTF.shape[1] % length
        levelled_BTF = F.pad(levelled_BTF, (0, 0, 0, missing))
        steps_BT = F.pad(features.mask_BT, (0, missing)).unflatten(1, (-1, length)).any(2)
        grid = levelled_BTF.unflatten(2, (self.bands, height)).unflatten(1, (-1, length))  # [B, T', length, bands, h]
        return grid.transpose(2, 3).flatten(3).flatten(1, 2), steps_BT

    def _positions(self, steps: int, *, like: Tensor) -> Tensor:
        """[L, D]: sinusoids of the time step, defined for any length, plus the learned vector of the band."""
        half = self.width // 2
        rate_H = torch.exp(torch.arange(half, device=like.device) * (-math.log(10_000.0) / half))
        angle_TH = torch.arange(steps, device=like.device)[:, None] * rate_H
        time_TD = torch.cat([angle_TH.sin(), angle_TH.cos()], dim=1).to(like.dtype)
        return (time_TD[:, None] + self.band_position).flatten(0, 1)

    def _check_keep(self, keep: Tensor, *, batch: int, tokens: int) -> None:
        if keep.ndim != 2 or keep.shape[0] != batch or keep.shape[1] == 0 or keep.dtype != torch.int64:
            raise SpecError(
                f"keep must hold int64 token indices [B, K] for a batch of {batch}, "
                f"but is {keep.dtype} {list(keep.shape)}"
            )
        low, high = int(keep.min()), int(keep.max())
        if low < 0 or high >= tokens:
            raise SpecError(f"keep names tokens {low} to {high}, but these clips have tokens 0 to {tokens - 1}")


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each behind a LayerNorm and added to its input: [B, L, D] -> same."""

    def __init__(self, width: int, *, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.rise = nn.Linear(width, expansion * width)
        self.fall = nn.Linear(expansion * width, width)

    def forward(self, tokens_BLD: Tensor, attend: Tensor | None) -> Tensor:
        """`attend` [B, 1, 1, L] is True where a token may be looked at; None: everywhere."""
        joined = self.query_key_value(self.norm1(tokens_BLD))
        query, key, value = joined.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, L, D / H]
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        tokens_BLD = tokens_BLD + self.out(seen.transpose(1, 2).flatten(2))
        return tokens_BLD + self.fall(F.gelu(self.rise(self.norm2(tokens_BLD))))


def _attention_mask(real_BL: Tensor) -> Tensor | None:
    mask_BL = padding_mask(real_BL)
    if mask_BL is None:
        return None
    # A row without any real token is 0 / 0 in the softmax of some kernels: it may look anywhere, its summary is zero.
    return (mask_BL | ~mask_BL.any(1, keepdim=True))[:, None, None, :]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


tiny = spec(PatchTransformer, width=32, depth=2, heads=2, expansion=2)
small = spec(PatchTransformer, width=192, depth=6, heads=3)
