"""Retrieval: sounds found by sentences, sentences found by sounds, and sounds found by class names.

Conventions, stated because published numbers differ in them:
  * text to audio: every caption is a query, the clips are the gallery. A clip without a caption is in the gallery.
  * audio to text: every clip with captions is a query, all captions are the gallery. R@k asks whether any of the
    clip's captions is among the first k; the rank is that of its best caption.
  * mAP@10 divides by min(10, relevant items): with one relevant item it is the mean of 1 / rank within the first ten.
  * queries are resampled for the intervals (the captions of a clip, or of a recording, together); the gallery stays.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np

from clapkit.errors import DataError, SpecError
from clapkit.evaluation.metrics import BestRanks, Ranking, average_precision, class_ranking_of, mean_of, median_of
from clapkit.evaluation.report import Result, Score, protocol
from clapkit.evaluation.zero_shot import Labels, class_values, cosines, known_mean, label_matrix
from clapkit.nearest import unit_rows

CUTOFF = 10
_SCORES_AT_ONCE = 32_000_000
_GALLERY_ROWS = 16384


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
    """R@1, R@5, R@10, mAP@10 and median rank in both directions, by cosine.

    text_owner_M   the row of audio_ND that each caption describes; a clip may have any number of captions
    duplicates     "strict": a caption belongs to its own clip only. "relevant": every clip that has exactly the same
                   caption counts as found by it, and every such caption as describing the clip; needs `texts`
    groups         the recording of each clip, whose clips are resampled together; None: each clip by itself

    Metrics are named r@1_text_to_audio, map@10_audio_to_text, median_rank_text_to_audio and so on. Memory is bounded:
    scores are made for some queries at a time. Raises DataError for shapes, owners and vectors that cannot be used,
    SpecError for an unknown `duplicates` or missing `texts`.
    """
    audio_ND, text_MD = unit_rows(audio_ND, what="audio_ND"), unit_rows(text_MD, what="text_MD")
    owner_M = _owners(text_owner_M, clips=len(audio_ND), captions=len(text_MD))
    if audio_ND.shape[1] != text_MD.shape[1]:
        raise DataError(f"audio_ND has {audio_ND.shape[1]} columns and text_MD has {text_MD.shape[1]}")
    if groups is not None and len(groups) != len(audio_ND):
        raise DataError(f"{len(groups)} groups for {len(audio_ND)} clips: expected one group a clip")
    clips_of_M, captions_of_N = _relevant(owner_M, len(audio_ND), texts, duplicates)
    queries = np.flatnonzero([len(captions) > 0 for captions in captions_of_N])
    names_N = list(range(len(audio_ND))) if groups is None else list(groups)
    how = {"samples": samples, "seed": seed}
    metrics = {
        **_direction(
            "text_to_audio", text_MD, audio_ND, clips_of_M, groups=[names_N[owner] for owner in owner_M], **how
        ),
        **_direction(
            "audio_to_text",
            audio_ND[queries],
            text_MD,
            [captions_of_N[n] for n in queries],
            groups=[names_N[n] for n in queries],
            **how,
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
        map_divisor="min(10, relevant items)",
    )
    return Result("retrieval", len(audio_ND), said, metrics)


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


def _relevant(
    owner_M: np.ndarray, clips: int, texts: Sequence[str] | None, duplicates: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The clips that each caption should find, and the captions that each clip should find."""
    if duplicates not in ("strict", "relevant"):
        raise SpecError(f"duplicates is {duplicates!r}; expected 'strict' or 'relevant'")
    if duplicates == "strict":
        kind_M = np.arange(len(owner_M))
    elif texts is None or len(texts) != len(owner_M):
        found = "no texts" if texts is None else f"{len(texts)} texts"
        raise SpecError(f'duplicates="relevant" compares the captions: {found} given for {len(owner_M)} captions')
    else:
        first: dict[str, int] = {}
        kind_M = np.array([first.setdefault(text, len(first)) for text in texts])
    captions_of_kind = _members(kind_M, int(kind_M.max()) + 1)
    clips_of_kind = [np.unique(owner_M[captions]) for captions in captions_of_kind]
    captions_of_N = [
        np.concatenate([captions_of_kind[kind] for kind in np.unique(kind_M[own])]) if len(own) else own
        for own in _members(owner_M, clips)
    ]
    return [clips_of_kind[kind] for kind in kind_M], captions_of_N


