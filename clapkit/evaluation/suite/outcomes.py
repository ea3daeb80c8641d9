"""What a model did with each clip, kept so that two models can be compared clip by clip.

`outcomes/<task>.npz` holds, for a task with classes or tags: `groups` [N] (number of the recording), `relevant` [N, C],
and for each result `<result>.ranks` [N, C] (place of the clip among all clips in the order of a class, 0 for the best,
equal scores with equal places) and, with one label a clip, `<result>.hits` and `<result>.top5` [N], and
`nearest-sound.hits` [N] (not a number for a clip that is compared with none). With probes: `folds` [N] and for each
`<probe>.hits` and `<probe>.shuffled` [N] (not a number for a clip that it was not tried on), `few-shot-probe.draws`
[draws]. With captions: for
each direction `<direction>.above`, `.tied`, `.relevant` (as in `metrics.BestRanks`), `.precision10`, `.precision16`
(average precision within as many places) and `.groups`, a row a query; with "same-words." in front where captions in
the same words are right too. From these all metrics follow, however the clips are resampled.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clapkit.evaluation.metrics import (
    BestRanks,
    Ranking,
    Statistic,
    class_mean_of,
    class_ranking_of,
    mean_of,
    median_of,
    top_k_hits,
)
from clapkit.evaluation.report import Result
from clapkit.evaluation.retrieval import relevant_ranks

DIRECTIONS = ("text_to_audio", "audio_to_text")
ZERO_SHOT, ENSEMBLE, LABEL_SEARCH, RETRIEVAL = "zero-shot", "zero-shot-ensemble", "label-search", "retrieval"
NEAREST_SOUND, SAME_WORDS = "nearest-sound", "retrieval-same-words"
PROBES = LINEAR, NEIGHBOURS, FEW_SHOT = "linear-probe", "neighbours-probe", "few-shot-probe"
# Result -> what its arrays begin with.
_RETRIEVALS = {RETRIEVAL: "", SAME_WORDS: "same-words."}
CUTOFFS = (10, 16)


@dataclass(frozen=True)
class Measure:
    """One metric over items that can be resampled.

    groups     the recording of each item
    values     where the metric is a mean of values of the items: those values; else None
    classes    where that mean is one over classes of means within the class: the class of each item
    """

    statistic: Statistic
    groups: np.ndarray
    values: np.ndarray | None = None
    classes: np.ndarray | None = None

    @property
    def n(self) -> int:
        return len(self.groups)


def class_outcomes(name: str, scores_NC: np.ndarray, relevant_NC: np.ndarray, *, single: bool) -> dict[str, np.ndarray]:
    """What result `name` keeps of cosines [N, C] of clips with classes."""
    kept = {f"{name}.ranks": _dense_ranks(scores_NC)}
    if single:
        truth_N = relevant_NC.argmax(axis=1)
        kept[f"{name}.hits"] = top_k_hits(scores_NC, truth_N).astype(np.float32)
        kept[f"{name}.top5"] = top_k_hits(scores_NC, truth_N, k=5).astype(np.float32)
    return kept


def retrieval_outcomes(
    audio_ND: np.ndarray,
    text_MD: np.ndarray,
    owner_M: np.ndarray,
    groups_N: np.ndarray,
    *,
    texts: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """What is kept of retrieval both ways. A caption belongs to its own clip only, or with `texts`, those of the
    captions, to each clip that has a caption in the same words.
    """
    before = _RETRIEVALS[RETRIEVAL if texts is None else SAME_WORDS]
    duplicates: Literal["strict", "relevant"] = "strict" if texts is None else "relevant"
    found = relevant_ranks(audio_ND, text_MD, owner_M, texts=texts, duplicates=duplicates)
    groups = groups_N[owner_M], groups_N[np.unique(owner_M)]
    kept = {}
    for direction, ranks, groups_Q in zip(DIRECTIONS, found, groups, strict=True):
        name = before + direction
        for part in ("above", "tied", "relevant"):
            kept[f"{name}.{part}"] = getattr(ranks.best, f"{part}_Q").astype(np.int32)
        kept |= {f"{name}.precision{cutoff}": ranks.average_precision(cutoff=cutoff) for cutoff in CUTOFFS}
        kept[f"{name}.groups"] = groups_Q.astype(np.int32)
    return kept


def probe_outcomes(trained: Mapping[str, Result], folds: Sequence[Hashable]) -> dict[str, np.ndarray]:
    """What is kept of probes; nothing where there are none."""
    parts = {f"{name}.{part}": values for name, result in trained.items() for part, values in result.rows.items()}
    return {"folds": numbered(folds), **parts} if parts else {}


def measures_of(kept: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Measure]:
    """(result, metric) -> how it is computed from what is kept."""
    found: dict[tuple[str, str], Measure] = {}
    for result, before in _RETRIEVALS.items():
        for direction in DIRECTIONS:
            if f"{before}{direction}.above" in kept:
                found |= _retrieval_measures(kept, result, direction)
    for name in (ZERO_SHOT, ENSEMBLE):
        if f"{name}.ranks" in kept:
            found |= _class_measures(kept, name)
    if f"{NEAREST_SOUND}.hits" in kept:
        asked_N = np.isfinite(kept[f"{NEAREST_SOUND}.hits"])
        hits_N = kept[f"{NEAREST_SOUND}.hits"][asked_N].astype(np.float64)
        found[NEAREST_SOUND, "accuracy"] = Measure(mean_of(hits_N), kept["groups"][asked_N], hits_N)
    for name in PROBES:
        if f"{name}.hits" in kept:
            found |= _probe_measures(kept, name)
    return found


def numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Each name as the number of its first appearance."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], np.int32)


def _class_measures(kept: Mapping[str, np.ndarray], name: str) -> dict[tuple[str, str], Measure]:
    groups_N, relevant_NC = kept["groups"], kept["relevant"]
    scores_NC = -kept[f"{name}.ranks"].astype(np.int64)
    found: dict[tuple[str, str], Measure] = {}
    if f"{name}.hits" in kept:
        hits_N, top5_N = (kept[f"{name}.{part}"].astype(np.float64) for part in ("hits", "top5"))
        truth_N = relevant_NC.argmax(axis=1)
        found[name, "accuracy"] = Measure(mean_of(hits_N), groups_N, hits_N)
        found[name, "macro_accuracy"] = Measure(class_mean_of(hits_N, truth_N), groups_N, hits_N, truth_N)
        found[name, "top5_accuracy"] = Measure(mean_of(top5_N), groups_N, top5_N)
    mean_precision = class_ranking_of(scores_NC, relevant_NC, metric=Ranking.average_precision)
    found[name, "map"] = Measure(mean_precision, groups_N)
    if name == ZERO_SHOT:
        found[LABEL_SEARCH, "label_map"] = found[name, "map"]
        found[LABEL_SEARCH, "r_precision"] = Measure(
            class_ranking_of(scores_NC, relevant_NC, metric=Ranking.r_precision), groups_N
        )
    return found


def _probe_measures(kept: Mapping[str, np.ndarray], name: str) -> dict[tuple[str, str], Measure]:
    asked_N = np.isfinite(kept[f"{name}.hits"])
    groups_N, fold_N = kept["groups"][asked_N], kept["folds"][asked_N]
    truth_N = kept["relevant"].argmax(axis=1)[asked_N]
    found: dict[tuple[str, str], Measure] = {}
    for metric, part, over_N in (
        ("accuracy", "hits", fold_N),
        ("macro_accuracy", "hits", truth_N),
        ("shuffled_labels", "shuffled", fold_N),
    ):
        values_N = kept[f"{name}.{part}"][asked_N]
        found[name, metric] = Measure(class_mean_of(values_N, over_N), groups_N, values_N, over_N)
    if f"{name}.draws" in kept:
        draws_D = kept[f"{name}.draws"]
        found[name, "accuracy_of_draws"] = Measure(mean_of(draws_D), np.arange(len(draws_D)), draws_D)
    return found


def _retrieval_measures(kept: Mapping[str, np.ndarray], result: str, direction: str) -> dict[tuple[str, str], Measure]:
    name = _RETRIEVALS[result] + direction
    ranks = BestRanks(*(kept[f"{name}.{part}"].astype(np.int64) for part in ("above", "tied", "relevant")))
    groups_Q = kept[f"{name}.groups"]
    values = {f"r@{k}_{direction}": ranks.hits(k) for k in (1, 5, 10)}
    values |= {f"map@{k}_{direction}": kept[f"{name}.precision{k}"] for k in CUTOFFS}
    found = {(result, metric): Measure(mean_of(values_Q), groups_Q, values_Q) for metric, values_Q in values.items()}
    found[result, f"median_rank_{direction}"] = Measure(median_of(ranks.expected()), groups_Q)
    return found


def _dense_ranks(scores_NC: np.ndarray) -> np.ndarray:
    """How many different better scores each column has above each of its values."""
    ranks_NC = np.stack([np.unique(-column, return_inverse=True)[1] for column in scores_NC.T], axis=1)
    return ranks_NC.astype(np.uint16 if len(scores_NC) <= np.iinfo(np.uint16).max else np.uint32)
