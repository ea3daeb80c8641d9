"""Contrast for scenes made of parts: a clip has true captions of several sizes, and wrong ones of the same words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import both_ways, check_share, scores, softmax_cost


@dataclass(frozen=True)
class ModularContrast:
    """CompA's modular contrast over captions from coarse to fine (card 028, stage 3).

    Clip b has the positives P(b) = {u : target_bu > 0}: the caption of the whole scene, and captions of parts of it
    that are true as well. Its wrong captions N(b) (another order, another binding) are text_private_BKD. With
    s = scale * cosine:

        audio_to_text_b = -1/|P(b)|  sum_{p in P(b)} log( e^s_bp / sum_{k in W + P(b) + N(b)} e^s_bk )
        text_to_audio_b = -1/|P(b)|  sum_{p in P(b)} log( e^s_bp / sum_c e^s_cp )
        loss            = mean over clips of (1 - balance) * audio_to_text + balance * text_to_audio

    W holds the whole captions: of each clip the positive with the largest share of its target row (all, where several
    have it), and texts of the batch that describe no clip. So the parts of one scene are never held against another
    clip, of which they may be true unsaid; and wrong captions are seen by their own clip alone. The shares have no
    other say: all positives weigh the same.

    What else InfoNCE's denominators hold (include_BU, ..._negative, audio_private_UKD) they hold here.
    Relations. One caption a clip: InfoNCE, which with text_private_BKD is the method's stage 2 and without it stage 1.
    Equal shares in every row: InfoNCE with several positives.
    """

    balance: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("audio", "text", "text_private")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        check_share("balance", self.balance)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        z["text_private_BKD"]  # refused where it is missing: `scores` would go on without
        here = scores(z)
        there = here.turned()
        positive_BU = here.target_BU > 0
        even_BU = positive_BU / positive_BU.sum(1, keepdim=True).clamp(min=1).to(here.target_BU.dtype)
        counted_BU = _whole_U(here.target_BU).expand_as(positive_BU)
        if here.counted_BU is not None:
            counted_BU = counted_BU & here.counted_BU
        return both_ways(
            softmax_cost(here.logits_BU, even_BU, counted_RC=counted_BU, extra_RE=here.to_text_BE),
            softmax_cost(there.logits_BU, even_BU.T, counted_RC=there.counted_BU, extra_RE=there.to_text_BE),
            balance=self.balance,
        )


def _whole_U(target_BU: torch.Tensor) -> torch.Tensor:
    """True for the text with the largest share of some clip's row, and for texts without a share in any."""
    largest_BU = (target_BU > 0) & (target_BU == target_BU.amax(1, keepdim=True))
    return largest_BU.any(0) | ~(target_BU > 0).any(0)
