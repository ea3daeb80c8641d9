"""Retrieval: sounds found by sentences, sentences found by sounds, and sounds found by class names.

Conventions, stated because published numbers differ in them:
  * text to audio: every caption is a query, the clips are the gallery. A clip without a caption is in the gallery.
  * audio to text: every clip with captions is a query, all captions are the gallery. R@k asks whether any of the
    clip's captions is among the first k; the rank is that of its best caption.
  * mAP@10 divides by min(10, relevant items): with one relevant item it is the mean of 1 / rank within the first ten.
    mAP@16 likewise.
  * queries are resampled for the intervals (the captions of a clip, or of a recording, together); the gallery stays.

Any size: the products are made in blocks, once for both directions, and only what stands above the relevant items is
counted. 250,000 captions of 50,000 clips need the vectors twice (as given and with length 1) and some 300 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np

from clapkit.errors import DataError, SpecError
from clapkit.evaluation.metrics import (
    BestRanks,
    Ranking,
    RelevantRanks,
    average_precision,
    class_ranking_of,
    mean_of,
    median_of,
)
from clapkit.evaluation.report import Result, Score, protocol
from clapkit.evaluation.zero_shot import Labels, class_values, cosines, known_mean, label_matrix
from clapkit.nearest import Counts, count_levels, pair_scores, unit_rows

PLACES = (1, 5, 10)
CUTOFFS = (10, 16)


def retrieval(
    audio_ND: np.ndarray,
    text_MD: np.ndarray,
    text_owner_M: Sequence[int] | np.ndarray,
    *,
    texts: Sequence[str] | None = None,
    duplicates: Literal["strict", "relevant"] = "strict",
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Result:
    """R@1, R@5, R@10, mAP@10, mAP@16 and median rank in both directions, by cosine.

    text_owner_M   the row of audio_ND that each caption describes; a clip may have any number of captions
    duplicates     "strict": a caption belongs to its own clip only. "relevant": every clip that has exactly the same
                   caption counts as found by it, and every such caption as describing the clip; needs `texts`
    groups         the recording of each clip, whose clips are resampled together; None: each clip by itself

    Metrics are named r@1_text_to_audio, map@10_audio_to_text, median_rank_text_to_audio and so on. Memory is bounded:
    scores are made in blocks. Raises DataError for shapes, owners and vectors that cannot be used,
    SpecError for an unknown `duplicates` or missing `texts`.
    """
    audio_ND, text_MD, owner_M = _checked(audio_ND, text_MD, text_owner_M)
    if groups is not None and len(groups) != len(audio_ND):
        raise DataError(f"{len(groups)} groups for {len(audio_ND)} clips: expected one group a clip")
    clip_P, caption_P = _pairs(owner_M, len(audio_ND), texts, duplicates)
    names_N = list(range(len(audio_ND))) if groups is None else list(groups)
    to_captions, to_clips = _ranks(audio_ND, text_MD, clip_P, caption_P)
    queries = np.flatnonzero(to_captions.total_Q)
    how = {"samples": samples, "seed": seed}
    owners = [names_N[owner] for owner in owner_M]
    metrics = {
        **_direction("text_to_audio", to_clips, len(audio_ND), groups=owners, **how),
        **_direction(
            "audio_to_text", _some(to_captions, queries), len(text_MD), groups=[names_N[n] for n in queries], **how
        ),
    }
    said = protocol(
        **how,
        resampled="clips" if groups is None else "recordings",
        clips=len(audio_ND),
        captions=len(text_MD),
        clips_with_captions=len(queries),
        duplicates=duplicates,
        audio_to_text="any caption of the clip counts; the gallery is all captions",
        map_divisor="min(cutoff, relevant items)",
    )
    return Result("retrieval", len(audio_ND), said, metrics)


def relevant_ranks(
    audio_ND: np.ndarray,
    text_MD: np.ndarray,
    text_owner_M: Sequence[int] | np.ndarray,
    *,
    texts: Sequence[str] | None = None,
    duplicates: Literal["strict", "relevant"] = "strict",
) -> tuple[RelevantRanks, RelevantRanks]:
    """Where the right clips of each caption stand among all clips, and the right captions of each clip among all
    captions: what `retrieval`, whose arguments these are, makes its metrics of.
    """
    audio_ND, text_MD, owner_M = _checked(audio_ND, text_MD, text_owner_M)
    to_captions, to_clips = _ranks(audio_ND, text_MD, *_pairs(owner_M, len(audio_ND), texts, duplicates))
    return to_clips, _some(to_captions, np.flatnonzero(to_captions.total_Q))


def label_search(
    audio_ND: np.ndarray,
    labels: Labels,
    text_CD: np.ndarray,
    class_names: Sequence[str],
    *,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Result:
    """How well a class name finds the clips of its class among all clips.

    `labels` as in `zero_shot`. For each class the clips are ranked by cosine with its text; r_precision is the share of
    clips of the class among the first R, where the class has R clips, label_map the average precision; both are means
    over the classes that have clips. Raises DataError as `zero_shot` does.
    """
    scores_NC = cosines(audio_ND, text_CD, rows="audio_ND", columns="text_CD")
    relevant_NC = label_matrix(labels, class_names)
    if scores_NC.shape != relevant_NC.shape:
        raise DataError(
            f"scores of {scores_NC.shape[0]} clips and {scores_NC.shape[1]} class texts, but {relevant_NC.shape[0]} "
            f"labels and {relevant_NC.shape[1]} class names: expected as many of each"
        )
    kinds: dict[str, Callable[..., np.ndarray]] = {
        "r_precision": Ranking.r_precision,
        "label_map": Ranking.average_precision,
    }
    metrics: dict[str, Score] = {}
    per_class: dict[str, dict[str, Any]] = {
        n: {"n": int(r.sum())} for n, r in zip(class_names, relevant_NC.T, strict=True)
    }
    for metric, function in kinds.items():
        metrics[metric] = Score.measure(
            class_ranking_of(scores_NC, relevant_NC, metric=function),
            n=len(scores_NC),
            groups=groups,
            samples=samples,
            seed=seed,
            chance=known_mean(class_values(np.zeros_like(scores_NC), relevant_NC, function)),
        )
        for row, value in zip(per_class.values(), class_values(scores_NC, relevant_NC, function), strict=True):
            row["ap" if metric == "label_map" else metric] = None if np.isnan(value) else float(value)
    said = protocol(
        samples=samples,
        seed=seed,
        resampled="clips" if groups is None else "recordings",
        classes=len(class_names),
        classes_with_clips=int(relevant_NC.any(axis=0).sum()),
    )
    return Result("label-search", len(scores_NC), said, metrics, per_class, None, tuple(class_names))


def _checked(
    audio_ND: np.ndarray, text_MD: np.ndarray, text_owner_M: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of length 1, and the owners."""
    audio_ND, text_MD = unit_rows(audio_ND, what="audio_ND"), unit_rows(text_MD, what="text_MD")
    owner_M = _owners(text_owner_M, clips=len(audio_ND), captions=len(text_MD))
    if audio_ND.shape[1] != text_MD.shape[1]:
        raise DataError(f"audio_ND has {audio_ND.shape[1]} columns and text_MD has {text_MD.shape[1]}")
    return audio_ND, text_MD, owner_M


