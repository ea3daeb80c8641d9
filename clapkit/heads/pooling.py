"""From the frames of a tower to one vector: `pool(frames_BTD, mask_BT) -> [B, D]`.

Only real frames (True in the mask) count; a row that has none gives zeros. `width` is D of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clapkit.errors import SpecError
from clapkit.nets.masked import masked_max, masked_mean


class MeanPool(nn.Module):
    """Mean over the real frames."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.width = in_width

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return masked_mean(frames_BTD, mask_BT)


class MaxPool(nn.Module):
    """Maximum over the real frames."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.width = in_width

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return masked_max(frames_BTD, mask_BT)


class MeanMaxPool(nn.Module):
    """Mean plus maximum over the real frames, as the pretrained audio networks (PANNs) pool."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.width = in_width

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return masked_mean(frames_BTD, mask_BT) + masked_max(frames_BTD, mask_BT)


class AttentionPool(nn.Module):
    """Weighted mean over the real frames; the weights are a softmax over time of a learned score of each frame.

    Each head scores the frames on its own and weighs its share of the D channels. Untrained, all scores are zero and
    the result is the mean. Raises SpecError if `in_width` is not a multiple of `heads`.
    """

    def __init__(self, in_width: int, *, heads: int = 4) -> None:
        super().__init__()
        if in_width % heads:
            raise SpecError(f"in_width={in_width} must be a multiple of heads={heads}")
        self.width, self.heads = in_width, heads
        self.score = nn.Linear(in_width, heads, bias=False)  # a bias would cancel in the softmax
        nn.init.zeros_(self.score.weight)

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        padded_BT1 = ~mask_BT[..., None]
        frames_BTD = frames_BTD.masked_fill(padded_BT1, 0.0)
        # The lowest finite number, not -inf: a row without real frames then stays finite, and gives zeros below.
        score_BTH = self.score(frames_BTD)
        weight_BTH = score_BTH.masked_fill(padded_BT1, torch.finfo(score_BTH.dtype).min).softmax(1)
        shares_BTHd = frames_BTD.unflatten(2, (self.heads, -1))
        return (weight_BTH[..., None] * shares_BTHd).sum(1).flatten(1)
