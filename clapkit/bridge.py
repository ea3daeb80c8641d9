"""The gap between sound and language in a shared space: how far apart the two sides lie, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clapkit.errors import DataError
from clapkit.nearest import unit_rows

_RIDGE = 0.1  # in units of a vector: light beside hundreds of pairs, enough where there are fewer pairs than numbers
_FOLDS = 2


@dataclass(frozen=True)
class Gap:
    """What `measure` found of N clips and their captions.

    distance        between the centroids of the unit vectors of both sides: 0 where they lie together, 2 at opposite
                    poles (Liang et al. 2022; cards 016, 060, 077). A space in which all vectors are equal has none
                    either, so read it beside `cosine`, the spreads and the ranks
    relative        distance over the root of the mean of both spreads: in units of how wide the sides are
    separability    share of vectors whose side a linear classifier tells that was fitted to other pairs; 0.5 by chance
    cosine          mean of the pairs;  other_cosine: mean of a clip and the caption of another
    audio_spread, text_spread   mean squared distance from the centroid: 0 where all are equal, 1 around the origin
    audio_rank, text_rank       effective number of directions: exp of the entropy of the singular values of the
                                centred vectors (Roy and Vetterli 2007)
    """

    pairs: int
    distance: float
    relative: float
    separability: float
    cosine: float
    other_cosine: float
    audio_spread: float
    text_spread: float
    audio_rank: float
    text_rank: float


def measure(audio_ND: np.ndarray, text_ND: np.ndarray) -> Gap:
    """The gap between clips and their captions, row n of one belonging to row n of the other.

    Vectors are brought to unit norm. Raises DataError for fewer than 4 pairs, for shapes that differ, and for vectors
    that are zero or not finite.
    """
    audio_ND, text_ND = _pairs(audio_ND, text_ND)
    audio_D, text_D = audio_ND.mean(axis=0), text_ND.mean(axis=0)
    distance = float(np.linalg.norm(audio_D - text_D))
    spreads = [float(1 - centroid_D @ centroid_D) for centroid_D in (audio_D, text_D)]
    n = len(audio_ND)
    own = float((audio_ND * text_ND).sum(axis=1).mean())
    width = float(np.sqrt(max(0.0, sum(spreads) / 2)))
    return Gap(
        pairs=n,
        distance=distance,
        relative=distance / width if width > 1e-6 else float("inf"),
        separability=_separability(audio_ND, text_ND),
        cosine=own,
        other_cosine=float((n * audio_D @ text_D - own) / (n - 1)),
        audio_spread=spreads[0],
        text_spread=spreads[1],
        audio_rank=effective_rank(audio_ND),
        text_rank=effective_rank(text_ND),
    )


def distance_of(audio_ND: np.ndarray, text_ND: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """`Gap.distance` as a statistic of resampled pairs, for `evaluation.metrics.bootstrap_interval`.

    Takes counts_SN, how often each pair stands in each of S data sets, and gives S distances. Raises as `measure` does.
    """
    audio_ND, text_ND = _pairs(audio_ND, text_ND)
    apart_ND = audio_ND - text_ND

    def statistic(counts_SN: np.ndarray) -> np.ndarray:
        share_SN = counts_SN / counts_SN.sum(axis=1, keepdims=True)
        return np.linalg.norm(share_SN @ apart_ND, axis=1)

    return statistic


def effective_rank(vectors_ND: np.ndarray) -> float:
    """exp of the entropy of the singular values of the centred vectors; 0 where all vectors are equal."""
    vectors_ND = np.asarray(vectors_ND, np.float64)
    values = np.linalg.svd(vectors_ND - vectors_ND.mean(axis=0), compute_uv=False)
    if values.sum() < 1e-9 * max(1.0, float(np.linalg.norm(vectors_ND))):
        return 0.0
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _pairs(audio_ND: np.ndarray, text_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    audio_ND, text_ND = np.asarray(audio_ND), np.asarray(text_ND)
    if audio_ND.ndim != 2 or audio_ND.shape != text_ND.shape or len(audio_ND) < 2 * _FOLDS:
        raise DataError(
            f"vectors of clips have the shape {audio_ND.shape} and those of captions {text_ND.shape}: expected two "
            f"tables of one shape, a row a pair, with at least {2 * _FOLDS} rows"
        )
    audio_ND, text_ND = unit_rows(audio_ND, what="audio_ND"), unit_rows(text_ND, what="text_ND")
    return audio_ND.astype(np.float64), text_ND.astype(np.float64)


def _separability(audio_ND: np.ndarray, text_ND: np.ndarray) -> float:
    """Accuracy of least squares with a threshold, fitted to the pairs of one half and asked about those of the other.

    Both of a pair are in the same half: what is the same in both tells nothing of the side.
    """
    fold_N = np.arange(len(audio_ND)) % _FOLDS
    right = 0.0
    for fold in range(_FOLDS):
        known, asked = fold_N != fold, fold_N == fold
        middle_D = (audio_ND[known].mean(axis=0) + text_ND[known].mean(axis=0)) / 2
        x_MD = np.concatenate([audio_ND[known], text_ND[known]]) - middle_D
        side_M = np.repeat([1.0, -1.0], known.sum())
        weights_D = np.linalg.solve(x_MD.T @ x_MD + _RIDGE * np.eye(x_MD.shape[1]), x_MD.T @ side_M)
        for vectors_ND, sign in ((audio_ND, 1), (text_ND, -1)):
            score_N = sign * ((vectors_ND[asked] - middle_D) @ weights_D)
            right += (score_N > 0).sum() + (score_N == 0).sum() / 2
    return float(right / (2 * len(audio_ND)))
