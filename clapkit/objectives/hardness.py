"""Contrast whose negatives weigh differently: the hard ones more, those that may be no negatives less.

All stand on the core of `contrast`: weights act on the denominator alone. A negative of a row is a counted pair
without target; wrong texts that stand in the row's denominator (shared or private) are negatives too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from clapkit.errors import SpecError, nearest_name
from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import Scores, both_ways, check_share, scores, softmax_cost, spread, wide

Reference = Literal["text", "audio", "both"]


def log_importance(negatives_RN: torch.Tensor, beta: float) -> torch.Tensor:
    """log of n exp(beta s_rn) / sum_m exp(beta s_rm), whose exponentials have mean 1 over the n negatives of a row.

    0 for whatever is no negative (-inf in `negatives_RN`).
    """
    is_negative_RN = negatives_RN > -torch.inf
    count_R1 = is_negative_RN.sum(1, keepdim=True).to(negatives_RN.dtype)
    # Nothing here may meet -inf: 0 * inf has no value, and a row of -inf alone has no gradient.
    finite_RN = beta * negatives_RN.masked_fill(~is_negative_RN, 0)
    shared_RN = finite_RN.masked_fill(~is_negative_RN & (count_R1 > 0), -torch.inf)
    log_RN = count_R1.clamp_min(1).log() + finite_RN - torch.logsumexp(shared_RN, dim=1, keepdim=True)
    return torch.where(is_negative_RN, log_RN, torch.zeros_like(log_RN))


def check_power(name: str, value: float) -> None:
    """SpecError unless `value` is finite and >= 0."""
    if not 0.0 <= value < float("inf"):
        raise SpecError(f"{name} is a finite number >= 0, not {value}")


@dataclass(frozen=True)
class HNNCE:
    """HN-NCE: negatives weigh by how hard they are (DiHT, CVPR 2023; card 114).

        row b:  -sum_u P_bu log [ e^{s_bu} / (alpha sum_{u: P_bu > 0} e^{s_bu} + sum_n w_bn e^{s_bn}) ]
        w_bn  = n exp(beta s_bn) / sum_m exp(beta s_bm)          over the n negatives of the row: their mean is 1

    and the same over columns. The paper writes the weights as plain functions of s; here no gradient flows into them
    unless `detach` is False.

    Relations. beta sharpens within a row; where captions of other clips are true as well, a large beta finds exactly
    those: give include_BU. Weighted contrast no longer estimates pointwise mutual information.
    Limits. alpha = 1, beta = 0: InfoNCE. alpha = 0: the decoupled loss, without the positive below (it may be
    negative; a row without negatives costs nothing). beta to infinity: the hardest negative, n times.
    """

    beta: float = 0.25
    alpha: float = 1.0
    detach: bool = True
    balance: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        check_power("beta", self.beta)
        check_share("alpha", self.alpha)
        check_share("balance", self.balance)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        here = scores(z)
        return both_ways(self._cost(here), self._cost(here.turned()), balance=self.balance)

    def _cost(self, given: Scores) -> torch.Tensor:
        negatives_RN = given.negatives_BN()
        log_weight_RN = log_importance(negatives_RN.detach() if self.detach else negatives_RN, self.beta)
        columns = given.logits_BU.shape[1]
        alone_R1 = (negatives_RN == -torch.inf).all(1, keepdim=True)
        log_alpha_R1 = torch.full_like(alone_R1, self.alpha, dtype=negatives_RN.dtype).log().masked_fill(alone_R1, 0)
        log_weight_RC = torch.where(given.target_BU > 0, log_alpha_R1, log_weight_RN[:, :columns])
        extra = None if given.to_text_BE is None else given.to_text_BE + log_weight_RN[:, columns:]
        return softmax_cost(
            given.logits_BU,
            given.target_BU,
            counted_RC=given.counted_BU,
            extra_RE=extra,
            log_weight_RC=log_weight_RC,
        )


@dataclass(frozen=True)
class DebiasedNCE:
    """Some negatives of a batch are true: what they add to the denominator is estimated and taken off.

    Debiased contrast (Chuang et al., NeurIPS 2020), with hard weights the loss of Robinson et al. (ICLR 2021):

        row b:  -sum_u P_bu log [ e^{s_bu} / (sum_{u: P_bu > 0} e^{s_bu} + G_b) ]
        G_b   = max{ (sum_n w_bn e^{s_bn} - n tau_plus m_b) / (1 - tau_plus),  n e^{-scale} }
        m_b   = sum_u P_bu e^{s_bu} / sum_u P_bu         w_bn as in `HNNCE`, without gradient

    and the same over columns. tau_plus is the share of negatives that are true; e^{-scale} is the least that a pair of
    unit vectors can have.

    Relations. include_BU names the false negatives, this knows only how many there are.
    Limits. tau_plus = 0, beta = 0: InfoNCE. tau_plus = 0: `HNNCE` with alpha = 1.
    """

    tau_plus: float = 0.1
    beta: float = 0.0
    balance: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        check_share("tau_plus", self.tau_plus, below_one=True)
        check_power("beta", self.beta)
        check_share("balance", self.balance)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        here = scores(z)
        return both_ways(self._cost(here, z.scale), self._cost(here.turned(), z.scale), balance=self.balance)

    def _cost(self, given: Scores, scale: torch.Tensor) -> torch.Tensor:
        is_positive_RC = given.target_BU > 0
        return softmax_cost(
            given.logits_BU,
            given.target_BU,
            counted_RC=is_positive_RC,
            extra_RE=self._log_negatives(given, scale)[:, None],
        )

    def _log_negatives(self, given: Scores, scale: torch.Tensor) -> torch.Tensor:
        """log G [R]; computed relative to the greatest logit of the row, so that nothing overflows."""
        negatives_RN = given.negatives_BN()
        weighed_RN = negatives_RN + log_importance(negatives_RN.detach(), self.beta)
        count_R = (negatives_RN > -torch.inf).sum(1).to(negatives_RN.dtype)
        peak_R = torch.maximum(given.logits_BU.amax(1), weighed_RN.amax(1)).detach()
        sum_R = (weighed_RN - peak_R[:, None]).exp().sum(1)
        mass_R = given.target_BU.sum(1).clamp_min(torch.finfo(sum_R.dtype).tiny)
        positive_R = (given.target_BU * (given.logits_BU - peak_R[:, None]).exp()).sum(1) / mass_R
        cleaned_R = (sum_R - count_R * self.tau_plus * positive_R) / (1 - self.tau_plus)
        kept_R = torch.maximum(cleaned_R, count_R * (-scale - peak_R).exp())
        return kept_R.clamp_min(torch.finfo(kept_R.dtype).tiny).log() + peak_R


@dataclass(frozen=True)
class DCLR:
    """InfoNCE without the negatives that a reference model finds too near (card 082, ACL 2022).

    Pair (b, u) stands in no denominator, in either direction, if it has no target and

        max over the texts v of clip b of  p_v . p_u        > threshold     reference "text", p = text_teacher
        max over the clips c of text u of  q_b . q_c        > threshold     reference "audio", q = audio_teacher
        both of these                                                       reference "both"

    The paper's other half, noise vectors as further negatives, is text_negative_ED of whoever makes them. Its code
    multiplies logits by 0 where the formula drops the item; this is the formula.

    Limit. threshold >= 1 (no cosine is greater): InfoNCE.
    """

    threshold: float = 0.9
    reference: Reference = "text"
    balance: float = 0.5

    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        if self.reference not in get_args(Reference):
            raise SpecError(f"reference={self.reference!r}; {nearest_name(str(self.reference), get_args(Reference))}")
        if not self.threshold >= -1.0:
            raise SpecError(f"threshold is a cosine, -1 or more, not {self.threshold}")
        check_share("balance", self.balance)

    @property
    def needs(self) -> tuple[str, ...]:
        """The two sides and what the reference sees."""
        seen = ("text", "audio") if self.reference == "both" else (self.reference,)
        return ("audio", "text", *(f"{side}_teacher" for side in seen))

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        here = scores(z)
        counted_BU = ~self._too_near(z, here.target_BU)
        if here.counted_BU is not None:
            counted_BU = counted_BU & here.counted_BU
        there = here.turned()
        to_text_B = softmax_cost(here.logits_BU, here.target_BU, counted_RC=counted_BU, extra_RE=here.to_text_BE)
        to_audio_U = softmax_cost(there.logits_BU, there.target_BU, counted_RC=counted_BU.T, extra_RE=there.to_text_BE)
        return both_ways(to_text_B, to_audio_U, balance=self.balance)

    def _too_near(self, z: Embeddings, target_BU: torch.Tensor) -> torch.Tensor:
        positive_BU = (target_BU > 0).to(target_BU.dtype)
        found = []
        if self.reference in ("text", "both"):
            found.append(spread(positive_BU, self._near(z["text_teacher_UD"])) > 0)
        if self.reference in ("audio", "both"):
            found.append(spread(positive_BU.T, self._near(z["audio_teacher_BD"])).T > 0)
        return torch.stack(found).all(0)

    def _near(self, teacher_CD: torch.Tensor) -> torch.Tensor:
        teacher_CD = wide(teacher_CD.detach())
        # Rounding puts the cosine of a vector with itself a little above 1.
        return ((teacher_CD @ teacher_CD.T).clamp(max=1.0) > self.threshold).to(teacher_CD.dtype)
