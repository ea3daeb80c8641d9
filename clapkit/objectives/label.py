"""Contrast by what is known about the clips: their classes, their tags, quantities measured on them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch

from clapkit.errors import ClapkitError, SpecError, nearest_name
from clapkit.objectives.base import Embeddings, Objective, Reduces
from clapkit.objectives.contrast import InfoNCE, wide

Known = Literal["label", "tag"]
Distance = Literal["l1", "l2"]
Between = Literal["audio_text", "audio"]


@dataclass(frozen=True)
class SupCon:
    """Supervised contrast within sound: clips of one class attract each other (card 031, 083; Khosla et al. 2020).

    Over N vectors z_i, with P(i) the others of the class of i and s_ij = z_i . z_j / temperature:

        L_i  = -1/|P(i)|  sum_{p in P(i)} log( e^s_ip / sum_{k != i} e^s_ik )        (the mean outside the logarithm)
        loss = mean of L_i over the anchors that have a positive

    other_views   False: N = B clips. True: N = 2B, both views of each clip, which are each other's positives too
    temperature   None: 1 / the model's scale, learned with it; a number: fixed, as published (0.07 to 0.1)

    A clip without a class (label -1) is nobody's class mate, but stands in the denominators.
    Relations. Two views and no two clips of one class: NT-Xent (SimCLR). The names of the classes do not matter.
    Limits. Nobody has a positive: 0, with a gradient of 0. All vectors equal: log(N - 1).
    """

    other_views: bool = False
    temperature: float | None = None

    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise SpecError(f"temperature is a number above 0, or None for the model's own, not {self.temperature}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("audio", "label", "audio_other") if self.other_views else ("audio", "label")

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        vectors_ND, label_N = wide(z.audio_BD), _checked(z, "label_B")
        clip_N = torch.arange(len(label_N), device=label_N.device)
        if self.other_views:
            vectors_ND = torch.cat([vectors_ND, wide(z["audio_other_BD"])])
            label_N, clip_N = label_N.repeat(2), clip_N.repeat(2)
        same_NN = (label_N[:, None] == label_N) & (label_N >= 0) | (clip_N[:, None] == clip_N)
        sharpness = z.scale if self.temperature is None else 1.0 / self.temperature
        scores_NK = _off_diagonal(sharpness * (vectors_ND @ vectors_ND.T))
        positive_NK = _off_diagonal(same_NN)
        cost_NK = scores_NK.logsumexp(dim=1, keepdim=True) - scores_NK
        count_N = positive_NK.sum(1)
        cost_N = (cost_NK * positive_NK).sum(1) / count_N.clamp(min=1)
        return {"same_class": cost_N.sum() / (count_N > 0).sum().clamp(min=1)}


@dataclass(frozen=True)
class ClassTargets:
    """Any contrast of sound and text, with the texts of all clips of one class as each other's positives (annex A.6).

    With R_bc how much clips b and c have in common (R_bb = 1) and P the target of the batch, the new target is

        P'_b. = sum_c R_bc P_c. / sum_c R_bc            rows sum to 1 still, and are not negative

    by        "label": R is 1 for clips of one class, else 0; a clip without a class (-1) keeps its own text alone
              "tag": R is what two clips' tags have in common, |both| / |either|; a clip without tags keeps its own
    objective what is then minimised, on the new target

    Relations. All classes distinct: `objective` itself. One class for all: every text fits every clip equally.
    One tag a clip: the same as by label.
    """

    objective: Objective = field(default_factory=InfoNCE)
    by: Known = "label"

    def __post_init__(self) -> None:
        _one_of("by", self.by, get_args(Known))

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.objective.needs, self.by)))

    @property
    def reduces(self) -> Reduces:
        return self.objective.reduces

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        target_BU = z.target_BU()
        common_BB = self._common_BB(z).to(target_BU.dtype)
        shared_BU = (common_BB @ target_BU) / common_BB.sum(1, keepdim=True)
        return dict(self.objective(dataclasses.replace(z, soft_target_BU=shared_BU)))

    def _common_BB(self, z: Embeddings) -> torch.Tensor:
        own_BB = torch.eye(len(z.audio_BD), dtype=torch.bool, device=z.audio_BD.device)
        if self.by == "label":
            label_B = _checked(z, "label_B")
            return (label_B[:, None] == label_B) & (label_B >= 0) | own_BB
        tag_BC = _checked(z, "tag_BC").to(z.audio_BD.dtype)
        both_BB, count_B = tag_BC @ tag_BC.T, tag_BC.sum(1)
        either_BB = count_B[:, None] + count_B - both_BB
        return (both_BB / either_BB.clamp(min=1)).masked_fill(own_BB, 1.0)


@dataclass(frozen=True)
class RankNContrast:
    """Rank-N-Contrast: similarity falls as values grow apart (card 060 between sound and text; Zha et al. 2023).

    With v the values, d_ij = ||v_i - v_j|| and S_ij = {k : d_ik >= d_ij} the candidates no nearer than j:

        loss = - mean over anchors i and candidates j of  log( e^s_ij / sum_{k in S_ij} e^s_ik ),   s = scale * cosine

    between    "audio_text": anchors are clips and candidates texts, then the other way round; the loss is the mean of
               both. A text's value is the mean value of its clips, weighed by the target; a text
               that describes no clip of the batch has no value and is left out
               "audio": clips among themselves, an anchor being no candidate of its own
    distance   "l1" or "l2", between rows of value_BV, which are finite

    Only the order of the distances counts: any growing function of them gives the same loss. include_BU is not read:
    clips of equal value are no rivals of each other anyway.
    Relations. The term j = i between sound and text has all candidates in its sum: it is InfoNCE's.
    All values equal: InfoNCE with every text a positive of every clip. Two clips: half of InfoNCE.
    Time. O(B^2 log B): the sums over S_ij are running sums along the sorted distances.
    """

    between: Between = "audio_text"
    distance: Distance = "l2"

    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        _one_of("between", self.between, get_args(Between))
        _one_of("distance", self.distance, get_args(Distance))

    @property
    def needs(self) -> tuple[str, ...]:
        return ("audio", "text", "value") if self.between == "audio_text" else ("audio", "value")

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        value_BV = _checked(z, "value_BV")
        if self.between == "audio":
            scores_BB = z.scale * (wide(z.audio_BD) @ wide(z.audio_BD).T)
            apart_BB = self._apart(value_BV, value_BV)
            return {"audio_rank": _ranked(_off_diagonal(scores_BB), _off_diagonal(apart_BB))}
        target_BU = z.target_BU().to(value_BV.dtype)
        used_U = target_BU.sum(0) > 0
        share_BU = target_BU[:, used_U]
        apart_BU = self._apart(value_BV, (share_BU / share_BU.sum(0)).T @ value_BV)
        scores_BU = z.scale * (wide(z.audio_BD) @ wide(z.text_UD[used_U]).T)
        return {
            "audio_to_text": 0.5 * _ranked(scores_BU, apart_BU),
            "text_to_audio": 0.5 * _ranked(scores_BU.T, apart_BU.T),
        }

    def _apart(self, left_NV: torch.Tensor, right_MV: torch.Tensor) -> torch.Tensor:
        # By differences, never by products: a rounded distance would break ties that the data really has.
        return torch.cdist(
            left_NV, right_MV, p=1.0 if self.distance == "l1" else 2.0, compute_mode="donot_use_mm_for_euclid_dist"
        )


def _ranked(scores_NM: torch.Tensor, apart_NM: torch.Tensor) -> torch.Tensor:
    """Mean of log sum_{k: apart_ik >= apart_ij} e^s_ik - s_ij; 0 where there is no pair."""
    ordered_NM, order_NM = apart_NM.sort(dim=1, descending=True)
    sorted_NM = scores_NM.gather(1, order_NM)
    rising_NM = -ordered_NM.contiguous()
    # Candidates as far away as j belong to the sum wherever the sort has put them: read it behind the last of them.
    last_NM = torch.searchsorted(rising_NM, rising_NM, right=True) - 1
    sums_NM = sorted_NM.logcumsumexp(dim=1).gather(1, last_NM)
    return (sums_NM - sorted_NM).sum() / max(1, scores_NM.numel())


def _checked(z: Embeddings, name: str) -> torch.Tensor:
    """A field with one row a clip and the number of axes that its name says."""
    given, clips = z[name], len(z.audio_BD)
    axes = name.rpartition("_")[2]
    if given.ndim != len(axes) or len(given) != clips:
        raise ClapkitError(f"{name} has shape {tuple(given.shape)}, expected {len(axes)} axes, the first of {clips}")
    return given


def _off_diagonal(square_NN: torch.Tensor) -> torch.Tensor:
    """[N, N-1]: the matrix without its diagonal, each row in its order."""
    count = len(square_NN)
    return square_NN.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SpecError(f"{name}={value!r}: {nearest_name(value, known)}")
