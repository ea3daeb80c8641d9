"""No negatives and no teacher: two views are made alike, and the directions of the space are kept busy and different.

Unit vectors are multiplied by sqrt(D) first, so that vectors spread evenly over the sphere have deviation 1 in each of
their D directions, whatever D is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from clapkit.errors import SpecError, nearest_name
from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import wide
from clapkit.objectives.siamese import comparable

Against = Literal["audio_other", "text"]


def _check_against(against: str) -> None:
    if against not in get_args(Against):
        raise SpecError(
            f"audio can be held against audio_other or text, not against '{against}'; "
            f"{nearest_name(against, get_args(Against))}"
        )


def _check_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not 0.0 <= weight < math.inf:
            raise SpecError(f"{name} is a weight of 0 or more, not {weight}")


def _two_views(z: Embeddings, against: Against) -> tuple[torch.Tensor, torch.Tensor]:
    """Both views [B, D], times sqrt(D). A clip's text is the mean of its texts as the target shares them out."""
    if against == "audio_other":
        audio_BD, other_BD = comparable(z, "audio_BD", "audio_other_BD")
    else:
        audio_BD, text_UD = comparable(z, "audio_BD", "text_UD")
        other_BD = wide(z.target_BU()) @ text_UD
    spread = audio_BD.shape[1] ** 0.5
    return audio_BD * spread, other_BD * spread


def _off_diagonal_squares(matrix_DD: torch.Tensor) -> torch.Tensor:
    # Written as a product with a mask: the difference of two sums would lose the small ones.
    return (matrix_DD.square() * (1 - torch.eye(len(matrix_DD), dtype=matrix_DD.dtype, device=matrix_DD.device))).sum()


@dataclass(frozen=True)
class VICReg:
    """Variance, invariance, covariance (Bardes, Ponce, LeCun 2022), between two views of a clip or a clip and its text.

    x, y [B, D] are the views times sqrt(D), with s_d the deviation and C the covariance over the batch (B - 1 below):

        invariance = invariance / (B D)  sum_bd (x_bd - y_bd)^2          of unit vectors: 2 - 2 cos, meaned
        variance   = variance / D        sum_d [max(0, deviation - s_d(x)) + max(0, deviation - s_d(y))]
        covariance = covariance / D      sum_{d != e} [C_de(x)^2 + C_de(y)^2]

    with s = sqrt(var + 1e-4). against = "text": y_b = sum_u P_bu t_u, so a caption that stands twice counts twice.

    Relations. variance = covariance = 0: the attraction alone, as Siamese has it, which collapses. BarlowTwins asks for
    the same two things of one cross-correlation instead of two covariances.
    Limits. Equal views, spread evenly with uncorrelated directions: 0. All vectors equal: the variance part is
    2 variance (deviation - 0.01), and it is the only one. One clip: it has no deviation, so the variance part is that
    same constant, the covariance part 0, both without gradient; only the invariance part teaches.
    """

    against: Against = "audio_other"
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    deviation: float = 1.0

    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        _check_against(self.against)
        _check_weights(invariance=self.invariance, variance=self.variance, covariance=self.covariance)
        if not 0.0 < self.deviation < math.inf:
            raise SpecError(f"deviation is the spread asked of each direction, above 0, not {self.deviation}")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("audio", self.against)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        views = _two_views(z, self.against)
        width, others = views[0].shape[1], max(1, len(views[0]) - 1)
        hinge = covariance = torch.zeros((), dtype=views[0].dtype, device=views[0].device)
        for view_BD in views:
            centred_BD = view_BD - view_BD.mean(0)
            covariance_DD = centred_BD.T @ centred_BD / others
            # The root of 0 has no derivative: 1e-4 keeps it finite for a direction that all clips share.
            hinge = hinge + torch.relu(self.deviation - (covariance_DD.diagonal() + 1e-4).sqrt()).sum()
            covariance = covariance + _off_diagonal_squares(covariance_DD)
        return {
            "invariance": self.invariance * (views[0] - views[1]).square().mean(),
            "variance": self.variance / width * hinge,
            "covariance": self.covariance / width * covariance,
        }


@dataclass(frozen=True)
class BarlowTwins:
    """The cross-correlation of two views is the identity (Zbontar, Jing, Misra, LeCun, Deny 2021).

    x, y [B, D] are the views times sqrt(D), each direction centred and divided by sqrt(var + 1e-5) over the batch:

        C          = x^T y / B
        invariance = sum_d (1 - C_dd)^2
        redundancy = redundancy  sum_{d != e} C_de^2

    against = "text": y_b = sum_u P_bu t_u. Both parts grow with D; choose the weight beside other objectives with that
    in mind.

    Relations. InfoNCE contrasts the rows of the batch (clips), this contrasts its columns (directions).
    Limits. Equal views with uncorrelated directions: 0. A direction in which all clips agree has correlation 0 and
    costs 1: all vectors equal costs D. One clip is that case: the constant D, without gradient.
    """

    against: Against = "audio_other"
    redundancy: float = 0.005

    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        _check_against(self.against)
        _check_weights(redundancy=self.redundancy)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("audio", self.against)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        left_BD, right_BD = (_standardised(view_BD) for view_BD in _two_views(z, self.against))
        correlation_DD = left_BD.T @ right_BD / len(left_BD)
        return {
            "invariance": (1 - correlation_DD.diagonal()).square().sum(),
            "redundancy": self.redundancy * _off_diagonal_squares(correlation_DD),
        }


def _standardised(x_BD: torch.Tensor) -> torch.Tensor:
    centred_BD = x_BD - x_BD.mean(0)
    return centred_BD * (centred_BD.square().mean(0) + 1e-5).rsqrt()


@dataclass(frozen=True)
class Sparsity:
    """GLAP's regulariser of embeddings, for each side: their mean absolute number over their length (card 034).

        audio = mean_bd |a_bd| / sqrt( sum_bd a_bd^2 )        texts alike, a text of two clips counting twice

    over the whole batch; GLAP adds both to its sigmoid loss with weight 1: `weighted((PairwiseSigmoid(), 1.0),
    (Sparsity(), 1.0))`. It draws unit vectors towards few numbers that differ from 0. Texts that describe no clip of
    the batch are not read.

    Limits, of unit vectors in D dimensions, B a batch: one number in each vector, 1 / (D sqrt(B)), the least; all
    numbers of equal size, 1 / sqrt(D B), the most.
    """

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[Reduces] = "rows"  # the root is of the whole batch

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        mass_U = wide(z.target_BU()).sum(0)
        audio_BD = wide(z.audio_BD)
        return {
            "audio_sparsity": _mean_over_length(audio_BD, audio_BD.new_ones(len(audio_BD))),
            "text_sparsity": _mean_over_length(wide(z.text_UD), mass_U),
        }


def _mean_over_length(vectors_RD: torch.Tensor, mass_R: torch.Tensor) -> torch.Tensor:
    size = (mass_R @ vectors_RD.abs()).sum() / (mass_R.sum() * vectors_RD.shape[1])
    return size / (mass_R @ vectors_RD.square()).sum().sqrt()
