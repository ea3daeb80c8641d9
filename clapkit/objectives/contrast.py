"""Contrast by softmax over the batch: one core, and the objectives that differ in their targets and rows alone.

The core is `scores` (what is compared with what) and `softmax_cost` (one direction). Weights of negatives stand in
`hardness`, on the same core.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

import torch

from clapkit.errors import SpecError, nearest_name
from clapkit.objectives.base import Embeddings, Reduces

Side = Literal["text", "audio"]


@dataclass(frozen=True)
class Scores:
    """What a batch compares: logits, scale times cosine, in float32 at least.

    logits_BU     clips against texts;  target_BU: which belong together
    counted_BU    True where a pair may stand in a denominator; None: everywhere
    to_text_BE    more logits in the clips' denominators (shared and private negatives), -inf where there is none
    to_audio_UE   more logits in the texts' denominators, likewise
    """

    logits_BU: torch.Tensor
    target_BU: torch.Tensor
    counted_BU: torch.Tensor | None = None
    to_text_BE: torch.Tensor | None = None
    to_audio_UE: torch.Tensor | None = None

    def negatives_BN(self) -> torch.Tensor:
        """Logits [B, U + E] of what each clip is contrasted with, -inf for whatever is no negative of it."""
        is_none_BU = self.target_BU > 0
        if self.counted_BU is not None:
            is_none_BU = is_none_BU | ~self.counted_BU
        negatives_BU = self.logits_BU.masked_fill(is_none_BU, -torch.inf)
        return negatives_BU if self.to_text_BE is None else torch.cat([negatives_BU, self.to_text_BE], dim=1)

    def turned(self) -> Scores:
        """The same seen from the texts."""
        counted_UB = None if self.counted_BU is None else self.counted_BU.T
        return Scores(self.logits_BU.T, self.target_BU.T, counted_UB, self.to_audio_UE, self.to_text_BE)


def wide(values: torch.Tensor) -> torch.Tensor:
    """The same in float32, if it was narrower: logits of 100 need more than the 8 bits of bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def private_logits(z: Embeddings, side: Side) -> torch.Tensor | None:
    """Logits [B, K] of the clips with their own wrong texts ("text"), or [U, K] of the texts; None without any.

    -inf where private_BK (audio_private_UK) says that there is none.
    """
    if side == "text":
        subject, wrong, there = z.audio_BD, z.text_private_BKD, z.private_BK
    else:
        subject, wrong, there = z.text_UD, z.audio_private_UKD, z.audio_private_UK
    if wrong is None or not wrong.shape[1]:
        return None
    logits = z.scale * (wide(wrong) @ wide(subject)[:, :, None]).squeeze(2)
    return logits if there is None else logits.masked_fill(~there.bool(), -torch.inf)


def scores(z: Embeddings, *, private: bool = True) -> Scores:
    """Everything that the softmax of a batch compares. `private` False leaves the private negatives out."""
    logits_BU = z.scale * (wide(z.audio_BD) @ wide(z.text_UD).T)
    return Scores(
        logits_BU=logits_BU,
        target_BU=z.target_BU().to(logits_BU.dtype),
        counted_BU=None if z.include_BU is None else z.include_BU.bool(),
        to_text_BE=_negatives(z, "text", private=private),
        to_audio_UE=_negatives(z, "audio", private=private),
    )


def _negatives(z: Embeddings, side: Side, *, private: bool) -> torch.Tensor | None:
    """Logits of the clips with texts that are none of theirs ("text"), or of the texts with such sounds."""
    subject, shared = (z.audio_BD, z.text_negative_ED) if side == "text" else (z.text_UD, z.audio_negative_FD)
    parts = [z.scale * (wide(subject) @ wide(shared).T)] if shared is not None and len(shared) else []
    own = private_logits(z, side) if private else None
    if own is not None:
        parts.append(own)
    return torch.cat(parts, dim=1) if parts else None


