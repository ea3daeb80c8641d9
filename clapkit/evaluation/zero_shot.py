"""Zero-shot classification: each clip is compared with a sentence about each class, and no classifier is trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import numpy as np

from clapkit.errors import DataError, SpecError, nearest_name
from clapkit.evaluation.metrics import (
    Ranking,
    class_mean_of,
    class_ranking_of,
    confusion_matrix,
    mean_of,
    top_k_hits,
)
from clapkit.evaluation.report import Result, Score, protocol
from clapkit.nearest import unit_rows
from clapkit.text.prompts import fill

Labels = Sequence[str] | Sequence[Collection[str]]


def class_vectors(
    embed_text: Callable[[list[str]], np.ndarray], names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """One unit vector [C, D] a class: the mean over the templates of the unit vectors of their sentences.

    `embed_text` turns a list of sentences into vectors and is called once. Raises SpecError without names or
    templates and for a template without `{}`.
    """
    if isinstance(templates, str) or not len(templates) or not len(names):
        raise SpecError(f"{len(names)} class names and templates {templates!r}: expected a list of each, not empty")
    prompts = [fill(template, name) for name in names for template in templates]
    unit_PD = unit_rows(embed_text(prompts), what="the class prompts").astype(np.float64)
    if len(unit_PD) != len(prompts):
        raise DataError(f"embed_text gave {len(unit_PD)} vectors for {len(prompts)} sentences")
    return unit_rows(unit_PD.reshape(len(names), len(templates), -1).mean(axis=1), what="the class vectors")


def zero_shot(
    audio_ND: np.ndarray,
    labels: Labels,
    class_names: Sequence[str],
    class_text_CD: np.ndarray,
    *,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Result:
    """Score clips against classes by cosine.

    labels   one class name a clip, or for clips with several labels a set of names each (which may be empty)
    groups   the recording of each clip: clips of one recording are resampled together; None: each clip by itself

    With one label a clip: accuracy, macro_accuracy (mean recall of the classes that have clips), top5_accuracy, map
    (mean over classes of the average precision of ranking all clips), the confusion matrix, and for each class n,
    recall, precision, ap and what its clips were taken for. With several: map, and n and ap of each class.
    Raises DataError for shapes that do not fit, labels that are no class, and vectors that are zero or not finite.
    """
    scores_NC = cosines(audio_ND, class_text_CD, rows="audio_ND", columns="class_text_CD")
    relevant_NC = label_matrix(labels, class_names)
    if scores_NC.shape != relevant_NC.shape:
        raise DataError(
            f"{scores_NC.shape[0]} clips and {scores_NC.shape[1]} class vectors, but {relevant_NC.shape[0]} labels and "
            f"{relevant_NC.shape[1]} class names: expected as many of each"
        )
    n, classes = scores_NC.shape
    single = all(isinstance(label, str) for label in labels)
    how: dict[str, Any] = {"n": n, "groups": groups, "samples": samples, "seed": seed}
    chance_C = class_values(np.zeros_like(scores_NC), relevant_NC, Ranking.average_precision)
    mean_ap = class_ranking_of(scores_NC, relevant_NC, metric=Ranking.average_precision)
    metrics: dict[str, Score] = {}
    confusion_CC, truth_N = None, relevant_NC.argmax(axis=1)
    if single:
        first_N, top5_N = top_k_hits(scores_NC, truth_N), top_k_hits(scores_NC, truth_N, k=5)
        confusion_CC = confusion_matrix(scores_NC, truth_N)
        metrics["accuracy"] = Score.measure(mean_of(first_N), chance=1 / classes, **how)
        metrics["macro_accuracy"] = Score.measure(class_mean_of(first_N, truth_N), chance=1 / classes, **how)
        metrics["top5_accuracy"] = Score.measure(mean_of(top5_N), chance=min(1.0, 5 / classes), **how)
    metrics["map"] = Score.measure(mean_ap, chance=known_mean(chance_C), **how)
    ap_C = class_values(scores_NC, relevant_NC, Ranking.average_precision)
    said = protocol(
        samples=samples,
        seed=seed,
        resampled="clips" if groups is None else "recordings",
        classes=classes,
        classes_with_clips=int(relevant_NC.any(axis=0).sum()),
        labels="one a clip" if single else "several a clip",
        recordings=None if groups is None else len(set(groups)),
    )
    per_class = _per_class(class_names, relevant_NC.sum(axis=0), ap_C, confusion_CC)
    return Result("zero-shot", n, said, metrics, per_class, None, tuple(class_names), confusion_CC)


def label_matrix(labels: Labels, class_names: Sequence[str]) -> np.ndarray:
    """Which clip has which class, bool [N, C].

    Raises DataError for no labels, for a class name that comes twice, and for labels that are no class.
    """
    column = {name: c for c, name in enumerate(class_names)}
    if len(column) != len(class_names) or not column:
        twice = sorted({name for name in class_names if list(class_names).count(name) > 1})
        raise DataError(f"{len(class_names)} class names; expected at least one, each once", twice)
    if not len(labels):
        raise DataError("there are no clips to evaluate: expected at least one label")
    odd = [f"clip {n}: {label!r}" for n, label in enumerate(labels) if not isinstance(label, Collection)]
    if odd:
        raise DataError("a label is a class name, or a set of them; found", odd)
    sets = [{label} if isinstance(label, str) else set(label) for label in labels]
    unknown = sorted({str(label) for names in sets for label in names} - set(column))
    if unknown:
        problems = [f"'{label}' is no class; {nearest_name(label, list(column))}" for label in unknown]
        raise DataError(f"{len(unknown)} label(s) are none of the {len(column)} classes:", problems)
    relevant_NC = np.zeros((len(sets), len(column)), bool)
    for row, names in enumerate(sets):
        relevant_NC[row, [column[name] for name in names]] = True
    return relevant_NC


def cosines(audio_ND: np.ndarray, text_MD: np.ndarray, *, rows: str, columns: str) -> np.ndarray:
    """Cosines [N, M] float32, rounded from float64: equal vectors score exactly the same, wherever they stand."""
    audio_ND, text_MD = unit_rows(audio_ND, what=rows), unit_rows(text_MD, what=columns)
    if audio_ND.shape[1] != text_MD.shape[1]:
        raise DataError(
            f"{rows} has {audio_ND.shape[1]} columns and {columns} has {text_MD.shape[1]}: "
            "both have to come from the same model"
        )
    return (audio_ND.astype(np.float64) @ text_MD.astype(np.float64).T).astype(np.float32)


def known_mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN where there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def class_values(
    scores_NC: np.ndarray, relevant_NC: np.ndarray, metric: Callable[[Ranking, np.ndarray], np.ndarray]
) -> np.ndarray:
    """`metric` of the ranking of all clips by each class [C]; NaN for a class without clips."""
    ones_1N = np.ones((1, len(scores_NC)), np.int64)
    return np.array([metric(Ranking.of(s, r), ones_1N)[0] for s, r in zip(scores_NC.T, relevant_NC.T, strict=True)])


def _per_class(
    class_names: Sequence[str], clips_C: np.ndarray, ap_C: np.ndarray, confusion_CC: np.ndarray | None
) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for c, name in enumerate(class_names):
        row: dict[str, Any] = {"n": int(clips_C[c])}
        if confusion_CC is not None:
            right, claimed = confusion_CC[c, c], confusion_CC[:, c].sum()
            row["recall"] = float(right / clips_C[c]) if clips_C[c] else None
            row["precision"] = float(right / claimed) if claimed > 0 else None
        row["ap"] = None if np.isnan(ap_C[c]) else float(ap_C[c])
        if confusion_CC is not None:
            others = [o for o in np.argsort(-confusion_CC[c], kind="stable") if o != c and confusion_CC[c, o] > 0]
            row["taken_for"] = {class_names[o]: float(confusion_CC[c, o]) for o in others}
        table[name] = row
    return table
