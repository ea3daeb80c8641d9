"""Supervised probes: what a simple classifier learns from vectors that stay as they are.

Folds are held out one after another (ESC-50: its official five), or one split is (train and test). Everything that is
chosen or fitted, standardisation and strength of the regularisation among it, sees the rows that are trained on and no
others. Each result has a control: the same classifier after the labels of its training rows were shuffled, which has
to come out at chance (one shuffle a fold: where there are few classes, far apart, it scatters more than its interval,
which is over test rows, says). Tuning the towers themselves is another protocol: `clapkit train finetune`
(docs/finetune.md).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clapkit.errors import DataError, SpecError, nearest_name
from clapkit.evaluation.classifiers.base import Classifier, Rows, judged
from clapkit.evaluation.classifiers.linear import Linear
from clapkit.evaluation.metrics import (
    Ranking,
    Statistic,
    class_mean_of,
    class_ranking_of,
    confusion_matrix,
    mean_of,
    top_k_hits,
)
from clapkit.evaluation.report import Result, Score, protocol
from clapkit.evaluation.zero_shot import Labels, known_mean, label_matrix


def probe(
    vectors_ND: np.ndarray,
    labels: Labels,
    folds: Sequence[Hashable],
    *,
    classifier: Classifier | None = None,
    held_out: Sequence[Hashable] | None = None,
    class_names: Sequence[str] | None = None,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Result:
    """Train on all folds but one and score that one, for each of `held_out` (None: every fold).

    labels        one class name a row, or for rows with several labels a set of names each
    folds         the fold, or split, of each row. With "train" and "test" give held_out=("test",)
    classifier    `classifiers.linear.Linear()` or `classifiers.neighbours.Neighbours()`; None: Linear()
    class_names   None: the labels that occur
    groups        the recording of each row. Recordings in two folds make a probe too good: the protocol counts them

    accuracy (mean over the folds) and macro_accuracy (mean over the classes that have rows), or map where rows have
    several labels (mean over folds of the mean average precision of the classes that have rows there); the control
    shuffled_labels is accuracy (map) after training on shuffled labels. `protocol["folds"]` has the result of each
    fold. Where rows have one label, `rows` has the hits [N] of both (not a number for rows outside `held_out`). Raises
    DataError for rows, labels and folds that do not fit.
    """
    classifier = Linear() if classifier is None else classifier
    rows, names = _rows(vectors_ND, labels, class_names, groups)
    several = not all(isinstance(label, str) for label in labels)
    asked = _asked(folds, held_out, len(rows.vectors_ND))
    scores_NC, control_NC = np.zeros(rows.truth_NC.shape), np.zeros(rows.truth_NC.shape)
    tested_F, settled = [], []
    for place, fold in enumerate(asked):
        test = np.array([name == fold for name in folds])
        train = rows.at(~test)
        settled.append(classifier.settled(train, several=several))
        scores_NC[test] = settled[-1].scores(train, rows.vectors_ND[test], several=several)
        nothing = train.shuffled(np.random.default_rng([seed, place]))
        control_NC[test] = settled[-1].scores(nothing, rows.vectors_ND[test], several=several)
        tested_F.append(np.flatnonzero(test))
    place_N = np.concatenate(tested_F)
    fold_N = np.repeat(np.arange(len(asked)), [len(test) for test in tested_F])
    parts = [(x[place_N], rows.truth_NC[place_N], fold_N) for x in (scores_NC, control_NC)]
    how: dict[str, Any] = {"groups": _of_rows(groups, place_N), "samples": samples, "seed": seed}
    metrics = _metrics(*parts, several=several, **how)
    told = {
        str(fold): {"n": len(test), "classifier": repr(chosen), "map" if several else "accuracy": value}
        for fold, test, chosen, value in zip(
            asked, tested_F, settled, _by_fold(*parts[0], several=several), strict=True
        )
    }
    split = _split_recordings(rows.recording_N, folds) if groups is not None else None
    said = _said(classifier, parts[0][1], several, folds=told, recordings_in_two_folds=split, **how)
    result = _result("probe", parts[0], names, said, metrics, several=several)
    if several:
        return result
    hits = {name: top_k_hits(x[0], x[1].argmax(axis=1)) for name, x in zip(("hits", "shuffled"), parts, strict=True)}
    return replace(result, rows={name: _placed(x, place_N, len(scores_NC)) for name, x in hits.items()})


def few_shot(
    vectors_ND: np.ndarray,
    labels: Sequence[str],
    test_N: Sequence[bool] | np.ndarray,
    *,
    shots: int,
    draws: int = 10,
    classifier: Classifier | None = None,
    class_names: Sequence[str] | None = None,
    groups: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Result:
    """Train on `shots` rows of each class, drawn `draws` times from the rows outside `test_N`, and score those in it.

    classifier   None: Linear(strengths=(1.0,)), since a few rows are too few to choose on

    accuracy (the mean over draws, its interval over recordings of the test), accuracy_of_draws (the same mean, its
    interval over draws), macro_accuracy, and the control shuffled_labels. `protocol["draws"]` has each. `rows` has the
    mean hits [N] over draws (not a number outside `test_N`), and the accuracy of each draw. Raises
    DataError for a class with fewer rows than shots, and as `probe` does.
    """
    classifier = Linear(strengths=(1.0,)) if classifier is None else classifier
    rows, names = _rows(vectors_ND, labels, class_names, groups)
    test_N = np.asarray(test_N, bool)
    if shots < 1 or draws < 1:
        raise SpecError(f"shots={shots}, draws={draws}: expected at least 1 of each")
    if test_N.shape != (len(rows.vectors_ND),) or not test_N.any():
        raise DataError(f"test_N has shape {test_N.shape} and {int(test_N.sum())} rows to test, for {len(labels)} rows")
    test, truth_M = rows.at(np.flatnonzero(test_N)), rows.truth_NC[test_N].argmax(axis=1)
    hits, control, scores = [], [], []
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        train = rows.at(_drawn(rows.truth_NC, ~test_N, shots, names, rng))
        chosen = classifier.settled(train, several=False)
        scores.append(chosen.scores(train, test.vectors_ND, several=False))
        control.append(top_k_hits(chosen.scores(train.shuffled(rng), test.vectors_ND, several=False), truth_M))
        hits.append(top_k_hits(scores[-1], truth_M))
    hit_DM = np.stack(hits)
    how: dict[str, Any] = {"groups": _of_rows(groups, np.flatnonzero(test_N)), "samples": samples, "seed": seed}
    chance, n = 1 / len(names), len(truth_M)
    of_draws = Score.measure(mean_of(hit_DM.mean(axis=1)), n=draws, chance=chance, samples=samples, seed=seed)
    metrics = {
        "accuracy": Score.measure(mean_of(hit_DM.mean(axis=0)), n=n, chance=chance, **how),
        "accuracy_of_draws": of_draws,
        "macro_accuracy": Score.measure(class_mean_of(hit_DM.mean(axis=0), truth_M), n=n, chance=chance, **how),
        "shuffled_labels": Score.measure(mean_of(np.stack(control).mean(axis=0)), n=n, chance=chance, **how),
    }
    split = _split_recordings(rows.recording_N, list(test_N)) if groups is not None else None
    more: dict[str, Any] = {
        "shots": shots,
        "draws": [float(x) for x in hit_DM.mean(axis=1)],
        "recordings_in_training_and_test": split,
    }
    said = _said(classifier, test.truth_NC, False, **more, **how)
    confusion_CC = np.mean([confusion_matrix(s, truth_M) for s in scores], axis=0)
    parts = {"hits": hit_DM.mean(axis=0), "shuffled": np.stack(control).mean(axis=0)}
    kept = {name: _placed(x, np.flatnonzero(test_N), len(test_N)) for name, x in parts.items()}
    kept["draws"] = hit_DM.mean(axis=1)
    return Result("few-shot", n, said, metrics, _recalls(names, confusion_CC), None, names, confusion_CC, kept)


def _rows(
    vectors_ND: np.ndarray, labels: Labels, class_names: Sequence[str] | None, groups: Sequence[Hashable] | None
) -> tuple[Rows, tuple[str, ...]]:
    vectors_ND = np.asarray(vectors_ND)
    if vectors_ND.ndim != 2 or len(vectors_ND) != len(labels) or vectors_ND.dtype.kind not in "fiu":
        raise DataError(f"vectors of shape {vectors_ND.shape} for {len(labels)} labels: expected one row a label")
    bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} rows are not finite: leave out what could not be embedded", [f"row {n}" for n in bad]
        )
    if groups is not None and len(groups) != len(labels):
        raise DataError(f"{len(groups)} groups for {len(labels)} rows: expected one group a row")
    if class_names is None:
        class_names = sorted({name for x in labels for name in ([x] if isinstance(x, str) else x)})
    truth_NC = label_matrix(labels, class_names)
    first = {name: g for g, name in enumerate(dict.fromkeys(groups))} if groups is not None else {}
    recording_N = np.array([first[name] for name in groups]) if groups is not None else np.arange(len(labels))
    return Rows(vectors_ND.astype(np.float64), truth_NC, recording_N), tuple(class_names)


def _of_rows(groups: Sequence[Hashable] | None, rows: np.ndarray) -> list[Hashable] | None:
    return None if groups is None else [groups[n] for n in rows.tolist()]


def _placed(values_M: np.ndarray, place_M: np.ndarray, count: int) -> np.ndarray:
    """Values of some of `count` rows; the others are not a number."""
    found_N = np.full(count, np.nan)
    found_N[place_M] = values_M
    return found_N


def _asked(folds: Sequence[Hashable], held_out: Sequence[Hashable] | None, count: int) -> list[Hashable]:
    found = sorted(dict.fromkeys(folds), key=str)
    if len(folds) != count or len(found) < 2:
        raise DataError(
            f"{len(folds)} folds, {len(found)} of them different, for {count} rows: expected one a row, of two or more"
        )
    unknown = [fold for fold in held_out or () if fold not in found]
    if unknown or (held_out is not None and not len(held_out)):
        hint = nearest_name(str(next(iter(unknown), "")), [str(name) for name in found])
        raise DataError(f"held_out is {held_out!r}, but no row is in {unknown}; {hint}")
    return found if held_out is None else list(held_out)


def _drawn(
    truth_NC: np.ndarray, free_N: np.ndarray, shots: int, names: Sequence[str], rng: np.random.Generator
) -> np.ndarray:
    """`shots` rows of each class."""
    free_C = [np.flatnonzero(free_N & has_N) for has_N in truth_NC.T]
    short = [f"'{name}': {len(free)}" for name, free in zip(names, free_C, strict=True) if len(free) < shots]
    if short:
        raise DataError(f"{len(short)} classes have fewer than {shots} rows to draw from:", short)
    return np.concatenate([rng.choice(free, shots, replace=False) for free in free_C])


def _by_fold(scores_NC: np.ndarray, truth_NC: np.ndarray, fold_N: np.ndarray, *, several: bool) -> list[float]:
    """The accuracy, or mean average precision, of each fold."""
    places = [fold_N == fold for fold in range(int(fold_N.max()) + 1)]
    return [judged(scores_NC[place], truth_NC[place], several=several) for place in places]


def _fold_mean(scores_NC: np.ndarray, truth_NC: np.ndarray, fold_N: np.ndarray, *, several: bool) -> Statistic:
    if not several:
        return class_mean_of(top_k_hits(scores_NC, truth_NC.argmax(axis=1)), fold_N)
    places = [np.flatnonzero(fold_N == fold) for fold in range(int(fold_N.max()) + 1)]
    parts = [class_ranking_of(scores_NC[p], truth_NC[p], metric=Ranking.average_precision) for p in places]
    return lambda counts_SN: np.mean([part(counts_SN[:, p]) for part, p in zip(parts, places, strict=True)], axis=0)


def _metrics(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    control: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    several: bool,
    **how: Any,
) -> dict[str, Score]:
    scores_NC, truth_NC, fold_N = found
    how = {"n": len(scores_NC), **how}
    guess = known_mean(np.array(_by_fold(np.zeros_like(scores_NC), truth_NC, fold_N, several=several)))
    metrics = {
        "map" if several else "accuracy": Score.measure(_fold_mean(*found, several=several), chance=guess, **how)
    }
    if not several:
        classes_N = truth_NC.argmax(axis=1)
        macro = class_mean_of(top_k_hits(scores_NC, classes_N), classes_N)
        metrics["macro_accuracy"] = Score.measure(macro, chance=guess, **how)
    metrics["shuffled_labels"] = Score.measure(_fold_mean(*control, several=several), chance=guess, **how)
    return metrics


def _said(
    classifier: Classifier,
    truth_MC: np.ndarray,
    several: bool,
    *,
    groups: Sequence[Hashable] | None,
    samples: int,
    seed: int,
    **more: Any,
) -> dict[str, Any]:
    return protocol(
        samples=samples,
        seed=seed,
        resampled="rows" if groups is None else "recordings",
        classifier=repr(classifier),
        classes=truth_MC.shape[1],
        classes_with_clips=int(truth_MC.any(axis=0).sum()),
        labels="several a clip" if several else "one a clip",
        largest_class_share=float(truth_MC.mean(axis=0).max()),
        control="the same classifier, trained after the labels of its training rows were shuffled",
        **more,
    )


def _result(
    task: str,
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    names: tuple[str, ...],
    said: dict[str, Any],
    metrics: dict[str, Score],
    *,
    several: bool,
) -> Result:
    scores_NC, truth_NC, _ = found
    if not several:
        confusion_CC = confusion_matrix(scores_NC, truth_NC.argmax(axis=1))
        return Result(task, len(scores_NC), said, metrics, _recalls(names, confusion_CC), None, names, confusion_CC)
    per_class: dict[str, Mapping[str, Any]] = {
        name: {"n": int(clips)} for name, clips in zip(names, truth_NC.sum(axis=0), strict=True)
    }
    return Result(task, len(scores_NC), said, metrics, per_class, None, names)


def _recalls(names: Sequence[str], confusion_CC: np.ndarray) -> dict[str, dict[str, Any]]:
    clips_C = confusion_CC.sum(axis=1)
    return {
        name: {"n": round(float(n)), "recall": float(confusion_CC[c, c] / n) if n else None}
        for c, (name, n) in enumerate(zip(names, clips_C, strict=True))
    }


def _split_recordings(recording_N: np.ndarray, folds: Sequence[Hashable]) -> int:
    """How many recordings have rows in more than one fold."""
    places: dict[int, set[Hashable]] = {}
    for recording, fold in zip(recording_N.tolist(), folds, strict=True):
        places.setdefault(recording, set()).add(fold)
    return sum(len(found) > 1 for found in places.values())
