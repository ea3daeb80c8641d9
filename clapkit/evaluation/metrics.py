"""Ranking and classification metrics with fair ties, and intervals by resampling.

Of items with equal scores no order is better than another, so every metric here is the expected value over all orders
of the tied items. A model that gives the same score to everything gets exactly the chance level, never a perfect score.
Without ties the values are the usual ones (average precision as in scikit-learn).

Counts: a statistic is a function of `counts_SN`, how often each of N items stands in each of S resampled data sets.
All ones is the data set itself. `bootstrap_interval` feeds it resampled counts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from clapkit.errors import DataError, SpecError

Statistic = Callable[[np.ndarray], np.ndarray]  # counts_SN -> values_S
_COUNTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class BestRanks:
    """Where the best relevant item of each of Q queries stands.

    above_Q: items with a better score; tied_Q: items with its score, itself included; relevant_Q: how many of the tied
    ones are relevant.
    """

    above_Q: np.ndarray
    tied_Q: np.ndarray
    relevant_Q: np.ndarray

    @classmethod
    def of(cls, scores_QN: np.ndarray, relevant: Sequence[np.ndarray]) -> BestRanks:
        """`relevant` holds for each query the columns that are relevant, at least one."""
        lengths_Q = np.array([len(columns) for columns in relevant])
        if len(relevant) != len(scores_QN) or (lengths_Q < 1).any():
            raise DataError(
                f"{len(scores_QN)} rows of scores and {len(relevant)} lists of relevant columns, of which "
                f"{int((lengths_Q < 1).sum())} are empty; expected one list with at least one column a row"
            )
        if np.isnan(scores_QN).any():  # which would be neither better nor worse than anything
            raise DataError(f"{int(np.isnan(scores_QN).sum())} scores are NaN: leave out what could not be embedded")
        if not len(relevant):
            return cls(*(np.zeros(0, np.int64) for _ in range(3)))
        starts_Q = np.cumsum(lengths_Q) - lengths_Q
        relevant_scores = scores_QN[np.repeat(np.arange(len(lengths_Q)), lengths_Q), np.concatenate(relevant)]
        best_Q = np.maximum.reduceat(relevant_scores, starts_Q)
        tied = np.add.reduceat((relevant_scores == np.repeat(best_Q, lengths_Q)).astype(np.int64), starts_Q)
        return cls((scores_QN > best_Q[:, None]).sum(axis=1), (scores_QN == best_Q[:, None]).sum(axis=1), tied)

    @classmethod
    def joined(cls, parts: Sequence[BestRanks]) -> BestRanks:
        """The queries of several parts, in order."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("above_Q", "tied_Q", "relevant_Q")))

    def hits(self, k: int) -> np.ndarray:
        """The chance [Q] that at least one relevant item is among the first `k`; without ties 0 or 1."""
        _check_k(k)
        slots_Q, missed_Q = k - self.above_Q, np.ones(len(self.above_Q))
        for slot in range(k):  # each further place misses with the share of irrelevant items among those left
            left_Q = np.maximum(self.tied_Q - slot, 1)
            missing_Q = np.clip(self.tied_Q - self.relevant_Q - slot, 0, None) / left_Q
            missed_Q = np.where(slot < slots_Q, missed_Q * missing_Q, missed_Q)
        return 1 - missed_Q

    def expected(self) -> np.ndarray:
        """The expected rank [Q] of the best relevant item, 1 for the first."""
        return self.above_Q + (self.tied_Q + 1) / (self.relevant_Q + 1)


