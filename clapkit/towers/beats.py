"""BEATs: a transformer over square patches of Kaldi filter banks (Chen et al. 2022; OpenBEATs, card 065)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.nets.masked import masked_mean
from clapkit.nets.mel_input import check_mel
from clapkit.nets.output import TowerOutput
from clapkit.nets.transformer import attention_mask
from clapkit.spec import spec

if TYPE_CHECKING:
    from clapkit.audio.features import Features

_ATTENTION_VALUES = 2**27  # weights of attention that are held at once, in eval mode: bounds the memory of a batch


class BEATs(nn.Module):
    """Post-norm transformer with DeepNorm: filter banks [B, T, bins] -> frames [B, T', width], summary [B, width].

    bins              mel bins of the front-end, a multiple of `patch`
    frame_rate_hz_in  frames per second of the front-end
    patch             frames and bins of a patch; patches do not overlap
    embed_width       size of a patch behind the first convolution; one that is not `width` is mapped to it
    embed_bias        the first convolution has a bias
    width             size of a token, a multiple of `heads` and `groups`
    depth, heads      number of blocks, and of attention heads in each
    hidden            width of the feed-forward layers
    kernel, groups    of the convolution over tokens that tells them where they are
    buckets           learned distances between two tokens, an even number; half of them for each direction
    max_distance      distance from which on tokens are equally far apart
    levels            (mean, deviation) of the input, for a front-end that does not standardise; None: left alone
    classes           adds the tagging layer of a fine-tuned model (`logits`); None: there is none

    Tokens are ordered in time first: token = time step * (bins / patch) + band. As published, frames that do not fill a
    last patch are not heard: T' = T / patch, rounded down (but one step at least, filled up with zeros). A frame is the
    mean of its step over the bands, the summary the mean over all tokens. Padding never influences real tokens.
    Raises SpecError for sizes and features that do not fit, and for `keep`.
    """

    def __init__(
        self,
        *,
        bins: int = 64,
        frame_rate_hz_in: float = 64.0,
        patch: int = 16,
        embed_width: int = 512,
        embed_bias: bool = False,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        kernel: int = 128,
        groups: int = 16,
        buckets: int = 320,
        max_distance: int = 800,
        levels: tuple[float, float] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        if bins % patch:
            raise SpecError(f"{bins} mel bins cannot be cut into patches {patch} bins high: choose a divisor")
        if width % heads or width % groups:
            raise SpecError(f"width={width} must be a multiple of heads={heads} and of groups={groups}")
        self.bins, self.width, self.patch = bins, width, patch
        self.bands, self.levels = bins // patch, levels
        self.frame_rate_hz = frame_rate_hz_in / patch
        self.embed = nn.Conv2d(1, embed_width, patch, patch, bias=embed_bias)
        self.embed_norm = nn.LayerNorm(embed_width)
        self.embed_map = nn.Identity() if embed_width == width else nn.Linear(embed_width, width)
        self.position = PositionConvolution(width, kernel=kernel, groups=groups)
        self.norm = nn.LayerNorm(width)
        self.distances = DistanceBias(heads, buckets=buckets, max_distance=max_distance)
        self.blocks = nn.ModuleList(DeepNormBlock(width, heads=heads, hidden=hidden, depth=depth) for _ in range(depth))
        self.predictor = None if classes is None else nn.Linear(width, classes)

    def forward(self, features: Features, keep: Tensor | None = None) -> TowerOutput:
        if keep is not None:
            raise SpecError(
                "BEATs finds out where its tokens are by a convolution over all of them and cannot leave tokens out, "
                f"but was given keep of shape {list(keep.shape)}. Call it without keep, or use PatchTransformer."
            )
        tokens_BLD, real_BL = self.tokens(features)
        mask_BT = real_BL[:, :: self.bands]
        frames_BTD = tokens_BLD.unflatten(1, (-1, self.bands)).mean(2)
        return TowerOutput(frames_BTD, mask_BT, masked_mean(frames_BTD, mask_BT))

    def tokens(self, features: Features) -> tuple[Tensor, Tensor]:
        """Every token [B, T' * bands, width] behind the last block, zero in padding, and which are real [B, L]."""
        check_mel(features, bins=self.bins, tower="BEATs")
        tokens_BLD, real_BL = self._embedded(features)
        padded_BL1 = ~real_BL[..., None]
        tokens_BLD = tokens_BLD.masked_fill(padded_BL1, 0.0)
        tokens_BLD = self.norm(tokens_BLD + self.position(tokens_BLD))
        attend, bias_HLL = attention_mask(real_BL), self.distances(tokens_BLD.shape[1])
        for block in self.blocks:
            tokens_BLD = block(tokens_BLD, bias_HLL, attend)
        return tokens_BLD.masked_fill(padded_BL1, 0.0), real_BL

    def logits(self, features: Features) -> Tensor:
        """[B, classes]: what a fine-tuned model says of its classes; their probabilities are the sigmoids.

        Raises SpecError for a tower that was built without `classes`.
        """
        if self.predictor is None:
            raise SpecError("this BEATs has no tagging layer: build it with classes=..., or load a fine-tuned file")
        return self.predictor(self(features).summary_BD)

    def _embedded(self, features: Features) -> tuple[Tensor, Tensor]:
        mask_BT, values_BTF = features.mask_BT, features.values
        if self.levels is not None:
            values_BTF = (values_BTF - self.levels[0]) / self.levels[1]
        values_BTF = values_BTF.masked_fill(~mask_BT[..., None], 0.0)
        values_BTF = F.pad(values_BTF, (0, 0, 0, max(0, self.patch - values_BTF.shape[1])))
        grid_BDTF = self.embed(values_BTF[:, None])
        real_B1 = mask_BT.sum(1, keepdim=True)
        steps_B1 = torch.where(real_B1 > 0, (real_B1 // self.patch).clamp_min(1), 0)
        steps_BT = torch.arange(grid_BDTF.shape[2], device=mask_BT.device) < steps_B1
        tokens_BLD = self.embed_map(self.embed_norm(grid_BDTF.flatten(2).transpose(1, 2)))
        # Under autocast the sums of the blocks stay in float32.
        tokens_BLD = tokens_BLD.to(torch.promote_types(tokens_BLD.dtype, torch.float32))
        return tokens_BLD, steps_BT.repeat_interleave(self.bands, dim=1)


class PositionConvolution(nn.Module):
    """A grouped convolution along the tokens, then GELU: [B, L, D] -> same.

    Its kernel is a direction and, for each of its taps, a length (weight normalisation over the taps). Of an even
    kernel, token t sees the kernel / 2 tokens before and kernel / 2 - 1 behind it.
    """

    def __init__(self, width: int, *, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.direction, std=(4.0 / (kernel * width)) ** 0.5)
        self.length = nn.Parameter(self.direction.detach().norm(dim=(0, 1), keepdim=True))

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        kernel = self.direction * (self.length / self.direction.norm(dim=(0, 1), keepdim=True))
        taps, count = kernel.shape[2], tokens_BLD.shape[1]
        seen = F.conv1d(tokens_BLD.transpose(1, 2), kernel, self.bias, padding=taps // 2, groups=self.groups)
        return F.gelu(seen[..., :count]).transpose(1, 2)


class DistanceBias(nn.Module):
    """[H, L, L]: what each head adds for the distance from a token to the one it looks at.

    Distances share learned buckets: each of the small ones has its own, larger ones share theirs logarithmically up to
    `max_distance`; before and behind are told apart.
    """

    def __init__(self, heads: int, *, buckets: int, max_distance: int) -> None:
        super().__init__()
        exact = buckets // 4
        if buckets % 2 or exact < 1 or max_distance <= exact:
            raise SpecError(
                f"buckets={buckets} and max_distance={max_distance} do not fit: expected an even number of 4 or more "
                "buckets and a distance above a quarter of it"
            )
        self.buckets, self.max_distance = buckets, max_distance
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, count: int) -> Tensor:
        position_L = torch.arange(count, device=self.weight.device)
        offset_LL = position_L[None, :] - position_L[:, None]
        half = self.buckets // 2
        exact = half // 2
        distance_LL = offset_LL.abs()
        # As published, in float32: which side of a border a distance falls on is part of the model.
        share = torch.log(distance_LL.clamp_min(1).float() / exact) / math.log(self.max_distance / exact)
        far_LL = (exact + (share * (half - exact)).long()).clamp_max(half - 1)
        bucket_LL = torch.where(distance_LL < exact, distance_LL, far_LL) + half * (offset_LL > 0)
        return self.weight[bucket_LL].permute(2, 0, 1)


class DeepNormBlock(nn.Module):
    """Self-attention and a feed-forward layer, each added to (2 depth) ** 1/4 times its input, then normed.

    Every token opens or closes each head to the bias of distances by a gate that it computes from its own query.
    """

    def __init__(self, width: int, *, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.heads, self.residual = heads, (2.0 * depth) ** 0.25
        self.query_key_value = nn.Linear(width, 3 * width)
        self.gate = nn.Linear(width // heads, 8)
        self.gate_scale = nn.Parameter(torch.ones(1, heads, 1, 1))
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.rise = nn.Linear(width, hidden)
        self.fall = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)
        for linear in (self.query_key_value, self.out, self.rise, self.fall):
            nn.init.xavier_normal_(linear.weight, gain=(8.0 * depth) ** -0.25)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens_BLD: Tensor, bias_HLL: Tensor, attend: Tensor | None) -> Tensor:
        """`attend` [B, 1, 1, L] is True where a token may be looked at; None: everywhere."""
        count = tokens_BLD.shape[1]
        if self.training or torch.compiler.is_compiling():
            seen_BLD = self._attention(tokens_BLD, bias_HLL, attend)
        else:
            at_once = max(1, _ATTENTION_VALUES // (self.heads * count * count))
            masks = [None] * len(tokens_BLD) if attend is None else attend.split(at_once)
            rows = [self._attention(x, bias_HLL, m) for x, m in zip(tokens_BLD.split(at_once), masks, strict=False)]
            seen_BLD = torch.cat(rows)
        tokens_BLD = self.norm1(tokens_BLD * self.residual + seen_BLD)
        return self.norm2(tokens_BLD * self.residual + self.fall(F.gelu(self.rise(tokens_BLD))))

    def _attention(self, tokens_BLD: Tensor, bias_HLL: Tensor, attend: Tensor | None) -> Tensor:
        joined = self.query_key_value(tokens_BLD)
        query, key, value = joined.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, L, D / H]
        openness = self.gate(query).unflatten(3, (2, 4)).sum(4).sigmoid()
        gate_BHL1 = openness[..., :1] * (openness[..., 1:] * self.gate_scale - 1.0) + 2.0
        bias_BHLL = (gate_BHL1 * bias_HLL).to(query.dtype)
        if attend is not None:
            bias_BHLL = bias_BHLL.masked_fill(~attend, -torch.inf)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_BHLL)
        return self.out(seen.transpose(1, 2).flatten(2))


_LEVELS_DB = (-30.0, 25.0)  # for the presets that are trained on our own front-end
tiny = spec(
    BEATs,
    levels=_LEVELS_DB,
    embed_width=16,
    width=24,
    depth=2,
    heads=2,
    hidden=48,
    kernel=16,
    groups=4,
    buckets=16,
    max_distance=32,
)
small = spec(BEATs, levels=_LEVELS_DB, embed_width=128, width=192, depth=4, heads=3, hidden=768, kernel=64)
base = spec(BEATs)
large = spec(BEATs, width=1024, depth=24, heads=16, hidden=4096)
