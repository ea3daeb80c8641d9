"""The plain convolutional networks of PANNs (Kong et al., 2020): CNN14, CNN10 and CNN6 over log-mel frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.nets.masked import masked_max, masked_mean, padding_mask, zero_padding
from clapkit.nets.mel_input import MelNorm, as_image, check_mel, refuse_keep
from clapkit.nets.output import TowerOutput
from clapkit.spec import spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features


class ConvBlock(nn.Module):
    """`layers` convolutions, each behind a norm and ReLU: [B, in, T, F] -> [B, out, T, F].

    Padded frames of the result are zero, which is what the next convolution must see beyond the end of a clip.
    """

    def __init__(self, in_channels: int, out_channels: int, *, layers: int, kernel: int) -> None:
        super().__init__()
        before = [in_channels, *[out_channels] * (layers - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(c, out_channels, kernel, 1, kernel // 2, bias=False) for c in before)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in before)

    def forward(self, image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            image_BCTF = zero_padding(F.relu(norm(conv(image_BCTF)), inplace=True), mask_BT)
        return image_BCTF


class CNN14(nn.Module):
    """Convolutions with average pooling: log-mel dB [B, T, bins] -> frames [B, T', D] and summary [B, D].

    bins              mel bins of the front-end, at least 2 ** `poolings`
    frame_rate_hz_in  frames per second of the front-end
    channels          channels of each block
    layers, kernel    convolutions in each block and their size (odd)
    poolings          how many blocks, from the first on, end with an average over 2 x 2
    width             D, the size of the last linear layer

    T' = T / 2 ** poolings, rounded DOWN as the published models do: what does not fill a window at the end of a clip is
    not heard. A clip too short for one window is one frame, the average of what there is (the reference refuses it).

    The bins are averaged, then the summary is ReLU(linear(maximum over time + mean over time)). A frame is what the
    summary of a clip of this frame alone would be. In eval mode a clip gives the same numbers alone as padded beside
    longer ones; in training the inner batch statistics count padding.
    Raises SpecError for too few bins, features of another shape, and for `keep`: a convolution cannot drop tokens.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048),
        layers: int = 2,
        kernel: int = 3,
        poolings: int = 5,
        width: int = 2048,
    ) -> None:
        super().__init__()
        _check_shape(bins, channels, kernel, poolings)
        self.bins, self.width, self.poolings = bins, width, poolings
        self.frame_rate_hz = frame_rate_hz_in / 2**poolings
        self.input_norm = MelNorm(bins)
        before = (1, *channels[:-1])
        self.blocks = nn.ModuleList(
            ConvBlock(a, b, layers=layers, kernel=kernel) for a, b in zip(before, channels, strict=True)
        )
        self.last = nn.Linear(channels[-1], width)
        self.apply(_initialise)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        check_mel(features, bins=self.bins, tower="CNN14")
        refuse_keep(keep, tower="CNN14")
        mask_BT = padding_mask(features.mask_BT)
        image = as_image(self.input_norm(features.values, mask_BT))
        for index, block in enumerate(self.blocks):
            image = block(image, mask_BT)
            if index < self.poolings:
                image, mask_BT = _halve(image, mask_BT)
        if mask_BT is None:
            mask_BT = features.mask_BT.new_ones(image.shape[0], image.shape[2])
        wide = torch.promote_types(image.dtype, torch.float32)
        frames_BTC = image.to(wide).mean(3).transpose(1, 2)
        summary_BD = self._embed(masked_max(frames_BTC, mask_BT) + masked_mean(frames_BTC, mask_BT))
        frames_BTD = self._embed(2 * frames_BTC).masked_fill(~mask_BT[..., None], 0.0)
        return TowerOutput(frames_BTD, mask_BT, summary_BD)

    def _embed(self, pooled: Tensor) -> Tensor:
        return F.relu(self.last(pooled)).to(pooled.dtype)


def _halve(image_BCTF: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Averages over 2 x 2, whole windows only; a clip of a single frame keeps it, averaged over bins alone.

    `image_BCTF` holds zeros in padded frames, and so does the result.
    """
    if image_BCTF.shape[2] == 1:
        return F.avg_pool2d(image_BCTF, (1, 2)), mask_BT
    pooled = F.avg_pool2d(image_BCTF, 2)
    if mask_BT is None:
        return pooled, None
    first_BT, second_BT = mask_BT[:, : 2 * pooled.shape[2]].unflatten(1, (-1, 2)).unbind(2)
    start_T = torch.arange(pooled.shape[2], device=mask_BT.device) == 0
    lone_BT = first_BT & ~second_BT & start_T
    factor_BT = (first_BT & second_BT).to(pooled.dtype) + 2 * lone_BT.to(pooled.dtype)
    return pooled * factor_BT[:, None, :, None], (first_BT & second_BT) | lone_BT


def _check_shape(bins: int, channels: tuple[int, ...], kernel: int, poolings: int) -> None:
    if not 0 <= poolings <= len(channels) or not channels:
        raise SpecError(f"poolings={poolings}: expected 0 to {len(channels)}, the number of blocks in channels")
    if bins < 2**poolings:
        raise SpecError(f"bins={bins}: {poolings} poolings need at least {2**poolings} mel bins")
    if kernel % 2 == 0:
        raise SpecError(f"kernel={kernel}: expected an odd size, so that frames stay centred")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


tiny = spec(CNN14, channels=(4, 8, 16, 16), poolings=4, width=32)
small = spec(CNN14, channels=(32, 64, 128, 256), poolings=4, width=256)
cnn6 = spec(CNN14, channels=(64, 128, 256, 512), layers=1, kernel=5, poolings=4, width=512)
cnn10 = spec(CNN14, channels=(64, 128, 256, 512), poolings=4, width=512)
cnn14 = spec(CNN14)
