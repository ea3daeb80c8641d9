"""A token that listens to all frames of a clip and becomes its vector: the audio head of M2D-CLAP 2025 (card 022)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from clapkit.errors import SpecError
from clapkit.nets.transformer import Block, initialise, run_blocks


class SemanticToken(nn.Module):
    """Frames [B, T, D] and mask [B, T] -> [B, D]: what a learned token is behind `depth` blocks and a norm.

    depth   number of transformer blocks in which the token and the frames see each other
    heads   attention heads in each
    hidden  width of the feed-forward layers; `in_width` unless given

    The order of the frames does not matter, and padding is not seen. Real frames stand in front.
    Raises SpecError if `out_width` is not `in_width`.
    """

    reads: ClassVar[str] = "frames"

    def __init__(
        self, in_width: int, out_width: int, *, depth: int = 1, heads: int = 1, hidden: int | None = None
    ) -> None:
        super().__init__()
        if in_width != out_width:
            raise SpecError(
                f"SemanticToken gives vectors as wide as its frames and cannot turn width {in_width} into {out_width}: "
                f"use dimension={in_width}, or another head"
            )
        self.width = out_width
        self.token = nn.Parameter(torch.empty(in_width))
        self.blocks = nn.ModuleList(
            Block(in_width, heads=heads, hidden=hidden or in_width, eps=1e-5) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(in_width)
        nn.init.normal_(self.token, std=0.02)
        self.apply(initialise)

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        token_B1D = self.token.expand(frames_BTD.shape[0], 1, -1)
        real_BL = torch.cat([mask_BT.new_ones(mask_BT.shape[0], 1), mask_BT], dim=1)
        tokens_BLD = run_blocks(self.blocks, torch.cat([token_B1D, frames_BTD], dim=1), real_BL)
        return self.norm(tokens_BLD[:, 0])
