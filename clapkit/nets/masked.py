"""Statistics and images that know which frames are sound and which are padding.

Shapes: `frames_BTD` is a sequence, `image_BCTF` a convolutional map whose third axis is time, `mask_BT` is True where a
frame is real. A function that takes `mask_BT | None` reads None as "every frame is real", which costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def padding_mask(mask_BT: Tensor) -> Tensor | None:
    """`mask_BT` itself, or None when it marks no padding at all, so that full batches skip the masking.

    A traced or exported graph must not depend on the values of its example, so there the mask always stays.
    """
    if torch.compiler.is_compiling():
        return mask_BT
    return None if bool(mask_BT.all()) else mask_BT


def stride_mask(mask_BT: Tensor | None, stride: int) -> Tensor | None:
    """The mask behind a centred convolution of odd kernel: output t stands on input t * stride."""
    return mask_BT if mask_BT is None else mask_BT[:, ::stride]


def zero_padding(image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
    """The (finite) image with zeros in its padded frames: what a convolution sees beyond the end of a clip."""
    if mask_BT is None:
        return image_BCTF
    # A product and not masked_fill: that one would lose channels_last and take several times as long.
    return image_BCTF * mask_BT[:, None, :, None].to(image_BCTF.dtype)


def masked_average_pool(image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Average over 2 x 2 windows, counting real frames only; an odd last row or column is averaged alone.

    `image_BCTF` must hold zeros in its padded frames (`zero_padding`).
    """
    pooled = F.avg_pool2d(image_BCTF, 2, ceil_mode=True)
    if mask_BT is None:
        return pooled
    real_part = F.avg_pool2d(mask_BT[:, None, :, None].to(pooled.dtype), (2, 1), ceil_mode=True)
    return pooled / real_part.clamp(min=0.5)  # windows without a real frame hold zeros: any divisor will do


def masked_mean(frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """[B, D] mean over the real frames; zeros for a row that has none."""
    total_BD = frames_BTD.masked_fill(~mask_BT[..., None], 0.0).sum(1)
    return total_BD / mask_BT.sum(1, keepdim=True).clamp(min=1)


def masked_max(frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """[B, D] maximum over the real frames; zeros for a row that has none."""
    highest_BD = frames_BTD.masked_fill(~mask_BT[..., None], -torch.inf).amax(1)
    return highest_BD.masked_fill(~mask_BT.any(1, keepdim=True), 0.0)


class MeanMaxSummary(nn.Module):
    """Frequency mean, then mean and maximum over time side by side, then LayerNorm: the end of a convolutional tower.

    Maps an image [B, C, T, F] to frames [B, T, 2C] and a summary [B, 2C]. A frame is what the summary of a clip that
    consists of this frame alone would be (its mean and its maximum are both the frame), so that frames and summaries
    live in one space and a head trained on the one can read the other. Works in float32 at least.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = 2 * channels
        self.norm = nn.LayerNorm(self.width)

    def forward(self, image_BCTF: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(image_BCTF.dtype, torch.float32)
        frames_BTC = image_BCTF.to(wide).mean(3).transpose(1, 2)
        summary = torch.cat([masked_mean(frames_BTC, mask_BT), masked_max(frames_BTC, mask_BT)], dim=-1)
        frames = self.norm(torch.cat([frames_BTC, frames_BTC], dim=-1))
        return frames.masked_fill(~mask_BT[..., None], 0.0), self.norm(summary)