def _owners(text_owner_M: Sequence[int] | np.ndarray, *, clips: int, captions: int) -> np.ndarray:
    owner_M = np.asarray(text_owner_M)
    if owner_M.shape != (captions,) or not captions or owner_M.dtype.kind not in "iu":
        raise DataError(
            f"text_owner_M has shape {owner_M.shape} and type {owner_M.dtype} for {captions} captions: "
            "expected the row number of a clip for each of at least one caption"
        )
    if owner_M.min() < 0 or owner_M.max() >= clips:
        wrong = int(np.flatnonzero((owner_M < 0) | (owner_M >= clips))[0])
        raise DataError(f"caption {wrong} belongs to clip {owner_M[wrong]}, but there are {clips} clips")
    return owner_M


def _pairs(
    owner_M: np.ndarray, clips: int, texts: Sequence[str] | None, duplicates: str
) -> tuple[np.ndarray, np.ndarray]:
    """Every clip with every caption that is right for it: two lists of row numbers."""
    if duplicates not in ("strict", "relevant"):
        raise SpecError(f"duplicates is {duplicates!r}; expected 'strict' or 'relevant'")
    if duplicates == "strict":
        return owner_M, np.arange(len(owner_M))
    if texts is None or len(texts) != len(owner_M):
        found = "no texts" if texts is None else f"{len(texts)} texts"
        raise SpecError(f'duplicates="relevant" compares the captions: {found} given for {len(owner_M)} captions')
    first: dict[str, int] = {}
    kind_M = np.array([first.setdefault(text, len(first)) for text in texts], np.int64)
    by_kind_M, copies_K = np.argsort(kind_M, kind="stable"), np.bincount(kind_M)
    kind_U, clip_U = np.divmod(np.unique(kind_M * clips + owner_M), clips)
    copies_U = copies_K[kind_U]
    starts_U = copies_U.cumsum() - copies_U
    offset_P = np.arange(copies_U.sum()) - np.repeat(starts_U, copies_U)
    caption_P = by_kind_M[np.repeat((copies_K.cumsum() - copies_K)[kind_U], copies_U) + offset_P]
    return np.repeat(clip_U, copies_U), caption_P


