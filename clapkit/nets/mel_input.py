"""What mel towers do with their input before the first layer: check it, level its bins, view it as an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clapkit.errors import SpecError

if TYPE_CHECKING:
    from clapkit.audio.features import Features


def check_mel(features: Features, *, bins: int, tower: str) -> None:
    """Raise SpecError unless `features` holds [B, T, bins] values with T > 0 and a bool mask [B, T]."""
    found = tuple(features.values.shape)
    if len(found) != 3 or found[2] != bins or found[1] == 0:
        raise SpecError(
            f"{tower} reads mel frames [B, T, {bins}] with at least one frame, but was given shape {list(found)}. "
            f"Use a front-end with {bins} mel bins, or build the tower with bins={found[-1]}."
        )
    mask = features.mask_BT
    if tuple(mask.shape) != found[:2] or mask.dtype != torch.bool:
        raise SpecError(
            f"{tower} needs a bool mask [B, T] = {list(found[:2])} for its frames, but was given "
            f"{mask.dtype} {list(mask.shape)}: True where a frame is sound, False where it is padding."
        )


def refuse_keep(keep: Tensor | None, *, tower: str) -> None:
    """Raise SpecError if tokens are to be dropped in a tower that has none."""
    if keep is not None:
        raise SpecError(
            f"{tower} is convolutional and cannot leave tokens out, but was given keep of shape {list(keep.shape)}. "
            "Call it without keep, or use a transformer such as PatchTransformer."
        )


def as_image(mel_BTF: Tensor) -> Tensor:
    """[B, T, F] -> [B, 1, T, F] whose strides say channels_last.

    With one channel both memory formats describe the same bytes; torch picks the format of all later maps by the
    strides of this one, and channels_last convolutions are faster on CPU and tensor cores.
    """
    return mel_BTF.contiguous()[..., None].permute(0, 3, 1, 2)


class MelNorm(nn.Module):
    """Batch normalisation of each mel bin over the real frames, with zeros (the mean) written into padded frames.

    Padding, often tens of dB below any sound, never enters the statistics and may hold any value, NaN included.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(bins)

    def forward(self, mel_BTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        if not self.norm.training:
            return self._by_fixed_statistics(mel_BTF, mask_BT)
        if mask_BT is None:
            return self.norm(mel_BTF.flatten(0, 1)).view_as(mel_BTF)
        levelled = torch.zeros_like(mel_BTF)
        levelled[mask_BT] = self.norm(mel_BTF[mask_BT])
        return levelled

    def _by_fixed_statistics(self, mel_BTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        # Without a reshape and with static shapes, for exported graphs: OpenVINO loses its way at the reshape when
        # layers behind it are in integers.
        norm = self.norm
        scale_F = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift_F = norm.bias - norm.running_mean * scale_F
        if mask_BT is None:
            return mel_BTF * scale_F + shift_F
        padded = ~mask_BT[..., None]
        return (mel_BTF.masked_fill(padded, 0.0) * scale_F + shift_F).masked_fill(padded, 0.0)