@dataclass(frozen=True)
class RelevantRanks:
    """Where the relevant items of each of Q queries stand, in groups of equal score, best first, L groups at most.

    above_QL: items with a better score; tied_QL: items with the score of the group; relevant_QL: how many of those are
    relevant, 0 where a query has fewer groups; total_Q: relevant items, those beyond L groups included.
    """

    above_QL: np.ndarray
    tied_QL: np.ndarray
    relevant_QL: np.ndarray
    total_Q: np.ndarray

    @staticmethod
    def levels(
        query_P: np.ndarray, scores_P: np.ndarray, *, queries: int, most: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores [Q, L] of the groups (NaN: no group), relevant_QL and total_Q, from one entry a relevant item.

        `most` bounds L: what lies behind so many groups cannot stand among the first `most` places.
        """
        order_P = np.lexsort((-scores_P, query_P))
        query_P, scores_P = query_P[order_P], scores_P[order_P]
        total_Q = np.bincount(query_P, minlength=queries)
        new_P = np.ones(len(query_P), bool)
        new_P[1:] = (query_P[1:] != query_P[:-1]) | (scores_P[1:] != scores_P[:-1])
        group_P = new_P.cumsum() - 1
        query_G, score_G = query_P[new_P], scores_P[new_P]
        groups_Q = np.bincount(query_G, minlength=queries)
        place_G = np.arange(len(query_G)) - (groups_Q.cumsum() - groups_Q)[query_G]
        kept_G = place_G < most
        width = min(most, int(groups_Q.max(initial=0)))
        scores_QL, relevant_QL = np.full((queries, width), np.nan, np.float32), np.zeros((queries, width), np.int64)
        scores_QL[query_G[kept_G], place_G[kept_G]] = score_G[kept_G]
        relevant_QL[query_G[kept_G], place_G[kept_G]] = np.bincount(group_P)[kept_G]
        return scores_QL, relevant_QL, total_Q

    @property
    def best(self) -> BestRanks:
        """Of the best relevant item; every query has to have one."""
        return BestRanks(self.above_QL[:, 0], self.tied_QL[:, 0], self.relevant_QL[:, 0])

    def average_precision(self, *, cutoff: int) -> np.ndarray:
        """Expected average precision [Q] within the first `cutoff` places, divided by min(cutoff, relevant items).

        The sum of `Ranking.average_precision`, over the groups that have a relevant item: the others add nothing.
        """
        _check_k(cutoff)
        before_QL = np.minimum(self.above_QL, cutoff)
        shown_QL = np.clip(cutoff - before_QL, 0, self.tied_QL)
        found_QL = self.relevant_QL.cumsum(axis=1) - self.relevant_QL
        share_QL = self.relevant_QL / np.maximum(self.tied_QL, 1)
        slope_QL = (self.relevant_QL - 1) / np.maximum(self.tied_QL - 1, 1)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, cutoff + 1))])
        reach_QL = harmonic[before_QL + shown_QL] - harmonic[before_QL]
        gain_QL = share_QL * (slope_QL * shown_QL + (found_QL + 1 - slope_QL * (before_QL + 1)) * reach_QL)
        return _ratio(gain_QL.sum(axis=1), np.minimum(self.total_Q, cutoff))


@dataclass(frozen=True)
class Ranking:
    """The items of one query, best first, in groups of equal score."""

    order_N: np.ndarray  # item at each place
    starts_G: np.ndarray  # first place of each group
    relevant_N: np.ndarray  # at each place: is the item relevant?

    @classmethod
    def of(cls, scores_N: np.ndarray, relevant_N: np.ndarray) -> Ranking:
        """Raises DataError unless both are one-dimensional, of one length, and the scores are numbers."""
        scores_N, relevant_N = np.asarray(scores_N), np.asarray(relevant_N, bool)
        if scores_N.ndim != 1 or scores_N.shape != relevant_N.shape or np.isnan(scores_N).any():
            raise DataError(
                f"scores {scores_N.shape} with {int(np.isnan(scores_N).sum())} NaN, relevance {relevant_N.shape}; "
                "expected two lists of one length without NaN"
            )
        order_N = np.argsort(-scores_N, kind="stable")
        ranked_N = scores_N[order_N]
        new_N = np.ones(len(ranked_N), bool)
        new_N[1:] = ranked_N[1:] != ranked_N[:-1]
        return cls(order_N, np.flatnonzero(new_N), relevant_N[order_N])

    def average_precision(
        self, counts_SN: np.ndarray, *, cutoff: int | None = None, relevant_total: int | None = None
    ) -> np.ndarray:
        """Expected average precision [S]; NaN where nothing is relevant.

        With a cutoff only the first `cutoff` places count, and the sum is divided by min(cutoff, relevant items).
        `relevant_total` is how many items are relevant where low ranks were left out of the ranking.
        """
        items_SG, relevant_SG, before_SG, found_SG = self._groups(counts_SN)
        shown_SG = items_SG if cutoff is None else np.clip(cutoff - before_SG, 0, items_SG)
        # At place i of a tied group an item is relevant with probability share; given that it is, (i - 1) * slope
        # relevant items of the group are expected before it. The sum of expected precisions over i has a closed form.
        share_SG = relevant_SG / np.maximum(items_SG, 1)
        slope_SG = (relevant_SG - 1) / np.maximum(items_SG - 1, 1)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(items_SG.sum(axis=1).max(initial=0)) + 1))])
        reach_SG = harmonic[before_SG + shown_SG] - harmonic[before_SG]
        gain_SG = share_SG * (slope_SG * shown_SG + (found_SG + 1 - slope_SG * (before_SG + 1)) * reach_SG)
        total_S = relevant_SG.sum(axis=1) if relevant_total is None else np.full(len(gain_SG), relevant_total)
        return _ratio(gain_SG.sum(axis=1), total_S if cutoff is None else np.minimum(total_S, cutoff))

    def r_precision(self, counts_SN: np.ndarray) -> np.ndarray:
        """Expected share [S] of relevant items among the first R, where R items are relevant; NaN where R is 0."""
        items_SG, relevant_SG, before_SG, _ = self._groups(counts_SN)
        total_S = relevant_SG.sum(axis=1)
        shown_SG = np.clip(total_S[:, None] - before_SG, 0, items_SG)
        return _ratio((shown_SG * relevant_SG / np.maximum(items_SG, 1)).sum(axis=1), total_S)

    def auroc(self, counts_SN: np.ndarray) -> np.ndarray:
        """The chance [S] that a relevant item scores above one that is not, a tie counting half: area under the ROC.

        NaN where nothing, or everything, is relevant.
        """
        items_SG, relevant_SG, before_SG, found_SG = self._groups(counts_SN)
        other_SG = items_SG - relevant_SG
        total_S = other_SG.sum(axis=1)
        below_SG = total_S[:, None] - (before_SG - found_SG) - other_SG / 2
        return _ratio((relevant_SG * below_SG).sum(axis=1), relevant_SG.sum(axis=1) * total_S)

    def _groups(self, counts_SN: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each group [S, G]: items, relevant items, and both summed over the groups before it."""
        if not len(self.order_N):
            return (np.zeros((len(counts_SN), 0), np.int64),) * 4
        ranked_SN = np.asarray(counts_SN, np.int64)[:, self.order_N]
        items_SG = np.add.reduceat(ranked_SN, self.starts_G, axis=1)
        relevant_SG = np.add.reduceat(ranked_SN * self.relevant_N, self.starts_G, axis=1)
        return items_SG, relevant_SG, items_SG.cumsum(axis=1) - items_SG, relevant_SG.cumsum(axis=1) - relevant_SG


def average_precision(scores_N: np.ndarray, relevant_N: np.ndarray, *, cutoff: int | None = None) -> float:
    """Expected average precision of one ranking; see `Ranking.average_precision`. NaN where nothing is relevant."""
    if cutoff is not None:
        _check_k(cutoff)
    ranking = Ranking.of(scores_N, relevant_N)
    return float(ranking.average_precision(np.ones((1, len(ranking.order_N)), np.int64), cutoff=cutoff)[0])


def r_precision(scores_N: np.ndarray, relevant_N: np.ndarray) -> float:
    """Expected share of relevant items among the first R, where R items are relevant. NaN where R is 0."""
    ranking = Ranking.of(scores_N, relevant_N)
    return float(ranking.r_precision(np.ones((1, len(ranking.order_N)), np.int64))[0])


def auroc(scores_N: np.ndarray, relevant_N: np.ndarray) -> float:
    """Area under the ROC curve, ties counting half; see `Ranking.auroc`. NaN where nothing, or all, is relevant."""
    ranking = Ranking.of(scores_N, relevant_N)
    return float(ranking.auroc(np.ones((1, len(ranking.order_N)), np.int64))[0])


def top_k_hits(scores_NC: np.ndarray, truth_N: np.ndarray, *, k: int = 1) -> np.ndarray:
    """The chance [N] that the true column is among the `k` best of its row; its mean is the (top-k) accuracy."""
    return BestRanks.of(scores_NC, list(np.reshape(truth_N, (-1, 1)))).hits(k)


def confusion_matrix(scores_NC: np.ndarray, truth_N: np.ndarray) -> np.ndarray:
    """Counts [C, C]: row = truth, column = the best scored class. A tie is shared: its classes get equal fractions."""
    best_NC = (scores_NC == scores_NC.max(axis=1, keepdims=True, initial=-np.inf)).astype(np.float64)
    matrix_CC = np.zeros((scores_NC.shape[1], scores_NC.shape[1]))
    np.add.at(matrix_CC, np.asarray(truth_N), best_NC / np.maximum(best_NC.sum(axis=1, keepdims=True), 1))
    return matrix_CC


def mean_of(values_N: np.ndarray) -> Statistic:
    """The mean of values: accuracy from hits, R@k from hits, mAP from average precisions."""
    # No matrix product, here and below: its last digits depend on the processor.
    return lambda counts_SN: _ratio((counts_SN * values_N).sum(axis=1), counts_SN.sum(axis=1))


def class_mean_of(values_N: np.ndarray, classes_N: np.ndarray) -> Statistic:
    """The mean over classes of the mean within the class: balanced (macro) accuracy from hits.

    A class that a resampled set lacks is left out there.
    """
    order_N = np.argsort(classes_N, kind="stable")
    _, starts_C = np.unique(np.asarray(classes_N)[order_N], return_index=True)
    sorted_N = np.asarray(values_N, np.float64)[order_N]

    def statistic(counts_SN: np.ndarray) -> np.ndarray:
        ordered_SN = counts_SN[:, order_N]
        sums_SC = np.add.reduceat(ordered_SN * sorted_N, starts_C, axis=1)
        return _mean_of_known(_ratio(sums_SC, np.add.reduceat(ordered_SN, starts_C, axis=1)))

    return statistic


def median_of(values_N: np.ndarray) -> Statistic:
    """The median of values, the mean of the middle two where their number is even: median rank."""
    order_N = np.argsort(values_N, kind="stable")
    sorted_N = np.asarray(values_N, np.float64)[order_N]

    def statistic(counts_SN: np.ndarray) -> np.ndarray:
        reach_SN = counts_SN[:, order_N].cumsum(axis=1)
        medians_S = np.full(len(counts_SN), np.nan)
        for s, reach_N in enumerate(reach_SN):
            if len(reach_N) and reach_N[-1]:
                middle = np.searchsorted(reach_N, [(reach_N[-1] - 1) // 2, reach_N[-1] // 2], side="right")
                medians_S[s] = sorted_N[middle].mean()
        return medians_S

    return statistic


def class_ranking_of(
    scores_NC: np.ndarray, relevant_NC: np.ndarray, *, metric: Callable[[Ranking, np.ndarray], np.ndarray]
) -> Statistic:
    """The mean over classes of `metric` (such as `Ranking.average_precision`) of the ranking of all items by class.

    Classes without a relevant item are left out: macro mAP one-vs-rest, mean R-precision.
    """
    rankings = [Ranking.of(s, r) for s, r in zip(scores_NC.T, relevant_NC.T, strict=True) if r.any()]

    def statistic(counts_SN: np.ndarray) -> np.ndarray:
        if not rankings:
            return np.full(len(counts_SN), np.nan)
        return _mean_of_known(np.stack([metric(ranking, counts_SN) for ranking in rankings], axis=1))

    return statistic


def bootstrap_interval(
    statistic: Statistic | np.ndarray | Sequence[float],
    *,
    n: int | None = None,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile interval (low, high) of a statistic over resampled data sets.

    `statistic` is a list of values, whose mean is meant, or a function of counts_SN over `n` items. Items of one group
    (the clips of one recording) are drawn together; without groups every item is its own. The same seed gives the
    same data sets, so that two models can be compared on them. Samples in which the statistic is NaN are left out.
    Raises SpecError for settings out of range, DataError for lists that do not fit.
    """
    if samples < 1 or not 0 < level < 1:
        raise SpecError(f"samples={samples}, level={level}: expected at least 1 sample and a level between 0 and 1")
    if not callable(statistic):
        values_N = np.asarray(statistic, np.float64)
        statistic, n = mean_of(values_N), len(values_N)
    if n is None:
        raise SpecError("a statistic given as a function needs n, the number of items that it counts")
    if n < 1:
        return float("nan"), float("nan")
    if groups is not None and len(groups) != n:
        raise DataError(f"{len(groups)} groups for {n} items: expected one group an item")
    names = {name: g for g, name in enumerate(dict.fromkeys(groups))} if groups is not None else {}
    group_N = np.array([names[name] for name in groups]) if groups is not None else np.arange(n)
    drawn = int(group_N.max()) + 1
    rng = np.random.default_rng(seed)
    block = max(1, _COUNTS_AT_ONCE // n)
    values = []
    for start in range(0, samples, block):
        picks = [rng.integers(drawn, size=drawn) for _ in range(min(block, samples - start))]
        values.append(statistic(np.stack([np.bincount(p, minlength=drawn) for p in picks])[:, group_N]))
    known = np.concatenate(values)
    known = known[~np.isnan(known)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_k(k: int) -> None:
    if k < 1:
        raise SpecError(f"k is {k}; it has to be at least 1")


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    below = np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _mean_of_known(values_SC: np.ndarray) -> np.ndarray:
    known_SC = ~np.isnan(values_SC)
    return _ratio(np.where(known_SC, values_SC, 0).sum(axis=1), known_SC.sum(axis=1))
