"""Prediction between sound and language without negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clapkit.errors import ClapkitError
from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import check_share, wide


def comparable(z: Embeddings, one: str, other: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The fields `one` and `other`, vectors of clips (_BD) or texts (_UD), fit to be compared; in float32 at least.

    ClapkitError where one of them is missing, has not a row for each clip (text) of the batch, or where their widths
    differ.
    """
    for name in (one, other):
        rows = len(z.audio_BD if name.endswith("_BD") else z.text_UD)
        if z[name].ndim != 2 or len(z[name]) != rows:
            raise ClapkitError(f"{name} has shape {tuple(z[name].shape)}, expected ({rows}, width): a vector a row")
    widths = z[one].shape[1], z[other].shape[1]
    if widths[0] != widths[1]:
        raise ClapkitError(
            f"{one} has width {widths[0]} and {other} {widths[1]}: give the model a head that makes them equal"
        )
    return wide(z[one]), wide(z[other])


@dataclass(frozen=True)
class Siamese:
    """Each side predicts what a slowly following teacher makes of both sides (SLAP; card 077).

    p are predictions, z what the teacher (a moving average of the weights) makes of the same clip or text, without
    gradient; P is the target (rows sum to 1), l(p, z) = 2 - 2 cos(p, z) = |p - z|^2:

        text_from_audio  = inter / B        sum_bu P_bu l(p_audio_b, z_text_u)
        audio_from_text  = inter / B        sum_bu P_bu l(p_text_u, z_audio_b)
        audio_from_audio = (1 - inter) / B  sum_b       l(p_audio_b, z_audio_b)
        text_from_text   = (1 - inter) / B  sum_bu P_bu l(p_text_u, z_text_u)

    Every part is a mean over clips, a text counts as often as clips have it: a caption that stands twice costs what two
    equal texts would, and micro-batches add up to the batch.

    Relations. inter = 0: each side by itself (BYOL with one view, whose inputs are equal). inter = 1: only across.
    With no predictors and the online vectors in the teacher's place, a cross part is the pull of InfoNCE without the
    push. Limits. Perfect prediction: 0; right angles: 4; opposite: 8. All vectors equal costs 0 too: nothing in the
    formula forbids that collapse, the predictor and the slow teacher do, so watch the spread of the embeddings.
    """

    inter: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("audio_prediction", "text_prediction", "audio_teacher", "text_teacher")
    reduces: ClassVar[Reduces] = "samples"

    def __post_init__(self) -> None:
        check_share("inter", self.inter)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        share_BU = wide(z.target_BU()) / len(z.audio_BD)
        heard_BD, text_teacher_UD = comparable(z, "audio_prediction_BD", "text_teacher_UD")
        read_UD, audio_teacher_BD = comparable(z, "text_prediction_UD", "audio_teacher_BD")
        text_teacher_UD, audio_teacher_BD = text_teacher_UD.detach(), audio_teacher_BD.detach()
        comparable(z, "audio_prediction_BD", "audio_teacher_BD")
        own_B = 2 - 2 * (heard_BD * audio_teacher_BD).sum(1)
        own_U = 2 - 2 * (read_UD * text_teacher_UD).sum(1)
        return {
            "text_from_audio": self.inter * (share_BU * (2 - 2 * heard_BD @ text_teacher_UD.T)).sum(),
            "audio_from_text": self.inter * (share_BU * (2 - 2 * audio_teacher_BD @ read_UD.T)).sum(),
            "audio_from_audio": (1 - self.inter) * own_B.mean(),
            "text_from_text": (1 - self.inter) * (share_BU.sum(0) * own_U).sum(),
        }
