"""Separable convolutions over log-mel frames: the MobileNet and PhiNet family, many clips per joule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.nets.masked import MeanMaxSummary, masked_mean, padding_mask, stride_mask, zero_padding
from clapkit.nets.mel_input import MelNorm, as_image, check_mel, refuse_keep
from clapkit.nets.output import TowerOutput
from clapkit.spec import spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features


class SqueezeExcitation(nn.Module):
    """Scales each channel by a factor in [0, 1] computed from the means of all channels over the real frames."""

    def __init__(self, channels: int, *, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        if mask_BT is None:
            mean_BC = image_BCTF.mean((2, 3))
        else:
            mean_BC = masked_mean(image_BCTF.mean(3).transpose(1, 2), mask_BT)
        factor_BC = F.hardsigmoid(self.excite(F.relu(self.squeeze(mean_BC))))
        return image_BCTF * factor_BC[:, :, None, None].to(image_BCTF.dtype)


class InvertedResidual(nn.Module):
    """Widen by a 1 x 1 convolution, filter each channel by its own 3 x 3 kernel, narrow by another 1 x 1.

    [B, in, T, F] -> [B, out, T / stride, F / stride], rounded up; the input is added when the shapes agree. Whatever
    the input holds in padded frames never reaches a real one.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, expansion: int, squeeze_ratio: float
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.stride = stride
        self.adds_input = stride == 1 and in_channels == out_channels
        self.widen = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.filter = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        squeezed = max(1, round(inner * squeeze_ratio))
        self.excitation = SqueezeExcitation(inner, squeezed=squeezed) if squeeze_ratio > 0 else None
        self.narrow = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)

    def forward(self, image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        inner = F.hardswish(self.norm1(self.widen(image_BCTF)))
        inner = self.norm2(self.filter(zero_padding(inner, mask_BT)))
        inner = F.hardswish(inner)
        if self.excitation is not None:
            inner = self.excitation(inner, stride_mask(mask_BT, self.stride))
        narrow = self.norm3(self.narrow(inner))
        return image_BCTF + narrow if self.adds_input else narrow


class MobileNetTower(nn.Module):
    """Inverted residuals: log-mel dB [B, T, bins] -> frames [B, T', D] and summary [B, D].

    bins              mel bins of the front-end
    frame_rate_hz_in  frames per second of the front-end
    channels          channels of each stage; the first number is also that of the stem
    strides           step of each stage in time and frequency; the stem takes another step of 2
    depths            blocks in each stage
    expansion         how many times wider a block is inside
    squeeze_ratio     hidden size of squeeze-excitation relative to the inside of the block; 0 leaves it out
    final_channels    channels of the last 1 x 1 convolution; D (`width`) is twice that: mean and maximum

    T' is T / 2 / product of the strides, rounded up. A frame is the summary of a clip of this frame alone. In eval
    mode a clip gives the same numbers alone as padded beside longer ones; in training the inner batch statistics count
    padding.
    Raises SpecError for features of another shape, and for `keep`: a convolution cannot drop tokens.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        channels: tuple[int, ...] = (16, 24, 40, 80, 112, 160),
        strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2),
        depths: tuple[int, ...] = (1, 2, 2, 2, 1, 2),
        expansion: int = 4,
        squeeze_ratio: float = 0.25,
        final_channels: int = 480,
    ) -> None:
        super().__init__()
        _check_stages(channels, strides, depths)
        self.bins = bins
        self.input_norm = MelNorm(bins)
        self.stem = nn.Conv2d(1, channels[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        self.blocks, self.strides = nn.ModuleList(), list[int]()
        before = channels[0]
        for after, stride, depth in zip(channels, strides, depths, strict=True):
            for block in range(depth):
                step = stride if block == 0 else 1
                self.strides.append(step)
                self.blocks.append(
                    InvertedResidual(before, after, stride=step, expansion=expansion, squeeze_ratio=squeeze_ratio)
                )
                before = after
        self.last = nn.Conv2d(before, final_channels, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(final_channels)
        self.summary = MeanMaxSummary(final_channels)
        self.width = self.summary.width
        self.frame_rate_hz = frame_rate_hz_in / (2 * math.prod(strides))
        self.apply(_initialise)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        check_mel(features, bins=self.bins, tower="MobileNetTower")
        refuse_keep(keep, tower="MobileNetTower")
        mask_BT = padding_mask(features.mask_BT)
        image = as_image(self.input_norm(features.values, mask_BT))
        image = F.hardswish(self.stem_norm(self.stem(image)))
        mask_BT = stride_mask(mask_BT, 2)
        for block, stride in zip(self.blocks, self.strides, strict=True):
            image = block(image, mask_BT)
            mask_BT = stride_mask(mask_BT, stride)
        image = F.hardswish(self.last_norm(self.last(image)))
        if mask_BT is None:
            mask_BT = features.mask_BT.new_ones(image.shape[0], image.shape[2])
        frames_BTD, summary_BD = self.summary(image, mask_BT)
        return TowerOutput(frames_BTD, mask_BT, summary_BD)


def _check_stages(channels: tuple[int, ...], strides: tuple[int, ...], depths: tuple[int, ...]) -> None:
    lengths = (len(channels), len(strides), len(depths))
    if len(set(lengths)) != 1 or 0 in lengths:
        raise SpecError(
            f"channels, strides and depths describe {lengths[0]}, {lengths[1]} and {lengths[2]} stages: "
            "give each of them one number per stage"
        )
    if min(depths) < 1:
        raise SpecError(f"depths={depths!r}: every stage needs at least one block")


def _initialise(module: nn.Module) -> None:
    # Normal by fan-out, as convolutions before a ReLU-like non-linearity want; a depthwise kernel has fan-out 9.
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)  # excitation starts as the factor 1/2 everywhere
        nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


tiny = spec(MobileNetTower, channels=(4, 8, 12), strides=(1, 2, 2), depths=(1, 2, 1), expansion=2, final_channels=16)
small = spec(MobileNetTower)
base = spec(MobileNetTower, expansion=6, final_channels=640)
