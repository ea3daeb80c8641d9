"""How good a calibration is: probabilities against labels, and the thresholds that labels would have given.

The calibration itself, fitted without labels, is `clapkit.search.curating.calibration`. With labels, `reliability` says
how far the probabilities are from the truth, and `best_thresholds` what thresholds chosen with the truth in hand would
have reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clapkit.errors import DataError, SpecError
from clapkit.evaluation.metrics import Statistic
from clapkit.evaluation.report import Score
from clapkit.search.curating.calibration import Calibration, fit_calibration, score_table

__all__ = [
    "Bin",
    "Calibration",
    "Reliability",
    "best_thresholds",
    "fit_calibration",
    "micro_f1",
    "reliability",
]


@dataclass(frozen=True)
class Bin:
    """Probabilities from `low` to `high`: how many, their mean, and the share of them that is true."""

    low: float
    high: float
    n: int
    mean: float
    share: float


@dataclass(frozen=True)
class Reliability:
    """How probabilities compare with the truth.

    error     expected calibration error: the mean distance of mean probability and share of truth, each bin weighted
              with its number of (clip, prompt) pairs; 0 is perfect
    brier     mean squared distance of probability and truth
    bins      those that are not empty, for the diagram
    """

    error: Score
    brier: Score
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def reliability(
    probability_NC: np.ndarray,
    truth_NC: np.ndarray,
    *,
    bins: int = 15,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Reliability:
    """Expected calibration error in `bins` bins of equal width, over all pairs of clip and prompt.

    The intervals resample clips, those of one of `groups` together. `chance` is what the same probability everywhere
    would get: an error of 0, and the variance of the truth as Brier score; read both, for the error alone is no merit.
    DataError for shapes that do not fit and probabilities outside 0..1, SpecError for fewer than 2 bins.
    """
    probability_NC, truth_NC = score_table(probability_NC, least=1), np.asarray(truth_NC, bool)
    if probability_NC.shape != truth_NC.shape or probability_NC.min() < 0 or probability_NC.max() > 1:
        raise DataError(
            f"probabilities {probability_NC.shape} from {probability_NC.min():g} to {probability_NC.max():g}, truth "
            f"{truth_NC.shape}: expected one shape, and values from 0 to 1"
        )
    if bins < 2:
        raise SpecError(f"bins is {bins}: expected at least 2")
    place_NC = np.minimum((probability_NC * bins).astype(int), bins - 1)
    sums_NKB = np.zeros((len(place_NC), 3, bins))  # of each clip and bin: pairs, probabilities, truths
    rows = np.arange(len(place_NC))[:, None]
    for kind, values_NC in enumerate((np.ones_like(probability_NC), probability_NC, truth_NC.astype(float))):
        np.add.at(sums_NKB[:, kind], (rows, place_NC), values_NC)
    square_N = ((probability_NC - truth_NC) ** 2).mean(axis=1)
    how: dict[str, Any] = {"n": len(place_NC), "groups": groups, "samples": samples, "seed": seed}
    total, said, true = sums_NKB.sum(axis=0)
    return Reliability(
        error=Score.measure(_calibration_error(sums_NKB), chance=0.0, **how),
        brier=Score.measure(
            lambda counts_SN: counts_SN @ square_N / counts_SN.sum(axis=1), chance=float(truth_NC.var()), **how
        ),
        bins=tuple(
            Bin(b / bins, (b + 1) / bins, int(total[b]), float(said[b] / total[b]), float(true[b] / total[b]))
            for b in np.flatnonzero(total)
        ),
    )


def micro_f1(chosen_NC: np.ndarray, truth_NC: np.ndarray, *, groups: Sequence[Hashable] | None = None) -> Score:
    """Micro-averaged F1 of what was chosen, all pairs of clip and prompt together; the interval resamples clips.

    `chance` is that of choosing as many pairs at random. DataError for shapes that differ.
    """
    chosen_NC, truth_NC = np.asarray(chosen_NC, bool), np.asarray(truth_NC, bool)
    if chosen_NC.shape != truth_NC.shape or chosen_NC.ndim != 2 or not len(chosen_NC):
        raise DataError(f"chosen {chosen_NC.shape} and true {truth_NC.shape}: expected tables of one shape, not empty")
    right_N = (chosen_NC & truth_NC).sum(axis=1)
    both_N = chosen_NC.sum(axis=1) + truth_NC.sum(axis=1)
    by_luck = 2 * chosen_NC.mean() * truth_NC.mean() / max(chosen_NC.mean() + truth_NC.mean(), 1e-12)

    def statistic(counts_SN: np.ndarray) -> np.ndarray:
        below_S = counts_SN @ both_N
        return np.divide(2.0 * (counts_SN @ right_N), below_S, out=np.zeros(len(below_S)), where=below_S > 0)

    return Score.measure(statistic, n=len(chosen_NC), groups=groups, chance=float(by_luck))


def best_thresholds(scores_NC: np.ndarray, truth_NC: np.ndarray) -> np.ndarray:
    """The threshold of each prompt [C] that together give the best micro-F1 on these very labels.

    What nobody can have without labels: the bar for `Calibration.threshold`. A prompt applies where its score is at
    least the threshold (infinity: never). Found exactly: for a given F1 the best cut of each prompt is found by itself,
    and the F1 that comes of it is tried next, until it stays (Dinkelbach 1967). DataError for shapes that differ.
    """
    scores_NC, truth_NC = score_table(scores_NC, least=1), np.asarray(truth_NC, bool)
    if scores_NC.shape != truth_NC.shape:
        raise DataError(f"scores {scores_NC.shape} and truth {truth_NC.shape}: expected one shape")
    order_NC = np.argsort(-scores_NC, axis=0, kind="stable")
    ranked_NC = np.take_along_axis(scores_NC, order_NC, axis=0)
    right_NC = np.cumsum(np.take_along_axis(truth_NC, order_NC, axis=0), axis=0)
    chosen_N1 = np.arange(1, len(scores_NC) + 1)[:, None]
    cuttable_NC = np.ones(scores_NC.shape, bool)  # between equal scores there is no cut
    cuttable_NC[:-1] = ranked_NC[:-1] != ranked_NC[1:]
    f1 = 0.0
    while True:
        gain_NC = np.where(cuttable_NC, 2 * right_NC - f1 * chosen_N1, -np.inf)
        cut_C, columns = gain_NC.argmax(axis=0), np.arange(scores_NC.shape[1])
        used_C = gain_NC[cut_C, columns] > 0
        right, chosen = right_NC[cut_C, columns][used_C].sum(), (cut_C + 1)[used_C].sum()
        reached = 2 * right / max(chosen + truth_NC.sum(), 1)
        if reached <= f1 + 1e-12:
            return np.where(used_C, ranked_NC[cut_C, columns], np.inf)
        f1 = reached


def _calibration_error(sums_NKB: np.ndarray) -> Statistic:
    def statistic(counts_SN: np.ndarray) -> np.ndarray:
        sums_SKB = np.tensordot(counts_SN.astype(np.float64), sums_NKB, axes=1)
        return np.abs(sums_SKB[:, 1] - sums_SKB[:, 2]).sum(axis=1) / sums_SKB[:, 0].sum(axis=1)

    return statistic
