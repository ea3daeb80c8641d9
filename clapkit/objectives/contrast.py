"""Contrast by softmax over the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clapkit.errors import SpecError
from clapkit.objectives.base import Embeddings, Reduces


@dataclass(frozen=True)
class InfoNCE:
    """Symmetric InfoNCE over distinct texts (CLAP/CLIP loss; card 000, 025).

    With s_bu = scale * a_b . t_u and the target P (rows sum to 1):

        audio_to_text = -1/B  sum_bu P_bu log softmax_u(s_b.)_u        text_negative joins the denominator
        text_to_audio = -1/B  sum_bu P_bu log softmax_b(s_.u)_b
        loss          = (1 - balance) * audio_to_text + balance * text_to_audio

    Relations. P = identity: the loss of CLAP. Equal captions: their clips are each other's positives, where the plain
    loss would push them apart. P mixed from two clips: the loss for mixed sounds (mixup of targets).
    balance = 0 and fixed texts: softmax classification with the texts as weights.
    Limits. All embeddings equal: log U and log B. Scale 0: the same, whatever the embeddings.

    `smoothing` in [0, 1) spreads that share of every row of P evenly over all texts of the batch.
    """

    balance: float = 0.5
    smoothing: float = 0.0

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        if not 0.0 <= self.balance <= 1.0:
            raise SpecError(f"balance is a share between 0 and 1, not {self.balance}")
        if not 0.0 <= self.smoothing < 1.0:
            raise SpecError(f"smoothing is a share in [0, 1), not {self.smoothing}")

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        target_BU = z.target_BU()
        logits_BU = z.scale * (z.audio_BD @ z.text_UD.T)
        rows = logits_BU
        if z.text_negative_ED is not None and len(z.text_negative_ED):
            rows = torch.cat([logits_BU, z.scale * (z.audio_BD @ z.text_negative_ED.T)], dim=1)
        log_p_BU = torch.log_softmax(rows, dim=1)[:, : logits_BU.shape[1]]
        smoothed = target_BU
        if self.smoothing:
            smoothed = (1 - self.smoothing) * target_BU + self.smoothing / target_BU.shape[1]
        batch = logits_BU.shape[0]
        return {
            "audio_to_text": (1 - self.balance) * -(smoothed * log_p_BU).sum() / batch,
            "text_to_audio": self.balance * -(target_BU * torch.log_softmax(logits_BU, dim=0)).sum() / batch,
        }
