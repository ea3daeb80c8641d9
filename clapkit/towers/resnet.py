"""A small residual network over log-mel frames: the economical tower that trains from scratch on two cores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.nets.masked import MeanMaxSummary, masked_average_pool, padding_mask, stride_mask, zero_padding
from clapkit.nets.mel_input import MelNorm, as_image, check_mel, refuse_keep
from clapkit.nets.output import TowerOutput
from clapkit.spec import spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: [B, in, T, F] -> [B, out, T / stride, F / stride], rounded up.

    Expects zeros in padded frames and returns zeros there.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        out_mask_BT = stride_mask(mask_BT, self.stride)
        past = image_BCTF if self.stride == 1 else masked_average_pool(image_BCTF, mask_BT)
        inner = F.relu(self.norm1(self.conv1(image_BCTF)), inplace=True)
        # The bias of the norm made padded frames non-zero, and the next convolution looks one frame ahead.
        inner = self.norm2(self.conv2(zero_padding(inner, out_mask_BT)))
        return zero_padding(F.relu(inner + self.shortcut(past), inplace=True), out_mask_BT)


class ResNetTower(nn.Module):
    """Residual network: log-mel dB [B, T, bins] -> frames [B, T', D] and summary [B, D].

    bins              mel bins of the front-end
    frame_rate_hz_in  frames per second of the front-end
    width             channels of the first stage; each later stage has twice as many
    depths            residual blocks in each stage; stages after the first halve time and frequency
    stem_kernel       size of the first convolution (odd), `stem_stride` its step in both axes

    The attribute `width`, the D of the result, is twice the channels of the last stage: the summary is the mean and the
    maximum over time side by side, and a frame is the summary of a clip of this frame alone.
    T' = T / stem_stride / 2 ** (stages - 1), rounded up.

    In eval mode a clip gives the same numbers alone as padded beside longer ones. In training the batch statistics of
    the first layer leave padding out, those of the inner layers count it.
    Raises SpecError for features of another shape, and for `keep`: a convolution cannot drop tokens.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        width: int = 32,
        depths: tuple[int, ...] = (1, 1, 1, 1),
        stem_kernel: int = 5,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        _check_shape(depths, stem_kernel)
        self.bins, self.stem_stride = bins, stem_stride
        self.frame_rate_hz = frame_rate_hz_in / (stem_stride * 2 ** (len(depths) - 1))
        self.input_norm = MelNorm(bins)
        self.stem = nn.Conv2d(1, width, stem_kernel, stem_stride, stem_kernel // 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.blocks, self.strides = nn.ModuleList(), list[int]()
        before = width
        for stage, depth in enumerate(depths):
            after = width * 2**stage
            for block in range(depth):
                self.strides.append(2 if stage > 0 and block == 0 else 1)
                self.blocks.append(ResidualBlock(before, after, stride=self.strides[-1]))
                before = after
        self.summary = MeanMaxSummary(before)
        self.width = self.summary.width
        self.apply(_initialise)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        check_mel(features, bins=self.bins, tower="ResNetTower")
        refuse_keep(keep, tower="ResNetTower")
        mask_BT = padding_mask(features.mask_BT)
        image = as_image(self.input_norm(features.values, mask_BT))
        mask_BT = stride_mask(mask_BT, self.stem_stride)
        image = zero_padding(F.relu(self.stem_norm(self.stem(image)), inplace=True), mask_BT)
        for block, stride in zip(self.blocks, self.strides, strict=True):
            image = block(image, mask_BT)
            mask_BT = stride_mask(mask_BT, stride)
        if mask_BT is None:
            mask_BT = features.mask_BT.new_ones(image.shape[0], image.shape[2])
        frames_BTD, summary_BD = self.summary(image, mask_BT)
        return TowerOutput(frames_BTD, mask_BT, summary_BD)


def _check_shape(depths: tuple[int, ...], stem_kernel: int) -> None:
    if not depths or min(depths) < 1:
        raise SpecError(f"depths={depths!r}: expected one positive number of blocks for each stage, as in (1, 1, 1, 1)")
    if stem_kernel % 2 == 0:
        raise SpecError(f"stem_kernel={stem_kernel}: expected an odd size, so that frames stay centred")


def _initialise(module: nn.Module) -> None:
    # Uniform within 1 / sqrt(fan-in). The norms make the scale irrelevant to the output but not to the learning rate,
    # which was tuned with this one.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5.0))
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


tiny = spec(ResNetTower, width=4)
small = spec(ResNetTower, width=32)
base = spec(ResNetTower, width=48)
