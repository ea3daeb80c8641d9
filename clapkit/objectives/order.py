"""Contrast for the order of events: what is wrong about time alone is a negative, with a weight for each kind.

The other temporal loss, T-CLAP's (card 006), asks each clip for its own caption or the reversed one and nothing else:
`weighted((InfoNCE(private=False), 1.0), (HardNegativeSoftplus(), 0.5))`, from `margin`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import Side, both_ways, check_share, private_logits, scores, softmax_cost


@dataclass(frozen=True)
class TemporalNCE:
    """TeminAL's contrast with weighed temporal negatives (TNCE, card 026).

    Row k of text_private_BKD holds one kind of wrong caption of clip b: with its events in reverse, told as if at once,
    ... ; row k of audio_private_UKD the sound of that kind. With s = scale * cosine and weights w:

        audio_to_text = -1/B sum_bu P_bu log( e^s_bu / ( sum_v e^s_bv + sum_k w_k e^{s(a_b, wrong text k of b)} ) )
        text_to_audio = -1/B sum_bu P_bu log( e^s_bu / ( sum_c e^s_cu + sum_k w_k e^{s(wrong sound k of u, t_u)} ) )
        loss          = (1 - balance) * audio_to_text + balance * text_to_audio

    weights      one number >= 0 for each of the K kinds; 0: that kind is not seen at all
    both_sides   False: wrong sounds are not read, text_to_audio is that of InfoNCE

    The method is a schedule of weights: with (reverse, at once), stage A, one sound or two, has (0, 1) and stage B,
    in which order, (1, 1); beside both stands InfoNCE on plain pairs, so that nothing is unlearned. Where a mix and its
    reverse are both clips of the batch, each caption is in the other's denominator already, with weight 1.
    Relations. One clip, one kind, weight 1: audio_to_text is `HardNegativeSoftplus`, which leaves the other texts out.
    Limits. All weights 0: InfoNCE without private negatives. All weights 1: with them. A weight of 2: the negative
    stands there twice.
    """

    weights: tuple[float, ...] = (1.0,)
    both_sides: bool = True
    balance: float = 0.5

    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights))
        wrong = [w for w in self.weights if not 0.0 <= w < math.inf]
        if wrong or not self.weights:
            raise SpecError(f"weights are numbers of 0 or more, one for each kind of wrong caption, not {self.weights}")
        check_share("balance", self.balance)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("audio", "text", "text_private", *(("audio_private",) if self.both_sides else ()))

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        here = scores(z, private=False)
        wrong_BE = self._weighed(z, "text", "text_private_BKD")
        if here.to_text_BE is not None:
            wrong_BE = torch.cat([here.to_text_BE, wrong_BE], dim=1)
        there = here.turned()
        wrong_UE = there.to_text_BE
        if self.both_sides:
            wrong_UK = self._weighed(z, "audio", "audio_private_UKD")
            wrong_UE = wrong_UK if wrong_UE is None else torch.cat([wrong_UE, wrong_UK], dim=1)
        return both_ways(
            softmax_cost(here.logits_BU, here.target_BU, counted_RC=here.counted_BU, extra_RE=wrong_BE),
            softmax_cost(there.logits_BU, there.target_BU, counted_RC=there.counted_BU, extra_RE=wrong_UE),
            balance=self.balance,
        )

    def _weighed(self, z: Embeddings, side: Side, name: str) -> torch.Tensor:
        kinds = z[name].shape[1]
        logits = private_logits(z, side)
        if not kinds:  # nobody in the batch has any
            return z[name].new_zeros(z[name].shape[:2])
        if kinds != len(self.weights) or logits is None:
            raise ClapkitError(f"{name} holds {kinds} kinds of wrong {side}, and there are weights for {self.weights}")
        return logits + logits.new_tensor(self.weights).log()
