"""Reading a sequence from its beginning to its end: what came first is known when the second comes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clapkit.nets.masked import masked_max


class Recurrent(nn.Module):
    """A gated recurrent unit over frames: [B, T, D] and mask [B, T] (True in front, at real frames) -> [B, 2 hidden].

    The result is the state behind the last real frame and, beside it, the highest value of each number of the state on
    the way. It runs forward only, so that padding, which stands behind, is never read; in float32 under autocast too. A
    row without any real frame gives zeros. `width` is that of the result. Frames of unit variance suit it.
    """

    def __init__(self, in_width: int, *, hidden: int) -> None:
        super().__init__()
        self.width = 2 * hidden
        self.cell = nn.GRU(in_width, hidden, batch_first=True)

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        with torch.autocast(frames_BTD.device.type, enabled=False):
            state_BTH, _ = self.cell(frames_BTD.to(next(self.cell.parameters()).dtype))
        last_B = (mask_BT.sum(1) - 1).clamp(min=0)
        last_BH = state_BTH.gather(1, last_B[:, None, None].expand(-1, 1, state_BTH.shape[2]))[:, 0]
        return torch.cat([last_BH * mask_BT.any(1, keepdim=True), masked_max(state_BTH, mask_BT)], dim=1)