def _ranks(
    audio_ND: np.ndarray, text_MD: np.ndarray, clip_P: np.ndarray, caption_P: np.ndarray
) -> tuple[RelevantRanks, RelevantRanks]:
    """The right captions of each clip among all captions, and the right clips of each caption among all clips."""
    scores_P = pair_scores(audio_ND, text_MD, clip_P, caption_P)
    most = max(CUTOFFS)
    of_clips = RelevantRanks.levels(clip_P, scores_P, queries=len(audio_ND), most=most)
    of_captions = RelevantRanks.levels(caption_P, scores_P, queries=len(text_MD), most=most)
    counted = count_levels(audio_ND, text_MD, of_clips[0], of_captions[0])
    return _joined(counted[0], of_clips), _joined(counted[1], of_captions)


def _joined(counts: Counts, levels: tuple[np.ndarray, np.ndarray, np.ndarray]) -> RelevantRanks:
    return RelevantRanks(counts.above, counts.tied, *levels[1:])


def _some(ranks: RelevantRanks, queries: np.ndarray) -> RelevantRanks:
    return RelevantRanks(
        ranks.above_QL[queries], ranks.tied_QL[queries], ranks.relevant_QL[queries], ranks.total_Q[queries]
    )


def _direction(
    name: str, ranks: RelevantRanks, gallery: int, *, groups: Sequence[Hashable], samples: int, seed: int
) -> dict[str, Score]:
    total_Q, best = ranks.total_Q, ranks.best
    guess = BestRanks(np.zeros_like(total_Q), np.full_like(total_Q, gallery), total_Q)
    how: dict[str, Any] = {"n": len(total_Q), "groups": groups, "samples": samples, "seed": seed}
    scores = {}
    for k in PLACES:
        scores[f"r@{k}_{name}"] = Score.measure(mean_of(best.hits(k)), chance=float(guess.hits(k).mean()), **how)
    for cutoff in CUTOFFS:
        chance = _chance_precision(total_Q, gallery, cutoff)
        precision_Q = ranks.average_precision(cutoff=cutoff)
        scores[f"map@{cutoff}_{name}"] = Score.measure(mean_of(precision_Q), chance=chance, **how)
    chance = _chance_median(total_Q, gallery)
    scores[f"median_rank_{name}"] = Score.measure(median_of(best.expected()), chance=chance, **how)
    return scores


def _chance_precision(found_Q: np.ndarray, gallery: int, cutoff: int) -> float:
    """The mean average precision within the first places of an order without meaning."""
    counts, times = np.unique(found_Q, return_counts=True)
    nothing_N = np.zeros(gallery)
    values = [average_precision(nothing_N, np.arange(gallery) < count, cutoff=cutoff) for count in counts]
    return float(np.average(values, weights=times))


def _chance_median(found_Q: np.ndarray, gallery: int) -> float:
    """The median rank of the best relevant item in an order without meaning.

    It lies below the rank that is expected where several items are relevant: the best of them is mostly early.
    """
    place_N, later_N = np.arange(gallery), np.zeros(gallery)  # later: the chance that the best comes after a place
    for count, times in zip(*np.unique(found_Q, return_counts=True), strict=True):
        left_N = np.clip(gallery - count - place_N, 0, None) / (gallery - place_N)
        later_N += np.cumprod(left_N) * times / len(found_Q)
    middle = np.searchsorted(-later_N, [-0.5 - 1e-9, -0.5 + 1e-9])  # a place where it is just a half: between two ranks
    return float(middle.mean()) + 1