def _members(group_M: np.ndarray, groups: int) -> list[np.ndarray]:
    """The items of each group, by number."""
    order = np.argsort(group_M, kind="stable")
    return np.split(order, np.cumsum(np.bincount(group_M, minlength=groups))[:-1])


def _direction(
    name: str,
    queries_QD: np.ndarray,
    gallery_ND: np.ndarray,
    relevant: list[np.ndarray],
    *,
    groups: Sequence[Hashable],
    samples: int,
    seed: int,
) -> dict[str, Score]:
    ranks, precision_Q = _rank(queries_QD, gallery_ND, relevant)
    gallery = len(gallery_ND)
    found_Q = np.array([len(columns) for columns in relevant])
    guess = BestRanks(np.zeros_like(found_Q), np.full_like(found_Q, gallery), found_Q)
    how: dict[str, Any] = {"n": len(relevant), "groups": groups, "samples": samples, "seed": seed}
    scores = {}
    for k in (1, 5, 10):
        scores[f"r@{k}_{name}"] = Score.measure(mean_of(ranks.hits(k)), chance=float(guess.hits(k).mean()), **how)
    chance = _chance_precision(found_Q, gallery)
    scores[f"map@{CUTOFF}_{name}"] = Score.measure(mean_of(precision_Q), chance=chance, **how)
    chance = _chance_median(found_Q, gallery)
    scores[f"median_rank_{name}"] = Score.measure(median_of(ranks.expected()), chance=chance, **how)
    return scores


def _rank(queries_QD: np.ndarray, gallery_ND: np.ndarray, relevant: list[np.ndarray]) -> tuple[BestRanks, np.ndarray]:
    """Ranks of the best relevant items, and the average precision within the first ten [Q]."""
    block = max(1, _SCORES_AT_ONCE // len(gallery_ND))
    ranks, precisions = [], []
    for start in range(0, len(queries_QD), block):
        scores_BN = _block_scores(queries_QD[start : start + block], gallery_ND)
        wanted = relevant[start : start + block]
        part = BestRanks.of(scores_BN, wanted)
        ranks.append(part)
        precision_B = _single_precision(part)
        for row in np.flatnonzero([len(columns) > 1 for columns in wanted]):
            precision_B[row] = _precision(scores_BN[row], wanted[row]) if part.above_Q[row] < CUTOFF else 0.0
        precisions.append(precision_B)
    return BestRanks.joined(ranks), np.concatenate(precisions)


def _block_scores(queries_BD: np.ndarray, gallery_ND: np.ndarray) -> np.ndarray:
    """Cosines as `cosines` makes them, without a float64 copy of the whole gallery."""
    scores_BN = np.empty((len(queries_BD), len(gallery_ND)), np.float32)
    exact_BD = queries_BD.astype(np.float64)
    for start in range(0, len(gallery_ND), _GALLERY_ROWS):
        tile = slice(start, start + _GALLERY_ROWS)
        scores_BN[:, tile] = exact_BD @ gallery_ND[tile].astype(np.float64).T
    return scores_BN


def _single_precision(ranks: BestRanks) -> np.ndarray:
    """Average precision within the first ten where one item is relevant: the expected 1 / rank, 0 beyond."""
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, CUTOFF + 1))])
    first_Q = np.minimum(ranks.above_Q, CUTOFF)
    last_Q = np.minimum(ranks.above_Q + ranks.tied_Q, CUTOFF)
    return (harmonic[last_Q] - harmonic[first_Q]) / ranks.tied_Q


def _precision(scores_N: np.ndarray, columns: np.ndarray) -> float:
    """The same where several are; only the items that can stand in the first ten are sorted."""
    if len(scores_N) > CUTOFF:
        kept = np.flatnonzero(scores_N >= np.partition(scores_N, len(scores_N) - CUTOFF)[len(scores_N) - CUTOFF])
    else:
        kept = np.arange(len(scores_N))
    ranking = Ranking.of(scores_N[kept], np.isin(kept, columns))
    ones_1K = np.ones((1, len(kept)), np.int64)
    return float(ranking.average_precision(ones_1K, cutoff=CUTOFF, relevant_total=len(columns))[0])


def _chance_precision(found_Q: np.ndarray, gallery: int) -> float:
    """The mean average precision within the first ten of an order without meaning."""
    counts, times = np.unique(found_Q, return_counts=True)
    nothing_N = np.zeros(gallery)
    values = [average_precision(nothing_N, np.arange(gallery) < count, cutoff=CUTOFF) for count in counts]
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
