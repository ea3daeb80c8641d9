"""A head that hears what came first: for towers whose summary forgets the order of their frames."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from clapkit.heads.projection import Linear
from clapkit.nets.masked import masked_max, masked_mean
from clapkit.nets.recurrent import Recurrent


class RecurrentHead(nn.Module):
    """Frames [B, T, D] and mask [B, T] -> [B, out_width]: a linear map of their mean, their maximum and their course.

    The mean and the maximum say what is heard, whenever it is; the course is `nets.recurrent.Recurrent` over the
    frames, of `hidden` numbers. Real frames stand in front. A mean of frames that were made each on its own cannot tell
    "A, then B" from "B, then A", whatever it is trained with (card 006); this head can.
    """

    reads: ClassVar[str] = "frames"

    def __init__(self, in_width: int, out_width: int, *, hidden: int = 256) -> None:
        super().__init__()
        self.width = out_width
        self.course = Recurrent(in_width, hidden=hidden)
        self.projection = Linear(2 * in_width + self.course.width, out_width)

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        pooled = (masked_mean(frames_BTD, mask_BT), masked_max(frames_BTD, mask_BT))
        return self.projection(torch.cat([*pooled, self.course(frames_BTD, mask_BT)], dim=1))
