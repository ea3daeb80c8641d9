"""PhiNet (Paissan et al., 2022), the separable network of the tinyCLAP students (card 009)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.nets.masked import masked_mean, padding_mask, stride_mask, zero_padding
from clapkit.nets.mel_input import MelNorm, as_image, check_mel, refuse_keep
from clapkit.nets.output import TowerOutput
from clapkit.spec import Spec, spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features

_NORM_EPS = 1e-3
# Numbers of the blocks that halve time and frequency; the first block has the number 0.
_HALVING_BLOCKS = (1, 3, 5, 7)
_STEM, _FIRST_STAGE, _SECOND_STAGE = 48, 24, 48


class PhiNetBlock(nn.Module):
    """Widen by a 1 x 1 convolution, filter each channel by its own 3 x 3 kernel, narrow by another 1 x 1.

    [B, in, T, F] -> [B, out, T / stride, F / stride], rounded up; the input is added when the shapes agree. The block
    that does not `widen` filters its input as it is. Padding never reaches a real frame.
    """

    def __init__(self, in_channels: int, out_channels: int, *, inner: int, stride: int, widen: bool) -> None:
        super().__init__()
        self.stride = stride
        self.adds_input = stride == 1 and in_channels == out_channels
        self.widen = nn.Conv2d(in_channels, inner, 1, bias=False) if widen else None
        self.widen_norm = nn.BatchNorm2d(inner, eps=_NORM_EPS) if widen else None
        self.filter = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.filter_norm = nn.BatchNorm2d(inner, eps=_NORM_EPS)
        self.narrow = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.narrow_norm = nn.BatchNorm2d(out_channels, eps=_NORM_EPS)

    def forward(self, image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        inner = image_BCTF
        if self.widen is not None and self.widen_norm is not None:
            inner = F.relu6(self.widen_norm(self.widen(inner)))
        inner = F.relu6(self.filter_norm(self.filter(zero_padding(inner, mask_BT))))
        narrow = self.narrow_norm(self.narrow(inner))
        return image_BCTF + narrow if self.adds_input else narrow


class PhiNet(nn.Module):
    """Separable convolutions: log-mel dB [B, T, bins] -> frames [B, T', D] and summary [B, D].

    bins              mel bins of the front-end
    frame_rate_hz_in  frames per second of the front-end
    stem              channels behind the first convolution, which halves time and frequency
    channels          channels behind each block; blocks 1, 3, 5 and 7 (the first is 0) halve time and frequency
    inner             channels inside each block; the first number is `stem`, since block 0 does not widen
    width             D, channels of the last 1 x 1 convolution, which reads every other position

    `phinet(alpha=, beta=, t_zero=, blocks=)` works the sizes out as the paper does. T' is T / 2 rounded DOWN (as the
    published models: the first convolution does not reach beyond the start), then halved rounding up; at least 1.

    The summary is the mean over time and frequency, a frame the mean over frequency, so both live in one space. In eval
    mode a clip gives the same numbers alone as padded beside longer ones; in training the inner batch statistics count
    padding. Raises SpecError for sizes that do not agree, features of another shape, and for `keep`.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        stem: int,
        channels: tuple[int, ...],
        inner: tuple[int, ...],
        width: int = 2048,
    ) -> None:
        super().__init__()
        if not channels or len(channels) != len(inner):
            raise SpecError(
                f"channels and inner describe {len(channels)} and {len(inner)} blocks: give each one number per block"
            )
        if inner[0] != stem:
            raise SpecError(f"inner[0]={inner[0]}: block 0 does not widen its input, expected stem={stem}")
        self.bins, self.width = bins, width
        self.input_norm = MelNorm(bins)
        self.stem_filter = nn.Conv2d(1, 1, 3, 2, bias=False)
        self.stem = nn.Conv2d(1, stem, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem, eps=_NORM_EPS)
        self.strides = [2 if block in _HALVING_BLOCKS else 1 for block in range(len(channels))]
        before = (stem, *channels[:-1])
        self.blocks = nn.ModuleList(
            PhiNetBlock(a, b, inner=inner[i], stride=self.strides[i], widen=i > 0)
            for i, (a, b) in enumerate(zip(before, channels, strict=True))
        )
        self.last = nn.Conv2d(channels[-1], width, 1)  # of every second place: known_issues/test_onednn_strided_1x1
        self.frame_rate_hz = frame_rate_hz_in / (4 * math.prod(self.strides))
        self.apply(_initialise)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        check_mel(features, bins=self.bins, tower="PhiNet")
        refuse_keep(keep, tower="PhiNet")
        mask_BT = padding_mask(features.mask_BT)
        image, mask_BT = self._begin(as_image(self.input_norm(features.values, mask_BT)), mask_BT)
        for block, stride in zip(self.blocks, self.strides, strict=True):
            image = block(image, mask_BT)
            mask_BT = stride_mask(mask_BT, stride)
        image = self.last(image[..., ::2, ::2])
        mask_BT = stride_mask(mask_BT, 2)
        if mask_BT is None:
            mask_BT = features.mask_BT.new_ones(image.shape[0], image.shape[2])
        wide = torch.promote_types(image.dtype, torch.float32)
        frames_BTD = image.to(wide).mean(3).transpose(1, 2).masked_fill(~mask_BT[..., None], 0.0)
        return TowerOutput(frames_BTD, mask_BT, masked_mean(frames_BTD, mask_BT))

    def _begin(self, image_B1TF: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The first convolution: a window of three frames from every other frame on, and its channels."""
        # Zeros stand behind the end only. A clip of one frame has no whole window and gets a second frame of zeros.
        missing = 2 if image_B1TF.shape[2] == 1 else 1
        image = self.stem_filter(F.pad(image_B1TF, (0, 1, 0, missing)))
        image = F.relu6(self.stem_norm(self.stem(image)))
        if mask_BT is None:
            return image, None
        first_BT, second_BT = F.pad(mask_BT, (0, missing - 1))[:, : 2 * image.shape[2]].unflatten(1, (-1, 2)).unbind(2)
        starts_T = torch.arange(image.shape[2], device=mask_BT.device) == 0
        return image, second_BT | (first_BT & starts_T)


def phinet(*, alpha: float, beta: float, t_zero: float, blocks: int, width: int = 2048) -> Spec:
    """The Spec of a published size: `phinet_alpha_1.50_beta_0.75_t0_6_N_7` is alpha 1.5, beta 0.75, t_zero 6, 7 blocks.

    alpha scales all channels; the widening inside the blocks goes from about `t_zero` to `beta * t_zero`.
    """
    stem = max(1, int(_STEM * alpha))
    channels, inner, filters = [int(_FIRST_STAGE * alpha)], [stem], _SECOND_STAGE
    for block in range(1, max(blocks, 3) + 1):
        widening = t_zero * beta * block / blocks + t_zero * (blocks - block) / blocks
        inner.append(int(widening * channels[-1]))
        filters *= 2 if block in (5, 7) else 1
        channels.append(int((_FIRST_STAGE if block < 3 else filters) * alpha))
    return spec(PhiNet, stem=stem, channels=tuple(channels), inner=tuple(inner), width=width)


def _initialise(module: nn.Module) -> None:
    # Normal by fan-in behind a ReLU; a depthwise kernel has fan-in 9.
    if isinstance(module, nn.Conv2d):
        fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1] // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_in) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


tiny = phinet(alpha=0.25, beta=0.75, t_zero=4, blocks=5, width=64)
small = phinet(alpha=1.5, beta=0.75, t_zero=6, blocks=7)
phinet_0_75 = phinet(alpha=0.75, beta=0.75, t_zero=4, blocks=6)
phinet_3_00 = phinet(alpha=3.0, beta=0.75, t_zero=4, blocks=7)
