"""Ranking: what is right has to score higher than what is wrong, by a margin or as clearly as may be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch.nn.functional import softplus

from clapkit.errors import SpecError, nearest_name
from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import Scores, Side, both_ways, check_share, private_logits, scores, wide

Negatives = Literal["sum", "hardest"]


@dataclass(frozen=True)
class MaxMargin:
    """Bidirectional max-margin ranking of cosines (card 139; hardest negative: VSE++, card 076).

        audio_to_text = 1/B  sum_bu P_bu  sum_v [ margin + a_b . t_v - a_b . t_u ]_+        v: not a text of clip b
        text_to_audio = 1/B  sum_bu P_bu  sum_c [ margin + a_c . t_u - a_b . t_u ]_+        c: not a clip of text u
        loss          = 2 (1 - balance) audio_to_text + 2 balance text_to_audio

    negatives = "hardest" puts the maximum in the place of the inner sum. Pairs that include_BU leaves out are no
    negatives; wrong texts and sounds of the batch (shared, private) are. The scale of the model plays no part.

    Relations. As the scale grows, InfoNCE / scale tends to the hinge with margin 0 and the hardest negative. Where all
    margins are met there is no gradient, so that well-separated pairs are left alone.
    Limits. All embeddings equal: the margin times the number of negatives. One clip: 0.
    """

    margin: float = 0.2
    negatives: Negatives = "sum"
    balance: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        if not 0.0 <= self.margin < float("inf"):
            raise SpecError(f"margin is a distance of cosines, 0 or more, not {self.margin}")
        if self.negatives not in get_args(Negatives):
            raise SpecError(f"negatives={self.negatives!r}; {nearest_name(str(self.negatives), get_args(Negatives))}")
        check_share("balance", self.balance)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        cosines = scores(replace(z, scale=torch.ones_like(wide(z.scale))))
        return both_ways(2 * self._cost(cosines), 2 * self._cost(cosines.turned()), balance=self.balance)

    def _cost(self, given: Scores) -> torch.Tensor:
        """Cost [R] of each row, its positive pairs (mostly one) taken one by one."""
        rows, columns = given.target_BU.nonzero(as_tuple=True)
        right_P1 = given.logits_BU[rows, columns, None]
        hinge_PN = (self.margin + given.negatives_BN()[rows] - right_P1).clamp_min(0)
        cost_P = hinge_PN.amax(1) if self.negatives == "hardest" else hinge_PN.sum(1)
        cost_R = given.logits_BU.new_zeros(len(given.logits_BU))
        return cost_R.index_add_(0, rows, given.target_BU[rows, columns] * cost_P)


@dataclass(frozen=True)
class HardNegativeSoftplus:
    """A clip's own text against its own wrong texts, a pair at a time (T-CLAP's temporal term; card 006).

        hard_negative_text = 1/M sum_b  mean_k  sum_u P_bu softplus( scale * (a_b . t_bk^wrong - a_b . t_u) )

    over the M clips that have wrong texts (text_private_BKD, where private_BK allows). side = "audio" is the mirror
    image: a text against sounds that it does not describe (audio_private_UKD), its clips weighing alike.
    The mean is over those that have any, so it needs the whole batch.

    Relations. softplus(x - s) = -log [ e^s / (e^s + e^x) ]: InfoNCE of two choices, where `InfoNCE` puts the wrong
    text among all others; use InfoNCE(private=False) beside it, so that wrong texts count once.
    Limits. Wrong and right embedded alike: log 2. No wrong text in the batch: 0.
    """

    side: Side = "text"

    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        if self.side not in get_args(Side):
            raise SpecError(f"side={self.side!r}; {nearest_name(str(self.side), get_args(Side))}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The two sides and what is wrong for one."""
        return ("audio", "text", f"{self.side}_private")

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        target_BU = wide(z.target_BU())
        clips, texts = target_BU.nonzero(as_tuple=True)
        right_P = z.scale * (wide(z.audio_BD)[clips] * wide(z.text_UD)[texts]).sum(1)
        given, rows = (target_BU, clips) if self.side == "text" else (target_BU.T, texts)
        share_P = target_BU[clips, texts] / given.sum(1)[rows]
        wrong_RK = self._wrong(z, len(given))
        count_R = (wrong_RK > -torch.inf).sum(1)
        cost_P = softplus(wrong_RK[rows] - right_P[:, None]).sum(1) / count_R[rows].clamp_min(1)
        asked = ((count_R > 0) & (given.sum(1) > 0)).sum()
        return {f"hard_negative_{self.side}": (share_P * cost_P).sum() / asked.clamp_min(1)}

    def _wrong(self, z: Embeddings, rows: int) -> torch.Tensor:
        """Logits [R, K] of the wrong ones, -inf where there is none."""
        made = z["text_private_BKD" if self.side == "text" else "audio_private_UKD"]
        wrong_RK = private_logits(z, self.side)
        return wide(made).new_zeros(rows, 0) if wrong_RK is None else wrong_RK
