"""What every tower returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TowerOutput:
    """frames_BTD [B, T', D] and mask_BT [B, T'] keep time; summary_BD [B, D] is the whole clip or sentence."""

    frames_BTD: torch.Tensor
    mask_BT: torch.Tensor
    summary_BD: torch.Tensor
