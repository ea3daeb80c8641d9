"""Everything that is measured of one model on one opened task: results, controls, folds, and what is kept of each clip.

Classes: zero-shot by the sentence of the task, and by the ensemble of its domain where that sentence is the usual one;
search by label; the nearest sound of another recording (no text at all); each fold by itself. Tags: zero-shot and
search. Captions: retrieval both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clapkit.data.clip import Clip
from clapkit.evaluation.metrics import mean_of
from clapkit.evaluation.report import Result, Score, protocol
from clapkit.evaluation.retrieval import label_search, retrieval
from clapkit.evaluation.suite import controls, outcomes
from clapkit.evaluation.task import Task
from clapkit.evaluation.zero_shot import class_vectors, cosines, label_matrix, zero_shot
from clapkit.text.prompts import DEFAULT, EVALUATION, ensemble

# Resampling a ranking costs clips x classes x samples. Beyond this product there are fewer samples, never below 100.
_RANKED_AT_MOST, _LEAST_SAMPLES = 1_000_000_000, 100
_SCORES_AT_ONCE = 16_000_000


@dataclass(frozen=True)
class Heard:
    """The clips of a task that could be embedded.

    groups   the recording of each clip
    grouped  whether the data says recordings; if not, each clip is its own
    """

    task: Task
    clips: tuple[Clip, ...]
    audio_ND: np.ndarray
    classes: tuple[str, ...]

    @property
    def grouped(self) -> bool:
        column = self.task.recordings
        return column is not None and any(clip.meta.get(column) is not None for clip in self.clips)

    @property
    def groups(self) -> list[Hashable]:
        column = self.task.recordings or ""
        told = [clip.meta.get(column) for clip in self.clips]
        # A clip whose recording is not known is one of its own.
        return [("clip", clip.id) if name is None else str(name) for clip, name in zip(self.clips, told, strict=True)]


@dataclass(frozen=True)
class Scored:
    """What was measured.

    results   name -> Result; the headline of the task is a metric of the first that has it
    controls  name -> the same scores where nothing can be known (`controls.control_json`)
    folds     fold -> its scores
    kept      arrays of `outcomes`
    arrays    text_MD and what else belongs to a picture of the task
    """

    results: Mapping[str, Result]
    controls: Mapping[str, Any]
    kept: Mapping[str, np.ndarray]
    arrays: Mapping[str, np.ndarray]
    folds: Mapping[str, Any] = field(default_factory=dict)


def score(heard: Heard, embed_text: Callable[[list[str]], np.ndarray], *, samples: int, seed: int) -> Scored:
    """Measure one task. Raises DataError and SpecError as the evaluations do."""
    if heard.task.kind == "captions":
        return _score_captions(heard, embed_text, samples=samples, seed=seed)
    return _score_classes(heard, embed_text, samples=samples, seed=seed)


def _score_classes(heard: Heard, embed_text: Any, *, samples: int, seed: int) -> Scored:
    task, audio_ND, names = heard.task, heard.audio_ND, heard.classes
    single = task.kind == "classes"
    labels: Any = [clip.label if single else frozenset(clip.tags) for clip in heard.clips]
    relevant_NC = label_matrix(labels, names)
    rows = max(1, len(labels) * len(names))
    how: dict[str, Any] = {"samples": min(samples, max(_LEAST_SAMPLES, _RANKED_AT_MOST // rows)), "seed": seed}
    groups = heard.groups if heard.grouped else None
    results: dict[str, Result] = {}
    kept: dict[str, np.ndarray] = {"groups": outcomes.numbered(heard.groups), "relevant": relevant_NC}
    for name, templates in _templates(task).items():
        text_CD = class_vectors(embed_text, [task.phrase(c) for c in names], templates)
        result = zero_shot(audio_ND, labels, names, text_CD, groups=groups, **how)
        results[name] = result.with_(templates=list(templates))
        scores_NC = cosines(audio_ND, text_CD, rows="audio_ND", columns="text_CD")
        kept |= outcomes.class_outcomes(name, scores_NC, relevant_NC, single=single)
        if name == outcomes.ZERO_SHOT:
            plain_CD = text_CD
    results[outcomes.LABEL_SEARCH] = label_search(audio_ND, labels, plain_CD, names, groups=groups, **how)
    folds = {}
    if single:
        results[outcomes.NEAREST_SOUND], kept[f"{outcomes.NEAREST_SOUND}.hits"] = nearest_sound(
            audio_ND, labels, heard.groups, grouped=heard.grouped, **how
        )
        folds = _folds(heard, labels, plain_CD, **how) if task.folds else {}
    other_N = controls.other_sounds(heard.groups, seed=seed)
    moved = [labels[n] for n in controls.shuffled(len(labels), seed=seed)]
    asked = {controls.OTHER_SOUND: (audio_ND[other_N], labels), controls.SHUFFLED: (audio_ND, moved)}
    checked = {}
    for name, (vectors_ND, said) in asked.items():
        result = zero_shot(vectors_ND, said, names, plain_CD, groups=groups, **how)
        checked[name] = controls.control_json(result, chance=_by_accident(vectors_ND, said, names, plain_CD, single))
    arrays = {"text_MD": plain_CD, "texts": np.array(names, str)}
    if single:
        confusion_CC = results[outcomes.ZERO_SHOT].confusion_CC
        assert confusion_CC is not None, "clips with one label each have a confusion matrix"
        arrays |= {"labels": np.array(labels, str), "confusion_CC": confusion_CC.astype(np.float32)}
    else:
        arrays["relevant_NC"] = relevant_NC
    return Scored(results, checked, kept, arrays, folds)


def _by_accident(
    audio_ND: np.ndarray, labels: Sequence[str], names: Sequence[str], text_CD: np.ndarray, single: bool
) -> dict[str, float]:
    if not single:
        return {}
    scores_NC = cosines(audio_ND, text_CD, rows="audio_ND", columns="text_CD")
    truth_N = label_matrix(labels, names).argmax(axis=1)
    asked: dict[str, dict[str, Any]] = {
        "accuracy": {"k": 1},
        "macro_accuracy": {"k": 1, "macro": True},
        "top5_accuracy": {"k": 5},
    }
    return {name: controls.answered_by_accident(scores_NC, truth_N, **how) for name, how in asked.items()}


def _templates(task: Task) -> dict[str, tuple[str, ...]]:
    """The sentences of each zero-shot result: an ensemble only where the words of classes fit the usual sentence."""
    found = {outcomes.ZERO_SHOT: task.templates}
    if task.templates == (DEFAULT,):
        found[outcomes.ENSEMBLE] = ensemble(task.domain if task.domain in EVALUATION else "sound")
    return found


def _folds(heard: Heard, labels: Sequence[str], text_CD: np.ndarray, **how: Any) -> dict[str, Any]:
    table = {}
    for fold in sorted({str(clip.split) for clip in heard.clips}):
        rows = [n for n, clip in enumerate(heard.clips) if str(clip.split) == fold]
        groups = [heard.groups[n] for n in rows] if heard.grouped else None
        result = zero_shot(
            heard.audio_ND[rows], [labels[n] for n in rows], heard.classes, text_CD, groups=groups, **how
        ).to_json()
        table[fold] = {"n": result["n"], "metrics": result["metrics"]}
    return table


def nearest_sound(
    audio_ND: np.ndarray,
    labels: Sequence[str],
    groups: Sequence[Hashable],
    *,
    grouped: bool = True,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[Result, np.ndarray]:
    """Accuracy of taking for each clip the class of the nearest clip of another recording: no text is involved.

    The second value is how far each clip is right [N], NaN for those left out: clips without a clip of another
    recording. Of equally near ones each counts by its share. Chance is the share of the clip's class among those that
    it is compared with.
    """
    truth_N, group_N = outcomes.numbered(labels), outcomes.numbered(groups)
    hits_N, chance_N = np.full(len(labels), np.nan), np.full(len(labels), np.nan)
    block = max(1, _SCORES_AT_ONCE // len(labels))
    for start in range(0, len(labels), block):
        rows = slice(start, start + block)
        scores_BN = cosines(audio_ND[rows], audio_ND, rows="audio_ND", columns="audio_ND")
        allowed_BN = group_N[rows, None] != group_N
        scores_BN[~allowed_BN] = -np.inf
        best_BN = allowed_BN & (scores_BN == scores_BN.max(axis=1, keepdims=True))
        same_BN = truth_N[rows, None] == truth_N
        with np.errstate(invalid="ignore"):
            hits_N[rows] = (best_BN & same_BN).sum(axis=1) / best_BN.sum(axis=1)
            chance_N[rows] = (allowed_BN & same_BN).sum(axis=1) / allowed_BN.sum(axis=1)
    asked = np.flatnonzero(np.isfinite(hits_N)).tolist()
    chance = float(chance_N[asked].mean()) if len(asked) else None
    metrics = {
        "accuracy": Score.measure(
            mean_of(hits_N[asked]),
            n=len(asked),
            groups=[groups[n] for n in asked] if grouped else None,
            samples=samples,
            seed=seed,
            chance=chance,
        )
    }
    said = protocol(
        samples=samples,
        seed=seed,
        resampled="recordings" if grouped else "clips",
        compared_with="all clips of other recordings" if grouped else "all other clips",
    )
    return Result(outcomes.NEAREST_SOUND, len(asked), said, metrics), hits_N.astype(np.float32)


def _score_captions(heard: Heard, embed_text: Any, *, samples: int, seed: int) -> Scored:
    audio_ND = heard.audio_ND
    pairs = [(n, text) for n, clip in enumerate(heard.clips) for text in clip.captions]
    owner_M, texts = np.array([n for n, _ in pairs]), [text for _, text in pairs]
    text_MD = embed_text(texts)
    how: dict[str, Any] = {"samples": samples, "seed": seed, "groups": heard.groups if heard.grouped else None}
    results = {outcomes.RETRIEVAL: retrieval(audio_ND, text_MD, owner_M, **how)}
    owners_of: dict[str, set[int]] = {}
    for n, text in pairs:
        owners_of.setdefault(text, set()).add(n)
    if any(len(owners) > 1 for owners in owners_of.values()):
        results[outcomes.SAME_WORDS] = retrieval(audio_ND, text_MD, owner_M, texts=texts, duplicates="relevant", **how)
    other_N = controls.other_sounds(heard.groups, seed=seed)
    moved_MD = text_MD[controls.shuffled(len(texts), seed=seed)]
    asked = {controls.OTHER_SOUND: (audio_ND[other_N], text_MD), controls.SHUFFLED: (audio_ND, moved_MD)}
    checked = {
        name: controls.control_json(retrieval(sounds_ND, texts_MD, owner_M, **how))
        for name, (sounds_ND, texts_MD) in asked.items()
    }
    numbers_N = outcomes.numbered(heard.groups)
    kept = outcomes.retrieval_outcomes(audio_ND, text_MD, owner_M, numbers_N)
    if outcomes.SAME_WORDS in results:
        kept |= outcomes.retrieval_outcomes(audio_ND, text_MD, owner_M, numbers_N, texts=texts)
    arrays = {"text_MD": text_MD, "texts": np.array(texts, str), "owners": owner_M.astype(np.int32)}
    return Scored(results, checked, kept, arrays)
