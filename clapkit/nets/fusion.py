"""Attention feature fusion: how a window-sized encoder hears a clip that is longer (arXiv:2211.06687, card 002)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.nets.swin import in_window_order

CHUNKS = 3  # front, middle and back of a long clip, side by side


class ChunkFusion(nn.Module):
    """The patches of a whole clip, shrunk to one window, mixed with those of three chunks at full resolution.

    width      size of a token
    patch      side of a patch; a patch of a chunk is three times as long, so that the chunks fill the same grid
    side       side of that grid of tokens
    window     the window in whose order the tokens lie
    inner      width of the gates inside

    `fusion(whole_NLD, chunks_NKPTF)`: tokens of the whole clip and the folded images [N, 3, pieces, time, bins] of its
    chunks -> tokens [N, L, width] of both.
    """

    def __init__(self, width: int, *, patch: int, side: int, window: int, inner: int) -> None:
        super().__init__()
        self.patch, self.side, self.window = patch, side, window
        self.embed = nn.Linear(CHUNKS * patch * patch, width)
        self.local_gate = Gate(width, inner)
        self.whole_gate = Gate(width, inner)

    def forward(self, whole_NLD: Tensor, chunks_NKPTF: Tensor) -> Tensor:
        chunks_NLD = self._patches(chunks_NKPTF)
        both_NLD = whole_NLD + chunks_NLD
        gate_NLD = self.local_gate(both_NLD) + self.whole_gate(both_NLD.mean(1, keepdim=True))
        gate_NLD = gate_NLD.sigmoid()
        return 2 * whole_NLD * gate_NLD + 2 * chunks_NLD * (1 - gate_NLD)

    def _patches(self, chunks_NKPTF: Tensor) -> Tensor:
        """Tokens [N, L, width] of the chunks, side by side in time; the columns that they do not fill are zero."""
        length = CHUNKS * self.patch
        columns = chunks_NKPTF.shape[3] // length
        cut = chunks_NKPTF[:, :, :, : columns * length].unflatten(4, (-1, self.patch)).unflatten(3, (columns, length))
        # [N, chunk, piece, column, time, row, bin] -> rows (piece, row), columns (chunk, column), pixels (bin, time)
        pixels = cut.permute(0, 2, 5, 1, 3, 6, 4).flatten(5).flatten(3, 4).flatten(1, 2)
        grid_NRCD = self.embed(pixels)
        return in_window_order(F.pad(grid_NRCD, (0, 0, 0, self.side - grid_NRCD.shape[2])), window=self.window)


class Gate(nn.Module):
    """What decides, token by token and channel by channel, between the two: [N, L, width] -> same."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.norm1 = nn.BatchNorm1d(inner)
        self.up = nn.Linear(inner, width)
        self.norm2 = nn.BatchNorm1d(width)

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        count, length, _ = tokens_NLD.shape
        rows_RD = tokens_NLD.reshape(count * length, -1)
        if self.training and len(rows_RD) == 1:
            # One row has no statistics of its own: as in the published training, it then stands there twice.
            rows_RD = rows_RD.expand(2, -1)
        gated_RD = self.norm2(self.up(torch.relu(self.norm1(self.down(rows_RD)))))
        return gated_RD[: count * length].view(count, length, -1)
