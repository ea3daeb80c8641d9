"""What a front-end hands to a tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Features:
    """A batch of features with the frames that are real.

    values      [B, T, F] float: log-mel (or other) frames; [B, N] for towers that read the waveform
    mask_BT     [B, T] bool: True where the frame is sound, False where it is padding
    is_longer_B [B] bool or None: fused models only, True where the clip was longer than the model's window
    """

    values: torch.Tensor
    mask_BT: torch.Tensor
    is_longer_B: torch.Tensor | None = None

    def with_values(self, values: torch.Tensor) -> Features:
        """The same mask around other values (views that change a mel)."""
        return Features(values, self.mask_BT, self.is_longer_B)