def softmax_cost(
    logits_RC: torch.Tensor,
    target_RC: torch.Tensor,
    *,
    counted_RC: torch.Tensor | None = None,
    extra_RE: torch.Tensor | None = None,
    log_weight_RC: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy [R] of each row: -sum_c T_rc (s_rc - log D_r), D_r = sum_c w_rc exp(s_rc) + sum_e exp(x_re).

    Weights, mask and extra columns (-inf: none) act on the denominator D alone, never on what stands above it. A pair
    with a positive target is counted whatever `counted_RC` says; so is every pair of a row without target, which costs
    nothing.
    """
    weighed = logits_RC if log_weight_RC is None else logits_RC + log_weight_RC
    mass_R = target_RC.sum(1)
    if counted_RC is not None:
        counted_RC = counted_RC | (target_RC > 0) | (mass_R == 0)[:, None]
        weighed = weighed.masked_fill(~counted_RC, -torch.inf)
    if extra_RE is not None:
        weighed = torch.cat([weighed, extra_RE], dim=1)
    return mass_R * torch.logsumexp(weighed, dim=1) - (target_RC * logits_RC).sum(1)


def both_ways(to_text_B: torch.Tensor, to_audio_U: torch.Tensor, *, balance: float) -> dict[str, torch.Tensor]:
    """The named losses of two directions, each a mean over the clips."""
    clips = len(to_text_B)
    return {
        "audio_to_text": (1 - balance) * to_text_B.sum() / clips,
        "text_to_audio": balance * to_audio_U.sum() / clips,
    }


def check_share(name: str, value: float, *, below_one: bool = False) -> None:
    """SpecError unless `value` is a share in [0, 1], or in [0, 1)."""
    if below_one and not 0.0 <= value < 1.0:
        raise SpecError(f"{name} is a share in [0, 1), not {value}")
    if not 0.0 <= value <= 1.0:
        raise SpecError(f"{name} is a share between 0 and 1, not {value}")


def spread(target_RC: torch.Tensor, near_CX: torch.Tensor) -> torch.Tensor:
    """target @ near [R, X] without the work of a product: targets are nearly all zeros."""
    rows, columns = target_RC.nonzero(as_tuple=True)
    summed_RX = near_CX.new_zeros(target_RC.shape[0], near_CX.shape[1])
    return summed_RX.index_add_(0, rows, target_RC[rows, columns, None].to(near_CX.dtype) * near_CX[columns])


@dataclass(frozen=True)
class InfoNCE:
    """Symmetric InfoNCE over distinct texts (CLAP/CLIP loss; card 000, 025; private negatives: card 028).

    With s_bu = scale * a_b . t_u and the target P (rows sum to 1):

        audio_to_text = -1/B  sum_bu P_bu log softmax_u(s_b.)_u        text_negative joins the denominator
        text_to_audio = -1/B  sum_bu P_bu log softmax_b(s_.u)_b        audio_negative joins the denominator
        loss          = (1 - balance) * audio_to_text + balance * text_to_audio

    Where the batch has them: pairs that include_BU leaves out stand in no denominator, and text_private_BKD
    (audio_private_UKD) stand in the denominator of their own clip (text) alone, unless `private` is False, for
    recipes where another objective reads them.

    Relations. P = identity: the loss of CLAP. Equal captions: their clips are each other's positives, where the plain
    loss would push them apart. P mixed from two clips: the loss for mixed sounds (mixup of targets). P shared out
    among the true texts of a clip: multi-positive contrast.
    balance = 0 and fixed texts: softmax classification with the texts as weights.
    Limits. All embeddings equal: log U and log B. Scale 0: the same, whatever the embeddings.

    `smoothing` in [0, 1) spreads that share of every row of P evenly over all texts that are counted there.
    """

    balance: float = 0.5
    smoothing: float = 0.0
    private: bool = field(default=True, metadata={"omit_default": True})

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        check_share("balance", self.balance)
        check_share("smoothing", self.smoothing, below_one=True)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        here = scores(z, private=self.private)
        there = here.turned()
        # Where a smoothed target is positive the pair is counted, so the mask needs no care here.
        smoothed_BU = self._smoothed(here)
        to_text_B = softmax_cost(here.logits_BU, smoothed_BU, counted_RC=here.counted_BU, extra_RE=here.to_text_BE)
        to_audio_U = softmax_cost(
            there.logits_BU, there.target_BU, counted_RC=there.counted_BU, extra_RE=there.to_text_BE
        )
        return both_ways(to_text_B, to_audio_U, balance=self.balance)

    def _smoothed(self, here: Scores) -> torch.Tensor:
        target_BU = here.target_BU
        if not self.smoothing:
            return target_BU
        if here.counted_BU is None:
            even_BU = torch.ones_like(target_BU)
        else:
            even_BU = (here.counted_BU | (target_BU > 0)).to(target_BU.dtype)
        even_BU = even_BU / even_BU.sum(1, keepdim=True).clamp_min(1)
        return (1 - self.smoothing) * target_BU + self.smoothing * even_BU


@dataclass(frozen=True)
class CWCL:
    """Contrast with continuous weights: a frozen space says how related two samples are (card 131, NeurIPS 2023).

    With p the teacher's vectors of the texts and v_uw = ((1 + p_u . p_w) / 2) ** sharpness, clip b has the targets

        T_bw = sum_u P_bu v_uw / sum_uw' P_bu v_uw'        pairs that include_BU leaves out have weight 0

    in audio_to_text; text_to_audio stays as it is in InfoNCE. teacher = "audio" is the mirror image: the texts have
    rows of weights made of the teacher's vectors of the sounds. No gradient flows into weights. Private and shared
    negatives join the denominators as in InfoNCE.

    Relations. Teacher vectors that are orthogonal still have weight 1/2: with a large batch the target is nearly even,
    and `sharpness` of 4 to 16 is usual for sentence encoders. Equal captions have weight 1.
    Limits. sharpness to infinity, or teacher vectors that are opposite: InfoNCE. sharpness 0: the even target. The
    least possible loss is the entropy of the target rows.
    """

    teacher: Side = "text"
    sharpness: float = 1.0
    balance: float = 0.5

    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        if self.teacher not in get_args(Side):
            raise SpecError(f"teacher={self.teacher!r}; {nearest_name(str(self.teacher), get_args(Side))}")
        if not 0.0 <= self.sharpness < float("inf"):
            raise SpecError(f"sharpness is a finite power >= 0, not {self.sharpness}")
        check_share("balance", self.balance)

    @property
    def needs(self) -> tuple[str, ...]:
        """The two sides and the teacher's view of one."""
        return ("audio", "text", f"{self.teacher}_teacher")

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        here = scores(z)
        there = here.turned()
        weighted = here if self.teacher == "text" else there
        rows = self._rows(weighted, z["text_teacher_UD" if self.teacher == "text" else "audio_teacher_BD"])
        costs = [
            softmax_cost(
                side.logits_BU,
                rows if side is weighted else side.target_BU,
                counted_RC=side.counted_BU,
                extra_RE=side.to_text_BE,
            )
            for side in (here, there)
        ]
        return both_ways(*costs, balance=self.balance)

    def _rows(self, given: Scores, teacher_CD: torch.Tensor) -> torch.Tensor:
        teacher_CD = wide(teacher_CD.detach())
        near_CC = ((1 + teacher_CD @ teacher_CD.T) / 2).clamp(0, 1) ** self.sharpness
        rows_RC = spread(given.target_BU, near_CC)
        if given.counted_BU is not None:
            rows_RC = rows_RC * (given.counted_BU | (given.target_BU > 0))
        # A row keeps its mass: a text of two clips has mass 2, as in InfoNCE.
        return rows_RC * (given.target_BU.sum(1) / rows_RC.sum(1).clamp_min(torch.finfo(rows_RC.dtype).tiny))[:, None]


@dataclass(frozen=True)
class KappaNCE:
    """InfoNCE whose rows weigh more where the batch is crowded (card 000, option of LAION's trainer).

        w_b = exp(mean_c a_b . a_c / kappa)    audio_to_text = sum_b w_b cost_b / sum_b w_b

    and the same for texts among texts (a text of two clips counts twice). cost_b is the row of InfoNCE; no gradient
    flows into weights.

    Limits. kappa to infinity: InfoNCE. kappa to 0: the row in the thick of the batch alone.
    """

    kappa: float = 1.0
    balance: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        if not self.kappa > 0.0:
            raise SpecError(f"kappa is a number > 0, not {self.kappa}")
        check_share("balance", self.balance)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        here = scores(z)
        costs = []
        for side, vectors_RD in ((here, z.audio_BD), (here.turned(), z.text_UD)):
            cost_R = softmax_cost(side.logits_BU, side.target_BU, counted_RC=side.counted_BU, extra_RE=side.to_text_BE)
            costs.append(cost_R * self._weights(wide(vectors_RD.detach()), side.target_BU.sum(1)))
        return both_ways(*costs, balance=self.balance)

    def _weights(self, vectors_RD: torch.Tensor, mass_R: torch.Tensor) -> torch.Tensor:
        """Weights [R] whose mean over the mass is 1."""
        limits = torch.finfo(mass_R.dtype)
        centre_D = mass_R @ vectors_RD / mass_R.sum().clamp_min(limits.tiny)
        crowd_R = (vectors_RD @ centre_D / self.kappa).masked_fill(mass_R == 0, limits.min)
        weight_R = (crowd_R - crowd_R.max()).exp()
        return weight_R * (mass_R.sum() / (weight_R * mass_R).sum().clamp_min(limits.tiny))


@dataclass(frozen=True)
class TransformNCE:
    """Each side against another form of the other side.

        loss = ( InfoNCE(audio, text_other) + InfoNCE(audio_other, text) ) / 2

    `audio_other` and `text_other` are unit vectors. With the companion `Transforms`: those of the batch after one more
    small network each (card 000, the "MLP loss" of LAION's trainer, where the second term has a temperature of its own;
    here both have the one of the model). Without: a second draw of each clip, and another true text of the same clips
    (several views of a pair, cards 010 and 024). Wrong texts are not read; include_BU is.

    Limit. Transforms that change nothing: InfoNCE.
    """

    balance: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("audio", "text", "audio_other", "text_other")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        check_share("balance", self.balance)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        plain = InfoNCE(self.balance, private=False)
        z = replace(z, text_negative_ED=None, audio_negative_FD=None)
        with_text_other = plain(replace(z, text_UD=z["text_other_UD"]))
        with_audio_other = plain(replace(z, audio_BD=z["audio_other_BD"]))
        return {
            "audio_with_text_other": sum(with_text_other.values(), z.scale.new_zeros(())) / 2,
            "audio_other_with_text": sum(with_audio_other.values(), z.scale.new_zeros(())) / 2,
        }
