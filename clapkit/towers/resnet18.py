"""The residual network of image recognition over a one-channel spectrogram: the audio tower of Wav2CLIP (card 045)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.nets.masked import masked_mean, padding_mask, stride_mask, zero_padding
from clapkit.nets.mel_input import MelNorm, as_image, check_mel, refuse_keep
from clapkit.nets.output import TowerOutput
from clapkit.spec import spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features

_STEM_STEP = 4  # the first convolution and the pooling behind it each take every second frame


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: [B, in, T, F] -> [B, out, T / stride, F / stride], rounded up.

    Where the shape changes, the shortcut is a 1 x 1 convolution of every `stride`-th place. Expects zeros in padded
    frames and returns zeros there.
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
            # Its stride is taken by indexing: see tests/known_issues/test_onednn_strided_1x1.py.
            conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        out_mask_BT = stride_mask(mask_BT, self.stride)
        inner = F.relu(self.norm1(self.conv1(image_BCTF)), inplace=True)
        # The bias of the norm made padded frames non-zero, and the next convolution looks one frame ahead.
        inner = self.norm2(self.conv2(zero_padding(inner, out_mask_BT)))
        shortcut = self.shortcut(image_BCTF[..., :: self.stride, :: self.stride])
        return zero_padding(F.relu(inner + shortcut, inplace=True), out_mask_BT)


class ResNet18(nn.Module):
    """ResNet-18 with one input channel: spectrogram [B, T, bins] -> frames [B, T', D] and summary [B, D].

    bins              frequencies of the front-end, linear or mel
    frame_rate_hz_in  frames per second of the front-end
    width             channels of the first stage; each later stage has twice as many
    depths            residual blocks in each stage; stages after the first halve time and frequency
    stem_kernel       size of the first convolution (odd), which halves time and frequency, as a pooling behind it does
    input_norm        a batch normalisation of every bin in front, for log-mel in dB; the published tower has none, it
                      reads spectrograms that are standardised already

    D, the attribute `width`, is the number of channels of the last stage. A frame is the mean over frequency, the
    summary the mean of the real frames. T' = T / 32, rounded up.

    In eval mode a clip gives the same numbers alone as padded beside longer ones; in training the batch statistics of
    all but the input norm count padding.
    Raises SpecError for features of another shape, and for `keep`: a convolution cannot drop tokens.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        width: int = 64,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        stem_kernel: int = 7,
        input_norm: bool = False,
    ) -> None:
        super().__init__()
        _check_shape(depths, stem_kernel)
        self.bins = bins
        self.frame_rate_hz = frame_rate_hz_in / (_STEM_STEP * 2 ** (len(depths) - 1))
        self.input_norm = MelNorm(bins) if input_norm else None
        self.stem = nn.Conv2d(1, width, stem_kernel, 2, stem_kernel // 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.stages, self.strides = nn.ModuleList(), list[int]()
        before = width
        for stage, depth in enumerate(depths):
            blocks, after = nn.ModuleList(), width * 2**stage
            for block in range(depth):
                self.strides.append(2 if stage > 0 and block == 0 else 1)
                blocks.append(BasicBlock(before, after, stride=self.strides[-1]))
                before = after
            self.stages.append(blocks)
        self.width = before
        self.apply(_initialise)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        check_mel(features, bins=self.bins, tower="ResNet18")
        refuse_keep(keep, tower="ResNet18")
        mask_BT = padding_mask(features.mask_BT)
        image, mask_BT = self._stem(as_image(self._levelled(features.values, mask_BT)), mask_BT)
        blocks = (block for stage in self.stages for block in stage.children())
        for block, stride in zip(blocks, self.strides, strict=True):
            image = block(image, mask_BT)
            mask_BT = stride_mask(mask_BT, stride)
        if mask_BT is None:
            mask_BT = features.mask_BT.new_ones(image.shape[0], image.shape[2])
        wide = torch.promote_types(image.dtype, torch.float32)
        frames_BTD = image.to(wide).mean(3).transpose(1, 2)
        return TowerOutput(frames_BTD, mask_BT, masked_mean(frames_BTD, mask_BT))

    def _levelled(self, values_BTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        """The input with zeros, what a convolution sees beyond the end of a clip, in padded frames."""
        if self.input_norm is not None:
            return self.input_norm(values_BTF, mask_BT)
        return values_BTF if mask_BT is None else values_BTF.masked_fill(~mask_BT[..., None], 0.0)

    def _stem(self, image_BCTF: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        mask_BT = stride_mask(mask_BT, 2)
        image = zero_padding(F.relu(self.stem_norm(self.stem(image_BCTF)), inplace=True), mask_BT)
        # Nothing is below zero here, so the zeros of padding never win against a real frame; but the first padded frame
        # behind the pooling has seen the last real one.
        mask_BT = stride_mask(mask_BT, 2)
        return zero_padding(F.max_pool2d(image, 3, 2, 1), mask_BT), mask_BT


def _check_shape(depths: tuple[int, ...], stem_kernel: int) -> None:
    if not depths or min(depths) < 1:
        raise SpecError(f"depths={depths!r}: expected one positive number of blocks for each stage, as in (2, 2, 2, 2)")
    if stem_kernel % 2 == 0:
        raise SpecError(f"stem_kernel={stem_kernel}: expected an odd size, so that frames stay centred")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


tiny = spec(ResNet18, width=4, depths=(1, 1, 1, 1), input_norm=True)
small = spec(ResNet18, width=24, input_norm=True)
wav2clip = spec(ResNet18)
