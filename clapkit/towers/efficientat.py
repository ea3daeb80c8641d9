"""The MobileNetV3 taggers of EfficientAT: distilled from transformers, any width, any length (Schmid et al. 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.nets.masked import masked_mean, padding_mask, stride_mask, zero_padding
from clapkit.nets.mel_input import as_image, check_mel, refuse_keep
from clapkit.nets.output import TowerOutput
from clapkit.spec import Spec, derive, spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features

_EPS = 1e-3  # of every batch norm
# MobileNetV3-Large, one value for each block.
_KERNELS = (3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5)
_INNER = (16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960)
_CHANNELS = (16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160)
_SQUEEZED = (0, 0, 0, 24, 32, 32, 0, 0, 0, 0, 120, 168, 168, 240, 240)
_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)
_SOFT = (*[False] * 6, *[True] * 9)


class EfficientAT(nn.Module):
    """Inverted residuals: log-mel [B, T, bins] -> frames [B, T', D] and summary [B, D].

    bins              mel bins of the front-end
    frame_rate_hz_in  frames per second of the front-end
    stem              channels of the first convolution, which takes a step of 2
    kernels           size of the kernel of each block
    inner, channels   channels inside and behind each block; a block whose inside is no wider than its input, the first
                      one, does not widen
    squeezed          hidden size of the squeeze-excitation of each block; 0: it has none
    strides           step of each block in time and frequency
    soft              whether a block uses hardswish, or relu
    final             channels of the last 1 x 1 convolution, which are D (`width`)
    levels            (mean, deviation) of the input, for a front-end that does not standardise; None: left alone
    classes           (hidden size, classes) adds the tagging layers (`logits`); None: there are none

    T' is T / 2 / product of the strides, rounded up. A frame is the mean of the last map over frequency, the summary
    the mean over time and frequency. In eval mode a clip gives the same numbers alone as padded beside longer ones; in
    training the batch statistics count padding.
    Raises SpecError for lists of different lengths, features of another shape, and `keep`.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        stem: int = 16,
        kernels: tuple[int, ...] = _KERNELS,
        inner: tuple[int, ...] = _INNER,
        channels: tuple[int, ...] = _CHANNELS,
        squeezed: tuple[int, ...] = _SQUEEZED,
        strides: tuple[int, ...] = _STRIDES,
        soft: tuple[bool, ...] = _SOFT,
        final: int = 960,
        levels: tuple[float, float] | None = None,
        classes: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        rows = (kernels, inner, channels, squeezed, strides, soft)
        if len({len(row) for row in rows}) != 1 or not kernels:
            raise SpecError(
                f"kernels, inner, channels, squeezed, strides and soft describe {[len(row) for row in rows]} blocks: "
                "give each of them one value for every block"
            )
        if even := [kernel for kernel in kernels if kernel % 2 == 0]:
            raise SpecError(f"kernels={kernels!r}: {even[0]} is even and has no middle, expected odd sizes")
        self.bins, self.width, self.levels, self.strides = bins, final, levels, tuple(strides)
        self.frame_rate_hz = frame_rate_hz_in / (2 * math.prod(strides))
        self.stem = nn.Conv2d(1, stem, 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem, eps=_EPS)
        self.blocks = nn.ModuleList()
        for block in zip((stem, *channels), *rows, strict=False):
            self.blocks.append(WideBlock(*block))
        self.last = nn.Conv2d(channels[-1], final, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(final, eps=_EPS)
        self.tagger = None if classes is None else Tagger(final, hidden=classes[0], classes=classes[1])
        self.apply(_initialise)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        check_mel(features, bins=self.bins, tower="EfficientAT")
        refuse_keep(keep, tower="EfficientAT")
        mask_BT, values_BTF = padding_mask(features.mask_BT), features.values
        if self.levels is not None:
            values_BTF = (values_BTF - self.levels[0]) / self.levels[1]
        values_BTF = values_BTF.masked_fill(~features.mask_BT[..., None], 0.0)
        image = F.hardswish(self.stem_norm(self.stem(as_image(values_BTF))))
        mask_BT = stride_mask(mask_BT, 2)
        for block, stride in zip(self.blocks, self.strides, strict=True):
            image = block(image, mask_BT)
            mask_BT = stride_mask(mask_BT, stride)
        image = F.hardswish(self.last_norm(self.last(image)))
        real_BT = image.new_ones(image.shape[0], image.shape[2]).bool() if mask_BT is None else mask_BT
        wide = torch.promote_types(image.dtype, torch.float32)
        frames_BTD = image.to(wide).mean(3).mT.masked_fill(~real_BT[..., None], 0.0)
        return TowerOutput(frames_BTD, real_BT, masked_mean(frames_BTD, real_BT))

    def logits(self, features: Features) -> Tensor:
        """[B, classes]: what the tagger says of its classes; their probabilities are the sigmoids.

        Raises SpecError for a tower that was built without `classes`.
        """
        if self.tagger is None:
            raise SpecError("this EfficientAT has no tagging layers: build it with classes=(hidden, classes)")
        return self.tagger(self(features).summary_BD)


class WideBlock(nn.Module):
    """Widen by a 1 x 1 convolution, filter each channel by its own kernel, weigh the channels, narrow by another 1 x 1.

    [B, before, T, F] -> [B, after, T / stride, F / stride], rounded up; the input is added when the shapes agree.
    """

    def __init__(
        self, before: int, kernel: int, inner: int, after: int, squeezed: int, stride: int, soft: bool
    ) -> None:
        super().__init__()
        self.stride, self.adds_input = stride, stride == 1 and before == after
        self.activation = F.hardswish if soft else F.relu
        self.widen = None if inner == before else nn.Conv2d(before, inner, 1, bias=False)
        self.norm1 = None if inner == before else nn.BatchNorm2d(inner, eps=_EPS)
        self.filter = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self.norm2 = nn.BatchNorm2d(inner, eps=_EPS)
        self.squeeze = nn.Linear(inner, squeezed) if squeezed else None
        self.excite = nn.Linear(squeezed, inner) if squeezed else None
        self.narrow = nn.Conv2d(inner, after, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(after, eps=_EPS)

    def forward(self, image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
        inner = image_BCTF
        if self.widen is not None and self.norm1 is not None:
            inner = self.activation(self.norm1(self.widen(inner)))
        inner = self.activation(self.norm2(self.filter(zero_padding(inner, mask_BT))))
        if self.squeeze is not None and self.excite is not None:
            mean_BC = _mean(inner, stride_mask(mask_BT, self.stride))
            share_BC = self.excite(F.relu(self.squeeze(mean_BC))).sigmoid()
            inner = inner * share_BC[:, :, None, None].to(inner.dtype)
        narrow = self.norm3(self.narrow(inner))
        return image_BCTF + narrow if self.adds_input else narrow


class Tagger(nn.Module):
    """Two layers from a summary to the logits of classes."""

    def __init__(self, width: int, *, hidden: int, classes: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, classes)

    def forward(self, summary_BD: Tensor) -> Tensor:
        return self.linear2(F.hardswish(self.linear1(summary_BD)))


def _mean(image_BCTF: Tensor, mask_BT: Tensor | None) -> Tensor:
    if mask_BT is None:
        return image_BCTF.mean((2, 3))
    return masked_mean(image_BCTF.mean(3).transpose(1, 2), mask_BT)


def _initialise(module: nn.Module) -> None:
    # Normal by fan-out, as convolutions before a ReLU-like non-linearity want; that of a depthwise kernel is its size.
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def eighths(size: float) -> int:
    """The multiple of 8 that is nearest to `size`, but at least 8 and not below 90 % of it: how widths are rounded."""
    rounded = max(8, int(size + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * size else rounded


def widened(factor: float) -> Spec:
    """The tower whose channels are `factor` times those of MobileNetV3-Large: published as mn04 (0.4) to mn40 (4.0)."""
    inner = tuple(eighths(factor * channels) for channels in _INNER)
    channels = tuple(eighths(factor * channels) for channels in _CHANNELS)
    squeezed = tuple(eighths(wide // 4) if has else 0 for wide, has in zip(inner, _SQUEEZED, strict=True))
    stem = eighths(factor * 16)
    return spec(EfficientAT, stem=stem, inner=inner, channels=channels, squeezed=squeezed, final=6 * channels[-1])


_LEVELS_DB = (-30.0, 25.0)  # for the presets that are trained on our own front-end
tiny = spec(
    EfficientAT,
    levels=_LEVELS_DB,
    stem=8,
    kernels=(3, 3, 5),
    inner=(8, 24, 32),
    channels=(8, 12, 16),
    squeezed=(0, 0, 8),
    strides=(1, 2, 2),
    soft=(False, False, True),
    final=48,
)
small = derive(widened(0.6), levels=_LEVELS_DB)
mn04, mn10, mn20, mn40 = (widened(factor) for factor in (0.4, 1.0, 2.0, 4.0))
